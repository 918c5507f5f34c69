// Large-kernel depthwise convolution on the CPU, through aten::convolution.
#include "../convolution.h"

namespace dcls::cpu {
namespace {

Tensor depthwise_conv2d_op(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias, const IntList& stride,
                           const IntList& padding) {
    return convolution(input, kernel, bias,
                       check_depthwise_conv2d_arguments("depthwise_conv2d", input, kernel, bias, stride, padding));
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv2d_backward_op(const Tensor& grad_output, const Tensor& input,
                                                                const Tensor& kernel, const IntList& stride,
                                                                const IntList& padding, const BoolList& output_mask) {
    const std::string op = "depthwise_conv2d_backward";
    const auto mask = check_output_mask<3>(op, output_mask);
    const ConvArguments arguments = check_depthwise_conv2d_arguments(op, input, kernel, std::nullopt, stride, padding);
    check_grad_output(op, grad_output, input, arguments);
    const auto [grad_input, grad_kernel, grad_bias] = convolution_backward(grad_output, input, kernel, arguments, mask);
    return {grad_input, grad_kernel, grad_bias};
}

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    m.impl("depthwise_conv2d", TORCH_BOX(&dcls::cpu::depthwise_conv2d_op));
    m.impl("depthwise_conv2d_backward", TORCH_BOX(&dcls::cpu::depthwise_conv2d_backward_op));
}
