// method "im2col" on CUDA: convolution with positions that all out channels share.
#pragma once

#include "../../conv.h"
#include "../../gradients.h"

namespace dcls::cuda {

Tensor conv_im2col(const Convolution& convolution, const OptionalTensor& bias);

ConvGradients<Tensor> conv_im2col_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted);

}  // namespace dcls::cuda
