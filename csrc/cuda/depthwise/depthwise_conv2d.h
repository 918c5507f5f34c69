// Large-kernel depthwise convolution on CUDA.
#pragma once

#include "../../checks.h"

namespace dcls::cuda {

// `kernel` may have any floating dtype; it is rounded to the input's.
Tensor depthwise_conv2d(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                        const ConvArguments& arguments);

// Gradients for (input, kernel, bias), in the input's dtype but for the kernel's, each without elements where
// output_mask is false.
std::array<Tensor, 3> depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                const ConvArguments& arguments, std::array<bool, 3> output_mask,
                                                ScalarType grad_kernel_dtype);

}  // namespace dcls::cuda
