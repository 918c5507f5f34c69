// The gradient of a convolution's bias.
#pragma once

#include "../parameters.h"
#include "parallel.h"
#include "planes.h"

namespace dcls::cpu {

// The sum of a tensor (N, C, *spatial) over images and pixels, in the compute dtype.
inline Tensor sum_over_pixels(const Tensor& tensor, ScalarType dtype) {
    constexpr int64_t kPixelsAtOnce = 1 << 13;
    const Tensor result = empty({tensor.size(1)}, dtype, tensor);
    const Planes planes(tensor);
    const Axes extent = three_axes({tensor.sizes().begin() + 2, tensor.sizes().end()}, 1);
    const Tiling tiles(0, tensor.size(0), extent, kPixelsAtOnce);
    dispatch_compute_dtype(dtype, [&]<typename T>() {
        T* sums = result.mutable_data_ptr<T>();
        for_each_item(tensor.size(1), [&] {
            return [&, values = std::vector<T>(tiles.max_pixels())](int64_t channel) mutable {
                sums[channel] = T(0);
                for (int64_t t = 0; t < tiles.count(); ++t) {
                    const Tile tile = tiles[t];
                    planes.read(channel, tile, values.data());
                    T sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t pixel = 0; pixel < tile.pixels(); ++pixel) {
                        sum += values[pixel];
                    }
                    sums[channel] += sum;
                }
            };
        });
    });
    return result;
}

}  // namespace dcls::cpu
