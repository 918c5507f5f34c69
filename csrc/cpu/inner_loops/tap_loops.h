// The inner loops of method "direct": for every pixel of a tile the sum over taps, and for every tap the sum over
// the pixels of a tile.
//
// The first keeps the sums of a vector of pixels in each of up to kMostSums rows in registers while it visits all taps;
// the second the sums of up to kMostSums taps while it visits the tile. Bound by the loads, one a tap and vector, or
// one for the two taps of a pair: unless bundles are of several images, most of them cross cache lines, which halves
// their rate.
#pragma once

#include "../direct/tap_loops.h"
#include "vectors.h"

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// Half of the registers.
constexpr int kMostSums = kVectorBytes == 64 ? 16 : 8;

template <int rows, bool paired, typename T>
void add_taps_to_rows(T* results, int64_t results_row, const T* source, int64_t source_row, const TapList<T>& list) {
    Vector<T> sums[rows];
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
        sums[row] = load(results + row * results_row);
    }
    for (int64_t t = 0; t < list.count; ++t) {
        const auto [first, second] = list.taps[t].coefficients;
        const T* from = source + list.taps[t].offset;
#pragma GCC unroll 17
        for (int row = 0; row < rows + paired; ++row) {
            Vector<T> pixels = load(from + row * source_row);
            if (paired) {
                keep_in_register(pixels);
            }
            if (row < rows) {
                sums[row] += first * pixels;
            }
            if (paired && row > 0) {
                sums[row - 1] += second * pixels;
            }
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
        store(sums[row], results + row * results_row);
    }
}

template <bool paired, typename T>
void add_all_taps(const TapSum<T, T>& sum, const TapList<T>& list) {
    // The vectors of a single row are treated as rows.
    const bool is_row = list.pairing != Pairing::rows && sum.size[1] == 1;
    const int64_t vectors = ceil_div(sum.size[2], kLanes<T>);
    const int64_t rows = is_row ? vectors : sum.size[1], columns = is_row ? 1 : vectors;
    const int64_t results_row = is_row ? kLanes<T> : sum.result_layout.row;
    const int64_t source_row = is_row ? kLanes<T> : sum.source_layout.row;
    const int64_t blocks = ceil_div(rows, kMostSums);
    for (int64_t n = 0; n < sum.bundles; ++n) {
        for (int64_t z = 0; z < sum.size[0]; ++z) {
            T* results = sum.results + n * sum.result_layout.bundle + z * sum.result_layout.plane;
            const T* source = sum.source + n * sum.source_layout.bundle + z * sum.source_layout.plane;
            for (int64_t block = 0; block < blocks; ++block) {
                const int64_t y = rows * block / blocks, end = rows * (block + 1) / blocks;
                with_count<kMostSums>(end - y, [&](auto count) {
                    for (int64_t x = 0; x < columns * kLanes<T>; x += kLanes<T>) {
                        add_taps_to_rows<count(), paired>(results + y * results_row + x, results_row,
                                                          source + y * source_row + x, source_row, list);
                    }
                });
            }
        }
    }
}

template <int count, bool paired, typename T>
void correlate_some_taps(const TapSum<T, const T>& sum, Pairing pairing, Tap<T>* taps) {
    // In a row's last vector, what lies past its end does not count.
    const auto lanes = load_as<Vector<T>>(kLaneNumbers<T>);
    const int64_t whole = sum.size[2] / kLanes<T> * kLanes<T>;
    const auto rest = static_cast<T>(sum.size[2] - whole);

    Vector<T> first[count]{}, second[paired ? count : 1]{};
    // Vectors one after the other: of a row, or one above the other where taps are.
    const auto add = [&](const T* grads, int64_t grads_step, const T* source, int64_t source_step, int64_t vectors,
                         const auto& counted) {
        Vector<T> grad{}, grad_before{};
        for (int64_t v = 0; v < vectors + paired; ++v) {
            grad_before = grad;
            grad = !paired || v < vectors ? load(grads + v * grads_step) : Vector<T>{};
            const T* from = source + v * source_step;
#pragma GCC unroll 16
            for (int t = 0; t < count; ++t) {
                Vector<T> pixels = load(from + taps[t].offset);
                if (paired) {
                    keep_in_register(pixels);
                    second[t] += counted(grad_before * pixels);
                }
                first[t] += counted(grad * pixels);
            }
        }
    };
    const auto all = [](const Vector<T>& products) { return products; };
    const auto before_rest = [&](const Vector<T>& products) { return lanes < rest ? products : Vector<T>{}; };
    const int64_t grads_row = sum.result_layout.row, source_row = sum.source_layout.row;
    for (int64_t n = 0; n < sum.bundles; ++n) {
        for (int64_t z = 0; z < sum.size[0]; ++z) {
            const T* grads = sum.results + n * sum.result_layout.bundle + z * sum.result_layout.plane;
            const T* source = sum.source + n * sum.source_layout.bundle + z * sum.source_layout.plane;
            if (pairing == Pairing::rows) {
                for (int64_t x = 0; x < whole; x += kLanes<T>) {
                    add(grads + x, grads_row, source + x, source_row, sum.size[1], all);
                }
                if (whole < sum.size[2]) {
                    add(grads + whole, grads_row, source + whole, source_row, sum.size[1], before_rest);
                }
            } else {
                for (int64_t y = 0; y < sum.size[1]; ++y, grads += grads_row, source += source_row) {
                    add(grads, kLanes<T>, source, kLanes<T>, whole / kLanes<T>, all);
                    if (whole < sum.size[2]) {
                        add(grads + whole, 0, source + whole, 0, 1, before_rest);
                    }
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < count; ++t) {
        for (int lane = 0; lane < kLanes<T>; ++lane) {
            taps[t].coefficients[0] += first[t][lane];
            if (paired) {
                taps[t].coefficients[1] += second[t][lane];
            }
        }
    }
}

template <bool paired, typename T>
void correlate_all_taps(const TapSum<T, const T>& sum, const TapList<T>& list) {
    constexpr int most = paired ? kMostSums / 2 : kMostSums;
    for (int64_t t = 0; t < list.count; t += most) {
        with_count<most>(list.count - t,
                         [&](auto count) { correlate_some_taps<count(), paired>(sum, list.pairing, list.taps + t); });
    }
}

template <typename T>
void add_taps(const TapSum<T, T>& sum, const TapList<T>& list) {
    list.pairing != Pairing::none ? add_all_taps<true>(sum, list) : add_all_taps<false>(sum, list);
}

template <typename T>
void correlate_taps(const TapSum<T, const T>& sum, const TapList<T>& list) {
    list.pairing != Pairing::none ? correlate_all_taps<true>(sum, list) : correlate_all_taps<false>(sum, list);
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
