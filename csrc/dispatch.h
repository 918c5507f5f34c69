// The choice of a kernel's template arguments.
#pragma once

#include "interpolation.h"
#include "stable.h"

namespace dcls {

// float16 and bfloat16 parameters are computed in float32.
inline ScalarType compute_dtype(const Tensor& weight) {
    return weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Calls body.template operator()<version, T>() for the version and the compute type.
template <typename T, typename Body>
void dispatch_version(Version version, const Body& body) {
    switch (version) {
        case Version::v0:
            return body.template operator()<Version::v0, T>();
        case Version::v1:
            return body.template operator()<Version::v1, T>();
        case Version::max:
            return body.template operator()<Version::max, T>();
        case Version::gauss:
            return body.template operator()<Version::gauss, T>();
    }
}

// Calls body.template operator()<T>() for a compute dtype.
template <typename Body>
void dispatch_compute_dtype(ScalarType dtype, const Body& body) {
    dtype == ScalarType::Double ? body.template operator()<double>() : body.template operator()<float>();
}

template <typename Body>
void dispatch(Version version, ScalarType dtype, const Body& body) {
    dispatch_compute_dtype(dtype, [&]<typename T>() { dispatch_version<T>(version, body); });
}

}  // namespace dcls
