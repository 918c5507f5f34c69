// What a convolution costs by each method: the rule of method "auto" on the CPU.
//
// A cost is for one in channel of a group and one output pixel, in nanoseconds of one thread: a sum of what the method
// does, each times a constant of cost_table.h, which benchmarks/fit_costs.py fits to measured times for every
// instruction set. It depends on shapes, version and what the caller says of widths, never on values: graphs that were
// traced or exported choose alike.
#pragma once

#include "../conv.h"

namespace dcls::cpu {

// Whether PyTorch's depthwise convolution is faster than our own, forward.
bool is_faster_in_aten(const IntList& kernel_size, const IntList& padding);

double cost(Method method, const Convolution& convolution, Pass pass);

}  // namespace dcls::cpu
