#include "costs.h"

#include "../aten_convolution.h"
#include "../geometry.h"
#include "conv_direct.h"
#include "conv_im2col.h"

namespace dcls::cpu {
namespace {

// PyTorch's convolution writes out columns for a matrix product beyond.
constexpr int64_t kMostPaddingOfFastAten = 6;

// Of the two passes; backward is all gradients.
struct Constant {
    double forward, backward;

    double operator()(Pass pass) const { return pass == Pass::forward ? forward : backward; }
};

Geometry geometry_of(const Convolution& convolution) {
    return {convolution.kernel, convolution.arguments, batched(convolution.input, convolution.arguments)};
}

bool is_depthwise(const Geometry& geometry) { return geometry.in_channels == 1 && geometry.out_channels == 1; }

double touched_by_element(const Convolution& convolution, const Geometry& geometry) {
    double taps = 1;
    for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
        taps *= static_cast<double>(usual_taps(convolution, geometry.kernel_size[axis]));
    }
    return taps;
}

// Pixels that share what is done once for a filter.
double pixels(const Geometry& geometry) {
    return std::max(1.0, static_cast<double>(geometry.images) * static_cast<double>(product(geometry.output)));
}

// Of the taps of a kernel, those that are inside the input for an output pixel, on average.
double taps_inside(const Geometry& geometry) {
    double taps = 1;
    for (int axis = 0; axis < kAxes; ++axis) {
        int64_t inside = 0;
        for (int64_t tap = 0; tap < geometry.kernel_size[axis]; ++tap) {
            const int64_t first = tap - geometry.padding[axis], step = geometry.stride[axis];
            const int64_t begin = std::max<int64_t>(ceil_div(-first, step), 0);
            const int64_t end = std::min(ceil_div(geometry.input[axis] - first, step), geometry.output[axis]);
            inside += std::max<int64_t>(end - begin, 0);
        }
        taps *= static_cast<double>(inside) / static_cast<double>(std::max<int64_t>(geometry.output[axis], 1));
    }
    return taps;
}

// Reading the input that a tile of outputs needs for method "direct", once for every block of out channels
// (conv_direct.cpp).
double loading(const Geometry& geometry) {
    constexpr double kBlocks = 16, kEntry = 12, kStridedEntry = 50;
    double entries = 1;
    for (int axis = 0; axis < kAxes; ++axis) {
        const int64_t taps = geometry.kernel_size[axis], stride = std::min(geometry.stride[axis], taps);
        const int64_t output = std::max<int64_t>(geometry.output[axis], 1);
        entries *=
            static_cast<double>(stride) * (1 + static_cast<double>((taps - 1) / stride) / static_cast<double>(output));
    }
    const double blocks = std::clamp(kBlocks / static_cast<double>(geometry.groups), 1.0,
                                     static_cast<double>(std::max<int64_t>(geometry.out_channels, 1)));
    // The first block is in kPixel, but for strides.
    return geometry.stride[2] > 1 ? kStridedEntry * entries * blocks : kEntry * entries * (blocks - 1);
}

}  // namespace

bool is_faster_in_aten(const IntList& kernel_size, const IntList& padding) {
    constexpr int64_t kMostTaps = 25;
    return kernel_size.size() == 2 && kernel_size[0] * kernel_size[1] <= kMostTaps &&
           std::ranges::max(padding) <= kMostPaddingOfFastAten;
}

double construct_cost(const Convolution& convolution, Pass pass) {
    // Once for a filter: an element's factors, and a multiply-add for each of its taps.
    constexpr Constant kElement{2000, 2500}, kElementTap{7, 15};
    // Depthwise, by our own kernel, or PyTorch's for small ones.
    constexpr Constant kDepthwiseTap{0.75, 1.2}, kDepthwisePixel{35, 60}, kSmallDepthwisePixel{20, 60};
    // Otherwise PyTorch's convolution.
    constexpr Constant kTap{0.55, 0.65}, kColumnTap{0.6, 1.05}, kColumn{30, 55};
    // Out channels that it computes, as it were, beside the real ones; more of them for groups of less than a vector.
    constexpr Constant kAdded{6, 6}, kAddedToGroups{60, 80};
    const Geometry geometry = geometry_of(convolution);
    const auto taps = static_cast<double>(product(geometry.kernel_size));
    const auto out_channels = static_cast<double>(geometry.out_channels);
    const bool has_columns = std::ranges::max(geometry.padding) > kMostPaddingOfFastAten;
    const double filter = static_cast<double>(geometry.kernel_count) *
                          (kElement(pass) + kElementTap(pass) * touched_by_element(convolution, geometry)) /
                          pixels(geometry);
    const bool is_fragmented = geometry.groups > 1 && std::min(geometry.in_channels, geometry.out_channels) < 8;
    const Constant added = is_fragmented ? kAddedToGroups : kAdded;
    double convolving = 0;
    if (is_depthwise(geometry)) {
        convolving = (is_faster_in_aten(convolution.kernel.kernel_size, convolution.arguments.padding)
                          ? kSmallDepthwisePixel(pass)
                          : kDepthwisePixel(pass)) +
                     kDepthwiseTap(pass) * taps_inside(geometry);
    } else {
        convolving = taps * (has_columns ? kColumnTap(pass) * out_channels + kColumn(pass)
                                         : kTap(pass) * (out_channels + added(pass)));
    }
    return filter * out_channels + convolving;
}

double direct_cost(const Convolution& convolution, Pass pass) {
    constexpr Constant kTap{1.1, 1.25}, kAlignedTap{0.7, 0.8}, kDepthwiseTap{0.85, 1.3}, kPixel{52, 70};
    // Once for a filter, to list its taps.
    constexpr Constant kListedElement{1500, 2500}, kListedTap{100, 200};
    const Geometry geometry = geometry_of(convolution);
    const double touched = static_cast<double>(geometry.kernel_count) * touched_by_element(convolution, geometry);
    const double taps = std::min(touched, static_cast<double>(product(geometry.kernel_size)));
    const double tap = is_depthwise(geometry)         ? kDepthwiseTap(pass)
                       : interleaves_images(geometry) ? kAlignedTap(pass)
                                                      : kTap(pass);
    const double listing =
        static_cast<double>(geometry.kernel_count) * kListedElement(pass) + touched * kListedTap(pass);
    const double filter = tap * taps + listing / pixels(geometry);
    return static_cast<double>(geometry.out_channels) * filter + kPixel(pass) + loading(geometry);
}

double im2col_cost(const Convolution& convolution, Pass pass) {
    constexpr Constant kColumn{18, 60};  // to set up, write and read a value, whatever the taps
    constexpr double kTap = 9;
    const Geometry geometry = geometry_of(convolution);
    const Axes tile = im2col_tile(geometry);
    // Multiply-adds of the passes. The pass along one axis also makes what the later ones read around the tile.
    double multiply_adds = 0, surplus = 1;
    for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
        const int64_t taps = usual_taps(convolution, geometry.kernel_size[axis]);
        multiply_adds += static_cast<double>(taps) * surplus;
        surplus *= 1 + static_cast<double>(taps - 1) / static_cast<double>(std::max<int64_t>(tile[axis], 1));
    }
    // A tile of a group is set up, whatever its size.
    constexpr double kGroup = 200'000;
    return static_cast<double>(geometry.kernel_count) *
               (static_cast<double>(geometry.out_channels) + kColumn(pass) + kTap * multiply_adds) +
           kGroup / (static_cast<double>(geometry.in_channels) * pixels(geometry));
}

}  // namespace dcls::cpu
