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

// Steps `begin` to `end` - 1 of a walk.
template <typename I>
struct Steps {
    I begin, end;

    DCLS_HOST_DEVICE constexpr I count() const { return end - begin; }
};

// The steps j, of any number, at which first + j * step is inside 0 .. extent - 1; step is positive.
template <typename I>
DCLS_HOST_DEVICE constexpr Steps<I> steps_inside(I first, std::type_identity_t<I> step,
                                                 std::type_identity_t<I> extent) {
    return {ceil_div(-first, step), ceil_div(extent - first, step)};
}

// The steps that are inside, out of 0 to count - 1. Where there are none, begin and end are the same.
template <typename I>
DCLS_HOST_DEVICE constexpr Steps<I> steps_inside(I first, std::type_identity_t<I> step, std::type_identity_t<I> extent,
                                                 std::type_identity_t<I> count) {
    const Steps<I> inside = steps_inside(first, step, extent);
    const I begin = inside.begin < 0 ? 0 : inside.begin < count ? inside.begin : count;
    const I end = inside.end < begin ? begin : inside.end < count ? inside.end : count;
    return {begin, end};
}

DCLS_HOST_DEVICE constexpr int64_t product(const Axes& axes) { return axes[0] * axes[1] * axes[2]; }

}  // namespace dcls
