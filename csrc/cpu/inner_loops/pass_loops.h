// The inner loops of method "im2col": for every result of a pass the sum over taps, that sum's transpose, and for every
// tap the sum over results.
//
// Bound by one load and one multiply-add a touched tap, from a window that fits a core's L1 or L2 cache.
#pragma once

#include "../im2col/pass_loops.h"
#include "vectors.h"

#include <algorithm>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

template <int taps, bool accumulate, typename T>
void weigh_some_taps(const PassShape& shape, const T* __restrict source, const T* __restrict factor,
                     T* __restrict results) {
    const auto weigh_all = [&](int64_t step) {
        for (int64_t j = 0; j < shape.count; ++j) {
            T sum = factor[0] * source[j * step];
            for (int t = 1; t < taps; ++t) {
                sum += factor[t] * source[j * step + t * shape.tap_step];
            }
            results[j] = accumulate ? results[j] + sum : sum;
        }
    };
    shape.step == 1 ? weigh_all(1) : weigh_all(shape.step);
}

// A few taps at a time.
template <typename T>
void weigh(const PassShape& shape, const T* source, const T* factor, T* results) {
    switch (shape.taps) {
        case 1:
            return weigh_some_taps<1, false>(shape, source, factor, results);
        case 2:
            return weigh_some_taps<2, false>(shape, source, factor, results);
        case 3:
            return weigh_some_taps<3, false>(shape, source, factor, results);
        default:
            weigh_some_taps<4, false>(shape, source, factor, results);
    }
    int64_t t = 4;
    for (; t + 4 <= shape.taps; t += 4) {
        weigh_some_taps<4, true>(shape, source + t * shape.tap_step, factor + t, results);
    }
    for (; t < shape.taps; ++t) {
        weigh_some_taps<1, true>(shape, source + t * shape.tap_step, factor + t, results);
    }
}

template <typename T>
void spread(const PassShape& shape, const T* __restrict grads, const T* __restrict factor, T* __restrict grad_source) {
    for (int64_t t = 0; t < shape.taps; ++t) {
        T* __restrict row = grad_source + t * shape.tap_step;
        if (shape.step == 1) {
            for (int64_t j = 0; j < shape.count; ++j) {
                row[j] += factor[t] * grads[j];
            }
        } else {
            for (int64_t j = 0; j < shape.count; ++j) {
                row[j * shape.step] += factor[t] * grads[j];
            }
        }
    }
}

// correlate_pass, because another contract has a correlate().
template <typename T>
void correlate_pass(const PassShape& shape, const T* __restrict grads, const T* __restrict source,
                    T* __restrict grad_factor) {
    for (int64_t t = 0; t < shape.taps; ++t) {
        const T* __restrict row = source + t * shape.tap_step;
        T sum = 0;
        if (shape.step == 1) {
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < shape.count; ++j) {
                sum += grads[j] * row[j];
            }
        } else {
            for (int64_t j = 0; j < shape.count; ++j) {
                sum += grads[j] * row[j * shape.step];
            }
        }
        grad_factor[t] += sum;
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
