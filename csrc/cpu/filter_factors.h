// The per-axis factors of one filter's elements, tabulated by tap. Every filter is treated as three-dimensional:
// missing leading axes have one tap and the factor 1.
#pragma once

#include "../contraction.h"

#include <algorithm>
#include <numeric>

namespace dcls::cpu {

// One element's factors along one axis, by tap, and their sums over the axis. Outside `range` they are not set, and 0.
template <typename T>
struct AxisFactors {
    T *value, *d_position, *d_sigma;
    TapRange range;
    AxisSums<T> sums;
};

// The factors of all elements of one filter.
template <Version version, typename T, bool with_derivatives>
class FilterFactors {
 public:
    FilterFactors(const Axes& extent, int64_t first_axis, int64_t kernel_count)
        : extent_(extent), first_axis_(first_axis), axes_(kernel_count * kAxes) {
        storage_.resize(kernel_count * (extent[0] + extent[1] + extent[2]) * 3);
        T* next = storage_.data();
        for (int64_t k = 0; k < kernel_count; ++k) {
            for (int axis = 0; axis < kAxes; ++axis) {
                AxisFactors<T>& factors = axes_[k * kAxes + axis];
                factors = {next, next + extent[axis], next + 2 * extent[axis], {0, 1}, {T(1), T(0), T(0)}};
                if (axis < first_axis) {
                    next[0] = T(1);
                }
                next += extent[axis] * 3;
            }
        }
    }

    // positions and sigma point at the filter's first element on the first axis; axis_stride leads to the next axis.
    void tabulate(const T* positions, const T* sigma, int64_t axis_stride) {
        const auto kernel_count = static_cast<int64_t>(axes_.size()) / kAxes;
        for (int64_t k = 0; k < kernel_count; ++k) {
            AxisFactors<T>* axes = &axes_[k * kAxes];
            for (int axis = first_axis_; axis < kAxes; ++axis) {
                const int64_t at = (axis - first_axis_) * axis_stride + k;
                tabulate_axis(axes[axis], extent_[axis], positions[at], has_sigma(version) ? sigma[at] : T(0));
            }
            if (!std::isfinite(axes[0].sums.value * axes[1].sums.value * axes[2].sums.value)) {
                touch_every_tap(axes);
            }
        }
    }

    const AxisFactors<T>* element(int64_t k) const { return &axes_[k * kAxes]; }

 private:
    // 0 times NaN or infinity is NaN: such a factor on one axis shows at every tap of the others, untouched ones too.
    void touch_every_tap(AxisFactors<T>* axes) {
        for (int axis = first_axis_; axis < kAxes; ++axis) {
            for (T* factors : {axes[axis].value, axes[axis].d_position, axes[axis].d_sigma}) {
                std::fill(factors, factors + axes[axis].range.begin, T(0));
                std::fill(factors + axes[axis].range.end, factors + extent_[axis], T(0));
            }
            axes[axis].range = {0, extent_[axis]};
        }
    }

    // A Gaussian touches every tap, but far from its centre its value is 0 in floating point.
    static TapRange without_zeros(const T* value, TapRange range) {
        while (range.begin < range.end && value[range.begin] == T(0)) {
            ++range.begin;
        }
        while (range.begin < range.end && value[range.end - 1] == T(0)) {
            --range.end;
        }
        return range;
    }

    void tabulate_axis(AxisFactors<T>& factors, int64_t extent, T centred_position, T sigma) {
        const T position = centred_position + static_cast<T>(extent / 2);
        const T inward = inward_side(position, extent);
        const TapRange range = touched_taps<version>(position, sigma, extent);
        T *const value = factors.value, *const d_position = factors.d_position, *const d_sigma = factors.d_sigma;
        // Vector units convert 32-bit integers to floating point, but few convert 64-bit ones.
        const auto begin = static_cast<int32_t>(range.begin), end = static_cast<int32_t>(range.end);
#pragma omp simd
        for (int32_t tap = begin; tap < end; ++tap) {
            const Factor<T> factor = interpolate<version>(static_cast<T>(tap), position, sigma, inward);
            value[tap] = factor.value;
            if constexpr (with_derivatives) {
                d_position[tap] = factor.d_position;
                d_sigma[tap] = factor.d_sigma;
            }
        }
        factors.range = range;
        if constexpr (version == Version::gauss) {
            factors.range = without_zeros(value, range);
        }
        factors.sums.value = std::accumulate(value + begin, value + end, T(0));
        if constexpr (with_derivatives && is_normalised(version)) {
            factors.sums.d_position = std::accumulate(d_position + begin, d_position + end, T(0));
            factors.sums.d_sigma = std::accumulate(d_sigma + begin, d_sigma + end, T(0));
        }
    }

    Axes extent_;
    int first_axis_;
    std::vector<AxisFactors<T>> axes_;
    std::vector<T> storage_;
};

template <typename T>
std::array<AxisSums<T>, kAxes> sums(const AxisFactors<T>* axes) {
    return {axes[0].sums, axes[1].sums, axes[2].sums};
}

}  // namespace dcls::cpu
