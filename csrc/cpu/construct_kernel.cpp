// Construction of dense kernels on the CPU.
//
// One filter (out channel, in channel) at a time: K(L_1 + .. + L_d) per-axis factors are tabulated, then each element
// adds the outer product of its factors to the filter's L_1 x .. x L_d taps, limited to the taps it touches. Backward
// contracts the filter's gradient with the same factors, one axis at a time. A filter belongs to one thread and its
// elements are visited in order, so results do not depend on the number of threads; scratch memory is one filter's.
// Bound by the factors (exponentials for "gauss") at small kernels and by 1 (forward) or 3 (backward) multiply-adds per
// element and tap at large ones.
//
// Every filter is treated as three-dimensional: missing leading axes have one tap and the factor 1, and backward skips
// them.
#include "construct_kernel.h"

#include <algorithm>
#include <numeric>

namespace dcls::cpu {
namespace {

constexpr int kAxes = 3;

// About how many multiply-adds are worth a thread's start.
constexpr int64_t kGrainWork = 1 << 15;

// One element's factors along one axis, by tap, and their sums over the axis. Outside `range` they are not set, and 0.
template <typename T>
struct AxisFactors {
    T *value, *d_position, *d_sigma;
    TapRange range;
    T sum, sum_d_position, sum_d_sigma;
};

// The factors of all elements of one filter.
template <Version version, typename T, bool with_derivatives>
class FilterFactors {
 public:
    FilterFactors(const std::array<int64_t, kAxes>& extent, int64_t first_axis, int64_t kernel_count)
        : extent_(extent), first_axis_(first_axis), axes_(kernel_count * kAxes) {
        storage_.resize(kernel_count * (extent[0] + extent[1] + extent[2]) * 3);
        T* next = storage_.data();
        for (int64_t k = 0; k < kernel_count; ++k) {
            for (int axis = 0; axis < kAxes; ++axis) {
                AxisFactors<T>& factors = axes_[k * kAxes + axis];
                factors = {next, next + extent[axis], next + 2 * extent[axis], {0, 1}, T(1), T(0), T(0)};
                if (axis < first_axis) {
                    next[0] = T(1);
                }
                next += extent[axis] * 3;
            }
        }
    }

    // positions and sigma point at the filter's first element on the first axis; axis_stride leads to the next axis.
    void tabulate(const T* positions, const T* sigma, int64_t axis_stride) {
        const auto kernel_count = static_cast<int64_t>(axes_.size()) / kAxes;
        for (int64_t k = 0; k < kernel_count; ++k) {
            AxisFactors<T>* axes = &axes_[k * kAxes];
            for (int axis = first_axis_; axis < kAxes; ++axis) {
                const int64_t at = (axis - first_axis_) * axis_stride + k;
                tabulate_axis(axes[axis], extent_[axis], positions[at], has_sigma(version) ? sigma[at] : T(0));
            }
            if (!std::isfinite(axes[0].sum * axes[1].sum * axes[2].sum)) {
                touch_every_tap(axes);
            }
        }
    }

    const AxisFactors<T>* element(int64_t k) const { return &axes_[k * kAxes]; }

 private:
    // 0 times NaN or infinity is NaN: such a factor on one axis shows at every tap of the others, untouched ones too.
    void touch_every_tap(AxisFactors<T>* axes) {
        for (int axis = first_axis_; axis < kAxes; ++axis) {
            for (T* factors : {axes[axis].value, axes[axis].d_position, axes[axis].d_sigma}) {
                std::fill(factors, factors + axes[axis].range.begin, T(0));
                std::fill(factors + axes[axis].range.end, factors + extent_[axis], T(0));
            }
            axes[axis].range = {0, extent_[axis]};
        }
    }

    void tabulate_axis(AxisFactors<T>& factors, int64_t extent, T centred_position, T sigma) {
        const T position = centred_position + static_cast<T>(extent / 2);
        const T inward = inward_side(position, extent);
        const TapRange range = touched_taps<version>(position, sigma, extent);
        T *const value = factors.value, *const d_position = factors.d_position, *const d_sigma = factors.d_sigma;
        // Vector units convert 32-bit integers to floating point, but few convert 64-bit ones.
        const auto begin = static_cast<int32_t>(range.begin), end = static_cast<int32_t>(range.end);
#pragma omp simd
        for (int32_t tap = begin; tap < end; ++tap) {
            const Factor<T> factor = interpolate<version>(static_cast<T>(tap), position, sigma, inward);
            value[tap] = factor.value;
            if constexpr (with_derivatives) {
                d_position[tap] = factor.d_position;
                d_sigma[tap] = factor.d_sigma;
            }
        }
        factors.range = range;
        factors.sum = std::accumulate(value + begin, value + end, T(0));
        if constexpr (with_derivatives && is_normalised(version)) {
            factors.sum_d_position = std::accumulate(d_position + begin, d_position + end, T(0));
            factors.sum_d_sigma = std::accumulate(d_sigma + begin, d_sigma + end, T(0));
        }
    }

    std::array<int64_t, kAxes> extent_;
    int first_axis_;
    std::vector<AxisFactors<T>> axes_;
    std::vector<T> storage_;
};

template <Version version, typename T>
T normalisation(const AxisFactors<T>* axes) {
    return is_normalised(version) ? axes[0].sum * axes[1].sum * axes[2].sum + T(kNormalisationEpsilon) : T(1);
}

// How the kernels below see one problem. Filter (o, i) of the dense kernel is number o * in_channels + i; in_channels
// are those of a group. Filters are visited in an order that keeps those with the same positions together, so that
// their factors are tabulated once: with shared positions visit number i * out_channels + o is filter (o, i).
struct Problem {
    std::array<int64_t, kAxes> extent{1, 1, 1};
    int first_axis;
    int64_t out_channels, in_channels, kernel_count, tap_count;
    bool shared_positions;

    explicit Problem(const KernelArguments& arguments)
        : first_axis(kAxes - static_cast<int>(arguments.spatial_axes())),
          out_channels(arguments.out_channels),
          in_channels(arguments.in_channels_per_group),
          kernel_count(arguments.kernel_count),
          shared_positions(arguments.shared_positions) {
        std::copy(arguments.kernel_size.begin(), arguments.kernel_size.end(), extent.begin() + first_axis);
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

template <typename T>
struct Parameters {
    const T *weight, *positions, *sigma;
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
                add_outer_product(problem, axes, weight[k] / normalisation<version>(axes), taps);
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

// The gradient of one filter contracted with one element: in full with its factors, and with the factor of one axis
// replaced by a derivative.
template <typename T>
struct Contraction {
    T value;
    std::array<T, kAxes> d_position{}, d_sigma{};
};

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
                const Contraction<T> contraction = contract_filter(grad_kernel + filter * problem.tap_count, axes);
                const T inverse = T(1) / normalisation<version>(axes);
                if (gradients.weight != nullptr) {
                    gradients.weight[element] = contraction.value * inverse;
                }
                for (int axis = problem.first_axis; axis < kAxes; ++axis) {
                    // d(X / (S + eps)) = dX / (S + eps) - X dS / (S + eps)^2; S is the product of the axes' sums.
                    T other_sums = 0;
                    if constexpr (is_normalised(version)) {
                        other_sums = contraction.value * inverse;
                        for (int other = 0; other < kAxes; ++other) {
                            other_sums *= other == axis ? T(1) : axes[other].sum;
                        }
                    }
                    const T scale = parameters.weight[element] * inverse;
                    const int64_t at = (axis - problem.first_axis) * axis_stride + element;
                    if (gradients.positions != nullptr) {
                        gradients.positions[at] =
                            scale * (contraction.d_position[axis] - other_sums * axes[axis].sum_d_position);
                    }
                    if (has_sigma(version) && gradients.sigma != nullptr) {
                        gradients.sigma[at] = scale * (contraction.d_sigma[axis] - other_sums * axes[axis].sum_d_sigma);
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

// Calls body.template operator()<version, T>() for the version and the compute type.
template <typename T, typename Body>
void dispatch_version(Version version, const Body& body) {
    switch (version) {
        case Version::v0:
            return body.template operator()<Version::v0, T>();
        case Version::v1:
            return body.template operator()<Version::v1, T>();
        case Version::max:
            return body.template operator()<Version::max, T>();
        case Version::gauss:
            return body.template operator()<Version::gauss, T>();
    }
}

template <typename Body>
void dispatch(Version version, ScalarType dtype, const Body& body) {
    dtype == ScalarType::Double ? dispatch_version<double>(version, body) : dispatch_version<float>(version, body);
}

// float16 and bfloat16 parameters are computed in float32.
ScalarType compute_dtype(const Tensor& weight) {
    return weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Contiguous parameters in the compute dtype.
struct PreparedParameters {
    Tensor weight, positions;
    OptionalTensor sigma;

    PreparedParameters(const Tensor& weight_, const Tensor& positions_, const OptionalTensor& sigma_, ScalarType dtype)
        : weight(contiguous(cast(weight_, dtype))), positions(contiguous(cast(positions_, dtype))) {
        if (sigma_.has_value()) {
            sigma = contiguous(cast(*sigma_, dtype));
        }
    }

    template <typename T>
    Parameters<T> pointers() const {
        return {weight.const_data_ptr<T>(), positions.const_data_ptr<T>(),
                sigma.has_value() ? sigma->const_data_ptr<T>() : nullptr};
    }
};

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

namespace {

Tensor construct_kernel_op(const Tensor& weight, const Tensor& positions, const IntList& kernel_size,
                           const OptionalTensor& sigma, StringArgument version) {
    const KernelArguments arguments =
        check_kernel_arguments("construct_kernel", weight, positions, kernel_size, sigma, take(version));
    return cast(construct_kernel(weight, positions, sigma, arguments), weight.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> construct_kernel_backward_op(const Tensor& grad_kernel, const Tensor& weight,
                                                                const Tensor& positions, const OptionalTensor& sigma,
                                                                StringArgument version, const BoolList& output_mask) {
    const auto mask = check_output_mask<3>("construct_kernel_backward", output_mask);
    const KernelArguments arguments = check_construct_kernel_backward_arguments(
        "construct_kernel_backward", grad_kernel, weight, positions, sigma, take(version));
    return construct_kernel_backward(grad_kernel, weight, positions, sigma, arguments, mask);
}

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    m.impl("construct_kernel", TORCH_BOX(&dcls::cpu::construct_kernel_op));
    m.impl("construct_kernel_backward", TORCH_BOX(&dcls::cpu::construct_kernel_backward_op));
}
