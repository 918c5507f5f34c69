// From the factors of a filter's elements to its taps, and back: what inner_loops/outer_product_loops.h does.
#pragma once

#include "factor_loops.h"

namespace dcls::cpu {

// For one version, over all elements of a filter. Its taps are contiguous; `padded` has room for them in rows of whole
// vectors.
template <typename T>
struct OuterProductLoops {
    // taps = the sum of the elements' outer products, each divided by its normalisation and times its weight.
    void (*sum_outer_products)(const FilterElements<T>&, const T* weight, T* padded, T* taps);
    // Contracts a gradient of the taps with every element. The padding of `padded` must be 0.
    void (*contract)(const FilterElements<T>&, const T* grad_taps, T* padded, Contraction<T>* contractions);
};

}  // namespace dcls::cpu
