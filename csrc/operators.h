// The operators of csrc/library.cpp on one backend: arguments are checked and batched, a method is chosen, and the
// backend called.
//
// A backend is a struct of static functions, the tables in cpu/operators.cpp and cuda/operators.cu. They take and
// return batched tensors. Gradients that are not asked for are tensors without elements; dense kernels are in the
// compute dtype, not rounded yet.
#pragma once

#include "conv.h"
#include "gradients.h"

#include <torch/csrc/stable/library.h>

#include <initializer_list>

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
        const auto gradients = Backend::construct_kernel_backward(grad_kernel, weight, positions, sigma, arguments,
                                                                  {mask[0], mask[1], mask[2] && sigma.has_value()});
        return {gradients.weight, gradients.positions, gradients.sigma};
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
        const Tensor batched_input = batched(input, arguments);
        const Convolution convolution{batched_input, weight, positions, sigma, kernel, arguments};
        return unbatched(implementation(choose(convolution, Pass::forward)).forward(convolution, bias), arguments);
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
        const Tensor batched_input = batched(input, arguments);
        const Convolution convolution{batched_input, weight, positions, sigma, kernel, arguments};
        const ConvGradients<bool> wanted{mask[0], {mask[1], mask[2], mask[3] && sigma.has_value()}, mask[4]};
        const auto [grad_input, parameters, grad_bias] =
            implementation(choose(convolution, Pass::backward))
                .backward(batched(grad_output, arguments), convolution, wanted);
        return {wanted.input ? unbatched(grad_input, arguments) : grad_input, parameters.weight, parameters.positions,
                parameters.sigma, grad_bias};
    }

    template <int64_t spatial_axes>
    static Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                                 const IntList& stride, const IntList& padding) {
        const std::string op = "depthwise_conv" + std::to_string(spatial_axes) + "d";
        const ConvArguments arguments =
            check_depthwise_conv_arguments(op, spatial_axes, input, kernel, bias, stride, padding);
        return unbatched(Backend::depthwise_conv(batched(input, arguments), kernel, bias, arguments), arguments);
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
        const auto gradients = Backend::depthwise_conv_backward(
            batched(grad_output, arguments), batched(input, arguments), kernel, arguments, {mask[0], mask[1], mask[2]});
        return {mask[0] ? unbatched(gradients.input, arguments) : gradients.input, gradients.kernel, gradients.bias};
    }

 private:
    static Tensor batched(const Tensor& tensor, const ConvArguments& arguments) {
        return arguments.batched ? tensor : unsqueeze(tensor, 0);
    }
    static Tensor unbatched(const Tensor& tensor, const ConvArguments& arguments) {
        return arguments.batched ? tensor : squeeze(tensor, 0);
    }

    // The cheapest method, unless one is asked for; the first of those that cost the same.
    static Method choose(const Convolution& convolution, Pass pass) {
        if (convolution.kernel.is_partly_dense() && !Backend::kVisitsPartlyDense) {
            return Method::construct;
        }
        if (convolution.arguments.method != Method::automatic) {
            return convolution.arguments.method;
        }
        Method cheapest = Method::construct;
        double least = Backend::cost(cheapest, convolution, pass);
        for (const Method method : {Method::direct, Method::im2col}) {
            if (method == Method::im2col && !takes_im2col(convolution)) {
                continue;
            }
            if (const double cost = Backend::cost(method, convolution, pass); cost < least) {
                cheapest = method;
                least = cost;
            }
        }
        return cheapest;
    }

    struct Implementation {
        Tensor (*forward)(const Convolution&, const OptionalTensor& bias);
        ConvGradients<Tensor> (*backward)(const Tensor& grad_output, const Convolution&,
                                          const ConvGradients<bool>& wanted);
    };

    static Implementation implementation(Method method) {
        switch (method) {
            case Method::direct:
                return {Backend::conv_direct, Backend::conv_direct_backward};
            case Method::im2col:
                return {Backend::conv_im2col, Backend::conv_im2col_backward};
            default:
                return {conv_construct, conv_construct_backward};
        }
    }

    static Tensor conv_construct(const Convolution& convolution, const OptionalTensor& bias) {
        const auto& [input, weight, positions, sigma, kernel, arguments] = convolution;
        return Backend::conv_dense(input, Backend::construct_kernel(weight, positions, sigma, kernel), bias, arguments);
    }

    // The dense kernel is built again rather than kept.
    static ConvGradients<Tensor> conv_construct_backward(const Tensor& grad_output, const Convolution& convolution,
                                                         const ConvGradients<bool>& wanted) {
        const auto& [input, weight, positions, sigma, kernel_arguments, arguments] = convolution;
        const bool needs_kernel = any(wanted.parameters);
        const Tensor kernel = wanted.input ? Backend::construct_kernel(weight, positions, sigma, kernel_arguments)
                                           : empty(kernel_arguments.kernel_shape(), input.scalar_type(), weight);
        const auto dense = Backend::conv_dense_backward(grad_output, input, kernel, arguments,
                                                        {wanted.input, needs_kernel, wanted.bias});
        return {dense.input,
                needs_kernel ? Backend::construct_kernel_backward(dense.kernel, weight, positions, sigma,
                                                                  kernel_arguments, wanted.parameters)
                             : parameters_not_computed(weight),
                dense.bias};
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
