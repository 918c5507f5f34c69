// Three axes, and integer arithmetic along them. Includes nothing of PyTorch: cpu/inner_loops depends on that.
#pragma once

#include "host_device.h"

#include <array>
#include <cstdint>
#include <type_traits>

namespace dcls {

constexpr int kAxes = 3;

using Axes = std::array<int64_t, kAxes>;

// Rounded down and up, for a positive b.
template <typename I>
DCLS_HOST_DEVICE constexpr I floor_div(I a, std::type_identity_t<I> b) {
    return a / b - (a % b < 0 ? 1 : 0);
}
template <typename I>
DCLS_HOST_DEVICE constexpr I ceil_div(I a, std::type_identity_t<I> b) {
    return -floor_div(-a, b);
}

// To a multiple of b.
template <typename I>
DCLS_HOST_DEVICE constexpr I round_up(I a, std::type_identity_t<I> b) {
    return ceil_div(a, b) * b;
}

DCLS_HOST_DEVICE constexpr int64_t product(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }

}  // namespace dcls
