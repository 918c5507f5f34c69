// Gradients by name, and which of them are asked for: X is Tensor, or bool. One that is not asked for is a tensor
// without elements.
#pragma once

#include "stable.h"

namespace dcls {

// The gradients of a kernel's parameters.
template <typename X>
struct ParameterGradients {
    X weight, positions, sigma;
};

// The gradients of a convolution with learned positions.
template <typename X>
struct ConvGradients {
    X input;
    ParameterGradients<X> parameters;
    X bias;
};

// The gradients of a convolution with a dense kernel.
template <typename X>
struct DenseGradients {
    X input, kernel, bias;
};

inline bool any(const ParameterGradients<bool>& wanted) { return wanted.weight || wanted.positions || wanted.sigma; }

// Room for a gradient that is wanted.
inline Tensor empty_if(bool wanted, const IntList& sizes, ScalarType dtype, const Tensor& like) {
    return wanted ? empty(sizes, dtype, like) : not_computed(dtype, like);
}

inline ParameterGradients<Tensor> parameters_not_computed(const Tensor& weight) {
    const auto none = [&] { return not_computed(weight.scalar_type(), weight); };
    return {none(), none(), none()};
}

}  // namespace dcls
