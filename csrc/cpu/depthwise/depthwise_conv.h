// Convolution of every channel with a filter of its own, along 1 to 3 axes: operator depthwise_conv2d, and depthwise
// kernels of method "construct".
#pragma once

#include "../../checks.h"

#include <array>

namespace dcls::cpu {

// Whether in channels are as many as out channels and groups.
bool is_depthwise(const Tensor& input, const Tensor& kernel, const ConvArguments& arguments);

// kernel: (C, 1, *L), in the input's dtype.
Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                      const ConvArguments& arguments);

// Gradients for (input, kernel, bias); the kernel's is not rounded to half types.
std::array<Tensor, 3> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                              const ConvArguments& arguments, std::array<bool, 3> output_mask);

}  // namespace dcls::cpu
