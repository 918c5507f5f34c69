// Correlation of two operands with a plane in every lane: what inner_loops/correlation_loops.h does.
//
// Convolution treats planes alike and apart from each other. So each lane of a vector takes a plane of its own
// (plane_loops.h), and no lane ever needs another's value, whatever the kernel, the stride and the width of the image.
#pragma once

#include "../../axes.h"

namespace dcls::cpu {

// Results `first` to `first + count` of a row, and the range of the held operand that they need.
struct RowBlock {
    int64_t first, count, begin, end;
};

// How a row of results is computed: in blocks, whose sums stay in registers. An entry of the *held* operand is read
// once for a block, and multiplied with one entry of the other for each of its results. The other operand's rows have
// zeros at their ends, so that a block need not be cut where they end.
enum class Held { kernel, source };

struct RowPlan {
    Held held;
    int64_t zeros_before, zeros_after;
    const RowBlock* blocks;
    int64_t block_count;
};

// result[r] += sum over taps a of kernel[a] * source[r * result_step + a * kernel_step - padding], in every lane; the
// source is 0 outside of its size. Steps and padding may be anything: a convolution and both of its gradients are
// correlations (depthwise_conv.cpp).
template <typename T>
struct Correlation {
    T* result;
    const T *kernel, *source;
    Axes result_size, kernel_size, source_size, result_step, kernel_step, padding;
    RowPlan rows;
};

template <typename T>
struct CorrelationLoops {
    // Results of a row, up to half as many more or fewer: results are cut into the number of blocks nearest to it,
    // rather than into more blocks, some of them small.
    int64_t in_block;

    void (*correlate)(const Correlation<T>& correlation);
};

}  // namespace dcls::cpu
