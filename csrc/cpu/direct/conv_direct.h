// Method "direct" on the CPU: convolution that visits only the taps that elements touch.
#pragma once

#include "../../conv.h"
#include "../../gradients.h"

namespace dcls::cpu {

// How finely work is cut where there is enough of it: into this many items at least.
constexpr int64_t kDirectItems = 16;

// How far the taps reach, in pixels of a phase.
inline Axes reach_of(const Geometry& geometry) {
    Axes reach{};
    for (int axis = 0; axis < kAxes; ++axis) {
        reach[axis] = (geometry.kernel_size[axis] - 1) / geometry.stride[axis];
    }
    return reach;
}

// Whether images lie interleaved in memory while they are summed, so that all loads are aligned.
bool interleaves_images(const Geometry& geometry);

Tensor conv_direct(const Convolution& convolution, const OptionalTensor& bias);

ConvGradients<Tensor> conv_direct_backward(const Tensor& grad_output, const Convolution& convolution,
                                           const ConvGradients<bool>& wanted);

}  // namespace dcls::cpu
