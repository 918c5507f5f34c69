// The operators on CUDA.
#include "../operators.h"

#include "../aten_convolution.h"
#include "construct/construct_kernel.h"
#include "costs.h"
#include "depthwise/depthwise_conv2d.h"
#include "direct/conv_direct.h"
#include "driver.h"
#include "im2col/conv_im2col.h"

namespace dcls::cuda {
namespace {

Tensor conv_dense(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                  const ConvArguments& arguments) {
    return is_large_depthwise(kernel, arguments) ? depthwise_conv2d(input, kernel, bias, arguments)
                                                 : aten_dense(input, kernel, bias, arguments);
}

DenseGradients<Tensor> conv_dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                           const ConvArguments& arguments, const DenseGradients<bool>& wanted) {
    return is_large_depthwise(kernel, arguments)
               ? depthwise_conv2d_backward(grad_output, input, kernel, arguments, wanted, compute_dtype(kernel))
               : aten_dense_backward(grad_output, input, kernel, arguments, wanted);
}

Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                      const ConvArguments& arguments) {
    return kernel.dim() == 4 ? depthwise_conv2d(input, kernel, bias, arguments)
                             : aten_dense(input, kernel, bias, arguments);
}

DenseGradients<Tensor> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                               const ConvArguments& arguments, const DenseGradients<bool>& wanted) {
    return kernel.dim() == 4
               ? depthwise_conv2d_backward(grad_output, input, kernel, arguments, wanted, input.scalar_type())
               : aten_dense_backward(grad_output, input, kernel, arguments, wanted);
}

struct Backend {
    static constexpr bool kVisitsPartlyDense = false;

    static constexpr auto cost = cuda::cost;
    static constexpr auto construct_kernel = cuda::construct_kernel;
    static constexpr auto construct_kernel_backward = cuda::construct_kernel_backward;
    static constexpr auto conv_dense = cuda::conv_dense;
    static constexpr auto conv_dense_backward = cuda::conv_dense_backward;
    static constexpr auto conv_direct = cuda::conv_direct;
    static constexpr auto conv_direct_backward = cuda::conv_direct_backward;
    static constexpr auto conv_im2col = cuda::conv_im2col;
    static constexpr auto conv_im2col_backward = cuda::conv_im2col_backward;
    static constexpr auto depthwise_conv = cuda::depthwise_conv;
    static constexpr auto depthwise_conv_backward = cuda::depthwise_conv_backward;
};

}  // namespace
}  // namespace dcls::cuda

// Runs while the library is loaded. Where it registers nothing, PyTorch's own operations do the work: dcls_ops/ops has
// registered them for all devices, and the dispatcher prefers kernels for one.
STABLE_TORCH_LIBRARY_IMPL(DCLS_NAMESPACE, DCLS_CUDA, m) {
    if (dcls::cuda::driver_suffices()) {
        dcls::register_operators<dcls::cuda::Backend>(m);
    }
}
