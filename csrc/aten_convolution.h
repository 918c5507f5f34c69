// PyTorch's convolution with a dense kernel, in the terms of our operators: the input may be unbatched, results take
// its dtype and memory format, and gradients that are not asked for are tensors without elements.
#pragma once

#include "checks.h"
#include "memory_format.h"

namespace dcls {

inline Tensor batched(const Tensor& tensor, const ConvArguments& arguments) {
    return arguments.batched ? tensor : unsqueeze(tensor, 0);
}

inline Tensor unbatched(const Tensor& tensor, const ConvArguments& arguments) {
    return arguments.batched ? tensor : squeeze(tensor, 0);
}

// `like` is the batched input.
inline Tensor formatted(const Tensor& result, const Tensor& like, const ConvArguments& arguments) {
    return unbatched(contiguous(result, memory_format_like(like)), arguments);
}

// The gradient of a convolution's bias, in grad_output's dtype.
inline Tensor bias_gradient(const Tensor& grad_output, const ConvArguments& arguments) {
    const Tensor batched_grad = batched(grad_output, arguments);
    IntList dims{0};
    for (int64_t dim = 2; dim < batched_grad.dim(); ++dim) {
        dims.push_back(dim);
    }
    return sum_over(batched_grad, dims);
}

inline Tensor aten_dense(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                         const ConvArguments& arguments) {
    const ScalarType dtype = input.scalar_type();
    const Tensor batched_input = batched(input, arguments);
    const OptionalTensor cast_bias = bias.has_value() ? OptionalTensor(cast(*bias, dtype)) : std::nullopt;
    const Tensor output = aten_convolution(batched_input, cast(kernel, dtype), cast_bias, arguments.stride,
                                           arguments.padding, arguments.groups);
    return formatted(output, batched_input, arguments);
}

// Gradients for (input, kernel, bias). The values of `kernel` matter to the first only, its shape to all.
inline std::array<Tensor, 3> aten_dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                 const ConvArguments& arguments, std::array<bool, 3> output_mask) {
    const ScalarType dtype = input.scalar_type();
    const Tensor batched_input = batched(input, arguments);
    // PyTorch 2.13 gives wrong gradients for the kernels of groups in channels_last_3d tensors on the CPU.
    const bool is_wrong = batched_input.is_cpu() && batched_input.dim() == 5 && arguments.groups > 1 && output_mask[1];
    // The view, because a kernel of one in channel is contiguous with the strides of that format too.
    const auto source = [&](const Tensor& tensor) {
        return is_wrong ? torch::stable::view(contiguous(tensor), tensor.sizes()) : tensor;
    };
    auto gradients = aten_convolution_backward(source(batched(grad_output, arguments)), source(batched_input),
                                               source(cast(kernel, dtype)), arguments.stride, arguments.padding,
                                               arguments.groups, output_mask);
    for (size_t i = 0; i < gradients.size(); ++i) {
        gradients[i] = output_mask[i] ? gradients[i] : not_computed(dtype, input);
    }
    if (output_mask[0]) {
        gradients[0] = formatted(gradients[0], batched_input, arguments);
    }
    if (output_mask[1]) {
        gradients[1] = contiguous(gradients[1]);
    }
    return gradients;
}

}  // namespace dcls
