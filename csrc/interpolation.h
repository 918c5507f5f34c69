// The interpolation formulas: what one element contributes to one tap along one axis, and its derivatives. An element's
// contribution to a tap of the dense kernel is the product over the axes, divided (except in v0) by the product of the
// axes' sums plus kNormalisationEpsilon. Shared by the CPU and CUDA kernels; stated for readers in docs/operators.md
// and in plain ATen in dcls_ops/reference.py.
#pragma once

#include "host_device.h"

#ifndef __CUDACC__
#include <bit>
#endif
#include <cmath>
#include <cstdint>

namespace dcls {

enum class Version { v0, v1, max, gauss };
constexpr int kVersionCount = 4;

DCLS_HOST_DEVICE constexpr bool has_sigma(Version version) {
    return version == Version::max || version == Version::gauss;
}

DCLS_HOST_DEVICE constexpr bool is_normalised(Version version) { return version != Version::v0; }

constexpr double kNormalisationEpsilon = 1e-7;

DCLS_HOST_DEVICE double exponential(double x) { return std::exp(x); }

// exp(x) for x <= 0, to 2 units in the last place; what float32 cannot hold normalised (below exp(-87)) is 0. On the
// CPU it is written so that compilers vectorise loops around it, which they do not do with a call of std::exp.
DCLS_HOST_DEVICE float exponential(float x) {
#ifdef __CUDACC__
    return expf(x);
#else
    // x = n ln2 + r with |r| <= ln2 / 2; adding and subtracting 1.5 * 2^23 rounds to an integer.
    constexpr float kRound = 12582912.0f;
    const float shifted = x * 1.44269504f + kRound;
    const float n = shifted - kRound;
    const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    // The Taylor series of exp to r^7.
    float power = 1.0f / 5040.0f;
    power = power * r + 1.0f / 720.0f;
    power = power * r + 1.0f / 120.0f;
    power = power * r + 1.0f / 24.0f;
    power = power * r + 1.0f / 6.0f;
    power = power * r + 0.5f;
    power = power * r + 1.0f;
    power = power * r + 1.0f;
    // The low bits of `shifted` hold n: move them into the exponent of 2^n.
    const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + std::bit_cast<uint32_t>(1.0f));
    return x < -87.0f ? 0.0f : power * scale;
#endif
}

template <typename T>
struct Factor {
    T value, d_position, d_sigma;
};

// The side a position can move to without leaving the kernel: +1 at the first tap, -1 at the last one, else 0 (both).
template <typename T>
DCLS_HOST_DEVICE T inward_side(T position, int64_t extent) {
    return static_cast<T>(position == T(0)) - static_cast<T>(position == static_cast<T>(extent - 1));
}

// `position` counts from the kernel's first tap. `inward` is inward_side(position, extent).
template <Version version, typename T>
DCLS_HOST_DEVICE Factor<T> interpolate(T tap, T position, [[maybe_unused]] T sigma, [[maybe_unused]] T inward) {
    if constexpr (version == Version::gauss) {
        const T z = (tap - position) / sigma;
        const T value = exponential(T(-0.5) * z * z);
        return {value, value * z / sigma, value * z * z / sigma};
    } else {
        const T offset = tap - position;
        const T width = version == Version::max ? sigma : T(1);
        const T height = width - std::abs(offset);
        const T sign = static_cast<T>(offset > T(0)) - static_cast<T>(offset < T(0));
        // The triangle has a kink at its peak and one at each foot. There the derivative is the mean of the two
        // one-sided ones, or the one-sided derivative of the inward side. A NaN height is returned as it is.
        const T slope = offset == T(0) ? -inward : sign;
        const T d_width = height == T(0) ? (T(1) + inward * sign) / T(2) : T(1);
        return height < T(0) ? Factor<T>{T(0), T(0), T(0)} : Factor<T>{height, d_width * slope, d_width};
    }
}

struct TapRange {
    int64_t begin, end;
};

// The taps no further than `width` from `position`. A NaN gives every tap, so that it shows in the result; an infinite
// position gives none.
template <typename T>
DCLS_HOST_DEVICE TapRange taps_within(T position, T width, int64_t extent) {
    const T first = std::ceil(position - width);
    const T past_last = std::floor(position + width) + T(1);
    const T limit = static_cast<T>(extent);
    const int64_t begin = first > T(0) ? (first < limit ? static_cast<int64_t>(first) : extent) : 0;
    const int64_t end = past_last < limit ? (past_last > T(0) ? static_cast<int64_t>(past_last) : 0) : extent;
    return {begin, end > begin ? end : begin};
}

// The taps where interpolate() is not 0, for a finite position and width; of a Gaussian, without those that no result
// shows.
//
// With z the distance in widths and z0 the nearest tap's, those have z^2 >= z0^2 + c^2. So their factors are at most
// e = exp(-c^2 / 2) times the largest one, and their derivatives in the width, z^2 / width times the factors, at most
// (z0^2 + c^2) e / width times. On both sides together that adds 2 c^2 e to the largest factor's own z0^2, which is
// 5.7e-8 for float and 7.1e-17 for double: below half a unit in the last place of 1. (Taps further out add little to
// that, or there are so many within that the sum is many times the largest factor.)
template <Version version, typename T>
DCLS_HOST_DEVICE TapRange touched_taps(T position, [[maybe_unused]] T sigma, int64_t extent) {
    if constexpr (version == Version::gauss) {
        const T furthest = (sizeof(T) == sizeof(float) ? T(6.5) : T(9.2)) * sigma;
        const T last = static_cast<T>(extent - 1);
        const T inside = position < T(0) ? T(0) : position > last ? last : position;
        const T nearest = position - (inside == position ? std::round(position) : inside);
        return taps_within(position, std::sqrt(nearest * nearest + furthest * furthest), extent);
    } else {
        return taps_within(position, version == Version::max ? sigma : T(1), extent);
    }
}

}  // namespace dcls
