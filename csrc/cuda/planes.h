// The planes of tensors as kernels see them, whatever the strides.
#pragma once

#include "../geometry.h"
#include "dtypes.h"

#include <cuda_runtime.h>

#include <type_traits>
#include <utility>

namespace dcls::cuda {

// The planes of a tensor (N, C, *spatial); missing leading spatial axes have the extent 1.
template <typename T>
struct Planes {
    T* data;
    int64_t image, channel;  // strides
    Axes stride;

    explicit Planes(const Tensor& batched)
        : data(pointer(batched)), image(batched.stride(0)), channel(batched.stride(1)), stride{} {
        const auto spatial = static_cast<int>(batched.dim()) - 2;
        for (int axis = 0; axis < spatial; ++axis) {
            stride[kAxes - spatial + axis] = batched.stride(2 + axis);
        }
    }

    // With images as channels and channels as images.
    Planes transposed() const {
        Planes planes = *this;
        std::swap(planes.image, planes.channel);
        return planes;
    }

    // Asking for a mutable pointer would copy what a lazy clone shares.
    static T* pointer(const Tensor& tensor) {
        if constexpr (std::is_const_v<T>) {
            return static_cast<T*>(tensor.const_data_ptr());
        } else {
            return static_cast<T*>(tensor.mutable_data_ptr());
        }
    }

    __host__ __device__ T* plane(int64_t n, int64_t c) const { return data + n * image + c * channel; }
};

}  // namespace dcls::cuda
