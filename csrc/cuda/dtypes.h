// The dtypes of tensors, and what kernels compute in.
#pragma once

#include "../stable.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <type_traits>

namespace dcls::cuda {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// What a kernel computes in: float32 for the half types.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

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
