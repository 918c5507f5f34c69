// Sums over the lanes of a warp.
#pragma once

#include "launch.h"

namespace dcls::cuda {

// The sum over the lanes of a warp, or of a part of it, in all of them. The order is always the same.
template <int lanes = kWarp, typename C>
__device__ C warp_sum(C value) {
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(~0u, value, distance);
    }
    return value;
}

}  // namespace dcls::cuda
