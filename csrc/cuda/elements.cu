// What is computed for every element: a warp takes one, sums its factors over every axis, and its first lane applies
// the rules of contraction.h. Bound by the factors, K(L_1 + .. + L_d) a filter.
#include "elements.h"

#include "launch.h"

namespace dcls::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

template <Version version, typename C>
__global__ void __launch_bounds__(kThreads)
    inverse_normalisation_kernel(Filters filters, Parameters<C> parameters, C* inverse) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    for_each_item(ceil_div(filters.position_elements(), kWarps), [&](int64_t item) {
        const int64_t index = item * kWarps + threadIdx.x / kWarp;
        if (index < filters.position_elements()) {
            const Element<version, C> element(filters, parameters, index);
            const auto sums = warp_axis_sums(element, filters.extent, lane);
            if (lane == 0) {
                inverse[index] = C(1) / normalisation<version>(sums);
            }
        }
    });
}

template <typename C>
__device__ Contraction<C> load(const C* from, int64_t element, int64_t count) {
    Contraction<C> contraction;
    contraction.value = from[element];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
        contraction.d_position[axis] = from[(1 + axis) * count + element];
        contraction.d_sigma[axis] = from[(1 + kAxes + axis) * count + element];
    }
    return contraction;
}

// gradients: (O, I/g, *dense, K) and (d, O, I/g, *dense, K); null where not asked for.
template <Version version, typename C>
__global__ void __launch_bounds__(kThreads)
    element_gradients_kernel(Filters filters, Parameters<C> parameters, const C* contractions,
                             ParameterGradients<C*> gradients) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t count = filters.elements();
    for_each_item(ceil_div(count, kWarps), [&](int64_t item) {
        const int64_t index = item * kWarps + threadIdx.x / kWarp;
        if (index >= count) {
            return;
        }
        const int64_t own = filters.position_element(index / filters.kernel_count, index % filters.kernel_count);
        const auto sums = warp_axis_sums(Element<version, C>(filters, parameters, own), filters.extent, lane);
        if (lane != 0) {
            return;
        }
        Contraction<C> normalised;
        normalised.add(load(contractions, index, count), C(1) / normalisation<version>(sums));
        if (gradients.weight != nullptr) {
            gradients.weight[index] = normalised.value;
        }
#pragma unroll
        for (int axis = 0; axis < kAxes; ++axis) {
            if (axis >= filters.first_axis) {
                const AxisGradients<version, C> of_axis(normalised, sums, axis);
                const int64_t at = (axis - filters.first_axis) * count + index;
                if (gradients.positions != nullptr) {
                    gradients.positions[at] = parameters.weight[index] * of_axis.position;
                }
                if (gradients.sigma != nullptr) {
                    gradients.sigma[at] = parameters.weight[index] * of_axis.sigma;
                }
            }
        }
    });
}

}  // namespace

Tensor inverse_normalisation(const Filters& filters, const PreparedParameters& parameters, Version version) {
    const Tensor inverse = empty({filters.position_elements()}, parameters.dtype, parameters.weight);
    const Launcher launch(inverse);
    dispatch(version, parameters.dtype, [&]<Version version, typename C>() {
        launch(inverse_normalisation_kernel<version, C>, ceil_div(filters.position_elements(), kWarps), kThreads, 0,
               filters, parameters.pointers<C>(), inverse.mutable_data_ptr<C>());
    });
    return inverse;
}

ParameterGradients<Tensor> element_gradients(const Tensor& contractions, const Filters& filters,
                                             const PreparedParameters& parameters, Version version, ScalarType dtype,
                                             const ParameterGradients<bool>& wanted) {
    IntList shape = sizes(parameters.weight);
    shape.insert(shape.begin(), parameters.positions.size(0));
    const Tensor grad_weight =
        empty_if(wanted.weight, {shape.begin() + 1, shape.end()}, parameters.dtype, contractions);
    const Tensor grad_positions = empty_if(wanted.positions, shape, parameters.dtype, contractions);
    const Tensor grad_sigma = empty_if(wanted.sigma, shape, parameters.dtype, contractions);

    const Tensor total = contractions.size(0) == 1 ? contractions : sum_over(contractions, {0});
    const Launcher launch(contractions);
    dispatch(version, parameters.dtype, [&]<Version version, typename C>() {
        const auto pointer = [](bool is_wanted, const Tensor& tensor) {
            return is_wanted ? tensor.mutable_data_ptr<C>() : nullptr;
        };
        launch(element_gradients_kernel<version, C>, ceil_div(filters.elements(), kWarps), kThreads, 0, filters,
               parameters.pointers<C>(), total.const_data_ptr<C>(),
               ParameterGradients<C*>{pointer(wanted.weight, grad_weight), pointer(wanted.positions, grad_positions),
                                      pointer(wanted.sigma, grad_sigma)});
    });
    // Shared positions add up what all out channels want of them.
    const auto finished = [&](bool is_wanted, const Tensor& gradient) {
        return cast(is_wanted && filters.shared_positions ? sum_over(gradient, {1}, true) : gradient, dtype);
    };
    return {cast(grad_weight, dtype), finished(wanted.positions, grad_positions), finished(wanted.sigma, grad_sigma)};
}

}  // namespace dcls::cuda
