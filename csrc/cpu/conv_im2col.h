// method "im2col" on the CPU: convolution with positions that all out channels share.
#pragma once

#include "../checks.h"

namespace dcls::cpu {

enum class Pass { forward, backward };

// An estimate, for one in channel and output pixel, in multiply-adds of a large matrix product.
double im2col_cost(const KernelArguments& kernel_arguments, const ConvArguments& arguments, const Tensor& input,
                   Pass pass);

Tensor conv_im2col(const Tensor& input, const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                   const OptionalTensor& bias, const KernelArguments& kernel_arguments, const ConvArguments& arguments);

// Gradients for (input, weight, positions, sigma, bias), each without elements where output_mask is false.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_im2col_backward(const Tensor& grad_output, const Tensor& input,
                                                                        const Tensor& weight, const Tensor& positions,
                                                                        const OptionalTensor& sigma,
                                                                        const KernelArguments& kernel_arguments,
                                                                        const ConvArguments& arguments,
                                                                        const std::array<bool, 5>& output_mask);

}  // namespace dcls::cpu
