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
    for (int i = thread_index() * kVector<T>; i < entries; i += static_cast<int>(blockDim.x) * kVector<T>) {
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
int columns_at_once(const Planes<T>& planes, int first, int extent) {
    int width = planes.stride[2] == 1 ? kVector<T> : 1;
    const std::array<int64_t, 6> multiples{
        planes.image, planes.channel, planes.stride[1],
        first,        extent,         static_cast<int64_t>(reinterpret_cast<uintptr_t>(planes.data) / sizeof(T))};
    for (const int64_t multiple : multiples) {
        while (multiple % width != 0) {
            width /= 2;
        }
    }
    return width;
}

// The same for entries of a pixel, of whose channels a block takes `channels`.
template <typename T>
int channels_at_once(const Planes<T>& planes, int channels, int of_channels) {
    bool whole = planes.channel == 1 && channels % kVector<T> == 0 && of_channels % channels == 0;
    const std::array<int64_t, 4> multiples{planes.image, planes.stride[1], planes.stride[2],
                                           static_cast<int64_t>(reinterpret_cast<uintptr_t>(planes.data) / sizeof(T))};
    for (const int64_t multiple : multiples) {
        whole = whole && multiple % kVector<T> == 0;
    }
    return whole ? kVector<T> : 1;
}

// What is copied to shared memory at once: entries of a row, or of a pixel's channels, which go to a slot each.
struct Piece {
    int columns = 1, channels = 1;
};

// Room for a box in shared memory. How it is filled does not depend on what is in it.
class Staging {
 public:
    // Which slots eight neighbouring threads read the same column of: of as many channels as there are, or of as many
    // images as there are and else of neighbouring rows.
    enum class Neighbours { channels, images };

    Staging() = default;

    // Rows have room for `columns` entries. The first `zeros` of them are always zero, if that is positive, and not
    // more than `copied` of the others are copied, a piece at a time, by a block of `threads`.
    template <typename T>
    static Staging room_for(Neighbours neighbours, int images, int channels, int rows, int columns, int zeros,
                            int copied, Piece piece, int threads) {
        Staging s;
        s.behind_ = std::max(zeros, 0) / kVector<T> * kVector<T>;
        const int pitch = ceil_div(columns - s.behind_, kVector<T>) | 1;  // vectors
        // Vectors for `least` at least, of which eight times `step` fill all banks.
        const auto apart = [](int least, int step) { return least + (step - least % 8 + 8) % 8; };
        s.pitch_ = pitch * kVector<T>;
        if (neighbours == Neighbours::channels) {
            s.channel_ = apart(rows * pitch, 1) * kVector<T>;
            s.image_ = channels * s.channel_;
        } else {
            const int image = apart(rows * pitch, std::max(8 / images, 1) * pitch % 8);
            s.image_ = image * kVector<T>;
            s.channel_ = apart(images * image, 1) * kVector<T>;
        }
        s.entries_ = std::max(images * s.image_, channels * s.channel_) + s.behind_;
        s.piece_ = piece;
        s.by_channel_ = Divisor(channels / piece.channels);
        s.by_column_ = Divisor(ceil_div(std::max(copied, 1), piece.columns));
        s.pieces_ = std::max(channels / piece.channels * rows * ceil_div(std::max(copied, 1), piece.columns), 1);
        s.at_once_ = std::min(s.pieces_, threads);
        s.sharing_ = std::min(threads / s.at_once_, images);
        s.by_at_once_ = Divisor(s.at_once_);
        s.by_sharing_ = Divisor(s.sharing_);
        return s;
    }

    // The same with images one entry closer together.
    Staging closer() const {
        Staging s = *this;
        --s.image_;
        return s;
    }

    __host__ __device__ int pitch() const { return pitch_; }
    // Entries that are read as a row: with the zeros that it shares with the next one.
    __host__ __device__ int row() const { return pitch_ + behind_; }
    __host__ __device__ int slot(int image, int channel) const { return image * image_ + channel * channel_; }
    __host__ __device__ int entries() const { return entries_; }

    // All threads of a block start to copy a box to rows 0, 1, ... and columns first_column, ... of every slot;
    // copy_wait() waits for what a thread has copied. Pieces of several channels take `batch`: how many are loaded at a
    // time.
    template <int batch = 0, typename T>
    __device__ void copy(T* to, const Box<T>& box, int first_column) const {
        to += first_column;
        if constexpr (batch > 0) {
            if (piece_.channels > 1) {
                return copy_batches<kVector<T>, batch>(to, box);
            }
        }
        switch (piece_.columns * sizeof(T)) {
            case 16:
                return copy_rows<16 / sizeof(T)>(to, box);
            case 8:
                return copy_rows<8 / sizeof(T)>(to, box);
            case 4:
                if constexpr (sizeof(T) <= 4) {
                    return copy_rows<4 / sizeof(T)>(to, box);
                }
                break;
            default:
                if constexpr (sizeof(T) < 4) {
                    return box.images > 2 * sharing_ ? copy_images(to, box) : copy_batches<1, 4>(to, box);
                }
        }
    }

 private:
    // A thread's pieces: it finds where one lies, and takes it of one image after the other. Where an image has fewer
    // pieces than the block has threads, several threads share its images out.
    template <typename T>
    class Walk {
     public:
        int to = 0, from = 0;

        __device__ Walk(const Staging& staging, const Box<T>& box)
            : staging_(staging), box_(box), piece_(thread_index()) {
            const int remainder = staging.by_at_once_.split_off(piece_);
            first_image_ = piece_;
            piece_ = first_image_ < std::min(staging.sharing_, box.images) ? remainder : staging.pieces_;
            find();
        }

        __device__ bool is_at_end() const { return piece_ >= staging_.pieces_; }

        __device__ void next() {
            image_ += staging_.sharing_;
            to += to_step();
            from += from_step();
            if (image_ >= box_.images) {
                next_piece();
            }
        }

        // The piece of the images to come, from where the walk is on.
        __device__ int images() const {
            return staging_.by_sharing_.quotient(box_.images - image_ + staging_.sharing_ - 1);
        }
        __device__ int to_step() const { return staging_.sharing_ * staging_.image_; }
        __device__ int from_step() const { return staging_.sharing_ * box_.image; }
        __device__ void next_piece() {
            piece_ += staging_.at_once_;
            find();
        }

     private:
        __device__ void find() {
            for (; piece_ < staging_.pieces_; piece_ += staging_.at_once_) {
                int row = piece_;
                const int channel = staging_.by_channel_.split_off(row) * staging_.piece_.channels;
                const int column = staging_.by_column_.split_off(row) * staging_.piece_.columns;
                if (channel < box_.channels && row < box_.rows && column < box_.columns) {
                    image_ = first_image_;
                    to = staging_.slot(image_, channel) + row * staging_.pitch_ + column;
                    from = image_ * box_.image + channel * box_.channel + row * box_.row + column * box_.column;
                    return;
                }
            }
        }

        const Staging& staging_;
        const Box<T>& box_;
        int piece_, first_image_ = 0, image_ = 0;
    };

    template <int width, typename T>
    __device__ void copy_rows(T* to, const Box<T>& box) const {
        for (Walk<T> at(*this, box); !at.is_at_end(); at.next_piece()) {
            T* piece_to = to + at.to;
            const T* piece_from = box.first + at.from;
            const int images = at.images();
#pragma unroll 2
            for (int image = 0; image < images; ++image) {
                copy_async<width>(piece_to, piece_from);
                piece_to += at.to_step();
                piece_from += at.from_step();
            }
        }
    }

    // Through registers: several loads are under way before the first one is waited for. Of one entry and several
    // images, the last one more than once where there are not enough; or whatever is next.
    template <typename T>
    __device__ void copy_images(T* to, const Box<T>& box) const {
        constexpr int batch = 4;
        for (Walk<T> at(*this, box); !at.is_at_end(); at.next_piece()) {
            const int last = at.images() - 1;
            for (int first = 0; first <= last; first += batch) {
                T loaded[batch];
#pragma unroll
                for (int i = 0; i < batch; ++i) {
                    loaded[i] = box.first[at.from + std::min(first + i, last) * at.from_step()];
                }
#pragma unroll
                for (int i = 0; i < batch; ++i) {
                    to[at.to + std::min(first + i, last) * at.to_step()] = loaded[i];
                }
            }
        }
    }
    template <int channels, int batch, typename T>
    __device__ void copy_batches(T* to, const Box<T>& box) const {
        for (Walk<T> at(*this, box); !at.is_at_end();) {
            Vector<T, channels> loaded[batch];
            int places[batch];
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                places[i] = -1;
                if (i == 0 || !at.is_at_end()) {
                    loaded[i] = load_vector<channels>(box.first + at.from);
                    places[i] = at.to;
                    at.next();
                }
            }
#pragma unroll
            for (int i = 0; i < batch; ++i) {
                if (i == 0 || places[i] >= 0) {
#pragma unroll
                    for (int c = 0; c < channels; ++c) {
                        to[places[i] + c * channel_] = loaded[i].at[c];
                    }
                }
            }
        }
    }

    int image_ = 0, channel_ = 0, pitch_ = 0;  // strides
    int behind_ = 0, entries_ = 0;
    Piece piece_;
    int pieces_ = 0;   // of all channels and rows of an image
    int at_once_ = 0;  // of them
    int sharing_ = 0;  // threads that share the images of a piece out
    Divisor by_channel_, by_column_, by_at_once_, by_sharing_;
};

// Doubles the images of a plan for as long as they fit, where there are `most` of them, `stride` entries apart.
template <typename Fits>
void fill_with_images(int& images, int most, int64_t stride, const Fits& fits) {
    while (images < most && 2 * images * stride < (1 << 30)) {
        images *= 2;
        if (!fits()) {
            images /= 2;
            fits();
            return;
        }
    }
}

}  // namespace dcls::cuda
