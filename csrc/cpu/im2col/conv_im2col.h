// Method "im2col" on the CPU: convolution with positions that all out channels share.
#pragma once

#include "../../conv.h"
#include "../../geometry.h"

namespace dcls::cpu {

// Pixels along each axis of the tiles that are interpolated at a time, forward.
Axes im2col_tile(const Geometry& geometry);

Tensor conv_im2col(const Convolution& convolution, const OptionalTensor& bias);

// Gradients for (input, weight, positions, sigma, bias), each without elements where output_mask is false.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_im2col_backward(const Tensor& grad_output,
                                                                        const Convolution& convolution,
                                                                        const std::array<bool, 5>& output_mask);

}  // namespace dcls::cpu
