// Boxes of planes in shared memory, as the kernels of depthwise convolution read them.
//
// A block works on some planes at a time, its slots: images and, where channels lie next to each other, channels. It
// keeps rows x columns entries of each in shared memory, with zeros around what the planes have:
//
//     0 0 0 x x x x x 0 0 0 x x x x x 0 0 0     the zeros behind a row are those before the next
//
// Rows start at vectors of 16 bytes, an odd number of vectors apart. Slots are as far apart as keeps eight neighbouring
// threads from reading the same bank.
#pragma once

#include "../divisor.h"
#include "../planes.h"
#include "../ptx.h"
#include "depthwise_maps.h"

namespace dcls::cuda {

template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // entries

// Entries that are read or written at once.
template <typename T, int count = kVector<T>>
struct alignas(count * sizeof(T)) Vector {
    T at[count];
};

template <int count, typename T>
__device__ Vector<T, count> load_vector(const T* from) {
    return *reinterpret_cast<const Vector<T, count>*>(from);
}
template <typename T>
__device__ Vector<T> load_vector(const T* from) {
    return load_vector<kVector<T>>(from);
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

    // Which slots eight neighbouring threads read the same column of: of as many channels as there are, or of as many
    // images as there are and else of neighbouring rows.
    enum class Neighbours { channels, images };

    // Rows have room for `columns` entries. The first `zeros` of them are always zero, if that is positive, and not more
    // than `copied` of the others are copied, `width` at a time.
    template <typename T>
    static Staging room_for(Neighbours neighbours, int images, int channels, int rows, int columns, int zeros,
                            int copied, int width) {
        Staging s;
        s.behind_ = std::max(zeros, 0) / kVector<T> * kVector<T>;
        const int pitch = ceil_div(columns - s.behind_, kVector<T>) | 1;  // vectors
        s.pitch_ = pitch * kVector<T>;
        // Vectors for `least` at least, of which eight times `step` fill all banks.
        const auto apart = [](int least, int step) {
            return least + (step - least % 8 + 8) % 8;
        };
        const int of_slot = rows * pitch;
        if (neighbours == Neighbours::channels) {
            s.channel_ = apart(of_slot, 1) * kVector<T>;
            s.image_ = channels * s.channel_;
            s.entries_ = images * s.image_ + s.behind_;
        } else {
            const int image = apart(of_slot, std::max(8 / images, 1) * pitch % 8);
            s.image_ = image * kVector<T>;
            s.channel_ = apart(images * image, 1) * kVector<T>;
            s.entries_ = channels * s.channel_ + s.behind_;
        }
        s.width_ = width;
        const int pieces = ceil_div(std::max(copied, 1), width);
        s.pieces_ = channels * rows * pieces;
        s.by_channel_ = Divisor(channels);
        s.by_piece_ = Divisor(pieces);
        return s;
    }

    __host__ __device__ int pitch() const { return pitch_; }
    __host__ __device__ int slot(int image, int channel) const { return image * image_ + channel * channel_; }
    __host__ __device__ int entries() const { return entries_; }

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
    // A thread finds where a piece of a row lies, and copies it for one image after the other. Where an image has fewer
    // pieces than the block has threads, several threads share its images out.
    template <int width, typename T>
    __device__ void copy_pieces(T* to, const Box<T>& box) const {
        const int threads = static_cast<int>(blockDim.x), thread = static_cast<int>(threadIdx.x);
        const int at_once = std::min(pieces_, threads), sharing = threads / at_once;
        const int first_image = thread / at_once;
        if (first_image >= sharing) {
            return;
        }
        for (int piece = thread - first_image * at_once; piece < pieces_; piece += at_once) {
            int row = piece;
            const int channel = by_channel_.split_off(row), column = by_piece_.split_off(row) * width;
            if (channel < box.channels && row < box.rows && column < box.columns) {
                copy_images<width>(to + slot(first_image, channel) + row * pitch_ + column, sharing * slot(1, 0),
                                   box.first + (first_image * box.image + channel * box.channel + row * box.row +
                                                column * box.column),
                                   sharing * box.image, ceil_div(box.images - first_image, sharing));
            }
        }
    }

    // Copies a piece `count` times, the next `to_step` and `from_step` further on.
    template <int width, typename T>
    __device__ static void copy_images(T* to, int to_step, const T* from, int from_step, int count) {
        if constexpr (width * sizeof(T) >= 4) {
#pragma unroll 4
            for (int i = 0; i < count; ++i) {
                copy_async<width>(to + i * to_step, from + i * from_step);
            }
        } else {
            // Nothing copies 16 bits by itself: several loads are under way before the first one is waited for.
            constexpr int kBatch = 8;
            for (int first = 0; first < count; first += kBatch) {
                T loaded[kBatch];
#pragma unroll
                for (int i = 0; i < kBatch; ++i) {
                    if (first + i < count) {
                        loaded[i] = from[(first + i) * from_step];
                    }
                }
#pragma unroll
                for (int i = 0; i < kBatch; ++i) {
                    if (first + i < count) {
                        to[(first + i) * to_step] = loaded[i];
                    }
                }
            }
        }
    }

    int image_ = 0, channel_ = 0, pitch_ = 0;  // strides
    int behind_ = 0, entries_ = 0, width_ = 1;
    int pieces_ = 0;  // of all channels and rows of an image
    Divisor by_channel_, by_piece_;
};

}  // namespace dcls::cuda
