// Construction of dense kernels on the CPU.
//
// One filter (out channel, in channel) at a time: K(L_1 + .. + L_d) per-axis factors are tabulated
// (inner_loops/factor_loops.h), then each element adds the outer product of its factors to the filter's L_1 x .. x L_d
// taps, limited to the taps it touches (inner_loops/outer_product_loops.h). Backward contracts the filter's gradient
// with the same factors. A filter belongs to one thread and its elements are visited in order, so results do not depend
// on the number of threads; scratch memory is one filter's. Bound by the factors (exponentials for "gauss") at small
// kernels and by 1 (forward) or 3 (backward) multiply-adds per element and tap at large ones.
//
// Every filter is treated as three-dimensional (filter_factors.h); backward skips missing axes.
#include "construct_kernel.h"

#include "../parameter_gradients.h"

namespace dcls::cpu {
namespace {

// About how many multiply-adds are worth a thread's start.
constexpr int64_t kGrainWork = 1 << 15;

// Calls body(filter, factors) for every filter, in parallel, in an order that keeps those with the same positions
// together. make_body() makes one body a thread, with its scratch memory.
template <Version version, typename T, bool with_derivatives, typename MakeBody>
void for_each_filter(const Filters& filters, const Parameters<T>& parameters, const MakeBody& make_body) {
    inner_loops<T>();  // throws here, where the message gets through, or not at all
    const int64_t grain = std::max<int64_t>(1, kGrainWork / (filters.kernel_count * filters.tap_count));
    parallel_for(0, filters.count(), grain, [&](int64_t begin, int64_t end) {
        FilterTables<version, T, with_derivatives> tables(filters, parameters);
        auto body = make_body();
        for (int64_t visit = begin; visit < end; ++visit) {
            const int64_t out = filters.out_channels, in = filters.in_channels_per_group;
            const int64_t filter = filters.shared_positions ? visit % out * in + visit / out : visit;
            body(filter, tables.of(filter));
        }
    });
}

template <Version version, typename T>
void forward(const Filters& filters, const Parameters<T>& parameters, T* kernel) {
    const OuterProductLoops<T>& loops = outer_product_loops<T>(version);
    for_each_filter<version, T, false>(filters, parameters, [&] {
        return [&, padded = padded_taps<T>(filters)](int64_t filter, const auto& factors) mutable {
            loops.sum_outer_products(factors.elements(), parameters.weight + filter * filters.kernel_count,
                                     padded.data(), kernel + filter * filters.tap_count);
        };
    });
}

template <Version version, typename T>
void backward(const Filters& filters, const T* grad_kernel, const Parameters<T>& parameters,
              ParameterGradientWriter<T>& gradients) {
    for_each_filter<version, T, true>(filters, parameters, [&] {
        return [&, contractor = Contractor<version, T>(filters)](int64_t filter, const auto& factors) mutable {
            gradients.template write<version>(filter, grad_kernel + filter * filters.tap_count, factors, contractor);
        };
    });
}

}  // namespace

Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments) {
    const PreparedParameters prepared(weight, positions, sigma);
    const Filters filters(arguments);
    const Tensor kernel = empty(arguments.kernel_shape(), prepared.dtype, weight);
    dispatch(arguments.version, prepared.dtype, [&]<Version version, typename T>() {
        forward<version, T>(filters, prepared.pointers<T>(), kernel.mutable_data_ptr<T>());
    });
    return kernel;
}

ParameterGradients<Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                     const Tensor& positions, const OptionalTensor& sigma,
                                                     const KernelArguments& arguments,
                                                     const ParameterGradients<bool>& wanted) {
    const PreparedParameters prepared(weight, positions, sigma);
    const Tensor grad = contiguous(cast(grad_kernel, prepared.dtype));
    const Filters filters(arguments);
    ParameterGradients<Tensor> result;
    dispatch(arguments.version, prepared.dtype, [&]<Version version, typename T>() {
        ParameterGradientWriter<T> gradients(filters, prepared, wanted);
        backward<version, T>(filters, grad.const_data_ptr<T>(), prepared.pointers<T>(), gradients);
        result = gradients.take(weight.scalar_type());
    });
    return result;
}

}  // namespace dcls::cpu
