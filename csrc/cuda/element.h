// One element of a kernel, as threads read it: its position along every axis, and its factors.
#pragma once

#include "../contraction.h"
#include "../filters.h"
#include "../parameters.h"
#include "warp_sum.h"

namespace dcls::cuda {

template <Version version, typename C>
struct Element {
    std::array<C, kAxes> position, sigma, inward;  // positions count from the first tap
    int first_axis;

    __device__ Element(const Filters& filters, const Parameters<C>& parameters, int64_t position_element)
        : position{}, sigma{}, inward{}, first_axis(filters.first_axis) {
#pragma unroll
        for (int axis = 0; axis < kAxes; ++axis) {
            if (axis >= first_axis) {
                const int64_t at = (axis - first_axis) * filters.position_elements() + position_element;
                const int64_t extent = filters.extent[axis];
                position[axis] = parameters.positions[at] + static_cast<C>(extent / 2);
                sigma[axis] = has_sigma(version) ? parameters.sigma[at] : C(0);
                inward[axis] = inward_side(position[axis], extent);
            }
        }
    }

    __device__ Factor<C> factor(int axis, int64_t tap) const {
        return axis < first_axis ? Factor<C>{C(1), C(0), C(0)}
                                 : interpolate<version>(static_cast<C>(tap), position[axis], sigma[axis], inward[axis]);
    }

    // Whether a factor may be NaN or infinite. It then shows at every tap, because 0 times it is NaN.
    __device__ bool is_wild() const {
        C sum = 0;
        for (int axis = 0; axis < kAxes; ++axis) {
            sum += position[axis] + sigma[axis];
            sum += version == Version::gauss && axis >= first_axis ? C(1) / sigma[axis] : C(0);
        }
        return sum - sum != C(0);
    }

    __device__ TapRange touched(int axis, int64_t extent, bool wild) const {
        return axis < first_axis || wild ? TapRange{0, extent}
                                         : touched_taps<version>(position[axis], sigma[axis], extent);
    }
};

template <typename C>
__device__ Contraction<C> warp_sum(Contraction<C> contraction) {
    contraction.value = warp_sum(contraction.value);
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
        contraction.d_position[axis] = warp_sum(contraction.d_position[axis]);
        contraction.d_sigma[axis] = warp_sum(contraction.d_sigma[axis]);
    }
    return contraction;
}

// The sums of an element's factors over every axis, by a warp.
template <Version version, typename C>
__device__ std::array<AxisSums<C>, kAxes> warp_axis_sums(const Element<version, C>& element, const Axes& extent,
                                                         int lane) {
    std::array<AxisSums<C>, kAxes> sums{};
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
        for (int64_t tap = lane; tap < extent[axis]; tap += kWarp) {
            const Factor<C> factor = element.factor(axis, tap);
            sums[axis].value += factor.value;
            sums[axis].d_position += factor.d_position;
            sums[axis].d_sigma += factor.d_sigma;
        }
        sums[axis] = {warp_sum(sums[axis].value), warp_sum(sums[axis].d_position), warp_sum(sums[axis].d_sigma)};
    }
    return sums;
}

// Adds what the loss' gradient at one tap means for an element with these factors there.
template <typename C>
__device__ void contract_tap(C gradient, const Factor<C>& z, const Factor<C>& y, const Factor<C>& x,
                             Contraction<C>& contraction) {
    const C zy = gradient * z.value * y.value, zx = gradient * z.value * x.value, yx = gradient * y.value * x.value;
    contraction.value += zy * x.value;
    contraction.d_position[0] += yx * z.d_position;
    contraction.d_position[1] += zx * y.d_position;
    contraction.d_position[2] += zy * x.d_position;
    contraction.d_sigma[0] += yx * z.d_sigma;
    contraction.d_sigma[1] += zx * y.d_sigma;
    contraction.d_sigma[2] += zy * x.d_sigma;
}

}  // namespace dcls::cuda
