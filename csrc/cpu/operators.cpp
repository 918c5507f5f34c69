// The operators on the CPU.
#include "../operators.h"

#include "../aten_convolution.h"
#include "../namespace_owner.h"
#include "construct/construct_kernel.h"
#include "costs.h"
#include "depthwise/depthwise_conv.h"
#include "direct/conv_direct.h"
#include "im2col/conv_im2col.h"

namespace dcls::cpu {
namespace {

Tensor conv_dense(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                  const ConvArguments& arguments) {
    const bool is_ours = is_depthwise(input, kernel, arguments) &&
                         (kernel.scalar_type() == ScalarType::Double ||
                          !is_faster_in_aten({kernel.sizes().begin() + 2, kernel.sizes().end()}, arguments.padding));
    return is_ours ? depthwise_conv(input, cast(kernel, input.scalar_type()), bias, arguments)
                   : aten_dense(input, kernel, bias, arguments);
}

DenseGradients<Tensor> conv_dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                           const ConvArguments& arguments, const DenseGradients<bool>& wanted) {
    return is_depthwise(input, kernel, arguments)
               ? depthwise_conv_backward(grad_output, input, cast(kernel, input.scalar_type()), arguments, wanted)
               : aten_dense_backward(grad_output, input, kernel, arguments, wanted);
}

DenseGradients<Tensor> rounded_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                        const ConvArguments& arguments, const DenseGradients<bool>& wanted) {
    auto gradients = conv_dense_backward(grad_output, input, kernel, arguments, wanted);
    gradients.kernel = cast(gradients.kernel, kernel.scalar_type());
    return gradients;
}

struct Backend {
    // Whether method "direct" knows filters that are dense along leading axes.
    static constexpr bool kVisitsPartlyDense = true;

    static constexpr auto cost = cpu::cost;
    static constexpr auto construct_kernel = cpu::construct_kernel;
    static constexpr auto construct_kernel_backward = cpu::construct_kernel_backward;
    static constexpr auto conv_dense = cpu::conv_dense;
    static constexpr auto conv_dense_backward = cpu::conv_dense_backward;
    static constexpr auto conv_direct = cpu::conv_direct;
    static constexpr auto conv_direct_backward = cpu::conv_direct_backward;
    static constexpr auto conv_im2col = cpu::conv_im2col;
    static constexpr auto conv_im2col_backward = cpu::conv_im2col_backward;
    static constexpr auto depthwise_conv = cpu::conv_dense;
    static constexpr auto depthwise_conv_backward = cpu::rounded_backward;
};

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    if (dcls::owns_namespace()) {
        dcls::register_operators<dcls::cpu::Backend>(m);
    }
}
