// Depthwise convolution as kernels see it: output, gradient of the input and gradient of the kernel are all
//
//     out[y, x] = sum over taps (j, i) of kernel[j, i] * in[y + j, x + i]
//
// for planes in three roles, at stride 1. Any other stride s splits into phases: every s-th tap, from tap r on, meets
// every s-th input. The output is a sum over phases; of either gradient, a phase makes every s-th row and column. So
// one formula does it all, on maps that skip rows and columns of planes (AxisMap).
#pragma once

#include "../../axes.h"

#include <cuda_runtime.h>

#include <algorithm>

namespace dcls::cuda {

enum class Role { forward, grad_input, grad_kernel };

// Numbers are divided by strides often, and those are mostly 1.
__host__ __device__ inline int ceil_div_by_stride(int a, int stride) { return stride == 1 ? a : ceil_div(a, stride); }

// One axis of a depthwise convolution.
struct AxisShape {
    int input, kernel, output, stride, padding;

    __host__ __device__ int phases() const { return std::min(stride, kernel); }
};

// Some entries of a plane along an axis: entry `first`, and every step-th from there.
struct Line {
    int first, step;

    __host__ __device__ int operator[](int i) const { return first + i * step; }
    __host__ __device__ Line from(int i) const { return {(*this)[i], step}; }
};

// One axis of out[i] = sum over j of kernel[j] * in[i + j]. Inputs are 0 outside 0 .. in_extent - 1.
struct AxisMap {
    int outputs, taps, in_extent;
    Line out, tap, in;

    // Every i + j that is inside.
    __host__ __device__ Steps<int> inside() const {
        return {ceil_div_by_stride(-in.first, in.step), ceil_div_by_stride(in_extent - in.first, in.step)};
    }
};

__host__ __device__ inline AxisMap axis_map(Role role, const AxisShape& a, int phase) {
    const int taps = ceil_div_by_stride(a.kernel - phase, a.stride), shift = phase - a.padding;
    switch (role) {
        case Role::forward:
            // out[y] = sum over q of kernel[s q + r] in[s (y + q) + r - padding]
            return {a.output, taps, a.input, {0, 1}, {phase, a.stride}, {shift, a.stride}};
        case Role::grad_input: {
            // grad_input[s u + r - padding] = sum over q of kernel[s q + r] grad_output[u - q], for every u
            // that is inside
            const int begin = ceil_div_by_stride(-shift, a.stride);
            const int end = ceil_div_by_stride(a.input - shift, a.stride);
            return {std::max(end - begin, 0),
                    taps,
                    a.output,
                    {begin * a.stride + shift, a.stride},
                    {phase + (taps - 1) * a.stride, -a.stride},
                    {begin - taps + 1, 1}};
        }
        default:
            // grad_kernel[s q + r] = sum over y of grad_output[y] in[s (q + y) + r - padding]
            return {taps, a.output, a.input, {phase, a.stride}, {0, 1}, {shift, a.stride}};
    }
}

// The outputs of the phase that has the most.
__host__ __device__ inline int most_outputs(Role role, const AxisShape& a) {
    return role == Role::forward ? a.output : ceil_div(role == Role::grad_input ? a.input : a.kernel, a.stride);
}

// Of entries `reach` to `reach` + most - 1 of AxisMap's input, those that are inside: `count` from `first` on, none if
// that is negative.
struct Met {
    int reach, first, count;

    __device__ Met(const AxisMap& axis, int reach_, int most) : reach(reach_) {
        const Steps<int> inside = axis.inside();
        first = std::max(reach, inside.begin);
        count = std::min(reach + most, inside.end) - first;
    }
};

struct Problem {
    AxisShape y, x;
    int images, channels, multiplier;

    __host__ __device__ int out_channels() const { return channels * multiplier; }
    __host__ __device__ int phases() const { return y.phases() * x.phases(); }
    __host__ __device__ int kernel_entries() const { return y.kernel * x.kernel; }
    // What the output of a role is made of: its channels, and how many correlations are added up for each.
    __host__ __device__ int channels_made(Role role) const {
        return role == Role::grad_input ? channels : out_channels();
    }
    __host__ __device__ int terms(Role role) const { return role == Role::grad_input ? multiplier : phases(); }
};

// Which planes go into one term of an output's channel, and those of its neighbours, `apart` further on each. (A
// channel of input that goes into several of the output has no such neighbours.)
struct Sources {
    int in, kernel, apart;

    __device__ Sources(Role role, const Problem& problem, int channel, int term)
        : in(role == Role::grad_input ? channel * problem.multiplier + term : channel / problem.multiplier),
          kernel(role == Role::grad_input ? in : channel),
          apart(role == Role::grad_input ? problem.multiplier : 1) {}
};

// How many of `count` each gets if they are shared out evenly, at most `most` to each.
inline int even_share(int count, int most) { return count == 0 ? 1 : ceil_div(count, ceil_div(count, most)); }

// Both axes, in one phase.
struct PlaneMap {
    AxisMap y, x;

    __host__ __device__ PlaneMap(Role role, const Problem& problem, int phase)
        : y(axis_map(role, problem.y, phase == 0 ? 0 : phase / problem.x.phases())),
          x(axis_map(role, problem.x, phase == 0 ? 0 : phase % problem.x.phases())) {}
};

}  // namespace dcls::cuda
