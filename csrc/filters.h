// The filters of a dense kernel and their elements, as they are numbered. Along the axes before the first learned one
// filters are dense, and elements are numbered by dense tap first; missing ones have the extent 1.
#pragma once

#include "geometry.h"

namespace dcls {

// Filter (o, i) is number o * in_channels_per_group + i.
struct Filters {
    Axes extent;
    Axes dense_step{};  // elements from one dense tap to the next, along axes before first_axis
    int first_axis;
    int64_t out_channels, in_channels_per_group, kernel_count, tap_count;
    bool shared_positions;

    explicit Filters(const KernelArguments& arguments)
        : extent(three_axes(arguments.kernel_size, 1)),
          first_axis(kAxes - static_cast<int>(arguments.learned_axes)),
          out_channels(arguments.out_channels),
          in_channels_per_group(arguments.in_channels_per_group),
          kernel_count(arguments.kernel_count),
          tap_count(product(extent)),
          shared_positions(arguments.shared_positions) {
        int64_t step = kernel_count;
        for (int axis = 0; axis < first_axis; ++axis) {
            step /= extent[axis];
            dense_step[axis] = step;
        }
    }

    // Along an axis before the first learned one, the tap of element k.
    DCLS_HOST_DEVICE int64_t dense_tap(int64_t k, int axis) const {
        return extent[axis] == 1 ? 0 : k / dense_step[axis] % extent[axis];
    }

    DCLS_HOST_DEVICE int64_t count() const { return out_channels * in_channels_per_group; }
    DCLS_HOST_DEVICE int64_t elements() const { return count() * kernel_count; }
    // Filters that have positions of their own, and which of them a filter has.
    DCLS_HOST_DEVICE int64_t position_filters() const { return shared_positions ? in_channels_per_group : count(); }
    DCLS_HOST_DEVICE int64_t position_filter(int64_t filter) const {
        return shared_positions ? filter % in_channels_per_group : filter;
    }
    // Elements that have positions of their own, and which of them element k of a filter has.
    DCLS_HOST_DEVICE int64_t position_elements() const { return position_filters() * kernel_count; }
    DCLS_HOST_DEVICE int64_t position_element(int64_t filter, int64_t k) const {
        return position_filter(filter) * kernel_count + k;
    }
};

}  // namespace dcls
