// Method "im2col" on the CPU: convolution with positions that all out channels share.
#pragma once

#include "../../conv.h"
#include "../../gradients.h"

namespace dcls::cpu {

// Pixels along each axis of the tiles that are interpolated at a time, forward.
Axes im2col_tile(const Geometry& geometry);

Tensor conv_im2col(const Convolution& convolution, const OptionalTensor& bias);

ConvGradients<Tensor> conv_im2col_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted);

}  // namespace dcls::cpu
