// Convolution with a learned-position kernel on the CPU.
//
// method "construct": build the dense kernel, then call aten::convolution. The dense kernel is rebuilt in backward
// rather than kept; it is built in float32 and rounded once, to the input's dtype. method "im2col": conv_im2col.cpp.
#include "../convolution.h"
#include "construct_kernel.h"
#include "conv_im2col.h"

#include <algorithm>

namespace dcls::cpu {
namespace {

// The rule behind method "auto": the cheaper of the methods, each by its estimated cost for one in channel and output
// pixel in multiply-adds of a large matrix product. The constants are fitted to `make bench-shared` on one processor
// with AVX-512; benchmarks/results/shared-positions-cpu.json has the times of both methods and of "auto".
double construct_cost(const KernelArguments& kernel, const ConvArguments& conv, Pass pass) {
    double taps = 1;
    for (const auto extent : kernel.kernel_size) {
        taps *= static_cast<double>(extent);
    }
    const int64_t out_channels = kernel.out_channels / conv.groups;
    if (out_channels > 1) {
        return (pass == Pass::forward ? 0.65 : 0.85) * taps * static_cast<double>(out_channels);
    }
    // Depthwise: aten's fast kernels have no backward, and stop at a padding of 6.
    const bool is_fast = pass == Pass::forward && *std::max_element(conv.padding.begin(), conv.padding.end()) <= 6;
    return (is_fast ? 2 : pass == Pass::forward ? 22 : 15) * taps;
}

Method choose_method(const KernelArguments& kernel, const ConvArguments& conv, const Tensor& input, Pass pass) {
    if (conv.method != Method::automatic) {
        return conv.method;
    }
    return kernel.shared_positions && im2col_cost(kernel, conv, input, pass) < construct_cost(kernel, conv, pass)
               ? Method::im2col
               : Method::construct;
}

template <int64_t spatial_axes>
Tensor conv_op(const Tensor& input, const Tensor& weight, const Tensor& positions, const IntList& kernel_size,
               const OptionalTensor& sigma, const OptionalTensor& bias, const IntList& stride, const IntList& padding,
               int64_t groups, StringArgument version_argument, StringArgument method_argument) {
    const std::string version = take(version_argument), method = take(method_argument);
    const std::string op = "conv" + std::to_string(spatial_axes) + "d";
    const KernelArguments kernel_arguments = check_kernel_arguments(op, weight, positions, kernel_size, sigma, version);
    const ConvArguments arguments = check_conv_arguments(op, spatial_axes, input, weight, positions, kernel_size, bias,
                                                         stride, padding, groups, method);
    if (choose_method(kernel_arguments, arguments, input, Pass::forward) == Method::im2col) {
        return conv_im2col(input, weight, positions, sigma, bias, kernel_arguments, arguments);
    }
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
    const ConvArguments arguments = check_conv_arguments(op, kernel_arguments.spatial_axes(), input, weight, positions,
                                                         kernel_size, std::nullopt, stride, padding, groups, method);
    check_grad_output(op, grad_output, input, arguments);

    if (choose_method(kernel_arguments, arguments, input, Pass::backward) == Method::im2col) {
        return conv_im2col_backward(grad_output, input, weight, positions, sigma, kernel_arguments, arguments, mask);
    }
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
