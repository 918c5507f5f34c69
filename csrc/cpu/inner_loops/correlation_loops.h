// Correlation with a plane in every lane.
//
// A block of results of a row stays in registers while the rows of kernel and source that meet in it go by. A few
// neighbouring entries of the held operand stay with it, for all that the block reads of the other one: each entry that
// is loaded then meets all of them, each time in the sum of another result. Here for 5 sums s and 3 held taps f:
//
//     entry   0      1      2      3      4      5      6
//     f0      s0     s1     s2     s3     s4
//     f1             s0     s1     s2     s3     s4
//     f2                    s0     s1     s2     s3     s4
//
// So a load serves up to kMostTaps multiply-adds. It needs entries that follow each other on both sides; where there
// are strides, every multiply-add loads. All loads are aligned. Bound by the multiply-adds.
#pragma once

#include "../depthwise/correlation_loops.h"
#include "vectors.h"

#include <algorithm>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// 10 sums and 4 held taps fill 16 registers, with two more for what is loaded and for a multiply-add that takes two
// instructions. At least 8 sums must be on their way for two multiply-adds a cycle, each of which takes 4 cycles; so a
// row of 14 is one block, with fewer taps, and not two of 7. Where a product overwrites a factor, held taps would have
// to be copied for each, which is no faster than to load them.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32, kInBlock = 14, kMostTaps = 4;
#elif defined(__AVX2__)
constexpr int kRegisters = 16, kInBlock = 10, kMostTaps = 4;
#else
constexpr int kRegisters = 16, kInBlock = 10, kMostTaps = 1;
#endif
constexpr int kMostColumns = kInBlock * 3 / 2 - 1;  // CorrelationLoops::in_block says why

// Rows of an operand, from the first that a block reads on. Strides are in entries of T.
template <typename T>
struct Operand {
    const T* first;
    int64_t plane, row;
};

// What one block of results needs.
template <typename T>
struct BlockOperands {
    Operand<T> held, streamed;
    int64_t count;          // of held entries in a row
    int64_t streamed_step;  // from what one held entry meets to what the next one does
    int64_t result_step;    // and from one result to the next
    int64_t planes, rows;   // that meet
};

// Adds some entries of a row of the held operand, each with one entry of the other for every result.
// step: of BlockOperands::result_step in vectors where it is 1 or -1, or 0 for any.
template <int taps, int step, int columns, typename T>
[[gnu::always_inline]] inline void add_held(const T* held, const T* streamed, int64_t result_step,
                                            Vector<T> (&sums)[columns]) {
    static_assert(taps == 1 || step != 0);
    Vector<T> factors[taps];
#pragma GCC unroll 16
    for (int t = 0; t < taps; ++t) {
        factors[t] = load(held + t * kLanes<T>);
    }
    const T* const lowest = step < 0 ? streamed - (columns - 1) * kLanes<T> : streamed;
#pragma GCC unroll 32
    for (int entry = 0; entry < columns + taps - 1; ++entry) {
        Vector<T> value = load(lowest + entry * (step == 0 ? result_step : kLanes<T>));
        if constexpr (taps > 1) {
            keep_in_register(value);
        }
#pragma GCC unroll 16
        for (int t = 0; t < taps; ++t) {
            if (const int i = entry - t; i >= 0 && i < columns) {
                sums[step < 0 ? columns - 1 - i : i] += factors[t] * value;
            }
        }
    }
}

// most_taps: to hold at a time.
template <int columns, int step, int most_taps, typename T>
void correlate_block(const BlockOperands<T>& block, T* result) {
    Vector<T> sums[columns];
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) {
        sums[i] = load(result + i * kLanes<T>);
    }
    for (int64_t z = 0; z < block.planes; ++z) {
        for (int64_t y = 0; y < block.rows; ++y) {
            const T* held = block.held.first + z * block.held.plane + y * block.held.row;
            const T* streamed = block.streamed.first + z * block.streamed.plane + y * block.streamed.row;
            int64_t count = block.count;
            const auto add = [&]<int taps>(std::integral_constant<int, taps>) {
                add_held<taps, step>(held, streamed, block.result_step, sums);
                held += taps * kLanes<T>;
                streamed += taps * block.streamed_step;
                count -= taps;
            };
            while (count >= most_taps) {
                add(std::integral_constant<int, most_taps>());
            }
            if constexpr (most_taps > 2) {
                if (count >= 2) {
                    add(std::integral_constant<int, 2>());
                }
            }
            if (most_taps > 1 && count > 0) {
                add(std::integral_constant<int, 1>());
            }
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) {
        store(sums[i], result + i * kLanes<T>);
    }
}

template <int columns, typename T>
void correlate_block(const BlockOperands<T>& block, T* result) {
    constexpr int kTaps = std::clamp(kRegisters - 2 - columns, 1, kMostTaps);
    const bool follow = block.streamed_step == kLanes<T>;
    if (follow && block.result_step == kLanes<T>) {
        correlate_block<columns, 1, kTaps>(block, result);
    } else if (follow && block.result_step == -kLanes<T>) {
        correlate_block<columns, -1, kTaps>(block, result);
    } else if (block.result_step == kLanes<T>) {
        correlate_block<columns, 1, 1>(block, result);
    } else {
        correlate_block<columns, 0, 1>(block, result);
    }
}

// The taps that meet the source for result r along one axis, and where the first of them does.
struct Meeting {
    int64_t first_tap, taps, first_entry;

    template <typename T>
    Meeting(const Correlation<T>& c, int axis, int64_t r) {
        const int64_t start = r * c.result_step[axis] - c.padding[axis];
        const auto inside = steps_inside(start, c.kernel_step[axis], c.source_size[axis], c.kernel_size[axis]);
        first_tap = inside.begin;
        taps = inside.count();
        first_entry = start + first_tap * c.kernel_step[axis];
    }
};

template <typename T>
void correlate(const Correlation<T>& c) {
    const RowPlan& plan = c.rows;
    const bool holds_kernel = plan.held == Held::kernel;
    const int64_t zeros = plan.zeros_before + plan.zeros_after;
    const int64_t kernel_row = (c.kernel_size[2] + (holds_kernel ? 0 : zeros)) * kLanes<T>;
    const int64_t source_row = (c.source_size[2] + (holds_kernel ? zeros : 0)) * kLanes<T>;
    const int64_t kernel_plane = c.kernel_size[1] * kernel_row, source_plane = c.source_size[1] * source_row;
    Operand<T> kernel{nullptr, kernel_plane, kernel_row};
    Operand<T> source{nullptr, c.kernel_step[0] * source_plane, c.kernel_step[1] * source_row};
    BlockOperands<T> operands{};
    operands.streamed_step = (holds_kernel ? c.kernel_step[2] : 1) * kLanes<T>;
    operands.result_step = (holds_kernel ? c.result_step[2] : -c.result_step[2]) * kLanes<T>;
    for (int64_t b = 0; b < plan.block_count; ++b) {
        const RowBlock& block = plan.blocks[b];
        operands.count = block.end - block.begin;
        const int64_t held_column = block.begin;
        const int64_t start = block.first * c.result_step[2] - c.padding[2];
        const int64_t streamed_column =
            plan.zeros_before + (holds_kernel ? start + block.begin * c.kernel_step[2] : block.begin - start);
        const int64_t kernel_column = holds_kernel ? held_column : streamed_column;
        const int64_t source_column = holds_kernel ? streamed_column : held_column;
        for (int64_t z = 0; z < c.result_size[0]; ++z) {
            const Meeting planes(c, 0, z);
            for (int64_t y = 0; y < c.result_size[1]; ++y) {
                const Meeting rows(c, 1, y);
                operands.planes = planes.taps;
                operands.rows = rows.taps;
                kernel.first = c.kernel + planes.first_tap * kernel_plane + rows.first_tap * kernel_row +
                               kernel_column * kLanes<T>;
                source.first = c.source + planes.first_entry * source_plane + rows.first_entry * source_row +
                               source_column * kLanes<T>;
                operands.held = holds_kernel ? kernel : source;
                operands.streamed = holds_kernel ? source : kernel;
                T* result = c.result + ((z * c.result_size[1] + y) * c.result_size[2] + block.first) * kLanes<T>;
                with_count<kMostColumns>(block.count, [&](auto count) { correlate_block<count()>(operands, result); });
            }
        }
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
