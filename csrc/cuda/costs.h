// What a convolution costs by each method: the rule of method "auto" on CUDA.
#pragma once

#include "../conv.h"

namespace dcls::cuda {

// The cost for one in channel of a group and one output pixel, in multiply-adds of a dense convolution. It counts what
// each method's kernels are bound by, and was not fitted to measurements.
double cost(Method method, const Convolution& convolution, Pass pass);

// Whether our own kernels convolve with a dense kernel, and not PyTorch's, which are made for small ones.
bool is_large_depthwise(const Tensor& kernel, const ConvArguments& arguments);

}  // namespace dcls::cuda
