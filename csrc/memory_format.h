// Which memory format a convolution's results take. dcls_ops/ops/_formats.py says the same to the fake kernels.
#pragma once

#include "stable.h"

namespace dcls {

// Channels-last whenever the channels lie next to each other and every spatial step jumps over all of them: also for a
// slice of a channels_last tensor, which is not dense. One channel counts as contiguous.
inline bool is_channels_last(const Tensor& batched) {
    const int64_t channels = batched.size(1);
    if (batched.dim() < 4 || channels < 2 || batched.stride(1) != 1) {
        return false;
    }
    for (int64_t axis = 2; axis < batched.dim(); ++axis) {
        if (batched.stride(axis) < channels) {
            return false;
        }
    }
    return true;
}

inline MemoryFormat memory_format_like(const Tensor& batched) {
    if (!is_channels_last(batched)) {
        return MemoryFormat::Contiguous;
    }
    return batched.dim() == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

}  // namespace dcls
