// Large-kernel depthwise convolution on the CPU, through aten::convolution.
#include "../checks.h"
#include "../memory_format.h"

namespace dcls::cpu {
namespace {

Tensor depthwise_conv2d_op(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias, const IntList& stride,
                           const IntList& padding) {
    const ConvArguments checked = check_depthwise_arguments("depthwise_conv2d", input, kernel, bias, stride, padding);
    const Tensor batched = checked.batched ? input : unsqueeze(input, 0);
    const Tensor output = contiguous(aten_convolution(batched, kernel, bias, stride, padding, checked.groups),
                                     memory_format_like(batched));
    return checked.batched ? output : squeeze(output, 0);
}

std::tuple<Tensor, Tensor, Tensor> depthwise_conv2d_backward_op(const Tensor& grad_output, const Tensor& input,
                                                                const Tensor& kernel, const IntList& stride,
                                                                const IntList& padding, const BoolList& output_mask) {
    const std::string op = "depthwise_conv2d_backward";
    const ConvArguments checked = check_depthwise_arguments(op, input, kernel, std::nullopt, stride, padding);
    check_grad_output(op, grad_output, input, checked);
    const std::array<bool, 3> mask{output_mask.at(0), output_mask.at(1), output_mask.at(2)};
    const Tensor batched = checked.batched ? input : unsqueeze(input, 0);
    const Tensor batched_grad = checked.batched ? grad_output : unsqueeze(grad_output, 0);
    auto [grad_input, grad_kernel, grad_bias] =
        aten_convolution_backward(batched_grad, batched, kernel, stride, padding, checked.groups, mask);
    const Tensor none = not_computed(input.scalar_type(), input);
    if (mask[0]) {
        grad_input = contiguous(grad_input, memory_format_like(batched));
        grad_input = checked.batched ? grad_input : squeeze(grad_input, 0);
    }
    return {mask[0] ? grad_input : none, mask[1] ? contiguous(grad_kernel) : not_computed(kernel.scalar_type(), kernel),
            mask[2] ? grad_bias : not_computed(input.scalar_type(), input)};
}

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    m.impl("depthwise_conv2d", TORCH_BOX(&dcls::cpu::depthwise_conv2d_op));
    m.impl("depthwise_conv2d_backward", TORCH_BOX(&dcls::cpu::depthwise_conv2d_backward_op));
}
