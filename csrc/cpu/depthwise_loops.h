// What the inner loops of depthwise convolutions work on (inner_loops/lanes.h, lane_correlation.h).
//
// A *plane* is one channel of one image. Convolution treats planes alike and apart from each other, so each lane of a
// vector takes a plane of its own: no lane ever needs another's value, whatever the kernel, the stride and the width of
// the image. Planes are gathered into buffers [vector][z][y][x][lane] of the compute dtype, which start at a multiple
// of kBufferAlignment bytes (aligned_vector.h); more than one vector, where a cache line holds values of more planes.
#pragma once

#include "../axes.h"

namespace dcls::cpu {

constexpr int64_t kMostPlanes = 16;

enum class Storage { float64, float32, float16, bfloat16 };

// The same box of some planes of a tensor, one for each lane of one vector after the other. The last vector may have
// fewer. Strides count entries.
struct LanePlanes {
    void* data;
    Storage storage;
    int64_t count;
    std::array<int64_t, kMostPlanes> first;  // entry of each plane
    Axes size, stride;
};

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
struct DepthwiseLoops {
    // Results of a row, up to half as many more or fewer: results are cut into the number of blocks nearest to it,
    // rather than into more blocks, some of them small.
    int64_t in_block;

    // Reads planes into a buffer whose rows get zeros at their ends. Lanes without a plane are 0.
    void (*gather)(const LanePlanes& planes, int64_t zeros_before, int64_t zeros_after, T* buffer);
    // Writes a buffer to planes, rounded to their storage.
    void (*scatter)(const T* buffer, const LanePlanes& planes);
    void (*correlate)(const Correlation<T>& correlation);
};

}  // namespace dcls::cpu
