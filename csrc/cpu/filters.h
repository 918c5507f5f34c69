// The filters of a kernel, and the factors of their elements.
#pragma once

#include "../parameters.h"
#include "filter_factors.h"

namespace dcls::cpu {

// Filter (o, i) is number o * in_channels + i; in_channels are those of a group.
struct Filters {
    Axes extent;
    int first_axis;
    int64_t out_channels, in_channels, kernel_count, tap_count;
    bool shared_positions;

    explicit Filters(const KernelArguments& arguments)
        : extent(three_axes(arguments.kernel_size, 1)),
          first_axis(kAxes - static_cast<int>(arguments.spatial_axes())),
          out_channels(arguments.out_channels),
          in_channels(arguments.in_channels_per_group),
          kernel_count(arguments.kernel_count),
          tap_count(extent[0] * extent[1] * extent[2]),
          shared_positions(arguments.shared_positions) {}

    int64_t count() const { return out_channels * in_channels; }
    // Filters that have positions of their own, and which of them a filter has.
    int64_t position_filters() const { return shared_positions ? in_channels : count(); }
    int64_t position_filter(int64_t filter) const { return shared_positions ? filter % in_channels : filter; }
};

// The tables of one filter at a time.
template <Version version, typename T, bool with_derivatives>
class FilterTables {
 public:
    FilterTables(const Filters& filters, const Parameters<T>& parameters)
        : filters_(filters),
          parameters_(parameters),
          factors_(filters.extent, filters.first_axis, filters.kernel_count) {}

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
