// Tensors as kernels see them: any floating dtype, any strides.
#pragma once

#include "../geometry.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace dcls::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// What a kernel computes in: float32 for the half types.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A tensor (N, C, *spatial); missing leading spatial axes have the extent 1.
template <typename T>
struct View {
    T* data;
    int64_t image, channel;  // strides
    Axes stride;

    explicit View(const Tensor& batched)
        : data(pointer(batched)), image(batched.stride(0)), channel(batched.stride(1)), stride{} {
        const auto spatial = static_cast<int>(batched.dim()) - 2;
        for (int axis = 0; axis < spatial; ++axis) {
            stride[kAxes - spatial + axis] = batched.stride(2 + axis);
        }
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

// Calls body.template operator()<T>() for a floating dtype.
template <typename Body>
void dispatch_dtype(ScalarType dtype, const Body& body) {
    switch (dtype) {
        case ScalarType::Double:
            return body.template operator()<double>();
        case ScalarType::Float:
            return body.template operator()<float>();
        case ScalarType::Half:
            return body.template operator()<Half>();
        default:
            return body.template operator()<BFloat16>();
    }
}

}  // namespace dcls::cuda
