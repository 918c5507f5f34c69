// What a convolution costs by each method: the rule of method "auto" on the CPU.
//
// A cost is for one in channel of a group and one output pixel, in multiply-adds of a large matrix product; only costs
// of the same pass compare. It depends on shapes and version, never on values: graphs that were traced or exported
// choose alike. The constants are fitted to `make bench` on one processor with AVX-512; docs/performance.md has the
// times of every method, and of "auto", from one run.
#pragma once

#include "../conv.h"

namespace dcls::cpu {

// PyTorch's convolution is fast on the CPU up to this padding, and faster than our own for depthwise kernels of so few
// taps, forward.
constexpr int64_t kMostPaddingOfFastAten = 6;
constexpr int64_t kMostTapsOfSmall = 25;

double construct_cost(const Convolution& convolution, Pass pass);
double direct_cost(const Convolution& convolution, Pass pass);
// For shared positions.
double im2col_cost(const Convolution& convolution, Pass pass);

}  // namespace dcls::cpu
