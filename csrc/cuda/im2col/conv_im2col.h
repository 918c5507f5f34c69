// method "im2col" on CUDA: convolution with positions that all out channels share.
#pragma once

#include "../../conv.h"

namespace dcls::cuda {

Tensor conv_im2col(const Convolution& convolution, const OptionalTensor& bias);

// Gradients for (input, weight, positions, sigma, bias), each without elements where output_mask is false.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_im2col_backward(const Tensor& grad_output,
                                                                        const Convolution& convolution,
                                                                        const std::array<bool, 5>& output_mask);

}  // namespace dcls::cuda
