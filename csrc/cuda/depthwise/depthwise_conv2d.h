// Large-kernel depthwise convolution on CUDA.
#pragma once

#include "../../checks.h"
#include "../../gradients.h"

namespace dcls::cuda {

// `kernel` may have any floating dtype; it is rounded to the input's.
Tensor depthwise_conv2d(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                        const ConvArguments& arguments);

// Gradients in the input's dtype, but for the kernel's.
DenseGradients<Tensor> depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                 const ConvArguments& arguments, const DenseGradients<bool>& wanted,
                                                 ScalarType grad_kernel_dtype);

}  // namespace dcls::cuda
