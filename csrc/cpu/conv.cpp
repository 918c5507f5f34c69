// Convolution with a learned-position kernel on the CPU.
//
// method "construct" (also what "auto" picks): build the dense kernel, then call aten::convolution. The dense kernel is
// rebuilt in backward rather than kept; it is built in float32 and rounded once, to the input's dtype.
#include "../convolution.h"
#include "construct_kernel.h"

namespace dcls::cpu {
namespace {

template <int64_t spatial_axes>
Tensor conv_op(const Tensor& input, const Tensor& weight, const Tensor& positions, const IntList& kernel_size,
               const OptionalTensor& sigma, const OptionalTensor& bias, const IntList& stride, const IntList& padding,
               int64_t groups, StringArgument version_argument, StringArgument method_argument) {
    const std::string version = take(version_argument), method = take(method_argument);
    const std::string op = "conv" + std::to_string(spatial_axes) + "d";
    const KernelArguments kernel_arguments = check_kernel_arguments(op, weight, positions, kernel_size, sigma, version);
    const ConvArguments arguments =
        check_conv_arguments(op, spatial_axes, input, weight, kernel_size, bias, stride, padding, groups, method);
    return convolution(input, construct_kernel(weight, positions, sigma, kernel_arguments), bias, arguments);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_backward_op(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& positions,
    const IntList& kernel_size, const OptionalTensor& sigma, const IntList& stride, const IntList& padding,
    int64_t groups, StringArgument version_argument, StringArgument method_argument, const BoolList& output_mask) {
    const std::string version = take(version_argument), method = take(method_argument);
    const std::string op = "conv_backward";
    const auto mask = check_output_mask<5>(op, output_mask);
    const KernelArguments kernel_arguments = check_kernel_arguments(op, weight, positions, kernel_size, sigma, version);
    const ConvArguments arguments = check_conv_arguments(op, kernel_arguments.spatial_axes(), input, weight,
                                                         kernel_size, std::nullopt, stride, padding, groups, method);
    check_grad_output(op, grad_output, input, arguments);

    const std::array<bool, 3> parameter_mask{mask[1], mask[2], mask[3]};
    const bool needs_kernel = parameter_mask[0] || parameter_mask[1] || parameter_mask[2];
    const Tensor kernel = mask[0] ? construct_kernel(weight, positions, sigma, kernel_arguments)
                                  : empty(kernel_arguments.kernel_shape(), input.scalar_type(), weight);
    const auto [grad_input, grad_kernel, grad_bias] =
        convolution_backward(grad_output, input, kernel, arguments, {mask[0], needs_kernel, mask[4]});
    if (!needs_kernel) {
        const auto none = [&] { return not_computed(weight.scalar_type(), weight); };
        return {grad_input, none(), none(), none(), grad_bias};
    }
    const auto [grad_weight, grad_positions, grad_sigma] =
        construct_kernel_backward(grad_kernel, weight, positions, sigma, kernel_arguments, parameter_mask);
    return {grad_input, grad_weight, grad_positions, grad_sigma, grad_bias};
}

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    m.impl("conv1d", TORCH_BOX(&dcls::cpu::conv_op<1>));
    m.impl("conv2d", TORCH_BOX(&dcls::cpu::conv_op<2>));
    m.impl("conv3d", TORCH_BOX(&dcls::cpu::conv_op<3>));
    m.impl("conv_backward", TORCH_BOX(&dcls::cpu::conv_backward_op));
}
