#include "costs.h"

#include "cost_table.h"
#include "direct/conv_direct.h"
#include "im2col/conv_im2col.h"
#include "instruction_set.h"

namespace dcls::cpu {
namespace {

// PyTorch's convolution writes out columns for a matrix product beyond.
constexpr int64_t kMostPaddingOfFastAten = 6;
// Beyond so many taps in a row, its gradients take several times as long.
constexpr int64_t kLongestRowOfFastAten = 14;

// What a cost depends on.
struct Case {
    Geometry geometry;
    Version version;
    OptionalInt touched_taps;
    Pass pass;
    bool is_faster_in_aten = false;
    bool is_kernel_made = false;  // whether the dense kernel is there before the call

    bool is_depthwise() const { return geometry.in_channels_per_group == 1 && geometry.out_channels_per_group == 1; }
    double out_channels_per_group() const { return static_cast<double>(geometry.out_channels_per_group); }
    double elements() const { return static_cast<double>(geometry.kernel_count); }
    double taps() const { return static_cast<double>(product(geometry.kernel_size)); }

    // Pixels that share what is done once for a filter.
    double pixels() const {
        return std::max(1.0, static_cast<double>(geometry.images) * static_cast<double>(product(geometry.output)));
    }

    // Multiply-adds for a pixel and tap, relative to one for every output pixel: half of the backward pass sums for
    // every input pixel, of which a wide padding leaves few, and no padding many.
    double multiply_adds() const {
        const auto inputs = static_cast<double>(product(geometry.input));
        const auto outputs = static_cast<double>(std::max<int64_t>(product(geometry.output), 1));
        return pass == Pass::forward ? 1 : (1 + inputs / outputs) / 2;
    }

    // For a pixel: what is done once a row, and once a call.
    double rows() const { return 1 / static_cast<double>(std::max<int64_t>(geometry.output[2], 1)); }
    double calls() const {
        return 1 /
               (static_cast<double>(geometry.groups) * static_cast<double>(geometry.in_channels_per_group) * pixels());
    }

    int64_t usual_taps(int axis) const { return dcls::usual_taps(version, touched_taps, geometry.kernel_size[axis]); }

    double touched_by_element() const {
        double touched = 1;
        for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
            touched *= static_cast<double>(usual_taps(axis));
        }
        return touched;
    }

    // How many taps of a kernel are inside the input for an output pixel, on average.
    double taps_inside() const {
        double inside = 1;
        for (int axis = 0; axis < kAxes; ++axis) {
            int64_t pixels = 0;
            for (int64_t tap = 0; tap < geometry.kernel_size[axis]; ++tap) {
                pixels += steps_inside(tap - geometry.padding[axis], geometry.stride[axis], geometry.input[axis],
                                       geometry.output[axis])
                              .count();
            }
            inside *= static_cast<double>(pixels) / static_cast<double>(std::max<int64_t>(geometry.output[axis], 1));
        }
        return inside;
    }
};

// One way of computing, and how much there is of each thing that takes time in it, for a pixel. In order: the pixel
// itself; multiply-adds; two terms of the route's own; elements, and the taps that they touch, of what is made once for
// all pixels (im2col: tiles, and weights); rows; calls.
struct Amounts {
    Route route;
    std::array<double, kCostTerms> terms;
};

// A dense kernel: its elements and their taps, once for all pixels, then a convolution.
Amounts construct_work(const Case& c) {
    const Geometry& geometry = c.geometry;
    const double filters = c.out_channels_per_group() / c.pixels();
    const double made = c.is_kernel_made ? 0 : c.elements() * filters, added = made * c.touched_by_element();
    if (c.is_depthwise()) {
        return {c.is_faster_in_aten ? Route::depthwise_in_aten : Route::depthwise,
                {1, c.is_faster_in_aten ? c.taps() : c.taps_inside(), c.taps() * filters, 0, made, added, c.rows(),
                 c.calls()}};
    }
    const int64_t lanes = inner_loops<float>().lanes;
    const bool is_fragmented = geometry.groups > 1 && (geometry.in_channels_per_group % lanes != 0 ||
                                                       geometry.out_channels_per_group % lanes != 0);
    const bool has_few_channels = geometry.groups == 1 && geometry.in_channels_per_group < lanes;
    const bool has_columns = std::ranges::max(geometry.padding) > kMostPaddingOfFastAten;
    return {is_fragmented                                     ? Route::aten_of_small_groups
            : has_few_channels                                ? Route::aten_of_few_channels
            : geometry.kernel_size[0] > 1                     ? Route::aten_of_volumes
            : has_columns                                     ? Route::aten_by_columns
            : geometry.kernel_size[2] > kLongestRowOfFastAten ? Route::aten_of_long_rows
                                                              : Route::aten,
            {1, c.multiply_adds() * c.taps() * c.out_channels_per_group(), c.taps(), c.out_channels_per_group(), made,
             added, c.rows(), c.calls()}};
}

// Tiles of the input, read once for every block of out channels (conv_direct.cpp), and their touched taps.
Amounts direct_work(const Case& c) {
    const Geometry& geometry = c.geometry;
    const Axes reach = reach_of(geometry);
    double entries = 1;
    for (int axis = 0; axis < kAxes; ++axis) {
        const int64_t stride = std::min(geometry.stride[axis], geometry.kernel_size[axis]);
        const int64_t output = std::max<int64_t>(geometry.output[axis], 1);
        const double beyond = static_cast<double>(reach[axis]) / static_cast<double>(output);
        entries *= static_cast<double>(stride) * (1 + beyond);
    }
    const double blocks =
        std::clamp(kDirectItems / static_cast<double>(geometry.groups), 1.0, std::max(c.out_channels_per_group(), 1.0));
    const double listed = c.elements() * c.touched_by_element(), filters = c.out_channels_per_group() / c.pixels();
    const bool is_interleaved = interleaves_images(geometry);
    const Route route = geometry.stride[2] > 1 ? Route::direct_with_stride
                        : c.is_depthwise()     ? Route::direct_depthwise
                        : is_interleaved       ? Route::direct_interleaved
                                               : Route::direct;
    // Vectors are of images, or of a row's pixels, and the last one may have lanes to spare.
    const int64_t along = std::max<int64_t>(is_interleaved ? geometry.images : geometry.output[2], 1);
    const double lanes = static_cast<double>(round_up(along, inner_loops<float>().lanes)) / static_cast<double>(along);
    return {route,
            {1, c.multiply_adds() * lanes * c.out_channels_per_group() * std::min(listed, c.taps()), entries * blocks,
             lanes * c.out_channels_per_group(), c.elements() * filters, listed * filters, c.rows(), c.calls()}};
}

Amounts im2col_work(const Case& c) {
    const Geometry& geometry = c.geometry;
    const Axes tile = im2col_tile(geometry);
    // Multiply-adds of the passes. The pass along one axis also makes what the later ones read around the tile.
    double multiply_adds = 0, surplus = 1;
    for (int axis = geometry.first_axis; axis < kAxes; ++axis) {
        const auto taps = static_cast<double>(c.usual_taps(axis));
        multiply_adds += taps * surplus;
        surplus *= 1 + (taps - 1) / static_cast<double>(std::max<int64_t>(tile[axis], 1));
    }
    // A tile of a group is set up, whatever its size.
    const double group = 1 / (static_cast<double>(geometry.in_channels_per_group) * c.pixels());
    return {Route::im2col,
            {1, c.elements() * c.out_channels_per_group(), c.elements(), c.elements() * multiply_adds, group,
             c.elements() * c.out_channels_per_group() / c.pixels(), c.rows(), c.calls()}};
}

Amounts work(Method method, const Case& c) {
    return method == Method::construct ? construct_work(c) : method == Method::direct ? direct_work(c) : im2col_work(c);
}

const Costs& costs() {
    const int64_t lanes = inner_loops<float>().lanes;
    return lanes == 16 ? kAvx512Costs : lanes == 8 ? kAvx2Costs : kGenericCosts;
}

double estimate(Method method, const Case& c) {
    const Amounts done = work(method, c);
    const auto& constants = costs()[static_cast<int>(done.route)][static_cast<int>(c.pass)];
    double total = 0;
    for (int term = 0; term < kCostTerms; ++term) {
        total += constants[term] * done.terms[term];
    }
    return total;
}

// A convolution as dcls_ops/_costs.py hands it over.
struct Shape {
    int64_t images, groups, in_channels_per_group, out_channels_per_group, kernel_count;
    int64_t spatial_axes, learned_axes, version, touched_taps;  // 0 touched taps: not known
    Axes input, output, kernel_size, stride, padding;
};

Case case_of(const Shape& shape, Pass pass) {
    const IntList kernel_size(shape.kernel_size.end() - shape.spatial_axes, shape.kernel_size.end());
    const IntList padding(shape.padding.end() - shape.spatial_axes, shape.padding.end());
    Case c{{},
           static_cast<Version>(shape.version),
           shape.touched_taps > 0 ? OptionalInt(shape.touched_taps) : std::nullopt,
           pass,
           is_faster_in_aten(kernel_size, padding)};
    c.geometry.images = shape.images;
    c.geometry.groups = shape.groups;
    c.geometry.in_channels_per_group = shape.in_channels_per_group;
    c.geometry.out_channels_per_group = shape.out_channels_per_group;
    c.geometry.kernel_count = shape.kernel_count;
    c.geometry.first_axis = kAxes - static_cast<int>(shape.learned_axes);
    c.geometry.input = shape.input;
    c.geometry.output = shape.output;
    c.geometry.kernel_size = shape.kernel_size;
    c.geometry.stride = shape.stride;
    c.geometry.padding = shape.padding;
    return c;
}

}  // namespace

bool is_faster_in_aten(const IntList& kernel_size, const IntList& padding) {
    constexpr int64_t kMostTaps = 25;
    return kernel_size.size() == 2 && kernel_size[0] * kernel_size[1] <= kMostTaps &&
           std::ranges::max(padding) <= kMostPaddingOfFastAten;
}

double cost(Method method, const Convolution& convolution, Pass pass) {
    const ConvArguments& arguments = convolution.arguments;
    return estimate(method, Case{convolution.geometry(), convolution.kernel.version, arguments.touched_taps, pass,
                                 is_faster_in_aten(convolution.kernel.kernel_size, arguments.padding)});
}

}  // namespace dcls::cpu

// For benchmarks/fit_costs.py: the route and the terms of a method and a pass, by number.
extern "C" __attribute__((visibility("default"))) int dcls_cpu_work(int method, int pass, const dcls::cpu::Shape* shape,
                                                                    double* terms) {
    using namespace dcls;
    if (!cpu::has_inner_loops()) {
        return -1;
    }
    const cpu::Amounts done = cpu::work(static_cast<Method>(method), cpu::case_of(*shape, static_cast<Pass>(pass)));
    std::ranges::copy(done.terms, terms);
    return static_cast<int>(done.route);
}

// For dcls_ops/_costs.py: whether a forward pass with a dense kernel that is there already is the cheapest.
extern "C" __attribute__((visibility("default"))) bool dcls_cpu_is_dense_cheapest(const dcls::cpu::Shape* shape,
                                                                                  bool takes_im2col) {
    using namespace dcls;
    if (!cpu::has_inner_loops()) {
        return false;  // as the operator will say
    }
    cpu::Case c = cpu::case_of(*shape, Pass::forward);
    c.is_kernel_made = true;
    const auto cost = [&](Method method) { return cpu::estimate(method, c); };
    const double dense = cost(Method::construct);
    return dense <= cost(Method::direct) && (!takes_im2col || dense <= cost(Method::im2col));
}
