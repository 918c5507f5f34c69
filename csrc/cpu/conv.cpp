// Convolution with a learned-position kernel on the CPU.
//
// method "construct" (also what "auto" picks): build the dense kernel, then call aten::convolution. The dense kernel is
// rebuilt in backward rather than kept; it is built in float32 and rounded once to the input's dtype.
#include "../memory_format.h"
#include "construct_kernel.h"

namespace dcls::cpu {
namespace {

std::string op_name(int64_t spatial_axes) { return "conv" + std::to_string(spatial_axes) + "d"; }

Tensor conv(int64_t spatial_axes, const Tensor& input, const Tensor& weight, const Tensor& positions,
            const IntList& kernel_size, const OptionalTensor& sigma, const OptionalTensor& bias, const IntList& stride,
            const IntList& padding, int64_t groups, const std::string& version, const std::string& method) {
    const std::string op = op_name(spatial_axes);
    const KernelArguments arguments = check_kernel_arguments(op, weight, positions, kernel_size, sigma, version);
    const ConvArguments checked =
        check_conv_arguments(op, spatial_axes, input, weight, kernel_size, bias, stride, padding, groups, method);
    const Tensor batched = checked.batched ? input : unsqueeze(input, 0);
    const Tensor kernel = cast(construct_kernel(weight, positions, sigma, arguments), input.scalar_type());
    const OptionalTensor cast_bias = bias.has_value() ? OptionalTensor(cast(*bias, input.scalar_type())) : std::nullopt;
    const Tensor output =
        contiguous(aten_convolution(batched, kernel, cast_bias, stride, padding, groups), memory_format_like(batched));
    return checked.batched ? output : squeeze(output, 0);
}

template <int64_t spatial_axes>
Tensor conv_op(const Tensor& input, const Tensor& weight, const Tensor& positions, const IntList& kernel_size,
               const OptionalTensor& sigma, const OptionalTensor& bias, const IntList& stride, const IntList& padding,
               int64_t groups, StringArgument version, StringArgument method) {
    return conv(spatial_axes, input, weight, positions, kernel_size, sigma, bias, stride, padding, groups,
                take(version), take(method));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_backward_op(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& positions,
    const IntList& kernel_size, const OptionalTensor& sigma, const IntList& stride, const IntList& padding,
    int64_t groups, StringArgument version, StringArgument method, const BoolList& output_mask) {
    const std::string op = "conv_backward";
    const KernelArguments arguments = check_kernel_arguments(op, weight, positions, kernel_size, sigma, take(version));
    const ConvArguments checked = check_conv_arguments(op, arguments.spatial_axes(), input, weight, kernel_size,
                                                       std::nullopt, stride, padding, groups, take(method));
    check_grad_output(op, grad_output, input, checked);

    const bool needs_input = output_mask.at(0);
    const std::array<bool, 3> parameter_mask{output_mask.at(1), output_mask.at(2), output_mask.at(3)};
    const bool needs_kernel = parameter_mask[0] || parameter_mask[1] || parameter_mask[2];
    const bool needs_bias = output_mask.at(4);
    const ScalarType dtype = input.scalar_type();
    const Tensor batched = checked.batched ? input : unsqueeze(input, 0);
    const Tensor batched_grad = checked.batched ? grad_output : unsqueeze(grad_output, 0);
    // The kernel's values matter to grad_input alone; its shape is needed for the others too.
    const Tensor kernel = needs_input ? cast(construct_kernel(weight, positions, sigma, arguments), dtype)
                                      : empty(arguments.kernel_shape(), dtype, weight);
    const auto [grad_batched, grad_kernel, grad_bias] = aten_convolution_backward(
        batched_grad, batched, kernel, stride, padding, groups, {needs_input, needs_kernel, needs_bias});

    Tensor grad_input = not_computed(dtype, input);
    if (needs_input) {
        const Tensor formatted = contiguous(grad_batched, memory_format_like(batched));
        grad_input = checked.batched ? formatted : squeeze(formatted, 0);
    }
    const ScalarType parameter_dtype = weight.scalar_type();
    auto [grad_weight, grad_positions, grad_sigma] =
        needs_kernel ? construct_kernel_backward(cast(grad_kernel, parameter_dtype), weight, positions, sigma,
                                                 arguments, parameter_mask)
                     : std::tuple{not_computed(parameter_dtype, weight), not_computed(parameter_dtype, weight),
                                  not_computed(parameter_dtype, weight)};
    return {grad_input, grad_weight, grad_positions, grad_sigma, needs_bias ? grad_bias : not_computed(dtype, input)};
}

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    m.impl("conv1d", TORCH_BOX(&dcls::cpu::conv_op<1>));
    m.impl("conv2d", TORCH_BOX(&dcls::cpu::conv_op<2>));
    m.impl("conv3d", TORCH_BOX(&dcls::cpu::conv_op<3>));
    m.impl("conv_backward", TORCH_BOX(&dcls::cpu::conv_backward_op));
}
