// What is computed for every element by a warp of its own: its normalisation, and, from its contraction, the gradients
// of its parameters.
#pragma once

#include "../gradients.h"
#include "element.h"

namespace dcls::cuda {

// How kernels store Contraction<C>: (7, elements), its values in the order value, d_position, d_sigma.
constexpr int64_t kContractionValues = 1 + 2 * kAxes;

template <typename C>
__device__ void store(const Contraction<C>& contraction, C* to, int64_t element, int64_t count) {
    to[element] = contraction.value;
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
        to[(1 + axis) * count + element] = contraction.d_position[axis];
        to[(1 + kAxes + axis) * count + element] = contraction.d_sigma[axis];
    }
}

// 1 / normalisation of every element with positions of its own, in the compute dtype.
Tensor inverse_normalisation(const Filters& filters, const PreparedParameters& parameters, Version version);

// The gradients of all parameters, in `dtype`. contractions: (parts, 7, elements), to be added up, of elements that are
// not normalised.
ParameterGradients<Tensor> element_gradients(const Tensor& contractions, const Filters& filters,
                                             const PreparedParameters& parameters, Version version, ScalarType dtype,
                                             const ParameterGradients<bool>& wanted);

}  // namespace dcls::cuda
