// Sums over the touched taps of method "direct", and their gradient: what inner_loops/tap_loops.h does.
#pragma once

#include "../../axes.h"

namespace dcls::cpu {

// Boxes of some channels, bundles and phases (boxes.h): entries from one channel, bundle, phase, plane and row to the
// next.
struct Layout {
    int64_t channel, bundle, phase, plane, row;
};

// Taps that share loads: a tap and the one that reads the row after it, or, in bundles of several images with one row,
// the pixel after it.
enum class Pairing { none, rows, pixels };

// Where a tap reads, from the pixel that it adds to, and what it multiplies by, and what the other one of a pair does.
template <typename T>
struct Tap {
    int64_t offset;
    std::array<T, 2> coefficients;
};

template <typename T>
struct TapList {
    Tap<T>* taps;
    int64_t count;
    Pairing pairing;
};

// Pixels of one channel and phase, in boxes of results and of sources.
template <typename T, typename Results>
struct TapSum {
    int64_t bundles;
    Axes size;
    Results* results;
    const T* source;
    const Layout &result_layout, &source_layout;
};

template <typename T>
struct TapLoops {
    // Rows in boxes are whole vectors long, but for what taps reach further.
    // results[p] += sum over taps of coefficient * source[p + offset], for all pixels p. What lies past the ends of
    // rows is read and added to as well.
    void (*add_taps)(const TapSum<T, T>& sum, const TapList<T>& list);
    // The gradient of add_taps() in the coefficients, which are added to: coefficient += sum over the pixels p of
    // results[p] * source[p + offset], where the results are gradients.
    void (*correlate_taps)(const TapSum<T, const T>& sum, const TapList<T>& list);
};

}  // namespace dcls::cpu
