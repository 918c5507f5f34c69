// How finely work is cut where sums of its parts are added up afterwards.
#pragma once

#include <cstdint>

namespace dcls::cuda {

#ifndef DCLS_CUDA_ON_CPU
constexpr int64_t kTileEntries = 1 << 22;  // columns of "im2col" at a time: they stay in the L2 cache
constexpr int64_t kWantedBlocks = 800;     // as many blocks or warps as keep a GPU busy, if there are images enough
constexpr int64_t kWantedWarps = 8192;
constexpr int64_t kSmallestPart = 256;  // pixels of a warp
#else                                   // tests/cuda_on_cpu: small shapes are cut too
constexpr int64_t kTileEntries = 2000, kWantedBlocks = 8, kWantedWarps = 40, kSmallestPart = 8;
#endif

}  // namespace dcls::cuda
