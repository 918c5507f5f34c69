// Planes in one piece each, from tensors in which the channels of a pixel lie next to each other: the gradient of a
// kernel reads few channels at a time, and would use a small part of what it loads.
//
// A block copies a tile of pixels x channels through shared memory, where it is transposed: neighbouring threads read
// neighbouring channels and write neighbouring pixels. Bound by memory.
#include "../../memory_format.h"
#include "../dtypes.h"
#include "../launch.h"
#include "../ptx.h"
#include "kernels.h"

namespace dcls::cuda {
namespace {

constexpr int kTile = 32;  // pixels and channels
constexpr int kThreadRows = 8;
constexpr int kThreads = kTile * kThreadRows;
constexpr int kPitch = kTile + 1;

template <typename T>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(int64_t images, int pixels, int channels, const T* from, T* to) {
    T* const tile = shared_memory<T>();
    const int x = thread_index() % kTile, y = thread_index() / kTile;
    const int tiles_of_pixels = ceil_div(pixels, kTile), tiles_of_channels = ceil_div(channels, kTile);
    for_each_item(images * tiles_of_pixels * tiles_of_channels, [&](int64_t index) {
        const int first_channel = static_cast<int>(index % tiles_of_channels) * kTile;
        index /= tiles_of_channels;
        const int first_pixel = static_cast<int>(index % tiles_of_pixels) * kTile;
        const int64_t image = index / tiles_of_pixels * pixels * channels;
        __syncthreads();  // the last tile has been read
#pragma unroll
        for (int row = y; row < kTile; row += kThreadRows) {
            const int pixel = first_pixel + row, channel = first_channel + x;
            if (pixel < pixels && channel < channels) {
                tile[row * kPitch + x] = from[image + int64_t{pixel} * channels + channel];
            }
        }
        __syncthreads();
#pragma unroll
        for (int row = y; row < kTile; row += kThreadRows) {
            const int pixel = first_pixel + x, channel = first_channel + row;
            if (pixel < pixels && channel < channels) {
                to[image + int64_t{channel} * pixels + pixel] = tile[x * kPitch + row];
            }
        }
    });
}

}  // namespace

Tensor whole_planes(const Tensor& tensor) {
    if (!is_channels_last(tensor)) {
        return tensor;
    }
    const Tensor planes = empty(sizes(tensor), tensor.scalar_type(), tensor);
    const auto pixels = static_cast<int>(tensor.size(2) * tensor.size(3)), channels = static_cast<int>(tensor.size(1));
    const Launcher launch(tensor);
    dispatch_dtype(tensor.scalar_type(), [&]<typename T>() {
        launch(transpose_kernel<T>, tensor.size(0) * ceil_div(pixels, kTile) * ceil_div(channels, kTile), kThreads,
               int64_t{kTile * kPitch * sizeof(T)}, tensor.size(0), pixels, channels,
               static_cast<const T*>(tensor.const_data_ptr()), static_cast<T*>(planes.mutable_data_ptr()));
    });
    return planes;
}

}  // namespace dcls::cuda
