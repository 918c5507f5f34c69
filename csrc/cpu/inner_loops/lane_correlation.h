// Depthwise correlation with a plane in every lane (depthwise_loops.h).
//
// A block of up to kMostColumns results of a row stays in registers while the rows of kernel and source that meet in it
// go by. For every entry of the held operand there is one load of it, and one multiply-add with a load from the other
// operand for every result. All loads are aligned. Bound by the multiply-adds: two loads a cycle keep two of them busy.
#pragma once

#include "../depthwise_loops.h"
#include "vectors.h"

#include <algorithm>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// With the two more registers that a multiply-add needs where it takes two instructions, all that 128- and 256-bit
// units have. Wider ones have twice as many, and gain nothing from more.
constexpr int kMostColumns = 14;

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

// step: result_step in vectors where it is known when compiling, or 0.
template <int columns, int step, typename T>
void correlate_block(const BlockOperands<T>& block, T* result) {
    const int64_t result_step = step != 0 ? step * kLanes<T> : block.result_step;
    Vector<T> sums[columns];
#pragma GCC unroll 16
    for (int i = 0; i < columns; ++i) {
        sums[i] = load(result + i * kLanes<T>);
    }
    for (int64_t z = 0; z < block.planes; ++z) {
        for (int64_t y = 0; y < block.rows; ++y) {
            const T* held = block.held.first + z * block.held.plane + y * block.held.row;
            const T* streamed = block.streamed.first + z * block.streamed.plane + y * block.streamed.row;
            for (int64_t j = 0; j < block.count; ++j) {
                const Vector<T> factor = load(held);
#pragma GCC unroll 16
                for (int i = 0; i < columns; ++i) {
                    sums[i] += factor * load(streamed + i * result_step);
                }
                held += kLanes<T>;
                streamed += block.streamed_step;
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
    switch (block.result_step / kLanes<T>) {
        case 1:
            return correlate_block<columns, 1>(block, result);
        case -1:
            return correlate_block<columns, -1>(block, result);
        default:
            return correlate_block<columns, 0>(block, result);
    }
}

// The taps that meet the source for result r along one axis, and where the first of them does.
struct Meeting {
    int64_t first_tap, taps, first_entry;

    template <typename T>
    Meeting(const Correlation<T>& c, int axis, int64_t r) {
        const int64_t start = r * c.result_step[axis] - c.padding[axis], step = c.kernel_step[axis];
        first_tap = start < 0 ? ceil_div(-start, step) : 0;
        const int64_t past_last = std::min(c.kernel_size[axis], ceil_div(c.source_size[axis] - start, step));
        taps = std::max<int64_t>(past_last - first_tap, 0);
        first_entry = start + first_tap * step;
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
