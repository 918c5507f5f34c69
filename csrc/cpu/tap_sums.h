// The two inner loops of method "direct": for every pixel of a tile the sum over taps, and for every tap the sum over
// the pixels of a tile.
//
// The first keeps the sums of a vector of pixels in each of kBlockRows rows in registers while it visits all taps; the
// second the sums of kBlockTaps taps while it visits the tile. Bound by one load and one multiply-add a vector and tap,
// from a box that fits a core's L1 or L2 cache. Most loads cross cache lines, which halves their rate.
#pragma once

#include "direct_loops.h"
#include "vectors.h"

#include <type_traits>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// Half of the registers.
constexpr int kBlockRows = kVectorBytes == 64 ? 16 : 8;
constexpr int kBlockTaps = kVectorBytes == 64 ? 16 : 8;

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
void add_taps_to_block(T* results, int64_t results_row, const T* source, int64_t source_row, const Tap<T>* taps,
                       int64_t count) {
    Vector<T> sums[rows];
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
        sums[row] = load(results + row * results_row);
    }
    for (int64_t t = 0; t < count; ++t) {
        const T* from = source + taps[t].offset;
#pragma GCC unroll 16
        for (int row = 0; row < rows; ++row) {
            sums[row] += taps[t].coefficient * load(from + row * source_row);
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
        store(sums[row], results + row * results_row);
    }
}

template <typename T>
void add_taps(const TapSum<T, T>& sum, const Tap<T>* taps, int64_t count) {
    if (count == 0) {
        return;
    }
    // The vectors of a single row are treated as rows.
    const bool is_row = sum.size[1] == 1;
    const int64_t vectors = ceil_div(sum.size[2], kLanes<T>);
    const int64_t rows = is_row ? vectors : sum.size[1], columns = is_row ? 1 : vectors;
    const int64_t results_row = is_row ? kLanes<T> : sum.result_layout.row;
    const int64_t source_row = is_row ? kLanes<T> : sum.source_layout.row;
    const int64_t blocks = ceil_div(rows, kBlockRows);
    for (int64_t n = 0; n < sum.images; ++n) {
        for (int64_t z = 0; z < sum.size[0]; ++z) {
            T* results = sum.results + n * sum.result_layout.image + z * sum.result_layout.plane;
            const T* source = sum.source + n * sum.source_layout.image + z * sum.source_layout.plane;
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t y = rows * block / blocks, end = rows * (block + 1) / blocks;
                with_count<kBlockRows>(end - y, [&](auto block_rows) {
                    for (int64_t x = 0; x < columns * kLanes<T>; x += kLanes<T>) {
                        add_taps_to_block<block_rows()>(results + y * results_row + x, results_row,
                                                        source + y * source_row + x, source_row, taps, count);
                    }
                });
            }
        }
    }
}

template <int count, typename T>
void correlate_some_taps(const TapSum<T, const T>& sum, Tap<T>* taps) {
    // In a row's last vector, what lies past its end does not count.
    Vector<T> lanes{};
    for (int lane = 0; lane < kLanes<T>; ++lane) {
        lanes[lane] = static_cast<T>(lane);
    }
    const int64_t whole = sum.size[2] / kLanes<T> * kLanes<T>;
    const auto rest = static_cast<T>(sum.size[2] - whole);

    Vector<T> sums[count]{};
    const auto add = [&](const T* grads, const T* source, const auto& counted) {
        const Vector<T> grad = load(grads);
#pragma GCC unroll 16
        for (int t = 0; t < count; ++t) {
            sums[t] += counted(grad * load(source + taps[t].offset));
        }
    };
    for (int64_t n = 0; n < sum.images; ++n) {
        for (int64_t z = 0; z < sum.size[0]; ++z) {
            for (int64_t y = 0; y < sum.size[1]; ++y) {
                const T* grads = sum.results + n * sum.result_layout.image + z * sum.result_layout.plane +
                                 y * sum.result_layout.row;
                const T* source = sum.source + n * sum.source_layout.image + z * sum.source_layout.plane +
                                  y * sum.source_layout.row;
                for (int64_t x = 0; x < whole; x += kLanes<T>) {
                    add(grads + x, source + x, [](const Vector<T>& products) { return products; });
                }
                if (whole < sum.size[2]) {
                    add(grads + whole, source + whole,
                        [&](const Vector<T>& products) { return lanes < rest ? products : Vector<T>{}; });
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < count; ++t) {
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            taps[t].coefficient += sums[t][lane];
        }
    }
}

template <typename T>
void correlate_taps(const TapSum<T, const T>& sum, Tap<T>* taps, int64_t count) {
    for (int64_t t = 0; t < count; t += kBlockTaps) {
        with_count<kBlockTaps>(count - t, [&](auto some) { correlate_some_taps<some()>(sum, taps + t); });
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
