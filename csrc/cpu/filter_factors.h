// The per-axis factors of one filter's elements, tabulated by tap. Every filter is treated as three-dimensional:
// missing leading axes have one tap and the factor 1.
#pragma once

#include "../filters.h"
#include "aligned_vector.h"
#include "instruction_set.h"

namespace dcls::cpu {

// The factors of all elements of one filter.
template <Version version, typename T, bool with_derivatives>
class FilterFactors {
 public:
    FilterFactors(const Axes& extent, int first_axis, int64_t kernel_count)
        : loops_(filter_loops<T>(version)), axes_(kernel_count * kAxes) {
        Axes room{};
        for (int axis = 0; axis < kAxes; ++axis) {
            room[axis] = round_up(extent[axis], loops_.lanes);
        }
        storage_.resize(kernel_count * (room[0] + room[1] + room[2]) * 3);
        T* next = storage_.data();
        for (int64_t k = 0; k < kernel_count; ++k) {
            for (int axis = 0; axis < kAxes; ++axis) {
                axes_[k * kAxes + axis] = {next, next + room[axis], next + 2 * room[axis], {0, 1}, {T(1), T(0), T(0)}};
                if (axis < first_axis) {
                    next[0] = T(1);
                }
                next += room[axis] * 3;
            }
        }
        elements_ = {extent, first_axis, kernel_count, axes_.data()};
    }

    // positions and sigma point at the filter's first element on the first axis; axis_stride leads to the next axis.
    void tabulate(const T* positions, const T* sigma, int64_t axis_stride) {
        const auto tabulate = with_derivatives ? loops_.tabulate_with_derivatives : loops_.tabulate;
        tabulate(elements_, positions, sigma, axis_stride);
    }

    const FilterElements<T>& elements() const { return elements_; }
    const AxisFactors<T>* element(int64_t k) const { return &axes_[k * kAxes]; }

 private:
    const FilterLoops<T>& loops_;
    std::vector<AxisFactors<T>> axes_;
    AlignedVector<T> storage_;
    FilterElements<T> elements_;
};

template <typename T>
std::array<AxisSums<T>, kAxes> sums(const AxisFactors<T>* axes) {
    return {axes[0].sums, axes[1].sums, axes[2].sums};
}

// Room for the taps of a filter in rows of whole vectors; all 0.
template <Version version, typename T>
AlignedVector<T> padded_taps(const Filters& filters) {
    const int64_t lanes = filter_loops<T>(version).lanes;
    return AlignedVector<T>(filters.extent[0] * filters.extent[1] * round_up(filters.extent[2], lanes));
}

}  // namespace dcls::cpu
