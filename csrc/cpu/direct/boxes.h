// Both sides of a convolution as method "direct" sees them, where strides and padding have disappeared, and boxes of
// their pixels, copied to where inner loops need no bounds checks.
#pragma once

#include "../aligned_vector.h"
#include "../instruction_set.h"
#include "../planes.h"

namespace dcls::cpu {

// The layout of boxes from which `size` pixels are read at taps that reach further along each axis. A bundle is of
// `bundle` images (Boxes): as many as a vector has lanes, or 1.
template <typename T>
Layout box_layout(int64_t bundles, int64_t bundle, int64_t phases, const Axes& size, const Axes& reach) {
    const int64_t multiple = bundle > 1 ? 1 : inner_loops<T>().lanes;
    const int64_t row = (round_up(size[2], multiple) + reach[2]) * bundle;
    const int64_t plane = (size[1] + reach[1]) * row;
    const int64_t phase = (size[0] + reach[0]) * plane;
    return {bundles * phases * phase, phases * phase, phase, plane, row};
}

// The input or the output of a convolution. Its pixels are sorted into phases: pixel j of phase r is the pixel
// j * stride + r of the padded tensor. So output pixel p reads, at tap t, input pixel p + t / stride of phase t %
// stride. The output is one phase. Phases and pixels of the input that no output pixel reads are left out.
struct Side {
    Planes planes;
    int64_t channels;  // of a group
    Axes extent, phases, stride, padding;

    static Side of_input(const Geometry& geometry, const Tensor& tensor) {
        Axes extent{}, phases{};
        for (int axis = 0; axis < kAxes; ++axis) {
            const int64_t stride = geometry.stride[axis], taps = geometry.kernel_size[axis];
            const int64_t read = (geometry.output[axis] - 1) * stride + taps - geometry.padding[axis];
            extent[axis] = std::clamp<int64_t>(read, 0, geometry.input[axis]);
            phases[axis] = std::min(stride, taps);
        }
        return {Planes(tensor), geometry.in_channels_per_group, extent, phases, geometry.stride, geometry.padding};
    }
    static Side of_output(const Geometry& geometry, const Tensor& tensor) {
        return {Planes(tensor), geometry.out_channels_per_group, geometry.output, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}};
    }

    int64_t phase_count() const { return phases[0] * phases[1] * phases[2]; }
    // How many phases lie between a phase and the next one along an axis.
    int64_t phase_step(int axis) const { return axis == 2 ? 1 : phases[axis + 1] * phase_step(axis + 1); }
};

// The same box of every phase, for some bundles of images and some channels. A tile's pixels are numbered as in phases,
// and its images are bundles.
//
// A *bundle* is one image, or as many as a vector has lanes, interleaved: a pixel of all of them beside the next pixel.
// So vectors of pixels start at multiples of their length, whatever taps add to that, and have no pixels past the ends
// of rows.
template <typename T>
class Boxes {
 public:
    // Room for `channels` channels of a tile of some bundles and that size, and for what taps reach from it.
    Boxes(const Side& side, int64_t channels, int64_t bundles, int64_t bundle, const Axes& size, const Axes& reach)
        : side_(side), bundle_(bundle), layout_(box_layout<T>(bundles, bundle, side.phase_count(), size, reach)) {
        if (copies_channels()) {
            // A cache line apart: at a distance of 4 KiB they would share a few sets of the cache.
            layout_.channel += kBufferAlignment / static_cast<int64_t>(sizeof(T));
        }
        entries_.resize(channels * layout_.channel);
    }

    T* at(int64_t channel, int64_t phase) { return &entries_[channel * layout_.channel + phase * layout_.phase]; }
    const Layout& layout() const { return layout_; }

    void fill(int64_t channel, T value) { std::fill_n(at(channel, 0), layout_.channel, value); }

    // Reads `count` channels of the tensor, from `first` on, with zeros outside of it.
    void load(int64_t first, int64_t count, const Tile& tile) {
        for_each_row(count, tile, [&](T* row, const Row& r) {
            for (int64_t c = 0; c < r.channels; ++c) {
                T* const of_channel = row + c * layout_.channel;
                std::fill_n(of_channel, r.before * bundle_, T(0));
                std::fill(of_channel + (r.before + r.pixels) * bundle_, of_channel + tile.size[2] * bundle_, T(0));
            }
            T* const inside = row + r.before * bundle_;
            if (r.channels > 1 && r.pixels > 0) {
                side_.planes.read_channels(r.bundle, first + r.channel, r.channels, r.first, side_.stride[2], r.pixels,
                                           inside, layout_.channel, lanes_.data());
            } else if (r.pixels > 0) {
                side_.planes.read_bundle(r.bundle * bundle_, bundle_, first + r.channel, r.first, side_.stride[2],
                                         r.pixels, inside);
            }
        });
    }

    // Writes `count` channels to the tensor, but for what is outside of it.
    void store(int64_t first, int64_t count, const Tile& tile) {
        for_each_row(count, tile, [&](const T* row, const Row& r) {
            const T* const inside = row + r.before * bundle_;
            if (r.channels > 1 && r.pixels > 0) {
                side_.planes.write_channels(r.bundle, first + r.channel, r.channels, r.first, side_.stride[2], r.pixels,
                                            inside, layout_.channel, lanes_.data());
            } else if (r.pixels > 0) {
                side_.planes.write_bundle(r.bundle * bundle_, bundle_, first + r.channel, r.first, side_.stride[2],
                                          r.pixels, inside);
            }
        });
    }

 private:
    // The part of a box, along one axis, that is inside the tensor: pixels `begin` to `end` of the box, at `first` and
    // every stride further in the tensor.
    struct Inside {
        int64_t begin, end, first;
    };

    Inside inside(const Tile& tile, int64_t phase, int axis) const {
        const int64_t stride = side_.stride[axis];
        const int64_t r = phase / side_.phase_step(axis) % side_.phases[axis];
        const int64_t first = tile.begin[axis] * stride + r - side_.padding[axis];
        const auto [begin, end] = steps_inside(first, stride, side_.extent[axis], tile.size[axis]);
        return {begin, end, first + begin * stride};
    }

    // Whether channels are copied several at once.
    bool copies_channels() const { return bundle_ == 1 && side_.planes.is_channels_last(); }

    // A row of a box, of as many channels as are copied at once.
    struct Row {
        int64_t bundle, channel, channels;
        Axes first;              // pixel inside the tensor
        int64_t before, pixels;  // of the row before it, and inside
    };

    // body(row of the first channel, Row).
    template <typename Body>
    void for_each_row(int64_t channels, const Tile& tile, const Body& body) {
        const int64_t at_once = copies_channels() ? kMostPlanes : 1;
        if (at_once > 1) {
            lanes_.resize(kMostPlanes * tile.size[2]);
        }
        for (int64_t phase = 0; phase < side_.phase_count(); ++phase) {
            const Inside zs = inside(tile, phase, 0), ys = inside(tile, phase, 1), xs = inside(tile, phase, 2);
            for (int64_t item = 0; item < ceil_div(channels, at_once) * tile.images; ++item) {
                const int64_t channel = item / tile.images * at_once, bundle = item % tile.images;
                for (int64_t z = 0; z < tile.size[0]; ++z) {
                    for (int64_t y = 0; y < tile.size[1]; ++y) {
                        const bool is_inside = z >= zs.begin && z < zs.end && y >= ys.begin && y < ys.end;
                        const Axes pixel{zs.first + (z - zs.begin) * side_.stride[0],
                                         ys.first + (y - ys.begin) * side_.stride[1], xs.first};
                        T* row = at(channel, phase) + bundle * layout_.bundle + z * layout_.plane + y * layout_.row;
                        body(row, {tile.first_image + bundle, channel, std::min(at_once, channels - channel), pixel,
                                   xs.begin, is_inside ? xs.end - xs.begin : 0});
                    }
                }
            }
        }
    }

    const Side& side_;
    int64_t bundle_;
    Layout layout_;
    AlignedVector<T> entries_, lanes_;
};

}  // namespace dcls::cpu
