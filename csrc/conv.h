// A convolution with learned positions, as its methods take it.
#pragma once

#include "geometry.h"
#include "parameters.h"

#include <algorithm>

namespace dcls {

// The checked arguments of a convolution, but for its bias. It holds references: they must outlive it.
struct Convolution {
    const Tensor& input;  // batched
    const Tensor &weight, &positions;
    const OptionalTensor& sigma;
    const KernelArguments& kernel;
    const ConvArguments& arguments;

    Geometry geometry() const { return {kernel, arguments, input}; }
    PreparedParameters parameters() const { return {weight, positions, sigma}; }
};

enum class Pass { forward, backward };

// Whether method "im2col" can be taken.
inline bool takes_im2col(const Convolution& convolution) {
    return convolution.kernel.shared_positions && !convolution.kernel.is_partly_dense();
}

// Taps that an element touches along a learned axis, for estimates of costs: as many as the caller says, or as the
// layers' initial widths (1 and half a tap) make it. Values are not looked at.
inline int64_t usual_taps(Version version, const OptionalInt& touched_taps, int64_t extent) {
    const int64_t initial = version == Version::gauss ? 7 : 2;
    return std::min(has_sigma(version) ? touched_taps.value_or(initial) : initial, extent);
}

}  // namespace dcls
