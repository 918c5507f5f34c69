// The gradients of elements' parameters: a warp takes an element, sums its factors over every axis, and its first lane
// applies the rule of contraction.h. Bound by the factors, K(L_1 + .. + L_d) a filter.
#include "element_gradients.h"

#include "launch.h"

namespace dcls::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

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

// (O, I/g, *dense, K) and (d, O, I/g, *dense, K); null where not asked for.
template <typename C>
struct Gradients {
    C *weight, *positions, *sigma;
};

template <Version version, typename C>
__global__ void __launch_bounds__(kThreads)
    element_gradients_kernel(Filters filters, Parameters<C> parameters, const C* contractions, Gradients<C> gradients) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int64_t count = filters.elements();
    for_each_item(ceil_div(count, kWarps), [&](int64_t item) {
        const int64_t index = item * kWarps + threadIdx.x / kWarp;
        if (index >= count) {
            return;
        }
        const int64_t place = filters.place(index / filters.kernel_count, index % filters.kernel_count);
        const auto sums = warp_axis_sums(Element<version, C>(filters, parameters, place), filters.extent, lane);
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

std::tuple<Tensor, Tensor, Tensor> element_gradients(const Tensor& contractions, const Filters& filters,
                                                     const PreparedParameters& parameters,
                                                     const KernelArguments& arguments, ScalarType dtype,
                                                     std::array<bool, 3> output_mask) {
    output_mask[2] = output_mask[2] && parameters.sigma.has_value();
    IntList shape = sizes(parameters.weight);
    shape.insert(shape.begin(), parameters.positions.size(0));
    const auto allocate = [&](bool wanted, const IntList& shape) {
        return wanted ? empty(shape, contractions.scalar_type(), contractions) : not_computed(dtype, contractions);
    };
    const Tensor grad_weight = allocate(output_mask[0], {shape.begin() + 1, shape.end()});
    const Tensor grad_positions = allocate(output_mask[1], shape);
    const Tensor grad_sigma = allocate(output_mask[2], shape);

    const Tensor total = contractions.size(0) == 1 ? contractions : sum_over(contractions, {0});
    const Launcher launch(contractions);
    dispatch(arguments.version, contractions.scalar_type(), [&]<Version version, typename C>() {
        const auto pointer = [](bool wanted, const Tensor& tensor) {
            return wanted ? tensor.mutable_data_ptr<C>() : nullptr;
        };
        launch(element_gradients_kernel<version, C>, ceil_div(filters.elements(), kWarps), kThreads, 0, filters,
               parameters.pointers<C>(), total.const_data_ptr<C>(),
               Gradients<C>{pointer(output_mask[0], grad_weight), pointer(output_mask[1], grad_positions),
                            pointer(output_mask[2], grad_sigma)});
    });
    // Shared positions add up what all out channels want of them.
    const auto finished = [&](bool wanted, const Tensor& gradient) {
        return cast(wanted && filters.shared_positions ? sum_over(gradient, {1}, true) : gradient, dtype);
    };
    return {cast(grad_weight, dtype), finished(output_mask[1], grad_positions), finished(output_mask[2], grad_sigma)};
}

}  // namespace dcls::cuda
