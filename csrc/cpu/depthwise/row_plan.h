// How the rows of a correlation are cut into blocks (correlation_loops.h).
#pragma once

#include "correlation_loops.h"

#include <algorithm>
#include <vector>

namespace dcls::cpu {

// The last axis of a Correlation: result r meets pixel r * result_step + tap * kernel_step - padding.
struct RowShape {
    int64_t results, taps, pixels, result_step, kernel_step, padding;
};

// The blocks, if one operand is held. They leave out results that meet nothing.
class RowPlanner {
 public:
    RowPlanner(const RowShape& row, Held held, int64_t in_block) : held_(held) {
        const auto [result_count, taps, pixels, result_step, kernel_step, padding] = row;
        const int64_t reach = (taps - 1) * kernel_step;
        // The results that meet anything.
        const Steps met = steps_inside(reach - padding, result_step, pixels + reach, result_count);
        const int64_t results = met.count();
        const int64_t nearest = (results + in_block / 2) / in_block;
        const int64_t count = std::min(std::max<int64_t>(nearest, 1), results);
        for (int64_t b = 0; b < count; ++b) {
            const int64_t first = met.begin + results * b / count;
            const int64_t last = met.begin + results * (b + 1) / count - 1;
            // What the first and the last result of the block read, at the kernel's first tap.
            const int64_t low = first * result_step - padding, high = last * result_step - padding;
            if (held == Held::kernel) {
                const auto [begin, end] = steps_inside(high, kernel_step, pixels + high - low, taps);
                add({first, last - first + 1, begin, end}, low + begin * kernel_step, high + (end - 1) * kernel_step,
                    pixels);
            } else {
                const auto [begin, end] = steps_inside(-low, 1, taps + high - low, pixels);
                add({first, last - first + 1, begin, end}, begin - high, end - 1 - low, taps);
            }
        }
    }

    // Multiply-adds of a row of results with one row of kernel and source.
    int64_t cost() const {
        int64_t cost = 0;
        for (const RowBlock& block : blocks_) {
            cost += block.count * (block.end - block.begin);
        }
        return cost;
    }
    // Zeros at the ends of rows of an operand.
    int64_t before(Held operand) const { return operand == held_ ? 0 : before_; }
    int64_t after(Held operand) const { return operand == held_ ? 0 : after_; }
    int64_t zeros(Held operand) const { return before(operand) + after(operand); }

    RowPlan plan() const { return {held_, before_, after_, blocks_.data(), static_cast<int64_t>(blocks_.size())}; }

 private:
    // A block that reads entries `lowest` to `highest` of the other operand, which has `entries`.
    void add(const RowBlock& block, int64_t lowest, int64_t highest, int64_t entries) {
        if (block.begin < block.end) {
            blocks_.push_back(block);
            before_ = std::max(before_, -lowest);
            after_ = std::max(after_, highest - (entries - 1));
        }
    }

    Held held_;
    int64_t before_ = 0, after_ = 0;
    std::vector<RowBlock> blocks_;
};

// The plan that holds the operand for which a row costs less. To hold the source, the other operand's entries must
// follow each other.
inline RowPlanner plan_rows(const RowShape& row, int64_t in_block) {
    RowPlanner hold_kernel(row, Held::kernel, in_block);
    if (row.kernel_step == 1) {
        RowPlanner hold_source(row, Held::source, in_block);
        if (hold_source.cost() < hold_kernel.cost()) {
            return hold_source;
        }
    }
    return hold_kernel;
}

}  // namespace dcls::cpu
