// Convolution of every channel with a filter of its own, along 1 to 3 axes: operator depthwise_conv2d, and depthwise
// kernels of method "construct".
#pragma once

#include "../../checks.h"
#include "../../gradients.h"

namespace dcls::cpu {

// Whether in channels are as many as out channels and groups.
bool is_depthwise(const Tensor& input, const Tensor& kernel, const ConvArguments& arguments);

// kernel: (C, 1, *L), in the input's dtype.
Tensor depthwise_conv(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                      const ConvArguments& arguments);

// The kernel's gradient is not rounded to half types.
DenseGradients<Tensor> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                               const ConvArguments& arguments, const DenseGradients<bool>& wanted);

}  // namespace dcls::cpu
