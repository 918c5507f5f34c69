// From contractions of elements to the gradients of their parameters.
#pragma once

#include "element.h"

namespace dcls::cuda {

// How kernels store Contraction<C>: (7, filters), its values in the order value, d_position, d_sigma.
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

// Gradients for (weight, positions, sigma) in the parameters' dtype, each without elements where output_mask is false.
// contractions: (parts, 7, filters), to be added up, of elements that are not normalised.
std::tuple<Tensor, Tensor, Tensor> element_gradients(const Tensor& contractions, const Filters& filters,
                                                     const PreparedParameters& parameters,
                                                     const KernelArguments& arguments, ScalarType dtype,
                                                     std::array<bool, 3> output_mask);

}  // namespace dcls::cuda
