// Tensors read and written by rows and tiles, whatever their dtype and strides.
#pragma once

#include "instruction_set.h"
#include "tiles.h"

#include "../stable.h"

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

// A tensor (N, C, *spatial) of any floating dtype and any strides.
class Planes {
 public:
    explicit Planes(const Tensor& tensor)
        : data_(tensor.data_ptr()),
          dtype_(tensor.scalar_type()),
          images_(tensor.size(0)),
          image_stride_(tensor.stride(0)),
          channel_stride_(tensor.stride(1)) {
        const auto spatial = static_cast<int>(tensor.dim()) - 2;
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            const int dim = axis - kAxes + spatial + 2;
            extent_[axis] = dim >= 2 ? tensor.size(dim) : 1;
            stride_[axis] = dim >= 2 ? tensor.stride(dim) : extent_[axis + 1] * stride_[axis + 1];
        }
    }

    // `count` pixels from `first` on along the last axis, every `step`th.
    template <typename T>
    void read(int64_t image, int64_t channel, const Axes& first, int64_t step, int64_t count, T* out) const {
        visit(offset(image, channel, first),
              [&](const auto* from, int64_t stride) { copy(from, stride * step, count, out, 1); });
    }

    template <typename T>
    void write(int64_t image, int64_t channel, const Axes& first, int64_t step, int64_t count, const T* in) const {
        visit(offset(image, channel, first), [&](auto* to, int64_t stride) { copy(in, 1, count, to, stride * step); });
    }

    // The same of several images, `together` of them interleaved: as many as a vector has lanes, or 1.
    template <typename T>
    void read(int64_t image, int64_t together, int64_t channel, const Axes& first, int64_t step, int64_t count,
              T* out) const {
        together == 1
            ? read(image, channel, first, step, count, out)
            : inner_loops<T>().planes.gather(lanes(image, together, channel, first, step, count), 0, 0, out);
    }

    template <typename T>
    void write(int64_t image, int64_t together, int64_t channel, const Axes& first, int64_t step, int64_t count,
               const T* in) const {
        together == 1 ? write(image, channel, first, step, count, in)
                      : inner_loops<T>().planes.scatter(in, lanes(image, together, channel, first, step, count));
    }

    // Channels side by side, but not the pixels of one: reading several at once fetches a cache line once for all.
    bool is_channels_last() const { return channel_stride_ == 1 && stride_[2] != 1; }

    // The same of up to kMostPlanes channels, to rows that are `out_channel` apart. buffer: of kMostPlanes rows.
    template <typename T>
    void read_channels(int64_t image, int64_t channel, int64_t channels, const Axes& first, int64_t step, int64_t count,
                       T* out, int64_t out_channel, T* buffer) const {
        inner_loops<T>().planes.gather(channel_lanes(image, channel, channels, first, step, count), 0, 0, buffer);
        inner_loops<T>().planes.scatter(buffer, rows(out, channels, out_channel, count));
    }

    template <typename T>
    void write_channels(int64_t image, int64_t channel, int64_t channels, const Axes& first, int64_t step,
                        int64_t count, const T* in, int64_t in_channel, T* buffer) const {
        inner_loops<T>().planes.gather(rows(const_cast<T*>(in), channels, in_channel, count), 0, 0, buffer);
        inner_loops<T>().planes.scatter(buffer, channel_lanes(image, channel, channels, first, step, count));
    }

    template <typename T>
    void read(int64_t channel, const Tile& tile, T* out) const {
        for_each_run(channel, tile, [&](int64_t at, int64_t pixel, int64_t count) {
            visit(at, [&](const auto* from, int64_t stride) { copy(from, stride, count, out + pixel, 1); });
        });
    }

    template <typename T>
    void write(int64_t channel, const Tile& tile, const T* in) const {
        for_each_run(channel, tile, [&](int64_t at, int64_t pixel, int64_t count) {
            visit(at, [&](auto* to, int64_t stride) { copy(in + pixel, 1, count, to, stride); });
        });
    }

 private:
    int64_t offset(int64_t image, int64_t channel, const Axes& at) const {
        return image * image_stride_ + channel * channel_stride_ + at[0] * stride_[0] + at[1] * stride_[1] +
               at[2] * stride_[2];
    }

    LanePlanes lanes(int64_t image, int64_t together, int64_t channel, const Axes& first, int64_t step,
                     int64_t count) const {
        const int64_t images = std::min(together, images_ - image);
        LanePlanes lanes{data_, storage_of(dtype_), images, {}, {1, 1, count}, {0, 0, stride_[2] * step}};
        for (int64_t lane = 0; lane < images; ++lane) {
            lanes.first[lane] = offset(image + lane, channel, first);
        }
        return lanes;
    }

    LanePlanes channel_lanes(int64_t image, int64_t channel, int64_t channels, const Axes& first, int64_t step,
                             int64_t count) const {
        LanePlanes lanes{data_, storage_of(dtype_), channels, {}, {1, 1, count}, {0, 0, stride_[2] * step}};
        for (int64_t lane = 0; lane < channels; ++lane) {
            lanes.first[lane] = offset(image, channel + lane, first);
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

    // body(offset in the tensor, number of the pixel in the tile, count) for runs of pixels of even stride: rows, or
    // planes and volumes where they lie together.
    template <typename Body>
    void for_each_run(int64_t channel, const Tile& tile, const Body& body) const {
        Axes outer = tile.size;
        int64_t count = 1;
        for (int axis = kAxes - 1; axis >= 0; --axis) {
            count *= outer[axis];
            outer[axis] = 1;
            const bool together =
                axis > 0 && tile.size[axis] == extent_[axis] && stride_[axis - 1] == extent_[axis] * stride_[axis];
            if (!together) {
                break;
            }
        }
        int64_t pixel = 0;
        for (int64_t n = 0; n < tile.images; ++n) {
            for (int64_t z = 0; z < outer[0]; ++z) {
                for (int64_t y = 0; y < outer[1]; ++y) {
                    const Axes first{tile.begin[0] + z, tile.begin[1] + y, tile.begin[2]};
                    body(offset(tile.first_image + n, channel, first), pixel, count);
                    pixel += count;
                }
            }
        }
    }

    template <typename Body>
    void visit(int64_t at, const Body& body) const {
        switch (dtype_) {
            case ScalarType::Double:
                return body(static_cast<double*>(data_) + at, stride_[2]);
            case ScalarType::Float:
                return body(static_cast<float*>(data_) + at, stride_[2]);
            case ScalarType::Half:
                return body(static_cast<torch::headeronly::Half*>(data_) + at, stride_[2]);
            default:
                return body(static_cast<torch::headeronly::BFloat16*>(data_) + at, stride_[2]);
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

    void* data_;
    ScalarType dtype_;
    int64_t images_, image_stride_, channel_stride_;
    Axes extent_{}, stride_{};
};

}  // namespace dcls::cpu
