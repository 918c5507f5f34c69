// Tensors read and written by rows and tiles of their planes, whatever their dtype and strides.
#pragma once

#include "../geometry.h"
#include "instruction_set.h"
#include "tiles.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace dcls::cpu {

inline Storage storage_of(ScalarType dtype) {
    switch (dtype) {
        case ScalarType::Double:
            return Storage::float64;
        case ScalarType::Half:
            return Storage::float16;
        case ScalarType::BFloat16:
            return Storage::bfloat16;
        default:
            return Storage::float32;
    }
}

// The planes of a tensor (N, C, *spatial), or the same pixels of each of them.
struct Planes {
    void* data;
    Storage storage;
    int64_t first = 0;  // entry of the first plane's first pixel
    int64_t images, image_stride, channel_stride;
    Axes size{}, stride{};

    explicit Planes(const Tensor& tensor)
        : data(tensor.data_ptr()),
          storage(storage_of(tensor.scalar_type())),
          images(tensor.size(0)),
          image_stride(tensor.stride(0)),
          channel_stride(tensor.stride(1)) {
        const auto spatial = static_cast<int>(tensor.dim()) - 2;
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            const int dim = axis - kAxes + spatial + 2;
            size[axis] = dim >= 2 ? tensor.size(dim) : 1;
            stride[axis] = dim >= 2 ? tensor.stride(dim) : size[axis + 1] * stride[axis + 1];
        }
    }

    // The planes of kernels (C, 1, *spatial), which are the same for every image.
    static Planes of_kernels(const Tensor& kernels) {
        Planes planes(kernels);
        planes.channel_stride = planes.image_stride;
        planes.image_stride = 0;
        return planes;
    }

    // Keeps `count` pixels along an axis, from `begin` on in steps.
    void select(int axis, int64_t begin, int64_t count, int64_t step = 1) {
        first += count > 0 ? begin * stride[axis] : 0;
        size[axis] = count;
        stride[axis] *= step;
    }

    // Channels side by side, but not the pixels of one: reading several at once fetches a cache line once for all.
    bool is_channels_last() const { return channel_stride == 1 && stride[2] != 1; }

    int64_t entry(int64_t image, int64_t channel, const Axes& pixel = {}) const {
        return first + image * image_stride + channel * channel_stride + pixel[0] * stride[0] + pixel[1] * stride[1] +
               pixel[2] * stride[2];
    }

    // Reads and writes a tile of a channel.
    template <typename T>
    void read(int64_t channel, const Tile& tile, T* out) const {
        for_each_run(channel, tile, [&](int64_t at, int64_t pixel, int64_t count) {
            visit(at, [&](const auto* from) { copy(from, stride[2], count, out + pixel, 1); });
        });
    }
    template <typename T>
    void write(int64_t channel, const Tile& tile, const T* in) const {
        for_each_run(channel, tile, [&](int64_t at, int64_t pixel, int64_t count) {
            visit(at, [&](auto* to) { copy(in + pixel, 1, count, to, stride[2]); });
        });
    }

    // Reads and writes `count` pixels of a row from `pixel` on, every `step`th.
    template <typename T>
    void read(int64_t image, int64_t channel, const Axes& pixel, int64_t step, int64_t count, T* out) const {
        visit(entry(image, channel, pixel), [&](const auto* from) { copy(from, stride[2] * step, count, out, 1); });
    }
    template <typename T>
    void write(int64_t image, int64_t channel, const Axes& pixel, int64_t step, int64_t count, const T* in) const {
        visit(entry(image, channel, pixel), [&](auto* to) { copy(in, 1, count, to, stride[2] * step); });
    }

    // Reads and writes part of a row of a bundle of images, interleaved: as many as a vector has lanes, or 1. What is
    // past the last image is read as 0.
    template <typename T>
    void read_bundle(int64_t image, int64_t bundle, int64_t channel, const Axes& pixel, int64_t step, int64_t count,
                     T* out) const {
        bundle == 1 ? read(image, channel, pixel, step, count, out)
                    : inner_loops<T>().planes.gather(of_bundle(image, bundle, channel, pixel, step, count), 0, 0, out);
    }
    template <typename T>
    void write_bundle(int64_t image, int64_t bundle, int64_t channel, const Axes& pixel, int64_t step, int64_t count,
                      const T* in) const {
        bundle == 1 ? write(image, channel, pixel, step, count, in)
                    : inner_loops<T>().planes.scatter(in, of_bundle(image, bundle, channel, pixel, step, count));
    }

    // Reads and writes part of a row of up to kMostPlanes channels, to rows that are `out_channel` apart. buffer: has
    // room for kMostPlanes rows.
    template <typename T>
    void read_channels(int64_t image, int64_t channel, int64_t channels, const Axes& pixel, int64_t step, int64_t count,
                       T* out, int64_t out_channel, T* buffer) const {
        inner_loops<T>().planes.gather(of_channels(image, channel, channels, pixel, step, count), 0, 0, buffer);
        inner_loops<T>().planes.scatter(buffer, rows(out, channels, out_channel, count));
    }
    template <typename T>
    void write_channels(int64_t image, int64_t channel, int64_t channels, const Axes& pixel, int64_t step,
                        int64_t count, const T* in, int64_t in_channel, T* buffer) const {
        inner_loops<T>().planes.gather(rows(const_cast<T*>(in), channels, in_channel, count), 0, 0, buffer);
        inner_loops<T>().planes.scatter(buffer, of_channels(image, channel, channels, pixel, step, count));
    }

 private:
    LanePlanes of_bundle(int64_t image, int64_t bundle, int64_t channel, const Axes& pixel, int64_t step,
                         int64_t count) const {
        LanePlanes lanes{data, storage, std::min(bundle, images - image), {}, {1, 1, count}, {0, 0, stride[2] * step}};
        for (int64_t lane = 0; lane < lanes.count; ++lane) {
            lanes.first[lane] = entry(image + lane, channel, pixel);
        }
        return lanes;
    }

    LanePlanes of_channels(int64_t image, int64_t channel, int64_t channels, const Axes& pixel, int64_t step,
                           int64_t count) const {
        LanePlanes lanes{data, storage, channels, {}, {1, 1, count}, {0, 0, stride[2] * step}};
        for (int64_t lane = 0; lane < channels; ++lane) {
            lanes.first[lane] = entry(image, channel + lane, pixel);
        }
        return lanes;
    }

    template <typename T>
    static LanePlanes rows(T* data, int64_t count, int64_t apart, int64_t pixels) {
        const Storage storage = std::is_same_v<T, double> ? Storage::float64 : Storage::float32;
        LanePlanes rows{data, storage, count, {}, {1, 1, pixels}, {0, 0, 1}};
        for (int64_t lane = 0; lane < count; ++lane) {
            rows.first[lane] = lane * apart;
        }
        return rows;
    }

    // body(entry in the tensor, number of the pixel in the tile, count) for runs of pixels of even stride: rows, or
    // planes and volumes where they follow each other.
    template <typename Body>
    void for_each_run(int64_t channel, const Tile& tile, const Body& body) const {
        Axes outer = tile.size;
        int64_t count = 1;
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            count *= outer[axis];
            outer[axis] = 1;
            if (axis == 0 || tile.size[axis] != size[axis] || stride[axis - 1] != size[axis] * stride[axis]) {
                break;
            }
        }
        int64_t pixel = 0;
        for (int64_t n = 0; n < tile.images; ++n) {
            for (int64_t z = 0; z < outer[0]; ++z) {
                for (int64_t y = 0; y < outer[1]; ++y) {
                    const Axes at{tile.begin[0] + z, tile.begin[1] + y, tile.begin[2]};
                    body(entry(tile.first_image + n, channel, at), pixel, count);
                    pixel += count;
                }
            }
        }
    }

    template <typename Body>
    void visit(int64_t at, const Body& body) const {
        switch (storage) {
            case Storage::float64:
                return body(static_cast<double*>(data) + at);
            case Storage::float32:
                return body(static_cast<float*>(data) + at);
            case Storage::float16:
                return body(static_cast<torch::headeronly::Half*>(data) + at);
            case Storage::bfloat16:
                return body(static_cast<torch::headeronly::BFloat16*>(data) + at);
        }
    }

    template <typename From, typename To>
    static void copy(const From* from, int64_t from_stride, int64_t count, To* to, int64_t to_stride) {
        if (from_stride == 1 && to_stride == 1) {
            for (int64_t j = 0; j < count; ++j) {
                to[j] = static_cast<To>(from[j]);
            }
        } else {
            for (int64_t j = 0; j < count; ++j) {
                to[j * to_stride] = static_cast<To>(from[j * from_stride]);
            }
        }
    }
};

}  // namespace dcls::cpu
