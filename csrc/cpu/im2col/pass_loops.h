// The passes of method "im2col" along one axis: what inner_loops/pass_loops.h does.
#pragma once

#include <cstdint>

namespace dcls::cpu {

// One pass along an axis: `count` results that are next to each other. Result j reads at tap t the source
// j * step + t * tap_step.
struct PassShape {
    int64_t count, step, tap_step, taps;
};

template <typename T>
struct PassLoops {
    // results[j] = sum over t of factor[t] * source[j * step + t * tap_step].
    void (*weigh)(const PassShape& shape, const T* source, const T* factor, T* results);
    // The gradient of weigh() in the source, added to: grad_source[j * step + t * tap_step] += factor[t] * grads[j].
    void (*spread)(const PassShape& shape, const T* grads, const T* factor, T* grad_source);
    // The gradient of weigh() in the factors, added to:
    // grad_factor[t] += sum over j of grads[j] * source[j * step + t * tap_step].
    void (*correlate)(const PassShape& shape, const T* grads, const T* source, T* grad_factor);
};

}  // namespace dcls::cpu
