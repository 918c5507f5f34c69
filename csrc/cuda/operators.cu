// The operators on CUDA, and the rule of method "auto" there.
#include "../operators.h"

#include "../aten_convolution.h"
#include "../parameters.h"
#include "construct/construct_kernel.h"
#include "direct/conv_direct.h"
#include "im2col/conv_im2col.h"
#include "depthwise/depthwise_conv2d.h"

#include <algorithm>

namespace dcls::cuda {
namespace {

// The rule behind method "auto": the cheapest of the methods by an estimate for one in channel and output pixel, in
// multiply-adds of a dense convolution. The estimates count what each method's kernels are bound by; they were not
// fitted to measurements.
struct Costs {
    double construct, direct, im2col;

    explicit Costs(const Convolution& convolution) {
        const KernelArguments& kernel = convolution.kernel;
        const auto out_channels = static_cast<double>(kernel.out_channels / convolution.arguments.groups);
        const auto elements = static_cast<double>(kernel.kernel_count);
        double taps = 1, touched = 1;
        for (const auto extent : kernel.kernel_size) {
            taps *= static_cast<double>(extent);
            touched *= static_cast<double>(usual_taps(kernel.version, convolution.arguments.touched_taps, extent));
        }
        construct = taps * out_channels;
        direct = 4 * elements * touched * out_channels;    // a load from shared memory each
        im2col = elements * (out_channels + 8 * touched);  // a bounded load from the cache each
    }
};

// Fewer taps than this are PyTorch's: its depthwise kernels are made for small ones.
constexpr int64_t kLargeKernel = 49;

bool is_large_depthwise(const Tensor& kernel, const ConvArguments& arguments) {
    return kernel.dim() == 4 && kernel.size(1) == 1 && arguments.groups > 1 &&
           kernel.size(2) * kernel.size(3) >= kLargeKernel;
}

struct Backend {
    static constexpr bool kVisitsPartlyDense = false;

    static constexpr auto construct_kernel = cuda::construct_kernel;
    static constexpr auto construct_kernel_backward = cuda::construct_kernel_backward;

    static Method choose_method(const Convolution& convolution, Pass) {
        const Costs costs(convolution);
        if (takes_im2col(convolution) && costs.im2col < std::min(costs.construct, costs.direct)) {
            return Method::im2col;
        }
        return costs.direct < costs.construct ? Method::direct : Method::construct;
    }

    static Tensor conv(Method method, const Convolution& convolution, const OptionalTensor& bias) {
        return method == Method::direct ? conv_direct(convolution, bias) : conv_im2col(convolution, bias);
    }
    static auto conv_backward(Method method, const Tensor& grad_output, const Convolution& convolution,
                              const std::array<bool, 5>& output_mask) {
        return method == Method::direct ? conv_direct_backward(grad_output, convolution, output_mask)
                                        : conv_im2col_backward(grad_output, convolution, output_mask);
    }

    static Tensor dense(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                        const ConvArguments& arguments) {
        return is_large_depthwise(kernel, arguments) ? cuda::depthwise_conv2d(input, kernel, bias, arguments)
                                                     : aten_dense(input, kernel, bias, arguments);
    }
    static std::array<Tensor, 3> dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                const ConvArguments& arguments, std::array<bool, 3> output_mask) {
        return is_large_depthwise(kernel, arguments)
                   ? cuda::depthwise_conv2d_backward(grad_output, input, kernel, arguments, output_mask,
                                                     compute_dtype(kernel))
                   : aten_dense_backward(grad_output, input, kernel, arguments, output_mask);
    }

    static Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                                 const ConvArguments& arguments) {
        return kernel.dim() == 4 ? cuda::depthwise_conv2d(input, kernel, bias, arguments)
                                 : aten_dense(input, kernel, bias, arguments);
    }
    static std::array<Tensor, 3> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input,
                                                         const Tensor& kernel, const ConvArguments& arguments,
                                                         std::array<bool, 3> output_mask) {
        return kernel.dim() == 4 ? cuda::depthwise_conv2d_backward(grad_output, input, kernel, arguments, output_mask,
                                                                   input.scalar_type())
                                 : aten_dense_backward(grad_output, input, kernel, arguments, output_mask);
    }
};

}  // namespace
}  // namespace dcls::cuda

STABLE_TORCH_LIBRARY_IMPL(DCLS_NAMESPACE, DCLS_CUDA, m) { dcls::register_operators<dcls::cuda::Backend>(m); }
