// What an element's factors along each axis amount to: its normalisation, and the gradients of its parameters from a
// gradient of the dense kernel. Shared by the CPU and CUDA kernels. Missing leading axes have the factor 1.
#pragma once

#include "axes.h"
#include "interpolation.h"

namespace dcls {

// The sums of an element's factors over one axis.
template <typename T>
struct AxisSums {
    T value, d_position, d_sigma;
};

template <Version version, typename T>
DCLS_HOST_DEVICE T normalisation(const std::array<AxisSums<T>, kAxes>& sums) {
    return is_normalised(version) ? sums[0].value * sums[1].value * sums[2].value + T(kNormalisationEpsilon) : T(1);
}

// The gradient of a loss in the taps of a filter, contracted with one element: in full with its factors, and with the
// factor of one axis replaced by a derivative.
template <typename T>
struct Contraction {
    T value{};
    std::array<T, kAxes> d_position{}, d_sigma{};

    DCLS_HOST_DEVICE void add(const Contraction& other, T scale) {
        value += scale * other.value;
        for (int axis = 0; axis < kAxes; ++axis) {
            d_position[axis] += scale * other.d_position[axis];
            d_sigma[axis] += scale * other.d_sigma[axis];
        }
    }
};

// The gradients for an element's position and width along one axis, from a contraction that was divided by the
// normalisation: d(X / (S + eps)) = dX / (S + eps) - X dS / (S + eps)^2, where S is the product of the axes' sums.
template <Version version, typename T>
struct AxisGradients {
    T position, sigma;

    DCLS_HOST_DEVICE AxisGradients(const Contraction<T>& normalised, const std::array<AxisSums<T>, kAxes>& sums,
                                   int axis) {
        T other_sums = 0;
        if constexpr (is_normalised(version)) {
            other_sums = normalised.value / normalisation<version>(sums);
            for (int other = 0; other < kAxes; ++other) {
                other_sums *= other == axis ? T(1) : sums[other].value;
            }
        }
        position = normalised.d_position[axis] - other_sums * sums[axis].d_position;
        sigma = normalised.d_sigma[axis] - other_sums * sums[axis].d_sigma;
    }
};

}  // namespace dcls
