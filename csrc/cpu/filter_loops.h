// What the inner loops of a filter's elements work on (inner_loops/factors.h, outer_products.h).
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

// Loops over all elements of a filter, for one version. Its taps are contiguous; `padded` has room for them in rows of
// whole vectors.
template <typename T>
struct FilterLoops {
    // Sets the factors, without and with derivatives. positions and sigma point at the filter's first element on the
    // first axis; axis_stride leads to the next axis.
    using Tabulate = void (*)(const FilterElements<T>&, const T* positions, const T* sigma, int64_t axis_stride);
    Tabulate tabulate, tabulate_with_derivatives;

    // taps = the sum of the elements' outer products, each divided by its normalisation and times its weight.
    void (*sum_outer_products)(const FilterElements<T>&, const T* weight, T* padded, T* taps);
    // Contracts a gradient of the taps with every element. The padding of `padded` must be 0.
    void (*contract)(const FilterElements<T>&, const T* grad_taps, T* padded, Contraction<T>* contractions);
};

}  // namespace dcls::cpu
