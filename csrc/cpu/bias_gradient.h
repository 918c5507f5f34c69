// The gradient of a convolution's bias.
#pragma once

#include "../dispatch.h"
#include "../gradients.h"
#include "parallel.h"
#include "planes.h"

namespace dcls::cpu {

// The sum of grad_output (N, C, *spatial) over images and pixels, computed in `dtype`, in grad_output's own.
inline Tensor bias_gradient(bool wanted, const Tensor& grad_output, ScalarType dtype) {
    if (!wanted) {
        return not_computed(grad_output.scalar_type(), grad_output);
    }
    constexpr int64_t kPixelsAtOnce = 1 << 13;
    const Tensor result = empty({grad_output.size(1)}, dtype, grad_output);
    const Planes planes(grad_output);
    const Tiling tiles(0, planes.images, planes.size, kPixelsAtOnce);
    dispatch_compute_dtype(dtype, [&]<typename T>() {
        T* sums = result.mutable_data_ptr<T>();
        for_each_item(grad_output.size(1), [&] {
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
    return cast(result, grad_output.scalar_type());
}

}  // namespace dcls::cpu
