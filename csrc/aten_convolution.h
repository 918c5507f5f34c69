// PyTorch's convolution with a dense kernel, in the terms of our operators: results take the input's dtype and memory
// format, and gradients that are not asked for are tensors without elements.
#pragma once

#include "checks.h"
#include "gradients.h"
#include "memory_format.h"
#include "parameters.h"

namespace dcls {

inline Tensor aten_dense(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                         const ConvArguments& arguments) {
    const ScalarType dtype = input.scalar_type();
    const Tensor output = aten_convolution(input, cast(kernel, dtype), PreparedBias(bias, dtype).tensor,
                                           arguments.stride, arguments.padding, arguments.groups);
    return in_format_of(input, output);
}

// The values of `kernel` matter to the input's gradient only, its shape to all.
inline DenseGradients<Tensor> aten_dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                  const ConvArguments& arguments, const DenseGradients<bool>& wanted) {
    const ScalarType dtype = input.scalar_type();
    // PyTorch 2.13 gives wrong gradients for the kernels of groups in channels_last_3d tensors on the CPU.
    const bool is_wrong = input.is_cpu() && input.dim() == 5 && arguments.groups > 1 && wanted.kernel;
    // The view, because a kernel of one in channel is contiguous with the strides of that format too.
    const auto source = [&](const Tensor& tensor) {
        return is_wrong ? torch::stable::view(contiguous(tensor), tensor.sizes()) : tensor;
    };
    const auto [grad_input, grad_kernel, grad_bias] =
        aten_convolution_backward(source(grad_output), source(input), source(cast(kernel, dtype)), arguments.stride,
                                  arguments.padding, arguments.groups, {wanted.input, wanted.kernel, wanted.bias});
    const auto none = [&] { return not_computed(dtype, input); };  // a tensor of its own for each
    return {wanted.input ? in_format_of(input, grad_input) : none(), wanted.kernel ? contiguous(grad_kernel) : none(),
            wanted.bias ? grad_bias : none()};
}

// The gradient of a convolution's bias, in grad_output's dtype.
inline Tensor aten_bias_gradient(const Tensor& grad_output) {
    IntList dims{0};
    for (int64_t dim = 2; dim < grad_output.dim(); ++dim) {
        dims.push_back(dim);
    }
    return sum_over(grad_output, dims);
}

}  // namespace dcls
