// Tabulation of the factors of a filter's elements: what inner_loops/factor_loops.h does.
#pragma once

#include "../contraction.h"

namespace dcls::cpu {

// One element's factors along one axis, by tap, and their sums over the axis. Outside `range` they are 0; arrays say so
// only in the vectors that `range` meets.
template <typename T>
struct AxisFactors {
    T *value, *d_position, *d_sigma;
    TapRange range;
    AxisSums<T> sums;
};

// The elements of one filter. Arrays of factors start at a multiple of kBufferAlignment bytes (aligned_vector.h) and
// end with a whole vector. Along axes before the first learned one, an element has one tap, with the factor 1.
template <typename T>
struct FilterElements {
    Axes extent;
    int first_axis;  // that is learned
    int64_t count;
    AxisFactors<T>* axes;  // (count, kAxes)
};

// For one version.
template <typename T>
struct FactorLoops {
    // Sets the factors of all elements, without and with derivatives. positions and sigma point at the filter's first
    // element on the first axis; axis_stride leads to the next axis.
    using Tabulate = void (*)(const FilterElements<T>&, const T* positions, const T* sigma, int64_t axis_stride);
    Tabulate tabulate, tabulate_with_derivatives;
};

}  // namespace dcls::cpu
