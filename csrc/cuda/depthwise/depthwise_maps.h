// Depthwise convolution as kernels see it: output, gradient of the input and gradient of the kernel are all
//
//     out[y, x] = sum over taps (j, i) of kernel[j, i] * in[y + j, x + i]
//
// for planes in three roles, at stride 1. Any other stride s splits into phases: every s-th tap, from tap r on, meets
// every s-th input. The output is a sum over phases; of either gradient, a phase makes every s-th row and column. So
// one kernel does it all, on maps that skip rows and columns of planes (AxisMap).
#pragma once

#include "../../parameters.h"
#include "../launch.h"
#include "../planes.h"

#include <algorithm>

namespace dcls::cuda {

enum class Role { forward, grad_input, grad_kernel };

// One axis of a depthwise convolution, in indices of type I.
template <typename I>
struct AxisShape {
    I input, kernel, output, stride, padding;

    __host__ __device__ I phases() const { return std::min(stride, kernel); }
};

// Some entries of a plane along an axis: entry `first`, and every step-th from there.
template <typename I>
struct Line {
    I first, step;

    __device__ I operator[](I i) const { return first + i * step; }
};

// One axis of out[i] = sum over j of kernel[j] * in[i + j]. Inputs are 0 outside 0 .. in_extent - 1.
template <typename I>
struct AxisMap {
    I outputs, taps, in_extent;
    Line<I> out, tap, in;

    // Every i + j that is inside.
    __host__ __device__ Steps<I> inside() const { return steps_inside(in.first, in.step, in_extent); }
};

template <Role role, typename I>
__host__ __device__ AxisMap<I> axis_map(const AxisShape<I>& a, I phase) {
    const I taps = ceil_div(a.kernel - phase, a.stride), shift = phase - a.padding;
    if constexpr (role == Role::forward) {
        // out[y] = sum over q of kernel[s q + r] in[s (y + q) + r - padding]
        return {a.output, taps, a.input, {0, 1}, {phase, a.stride}, {shift, a.stride}};
    } else if constexpr (role == Role::grad_input) {
        // grad_input[s u + r - padding] = sum over q of kernel[s q + r] grad_output[u - q], for every u
        // that is inside
        const Steps<I> inside = steps_inside(shift, a.stride, a.input);
        return {std::max<I>(inside.count(), 0),
                taps,
                a.output,
                {inside.begin * a.stride + shift, a.stride},
                {phase + (taps - 1) * a.stride, -a.stride},
                {inside.begin - taps + 1, 1}};
    } else {
        // grad_kernel[s q + r] = sum over y of grad_output[y] in[s (q + y) + r - padding]
        return {taps, a.output, a.input, {phase, a.stride}, {0, 1}, {shift, a.stride}};
    }
}

// The outputs of the phase that has the most.
template <Role role, typename I>
__host__ __device__ I most_outputs(const AxisShape<I>& a) {
    return role == Role::forward ? a.output : ceil_div(role == Role::grad_input ? a.input : a.kernel, a.stride);
}

struct Problem {
    AxisShape<int64_t> y, x;
    int64_t images, channels, multiplier;
    int64_t chunk;  // images whose part in a gradient of kernels goes into one sum
};

// How many of `count` each gets if they are shared out evenly, at most `most` to each.
inline int even_share(int64_t count, int64_t most) { return static_cast<int>(ceil_div(count, ceil_div(count, most))); }

// depthwise_tensor_cores.cu. Returns false where it cannot: then nothing was launched.
template <Role role, typename T>
bool correlate_by_tensor_cores(const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel,
                               const Tensor& out, const PreparedBias& bias);

}  // namespace dcls::cuda
