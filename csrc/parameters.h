// Parameters and biases as kernels read them: contiguous, in one dtype.
#pragma once

#include "dispatch.h"

namespace dcls {

// Pointers to the parameters of a kernel.
template <typename T>
struct Parameters {
    const T *weight, *positions, *sigma;
};

// The parameters of a kernel in the compute dtype.
struct PreparedParameters {
    ScalarType dtype;
    Tensor weight, positions;
    OptionalTensor sigma;

    PreparedParameters(const Tensor& weight_, const Tensor& positions_, const OptionalTensor& sigma_)
        : dtype(compute_dtype(weight_)),
          weight(contiguous(cast(weight_, dtype))),
          positions(contiguous(cast(positions_, dtype))) {
        if (sigma_.has_value()) {
            sigma = contiguous(cast(*sigma_, dtype));
        }
    }

    template <typename T>
    Parameters<T> pointers() const {
        return {weight.const_data_ptr<T>(), positions.const_data_ptr<T>(),
                sigma.has_value() ? sigma->const_data_ptr<T>() : nullptr};
    }
};

// A bias in a dtype of the caller's choice, if there is one.
struct PreparedBias {
    OptionalTensor tensor;

    PreparedBias(const OptionalTensor& bias, ScalarType dtype) {
        if (bias.has_value()) {
            tensor = contiguous(cast(*bias, dtype));
        }
    }

    // Null where there is no bias.
    template <typename T>
    const T* pointer() const {
        return tensor.has_value() ? tensor->const_data_ptr<T>() : nullptr;
    }
};

}  // namespace dcls
