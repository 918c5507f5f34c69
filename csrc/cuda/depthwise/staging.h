// Boxes of planes in shared memory, as the kernels of depthwise convolution read them.
//
// A block works on some planes at a time, its slots: images and, where channels lie next to each other, channels. It
// keeps rows x columns entries of each in shared memory, with zeros around what the planes have. Rows start at vectors
// of 16 bytes, an odd number of vectors apart, and so do slots: threads that read the same column of neighbouring rows
// or slots read from different banks.
#pragma once

#include "../divisor.h"
#include "../planes.h"
#include "../ptx.h"
#include "depthwise_maps.h"

namespace dcls::cuda {

template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // entries

template <typename T>
struct alignas(16) Vector {
    T at[kVector<T>];
};

template <typename T>
__device__ Vector<T> load_vector(const T* from) {
    return *reinterpret_cast<const Vector<T>*>(from);
}

template <typename T>
int odd_vectors(int entries) {
    return (ceil_div(entries, kVector<T>) | 1) * kVector<T>;
}

// All threads of a block set entries, whole vectors of them, to zero.
template <typename T>
__device__ void clear(T* to, int entries) {
    for (int i = static_cast<int>(threadIdx.x) * kVector<T>; i < entries;
         i += static_cast<int>(blockDim.x) * kVector<T>) {
        *reinterpret_cast<Vector<T>*>(to + i) = {};
    }
}

// Some entries of planes: of `images` x `channels` of them `rows` x `columns`. The first and the last are less than
// 2^31 apart.
template <typename T>
struct Box {
    const T* first;
    int image, channel, row, column;  // strides
    int images, channels, rows, columns;

    // From an image and a channel on, whose neighbours are `apart` further on; `y` and `x` name rows and columns.
    __device__ Box(const Planes<const T>& planes, int image_, int images_, int channel_, int channels_, int apart,
                   const Line& y, int rows_, const Line& x, int columns_)
        : first(planes.plane(image_, channel_) + y.first * planes.stride[1] + x.first * planes.stride[2]),
          image(static_cast<int>(planes.image)),
          channel(static_cast<int>(planes.channel) * apart),
          row(static_cast<int>(planes.stride[1]) * y.step),
          column(static_cast<int>(planes.stride[2]) * x.step),
          images(images_),
          channels(channels_),
          rows(rows_),
          columns(columns_) {}
};

// The most entries, as a power of two and 16 bytes at most, that can be read or written at once along rows of planes:
// rows of `extent` entries, from entry `first` on.
template <typename T>
int widest_piece(const Planes<T>& planes, int first, int extent) {
    int width = planes.stride[2] == 1 ? kVector<T> : 1;
    const std::array<int64_t, 6> multiples{
        planes.image, planes.channel, planes.stride[1], first, extent,
        static_cast<int64_t>(reinterpret_cast<uintptr_t>(planes.data) / sizeof(T))};
    for (const int64_t multiple : multiples) {
        while (multiple % width != 0) {
            width /= 2;
        }
    }
    return width;
}

// Room for a box in shared memory. How it is filled does not depend on what is in it.
class Staging {
 public:
    Staging() = default;

    // Rows have room for `columns` entries, of which not more than `copied` are copied, `width` at a time.
    template <typename T>
    static Staging room_for(int images, int channels, int rows, int columns, int copied, int width) {
        Staging s;
        s.images_ = images;
        s.channels_ = channels;
        s.pitch_ = odd_vectors<T>(columns);
        s.slot_ = odd_vectors<T>(rows * s.pitch_);
        s.width_ = width;
        const int units = ceil_div(std::max(copied, 1), width);
        s.by_channel_ = Divisor(channels);
        s.by_unit_ = Divisor(units);
        s.by_row_ = Divisor(std::max(rows, 1));
        s.copies_ = images * channels * rows * units;
        return s;
    }

    __host__ __device__ int pitch() const { return pitch_; }
    __host__ __device__ int slot(int image, int channel) const { return (image * channels_ + channel) * slot_; }
    __host__ __device__ int entries() const { return images_ * channels_ * slot_; }

    // All threads of a block start to copy a box to rows 0, 1, ... and columns first_column, ... of every slot;
    // copy_wait() waits for what a thread has copied.
    template <typename T>
    __device__ void copy(T* to, const Box<T>& box, int first_column) const {
        switch (width_ * sizeof(T)) {
            case 16:
                return copy_pieces<16 / sizeof(T)>(to + first_column, box);
            case 8:
                return copy_pieces<8 / sizeof(T)>(to + first_column, box);
            case 4:
                if constexpr (sizeof(T) <= 4) {
                    return copy_pieces<4 / sizeof(T)>(to + first_column, box);
                }
                break;
            default:
                if constexpr (sizeof(T) < 4) {
                    return copy_pieces<1>(to + first_column, box);
                }
        }
    }

 private:
    template <int width, typename T>
    __device__ void copy_pieces(T* to, const Box<T>& box) const {
#pragma unroll(width * sizeof(T) < 4 ? 4 : 1)
        for (int i = static_cast<int>(threadIdx.x); i < copies_; i += static_cast<int>(blockDim.x)) {
            int rest = i;
            const int channel = by_channel_.split_off(rest);
            const int column = by_unit_.split_off(rest) * width;
            const int row = by_row_.split_off(rest), image = rest;
            if (image < box.images && channel < box.channels && row < box.rows && column < box.columns) {
                copy_async<width>(to + slot(image, channel) + row * pitch_ + column,
                                  box.first + (image * box.image + channel * box.channel + row * box.row +
                                                   column * box.column));
            }
        }
    }

    int images_ = 0, channels_ = 0, pitch_ = 0, slot_ = 0, width_ = 1, copies_ = 0;
    Divisor by_channel_, by_unit_, by_row_;
};

}  // namespace dcls::cuda
