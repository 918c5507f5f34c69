// The two inner loops of method "direct": for every pixel of a tile the sum over taps, and for every tap the sum over
// the pixels of a tile.
//
// Both go through a tile in blocks of kBlockVectors vectors. The first keeps the sums of kBlockRows such blocks in
// registers while it visits all taps; the second those of kBlockTaps taps while it visits the tile. Bound by one load
// and one multiply-add a vector and tap, from a box that fits a core's L1 or L2 cache.
#pragma once

#include "tiles.h"

#include <cstring>
#include <type_traits>

namespace dcls::cpu {

constexpr size_t kVectorBytes = 16;  // every processor that we know has registers for them
constexpr int kBlockVectors = 2;
constexpr int kBlockRows = 4;
constexpr int kBlockTaps = 6;

template <typename T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(kVectorBytes)));
};
template <typename T>
using Vector = typename VectorOf<T>::Type;

template <typename T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);
template <typename T>
constexpr int64_t kBlockColumns = kBlockVectors * kLanes<T>;

template <typename T>
Vector<T> load(const T* from) {
    Vector<T> vector;
    std::memcpy(&vector, from, kVectorBytes);
    return vector;
}

template <typename T>
void store(const Vector<T>& vector, T* to) {
    std::memcpy(to, &vector, kVectorBytes);
}

// Boxes of some channels, images and grids (boxes.h): entries from one channel, image, grid, plane and row to the next.
struct Layout {
    int64_t channel, image, grid, plane, row;
};

// Of boxes from which `size` pixels are read at taps that reach further along each axis. Rows have room for whole
// blocks.
template <typename T>
Layout layout(int64_t images, int64_t grids, const Axes& size, const Axes& reach) {
    const int64_t row = ceil_div(size[2], kBlockColumns<T>) * kBlockColumns<T> + reach[2];
    const int64_t plane = (size[1] + reach[1]) * row;
    const int64_t grid = (size[0] + reach[0]) * plane;
    return {images * grids * grid, grids * grid, grid, plane, row};
}

// Where a tap reads, from the pixel that it adds to, and what it multiplies by.
template <typename T>
struct Tap {
    int64_t offset;
    T coefficient;
};

// Calls body(std::integral_constant<int, count>()), for a count of 1 to `most`.
template <int most, typename Body>
void with_count(int64_t count, const Body& body) {
    if constexpr (most > 1) {
        if (count < most) {
            return with_count<most - 1>(count, body);
        }
    }
    body(std::integral_constant<int, most>());
}

template <int rows, typename T>
void add_taps_to_block(T* results, int64_t results_row, const T* source, int64_t source_row,
                       const std::vector<Tap<T>>& taps) {
    Vector<T> sums[rows][kBlockVectors];
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < kBlockVectors; ++v) {
            sums[row][v] = load(results + row * results_row + v * kLanes<T>);
        }
    }
    for (const Tap<T>& tap : taps) {
        const T* from = source + tap.offset;
        for (int row = 0; row < rows; ++row) {
            for (int v = 0; v < kBlockVectors; ++v) {
                sums[row][v] += tap.coefficient * load(from + row * source_row + v * kLanes<T>);
            }
        }
    }
    for (int row = 0; row < rows; ++row) {
        for (int v = 0; v < kBlockVectors; ++v) {
            store(sums[row][v], results + row * results_row + v * kLanes<T>);
        }
    }
}

// results[p] += sum over taps of coefficient * source[p + offset], for the pixels p of a tile in one grid. What lies
// past the ends of rows, in their last blocks, is read and added to as well.
template <typename T>
void add_taps(const Tile& tile, T* results, const Layout& to, const T* source, const Layout& from,
              const std::vector<Tap<T>>& taps) {
    if (taps.empty()) {
        return;
    }
    // The blocks of a single row are treated as rows.
    const bool is_row = tile.size[1] == 1;
    const int64_t blocks = ceil_div(tile.size[2], kBlockColumns<T>);
    const int64_t rows = is_row ? blocks : tile.size[1], columns = is_row ? 1 : blocks;
    const int64_t results_row = is_row ? kBlockColumns<T> : to.row, source_row = is_row ? kBlockColumns<T> : from.row;
    for (int64_t n = 0; n < tile.images; ++n) {
        for (int64_t z = 0; z < tile.size[0]; ++z) {
            T* results_plane = results + n * to.image + z * to.plane;
            const T* source_plane = source + n * from.image + z * from.plane;
            for (int64_t y = 0; y < rows; y += kBlockRows) {
                with_count<kBlockRows>(rows - y, [&](auto count) {
                    for (int64_t x = 0; x < columns * kBlockColumns<T>; x += kBlockColumns<T>) {
                        add_taps_to_block<count()>(results_plane + y * results_row + x, results_row,
                                                   source_plane + y * source_row + x, source_row, taps);
                    }
                });
            }
        }
    }
}

template <int count, typename T>
void correlate_some_taps(const Tile& tile, const T* grad, const Layout& grad_layout, const T* source,
                         const Layout& source_layout, Tap<T>* taps) {
    // In a row's last block, what lies past its end does not count.
    Vector<T> lanes{};
    for (int lane = 0; lane < kLanes<T>; ++lane) {
        lanes[lane] = static_cast<T>(lane);
    }
    const int64_t whole = tile.size[2] / kBlockColumns<T> * kBlockColumns<T>;
    const auto rest = static_cast<T>(tile.size[2] - whole);

    Vector<T> sums[count][kBlockVectors]{};
    const auto add_row = [&](const T* grad_row, const T* source_row) {
        const auto add_block = [&](int64_t x, const auto& counted) {
            for (int v = 0; v < kBlockVectors; ++v, x += kLanes<T>) {
                const Vector<T> grads = load(grad_row + x);
                for (int t = 0; t < count; ++t) {
                    sums[t][v] += counted(grads * load(source_row + taps[t].offset + x), v);
                }
            }
        };
        for (int64_t x = 0; x < whole; x += kBlockColumns<T>) {
            add_block(x, [](const Vector<T>& products, int) { return products; });
        }
        if (whole < tile.size[2]) {
            add_block(whole, [&](const Vector<T>& products, int v) {
                return lanes + static_cast<T>(v * kLanes<T>) < rest ? products : Vector<T>{};
            });
        }
    };
    for (int64_t n = 0; n < tile.images; ++n) {
        for (int64_t z = 0; z < tile.size[0]; ++z) {
            for (int64_t y = 0; y < tile.size[1]; ++y) {
                add_row(grad + n * grad_layout.image + z * grad_layout.plane + y * grad_layout.row,
                        source + n * source_layout.image + z * source_layout.plane + y * source_layout.row);
            }
        }
    }
    for (int t = 0; t < count; ++t) {
        for (int v = 0; v < kBlockVectors; ++v) {
            for (int lane = 0; lane < kLanes<T>; ++lane) {
                taps[t].coefficient += sums[t][v][lane];
            }
        }
    }
}

// The gradient of add_taps() in the coefficients, which are added to: coefficient += sum over the pixels p of
// grad[p] * source[p + offset].
template <typename T>
void correlate_taps(const Tile& tile, const T* grad, const Layout& grad_layout, const T* source,
                    const Layout& source_layout, std::vector<Tap<T>>& taps) {
    const auto count = static_cast<int64_t>(taps.size());
    for (int64_t t = 0; t < count; t += kBlockTaps) {
        with_count<kBlockTaps>(count - t, [&](auto some) {
            correlate_some_taps<some()>(tile, grad, grad_layout, source, source_layout, &taps[t]);
        });
    }
}

}  // namespace dcls::cpu
