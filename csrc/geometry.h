// The shapes of one convolution, with three spatial axes always: missing leading ones have the extent 1.
#pragma once

#include "axes.h"
#include "checks.h"

#include <algorithm>

namespace dcls {

// One entry for every axis, from those of the spatial axes alone.
inline Axes three_axes(const IntList& values, int64_t missing) {
    Axes axes{missing, missing, missing};
    std::copy(values.begin(), values.end(), axes.end() - static_cast<int64_t>(values.size()));
    return axes;
}

// The shapes of a convolution of a batched input.
struct Geometry {
    int64_t images, groups;
    int64_t in_channels_per_group, out_channels_per_group, kernel_count;
    int first_axis;  // the first one that is learned
    Axes input, output, kernel_size, stride, padding;

    Geometry() = default;
    Geometry(const KernelArguments& kernel, const ConvArguments& conv, const Tensor& input)
        : images(input.size(0)),
          groups(conv.groups),
          in_channels_per_group(kernel.in_channels_per_group),
          out_channels_per_group(kernel.out_channels / conv.groups),
          kernel_count(kernel.kernel_count),
          first_axis(kAxes - static_cast<int>(kernel.learned_axes)),
          input(three_axes({input.sizes().begin() + 2, input.sizes().end()}, 1)),
          output(three_axes({conv.output_shape.end() - kernel.spatial_axes(), conv.output_shape.end()}, 1)),
          kernel_size(three_axes(kernel.kernel_size, 1)),
          stride(three_axes(conv.stride, 1)),
          padding(three_axes(conv.padding, 0)) {}

    // Rows of columns: elements of all in channels of a group.
    DCLS_HOST_DEVICE int64_t elements() const { return in_channels_per_group * kernel_count; }
};

}  // namespace dcls
