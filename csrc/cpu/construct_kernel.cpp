// Construction of dense kernels on the CPU.
//
// One filter (out channel, in channel) at a time: K(L_1 + .. + L_d) per-axis factors are tabulated, then each element
// adds the outer product of its factors to the filter's L_1 x .. x L_d taps, limited to the taps it touches. Backward
// contracts the filter's gradient with the same factors, one axis at a time. A filter belongs to one thread and its
// elements are visited in order, so results do not depend on the number of threads; scratch memory is one filter's.
// Bound by the factors (exponentials for "gauss") at small kernels and by 1 (forward) or 3 (backward) multiply-adds per
// element and tap at large ones.
//
// Every filter is treated as three-dimensional (filter_factors.h); backward skips missing axes.
#include "construct_kernel.h"

#include "../parameters.h"
#include "filter_factors.h"

namespace dcls::cpu {
namespace {

// About how many multiply-adds are worth a thread's start.
constexpr int64_t kGrainWork = 1 << 15;

// How the kernels below see one problem. Filter (o, i) of the dense kernel is number o * in_channels + i; in_channels
// are those of a group. Filters are visited in an order that keeps those with the same positions together, so that
// their factors are tabulated once: with shared positions visit number i * out_channels + o is filter (o, i).
struct Problem {
    Axes extent;
    int first_axis;
    int64_t out_channels, in_channels, kernel_count, tap_count;
    bool shared_positions;

    explicit Problem(const KernelArguments& arguments)
        : extent(three_axes(arguments.kernel_size, 1)),
          first_axis(kAxes - static_cast<int>(arguments.spatial_axes())),
          out_channels(arguments.out_channels),
          in_channels(arguments.in_channels_per_group),
          kernel_count(arguments.kernel_count),
          shared_positions(arguments.shared_positions) {
        tap_count = extent[0] * extent[1] * extent[2];
    }

    int64_t filters() const { return out_channels * in_channels; }
    int64_t position_filters() const { return shared_positions ? in_channels : filters(); }
    int64_t position_filter(int64_t visit) const { return shared_positions ? visit / out_channels : visit; }
    int64_t filter(int64_t visit) const {
        return shared_positions ? visit % out_channels * in_channels + visit / out_channels : visit;
    }
    int64_t grain() const { return std::max<int64_t>(1, kGrainWork / (kernel_count * tap_count)); }
};

// Calls body(filter, factors) for every filter, in parallel. make_body() makes one body a thread, with its scratch
// memory.
template <Version version, typename T, bool with_derivatives, typename MakeBody>
void for_each_filter(const Problem& problem, const Parameters<T>& parameters, const MakeBody& make_body) {
    parallel_for(0, problem.filters(), problem.grain(), [&](int64_t begin, int64_t end) {
        FilterFactors<version, T, with_derivatives> factors(problem.extent, problem.first_axis, problem.kernel_count);
        auto body = make_body();
        const int64_t axis_stride = problem.position_filters() * problem.kernel_count;
        int64_t tabulated = -1;
        for (int64_t visit = begin; visit < end; ++visit) {
            const int64_t position_filter = problem.position_filter(visit);
            if (position_filter != tabulated) {
                const int64_t at = position_filter * problem.kernel_count;
                factors.tabulate(parameters.positions + at, has_sigma(version) ? parameters.sigma + at : nullptr,
                                 axis_stride);
                tabulated = position_filter;
            }
            body(problem.filter(visit), factors);
        }
    });
}

// taps += scale * the outer product of the element's factors.
template <typename T>
void add_outer_product(const Problem& problem, const AxisFactors<T>* axes, T scale, T* taps) {
    const int64_t height = problem.extent[1], width = problem.extent[2];
    const T* factor = axes[2].value;
    for (int64_t z = axes[0].range.begin; z < axes[0].range.end; ++z) {
        for (int64_t y = axes[1].range.begin; y < axes[1].range.end; ++y) {
            const T row_scale = scale * axes[0].value[z] * axes[1].value[y];
            T* row = taps + (z * height + y) * width;
#pragma omp simd
            for (int64_t x = axes[2].range.begin; x < axes[2].range.end; ++x) {
                row[x] += row_scale * factor[x];
            }
        }
    }
}

template <Version version, typename T>
void forward(const Problem& problem, const Parameters<T>& parameters, T* kernel) {
    for_each_filter<version, T, false>(problem, parameters, [&] {
        return [&](int64_t filter, const auto& factors) {
            T* taps = kernel + filter * problem.tap_count;
            const T* weight = parameters.weight + filter * problem.kernel_count;
            std::fill_n(taps, problem.tap_count, T(0));
            for (int64_t k = 0; k < problem.kernel_count; ++k) {
                const AxisFactors<T>* axes = factors.element(k);
                add_outer_product(problem, axes, weight[k] / normalisation<version>(sums(axes)), taps);
            }
        };
    });
}

// out[j] = sum over the range's i of factor[i] * rows[i][j]: contracts the leading axis of `rows`.
template <typename T>
void contract(const T* __restrict rows, const T* __restrict factor, TapRange range, std::vector<T>& out) {
    const auto columns = static_cast<int64_t>(out.size());
    T* __restrict sums = out.data();
    std::fill_n(sums, columns, T(0));
    for (int64_t i = range.begin; i < range.end; ++i) {
        const T scale = factor[i];
        const T* __restrict row = rows + i * columns;
        for (int64_t j = 0; j < columns; ++j) {
            sums[j] += scale * row[j];
        }
    }
}

template <typename T>
T dot(const T* a, const T* b, TapRange range) {
    T sum = 0;
    for (int64_t i = range.begin; i < range.end; ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

template <Version version, typename T>
class Contractor {
 public:
    explicit Contractor(const Problem& problem)
        : first_axis_(problem.first_axis),
          plane_(problem.extent[1] * problem.extent[2]),
          derivative_plane_(plane_.size()),
          row_(problem.extent[2]),
          derivative_row_(row_.size()) {}

    Contraction<T> operator()(const T* grad_taps, const AxisFactors<T>* axes) {
        const AxisFactors<T>&z = axes[0], &y = axes[1], &x = axes[2];
        Contraction<T> result;
        const T* plane = grad_taps;
        if (first_axis_ == 0) {
            result.d_position[0] = contract_all(grad_taps, z.d_position, z.range, y, x);
            if constexpr (has_sigma(version)) {
                result.d_sigma[0] = contract_all(grad_taps, z.d_sigma, z.range, y, x);
            }
            contract(grad_taps, z.value, z.range, plane_);
            plane = plane_.data();
        }
        const T* row = plane;
        if (first_axis_ <= 1) {
            result.d_position[1] = contract_plane(plane, y.d_position, y.range, x);
            if constexpr (has_sigma(version)) {
                result.d_sigma[1] = contract_plane(plane, y.d_sigma, y.range, x);
            }
            contract(plane, y.value, y.range, row_);
            row = row_.data();
        }
        result.value = dot(row, x.value, x.range);
        result.d_position[2] = dot(row, x.d_position, x.range);
        if constexpr (has_sigma(version)) {
            result.d_sigma[2] = dot(row, x.d_sigma, x.range);
        }
        return result;
    }

 private:
    // Contracts the first axis of a filter with `factor`, the others with their values.
    T contract_all(const T* grad_taps, const T* factor, TapRange range, const AxisFactors<T>& y,
                   const AxisFactors<T>& x) {
        contract(grad_taps, factor, range, derivative_plane_);
        return contract_plane(derivative_plane_.data(), y.value, y.range, x);
    }

    // Contracts the first axis of a plane with `factor`, the other with its values.
    T contract_plane(const T* plane, const T* factor, TapRange range, const AxisFactors<T>& x) {
        contract(plane, factor, range, derivative_row_);
        return dot(derivative_row_.data(), x.value, x.range);
    }

    int first_axis_;
    std::vector<T> plane_, derivative_plane_, row_, derivative_row_;
};

// Gradients per filter, null where not asked for. Those of shared positions are summed over out channels afterwards.
template <typename T>
struct Gradients {
    T *weight, *positions, *sigma;
};

template <Version version, typename T>
void backward(const Problem& problem, const T* grad_kernel, const Parameters<T>& parameters,
              const Gradients<T>& gradients) {
    const int64_t axis_stride = problem.filters() * problem.kernel_count;
    for_each_filter<version, T, true>(problem, parameters, [&] {
        return [&, contract_filter = Contractor<version, T>(problem)](int64_t filter, const auto& factors) mutable {
            for (int64_t k = 0; k < problem.kernel_count; ++k) {
                const int64_t element = filter * problem.kernel_count + k;
                const AxisFactors<T>* axes = factors.element(k);
                Contraction<T> normalised;
                normalised.add(contract_filter(grad_kernel + filter * problem.tap_count, axes),
                               T(1) / normalisation<version>(sums(axes)));
                if (gradients.weight != nullptr) {
                    gradients.weight[element] = normalised.value;
                }
                for (int axis = problem.first_axis; axis < kAxes; ++axis) {
                    const AxisGradients<version, T> axis_gradients(normalised, sums(axes), axis);
                    const int64_t at = (axis - problem.first_axis) * axis_stride + element;
                    if (gradients.positions != nullptr) {
                        gradients.positions[at] = parameters.weight[element] * axis_gradients.position;
                    }
                    if (has_sigma(version) && gradients.sigma != nullptr) {
                        gradients.sigma[at] = parameters.weight[element] * axis_gradients.sigma;
                    }
                }
            }
        };
    });
}

// (d, O, I/g, K) -> (d, 1, I/g, K), adding out channels in order.
template <typename T>
void sum_over_out_channels(const Problem& problem, const T* per_filter, T* shared) {
    const int64_t inner = problem.in_channels * problem.kernel_count;
    parallel_for(0, kAxes - problem.first_axis, 1, [&](int64_t begin, int64_t end) {
        for (int64_t axis = begin; axis < end; ++axis) {
            T* out = shared + axis * inner;
            std::fill_n(out, inner, T(0));
            for (int64_t o = 0; o < problem.out_channels; ++o) {
                const T* in = per_filter + (axis * problem.out_channels + o) * inner;
                for (int64_t i = 0; i < inner; ++i) {
                    out[i] += in[i];
                }
            }
        }
    });
}

}  // namespace

Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments) {
    const ScalarType dtype = compute_dtype(weight);
    const PreparedParameters prepared(weight, positions, sigma, dtype);
    const Problem problem(arguments);
    const Tensor kernel = empty(arguments.kernel_shape(), dtype, weight);
    dispatch(arguments.version, dtype, [&]<Version version, typename T>() {
        forward<version, T>(problem, prepared.pointers<T>(), kernel.mutable_data_ptr<T>());
    });
    return kernel;
}

std::tuple<Tensor, Tensor, Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                             const Tensor& positions, const OptionalTensor& sigma,
                                                             const KernelArguments& arguments,
                                                             std::array<bool, 3> output_mask) {
    const ScalarType dtype = compute_dtype(weight);
    const PreparedParameters prepared(weight, positions, sigma, dtype);
    const Tensor grad = contiguous(cast(grad_kernel, dtype));
    const Problem problem(arguments);
    const int64_t spatial_axes = arguments.spatial_axes();
    const auto allocate = [&](bool wanted, const IntList& shape) {
        return wanted ? empty(shape, dtype, weight) : not_computed(dtype, weight);
    };
    output_mask[2] = output_mask[2] && sigma.has_value();
    const IntList per_filter{spatial_axes, problem.out_channels, problem.in_channels, problem.kernel_count};
    const IntList shared_shape{spatial_axes, 1, problem.in_channels, problem.kernel_count};
    Tensor grad_weight = allocate(output_mask[0], {problem.out_channels, problem.in_channels, problem.kernel_count});
    Tensor grad_positions = allocate(output_mask[1], per_filter);
    Tensor grad_sigma = allocate(output_mask[2], per_filter);

    dispatch(arguments.version, dtype, [&]<Version version, typename T>() {
        const auto pointer = [](bool wanted, const Tensor& tensor) {
            return wanted ? tensor.mutable_data_ptr<T>() : nullptr;
        };
        const Gradients<T> gradients{pointer(output_mask[0], grad_weight), pointer(output_mask[1], grad_positions),
                                     pointer(output_mask[2], grad_sigma)};
        backward<version, T>(problem, grad.const_data_ptr<T>(), prepared.pointers<T>(), gradients);
        if (arguments.shared_positions) {
            const auto reduce = [&](bool wanted, Tensor& tensor) {
                if (wanted) {
                    const Tensor shared = empty(shared_shape, dtype, weight);
                    sum_over_out_channels(problem, tensor.const_data_ptr<T>(), shared.mutable_data_ptr<T>());
                    tensor = shared;
                }
            };
            reduce(output_mask[1], grad_positions);
            reduce(output_mask[2], grad_sigma);
        }
    });
    const ScalarType result = weight.scalar_type();
    return {cast(grad_weight, result), cast(grad_positions, result), cast(grad_sigma, result)};
}

}  // namespace dcls::cpu
