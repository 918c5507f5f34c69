// The operators of csrc/library.cpp on one backend: arguments are checked, a method is chosen, and the backend called.
//
// A backend is a struct of static functions: see cpu/operators.cpp and cuda/operators.cu. Gradients that are not asked
// for are tensors without elements; dense kernels are in the compute dtype, not rounded yet.
#pragma once

#include "conv.h"

#include <torch/csrc/stable/library.h>

namespace dcls {

template <typename Backend>
struct Operators {
    static Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const IntList& kernel_size,
                                   const OptionalTensor& sigma, StringArgument version) {
        const KernelArguments arguments =
            check_kernel_arguments("construct_kernel", weight, positions, kernel_size, sigma, take(version));
        return cast(Backend::construct_kernel(weight, positions, sigma, arguments), weight.scalar_type());
    }

    static std::tuple<Tensor, Tensor, Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                                        const Tensor& positions,
                                                                        const OptionalTensor& sigma,
                                                                        StringArgument version_argument,
                                                                        const BoolList& output_mask) {
        const std::string version = take(version_argument);
        const std::string op = "construct_kernel_backward";
        const auto mask = check_output_mask<3>(op, output_mask);
        const KernelArguments arguments =
            check_construct_kernel_backward_arguments(op, grad_kernel, weight, positions, sigma, version);
        return Backend::construct_kernel_backward(grad_kernel, weight, positions, sigma, arguments, mask);
    }

    template <int64_t spatial_axes>
    static Tensor conv(const Tensor& input, const Tensor& weight, const Tensor& positions, const IntList& kernel_size,
                       const OptionalTensor& sigma, const OptionalTensor& bias, const IntList& stride,
                       const IntList& padding, int64_t groups, StringArgument version_argument,
                       StringArgument method_argument, const OptionalInt& touched_taps) {
        const std::string version = take(version_argument), method = take(method_argument);
        const std::string op = "conv" + std::to_string(spatial_axes) + "d";
        const KernelArguments kernel = check_kernel_arguments(op, weight, positions, kernel_size, sigma, version);
        const ConvArguments arguments = check_conv_arguments(op, spatial_axes, input, weight, positions, kernel_size,
                                                             bias, stride, padding, groups, method, touched_taps);
        const Convolution convolution{input, weight, positions, sigma, kernel, arguments};
        const Method chosen = choose(convolution, Pass::forward);
        return chosen == Method::construct
                   ? Backend::dense(input, Backend::construct_kernel(weight, positions, sigma, kernel), bias, arguments)
                   : Backend::conv(chosen, convolution, bias);
    }

    static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_backward(
        const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& positions,
        const IntList& kernel_size, const OptionalTensor& sigma, const IntList& stride, const IntList& padding,
        int64_t groups, StringArgument version_argument, StringArgument method_argument,
        const OptionalInt& touched_taps, const BoolList& output_mask) {
        const std::string version = take(version_argument), method = take(method_argument);
        const std::string op = "conv_backward";
        const auto mask = check_output_mask<5>(op, output_mask);
        const KernelArguments kernel = check_kernel_arguments(op, weight, positions, kernel_size, sigma, version);
        const ConvArguments arguments =
            check_conv_arguments(op, kernel.spatial_axes(), input, weight, positions, kernel_size, std::nullopt, stride,
                                 padding, groups, method, touched_taps);
        check_grad_output(op, grad_output, input, arguments);
        const Convolution convolution{input, weight, positions, sigma, kernel, arguments};
        const Method chosen = choose(convolution, Pass::backward);
        return chosen == Method::construct ? construct_backward(grad_output, convolution, mask)
                                           : Backend::conv_backward(chosen, grad_output, convolution, mask);
    }

    template <int64_t spatial_axes>
    static Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                                 const IntList& stride, const IntList& padding) {
        const std::string op = "depthwise_conv" + std::to_string(spatial_axes) + "d";
        return Backend::depthwise_conv(
            input, kernel, bias,
            check_depthwise_conv_arguments(op, spatial_axes, input, kernel, bias, stride, padding));
    }

    template <int64_t spatial_axes>
    static std::tuple<Tensor, Tensor, Tensor> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input,
                                                                      const Tensor& kernel, const IntList& stride,
                                                                      const IntList& padding,
                                                                      const BoolList& output_mask) {
        const std::string op = "depthwise_conv" + std::to_string(spatial_axes) + "d_backward";
        const auto mask = check_output_mask<3>(op, output_mask);
        const ConvArguments arguments =
            check_depthwise_conv_arguments(op, spatial_axes, input, kernel, std::nullopt, stride, padding);
        check_grad_output(op, grad_output, input, arguments);
        const auto gradients = Backend::depthwise_conv_backward(grad_output, input, kernel, arguments, mask);
        return {gradients[0], gradients[1], gradients[2]};
    }

 private:
    static Method choose(const Convolution& convolution, Pass pass) {
        const Method asked = convolution.arguments.method;
        if (convolution.kernel.is_partly_dense() && !Backend::kVisitsPartlyDense) {
            return Method::construct;
        }
        return asked == Method::automatic ? Backend::choose_method(convolution, pass) : asked;
    }

    // The dense kernel is built again rather than kept.
    static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> construct_backward(const Tensor& grad_output,
                                                                                 const Convolution& convolution,
                                                                                 const std::array<bool, 5>& mask) {
        const auto& [input, weight, positions, sigma, kernel_arguments, arguments] = convolution;
        const std::array<bool, 3> parameter_mask{mask[1], mask[2], mask[3]};
        const bool needs_kernel = mask[1] || mask[2] || mask[3];
        const Tensor kernel = mask[0] ? Backend::construct_kernel(weight, positions, sigma, kernel_arguments)
                                      : empty(kernel_arguments.kernel_shape(), input.scalar_type(), weight);
        const auto [grad_input, grad_kernel, grad_bias] =
            Backend::dense_backward(grad_output, input, kernel, arguments, {mask[0], needs_kernel, mask[4]});
        if (!needs_kernel) {
            const auto none = [&] { return not_computed(weight.scalar_type(), weight); };
            return {grad_input, none(), none(), none(), grad_bias};
        }
        const auto [grad_weight, grad_positions, grad_sigma] =
            Backend::construct_kernel_backward(grad_kernel, weight, positions, sigma, kernel_arguments, parameter_mask);
        return {grad_input, grad_weight, grad_positions, grad_sigma, grad_bias};
    }
};

template <typename Backend>
void register_operators(torch::stable::detail::StableLibrary& m) {
    using Ops = Operators<Backend>;
    m.impl("construct_kernel", TORCH_BOX(&Ops::construct_kernel));
    m.impl("construct_kernel_backward", TORCH_BOX(&Ops::construct_kernel_backward));
    m.impl("conv1d", TORCH_BOX(&Ops::template conv<1>));
    m.impl("conv2d", TORCH_BOX(&Ops::template conv<2>));
    m.impl("conv3d", TORCH_BOX(&Ops::template conv<3>));
    m.impl("conv_backward", TORCH_BOX(&Ops::conv_backward));
    m.impl("depthwise_conv1d", TORCH_BOX(&Ops::template depthwise_conv<1>));
    m.impl("depthwise_conv2d", TORCH_BOX(&Ops::template depthwise_conv<2>));
    m.impl("depthwise_conv3d", TORCH_BOX(&Ops::template depthwise_conv<3>));
    m.impl("depthwise_conv1d_backward", TORCH_BOX(&Ops::template depthwise_conv_backward<1>));
    m.impl("depthwise_conv2d_backward", TORCH_BOX(&Ops::template depthwise_conv_backward<2>));
    m.impl("depthwise_conv3d_backward", TORCH_BOX(&Ops::template depthwise_conv_backward<3>));
}

}  // namespace dcls
