// method "direct" on CUDA: only the taps that an element touches are visited.
#pragma once

#include "../../conv.h"
#include "../../gradients.h"

namespace dcls::cuda {

Tensor conv_direct(const Convolution& convolution, const OptionalTensor& bias);

ConvGradients<Tensor> conv_direct_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted);

}  // namespace dcls::cuda
