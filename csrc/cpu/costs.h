// What a convolution costs by each method: the rule of method "auto" on the CPU.
//
// A cost is for one in channel of a group and one output pixel, in multiply-adds of a large matrix product; only costs
// of the same pass compare. It depends on shapes, version and instruction set, never on values: graphs that were traced
// or exported choose alike. docs/performance.md says what the constants are fitted to.
#pragma once

#include "../conv.h"

namespace dcls::cpu {

// Whether PyTorch's depthwise convolution is faster than our own, forward.
bool is_faster_in_aten(const IntList& kernel_size, const IntList& padding);

double construct_cost(const Convolution& convolution, Pass pass);
double direct_cost(const Convolution& convolution, Pass pass);
// For shared positions.
double im2col_cost(const Convolution& convolution, Pass pass);

}  // namespace dcls::cpu
