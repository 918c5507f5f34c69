// Tabulation of the factors of a filter's elements, a vector of taps at a time.
#pragma once

#include "../factor_loops.h"
#include "last_axis.h"

#include <algorithm>
#include <cmath>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// The taps with a factor or a derivative that is not 0.
template <Version version, typename T>
TapRange taps_to_tabulate(T position, T sigma, int64_t extent) {
    if constexpr (version == Version::gauss) {
        // The derivatives of exp(-z^2 / 2) are NaN for an infinite z, though it is 0 itself.
        if (!std::isfinite((std::abs(position) + static_cast<T>(extent)) * (T(1) / sigma))) {
            return {0, extent};
        }
    }
    return touched_taps<version>(position, sigma, extent);
}

template <Version version, bool with_derivatives, typename T>
void tabulate_axis(AxisFactors<T>& factors, int64_t extent, T centred_position, T sigma) {
    using V = Columns<version, T>;
    const T position = centred_position + static_cast<T>(extent / 2);
    const T inward = inward_side(position, extent);
    const TapRange range = taps_to_tabulate<version>(position, sigma, extent);
    T *const value = factors.value, *const d_position = factors.d_position, *const d_sigma = factors.d_sigma;
    const auto begin = static_cast<T>(range.begin), end = static_cast<T>(range.end);
    V value_sum{}, d_position_sum{}, d_sigma_sum{};
    for_each_columns<V, T>(range, [&](int64_t first) {
#pragma omp simd
        for (int lane = 0; lane < kColumns<V, T>; ++lane) {
            const T tap = static_cast<T>(first) + kLaneNumbers<T>[lane];
            const Factor<T> factor = interpolate<version>(tap, position, sigma, inward);
            const bool is_touched = tap >= begin && tap < end;
            value[first + lane] = is_touched ? factor.value : T(0);
            if constexpr (with_derivatives) {
                d_position[first + lane] = is_touched ? factor.d_position : T(0);
                d_sigma[first + lane] = is_touched ? factor.d_sigma : T(0);
            }
        }
        value_sum += load_as<V>(value + first);
        if constexpr (with_derivatives && is_normalised(version)) {
            d_position_sum += load_as<V>(d_position + first);
            d_sigma_sum += load_as<V>(d_sigma + first);
        }
    });
    factors.range = range;
    factors.sums.value = sum_lanes<T>(value_sum);
    if constexpr (with_derivatives && is_normalised(version)) {
        factors.sums.d_position = sum_lanes<T>(d_position_sum);
        factors.sums.d_sigma = sum_lanes<T>(d_sigma_sum);
    }
}

// 0 times NaN or infinity is NaN: such a factor on one axis shows at every tap of the others, untouched ones too.
template <typename T>
void touch_every_tap(const FilterElements<T>& elements, AxisFactors<T>* axes) {
    for (int axis = elements.first_axis; axis < kAxes; ++axis) {
        const int64_t extent = elements.extent[axis], room = round_up(extent, kLanes<T>);
        for (T* factors : {axes[axis].value, axes[axis].d_position, axes[axis].d_sigma}) {
            std::fill(factors, factors + axes[axis].range.begin, T(0));
            std::fill(factors + axes[axis].range.end, factors + room, T(0));
        }
        axes[axis].range = {0, extent};
    }
}

template <Version version, bool with_derivatives, typename T>
void tabulate(const FilterElements<T>& elements, const T* positions, const T* sigma, int64_t axis_stride) {
    for (int64_t k = 0; k < elements.count; ++k) {
        AxisFactors<T>* axes = elements.axes + k * kAxes;
        for (int axis = elements.first_axis; axis < kAxes; ++axis) {
            const int64_t at = (axis - elements.first_axis) * axis_stride + k;
            tabulate_axis<version, with_derivatives>(axes[axis], elements.extent[axis], positions[at],
                                                     has_sigma(version) ? sigma[at] : T(0));
        }
        if (!std::isfinite(axes[0].sums.value * axes[1].sums.value * axes[2].sums.value)) {
            touch_every_tap(elements, axes);
        }
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
