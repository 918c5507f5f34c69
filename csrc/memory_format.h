// Which memory format a convolution's results take. dcls_ops/ops/_memory_format.py says the same to the fake kernels.
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

inline MemoryFormat memory_format_of(const Tensor& batched) {
    if (!is_channels_last(batched)) {
        return MemoryFormat::Contiguous;
    }
    return batched.dim() == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

// A new uninitialised result, in the dtype and memory format of a batched input.
inline Tensor empty_in_format_of(const Tensor& input, const IntList& sizes) {
    return torch::stable::empty(sizes, input.scalar_type(), std::nullopt, input.device(), std::nullopt,
                                memory_format_of(input));
}

inline Tensor in_format_of(const Tensor& input, const Tensor& result) {
    return contiguous(result, memory_format_of(input));
}

}  // namespace dcls
