// Planes in one piece each, from tensors in which the channels of a pixel lie next to each other: the gradient of a
// kernel reads few channels at a time, and would use a small part of what it loads.
//
// A block copies a tile of pixels x channels through shared memory, where it is transposed: neighbouring threads read
// neighbouring channels and write neighbouring pixels. Bound by memory.
#include "../../memory_format.h"
#include "../divisor.h"
#include "../dtypes.h"
#include "../launch.h"
#include "../ptx.h"
#include "kernels.h"

namespace dcls::cuda {
namespace {

constexpr int kTile = 64;  // pixels and channels
constexpr int kThreads = 256, kRowThreads = 32, kRows = kThreads / kRowThreads;

// So that a column of a tile is in as many banks as it has entries.
template <typename T>
constexpr int kPitch = kTile + (sizeof(T) == 2 ? 2 : 1);

struct Work {
    int items, channels, pixels;
    Divisor by_channel_tile, by_pixel_tile;
    int64_t image, pixel;  // strides
};

template <typename T>
__global__ void __launch_bounds__(kThreads) transpose_pixels(Work work, const T* from, T* to) {
    T* const tile = shared_memory<T>();
    const int x = thread_index() % kRowThreads, y = thread_index() / kRowThreads;
    for_each_item(work.items, [&](int index) {
        const int first_channel = work.by_channel_tile.split_off(index) * kTile;
        const int first_pixel = work.by_pixel_tile.split_off(index) * kTile;
        const int channels = work.channels - first_channel - y, pixels = work.pixels - first_pixel - x;  // left
        const T* const source = from + index * work.image + (first_pixel + y) * work.pixel + first_channel + x;
        __syncthreads();  // the last tile has been read
#pragma unroll
        for (int pixel = 0; pixel < kTile; pixel += kRows) {
#pragma unroll
            for (int channel = 0; channel < kTile; channel += kRowThreads) {
                if (first_pixel + y + pixel < work.pixels && first_channel + x + channel < work.channels) {
                    tile[(y + pixel) * kPitch<T> + x + channel] = source[pixel * work.pixel + channel];
                }
            }
        }
        __syncthreads();
        T* const target = to + (int64_t{index} * work.channels + first_channel + y) * work.pixels + first_pixel + x;
#pragma unroll
        for (int channel = 0; channel < kTile; channel += kRows) {
#pragma unroll
            for (int pixel = 0; pixel < kTile; pixel += kRowThreads) {
                if (channel < channels && pixel < pixels) {
                    target[int64_t{channel} * work.pixels + pixel] = tile[(x + pixel) * kPitch<T> + y + channel];
                }
            }
        }
    });
}

}  // namespace

Tensor whole_planes(const Tensor& tensor) {
    if (!is_channels_last(tensor)) {
        return tensor;
    }
    const int64_t images = tensor.size(0), channels = tensor.size(1), pixels = tensor.size(2) * tensor.size(3);
    const int64_t channel_tiles = ceil_div(channels, kTile), pixel_tiles = ceil_div(pixels, kTile);
    if (tensor.stride(2) != tensor.size(3) * tensor.stride(3) || images * channel_tiles * pixel_tiles > kMostItems) {
        return contiguous(tensor);
    }
    const Tensor planes = empty(sizes(tensor), tensor.scalar_type(), tensor);
    const Launcher launch(tensor);
    dispatch_dtype(tensor.scalar_type(), [&]<typename T>() {
        launch(transpose_pixels<T>, images * channel_tiles * pixel_tiles, kThreads,
               static_cast<int64_t>(kTile * kPitch<T> * sizeof(T)),
               Work{static_cast<int>(images * channel_tiles * pixel_tiles), static_cast<int>(channels),
                    static_cast<int>(pixels), Divisor(static_cast<int>(channel_tiles)),
                    Divisor(static_cast<int>(pixel_tiles)), tensor.stride(0), tensor.stride(3)},
               static_cast<const T*>(tensor.const_data_ptr()), static_cast<T*>(planes.mutable_data_ptr()));
    });
    return planes;
}

}  // namespace dcls::cuda
