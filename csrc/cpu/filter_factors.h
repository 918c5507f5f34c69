// The per-axis factors of one filter's elements, tabulated by tap. Every filter is treated as three-dimensional. Along
// axes before the first learned one, an element has the factor 1 at its dense tap, of which missing axes have one.
#pragma once

#include "../filters.h"
#include "../parameters.h"
#include "aligned_vector.h"
#include "instruction_set.h"

namespace dcls::cpu {

// The factors of all elements of one filter.
template <Version version, typename T, bool with_derivatives>
class FilterFactors {
 public:
    explicit FilterFactors(const Filters& filters)
        : loops_(factor_loops<T>(version)), axes_(filters.kernel_count * kAxes) {
        const Axes& extent = filters.extent;
        Axes room{};
        for (int axis = 0; axis < kAxes; ++axis) {
            room[axis] = round_up(extent[axis], inner_loops<T>().lanes);
        }
        storage_.resize(filters.kernel_count * (room[0] + room[1] + room[2]) * 3);
        T* next = storage_.data();
        for (int64_t k = 0; k < filters.kernel_count; ++k) {
            for (int axis = 0; axis < kAxes; ++axis) {
                const int64_t tap = axis < filters.first_axis ? filters.dense_tap(k, axis) : 0;
                axes_[k * kAxes + axis] = {
                    next, next + room[axis], next + 2 * room[axis], {tap, tap + 1}, {T(1), T(0), T(0)}};
                if (axis < filters.first_axis) {
                    next[tap] = T(1);
                }
                next += room[axis] * 3;
            }
        }
        elements_ = {extent, filters.first_axis, filters.kernel_count, axes_.data()};
    }

    // positions and sigma point at the filter's first element on the first axis; axis_stride leads to the next axis.
    void tabulate(const T* positions, const T* sigma, int64_t axis_stride) {
        const auto tabulate = with_derivatives ? loops_.tabulate_with_derivatives : loops_.tabulate;
        tabulate(elements_, positions, sigma, axis_stride);
    }

    const FilterElements<T>& elements() const { return elements_; }
    const AxisFactors<T>* element(int64_t k) const { return &axes_[k * kAxes]; }

 private:
    const FactorLoops<T>& loops_;
    std::vector<AxisFactors<T>> axes_;
    AlignedVector<T> storage_;
    FilterElements<T> elements_;
};

template <typename T>
std::array<AxisSums<T>, kAxes> sums(const AxisFactors<T>* axes) {
    return {axes[0].sums, axes[1].sums, axes[2].sums};
}

// Room for the taps of a filter in rows of whole vectors; all 0.
template <typename T>
AlignedVector<T> padded_taps(const Filters& filters) {
    return AlignedVector<T>(filters.extent[0] * filters.extent[1] *
                            round_up(filters.extent[2], inner_loops<T>().lanes));
}

// The factors of one filter after the other.
template <Version version, typename T, bool with_derivatives>
class FilterTables {
 public:
    FilterTables(const Filters& filters, const Parameters<T>& parameters)
        : filters_(filters), parameters_(parameters), factors_(filters) {}

    // Tabulated anew where the last filter asked for had other positions.
    const FilterFactors<version, T, with_derivatives>& of(int64_t filter) {
        const int64_t position_filter = filters_.position_filter(filter);
        if (position_filter != tabulated_) {
            const int64_t at = position_filter * filters_.kernel_count;
            factors_.tabulate(parameters_.positions + at, has_sigma(version) ? parameters_.sigma + at : nullptr,
                              filters_.position_filters() * filters_.kernel_count);
            tabulated_ = position_filter;
        }
        return factors_;
    }

 private:
    const Filters& filters_;
    Parameters<T> parameters_;
    FilterFactors<version, T, with_derivatives> factors_;
    int64_t tabulated_ = -1;
};

}  // namespace dcls::cpu
