// The instruction sets that the inner loops of the CPU operators are compiled for, and which of them is used.
//
// inner_loops/inner_loops.cpp is compiled once for each. Such a unit exports nothing but its table of function
// pointers: an inline function that two units shared would be merged by the linker, and might then run on a processor
// without the instructions. cmake/check_units.cmake makes sure of it whenever the library is built.
#pragma once

#include "depthwise/correlation_loops.h"
#include "direct/tap_loops.h"
#include "factor_loops.h"
#include "im2col/pass_loops.h"
#include "outer_product_loops.h"
#include "plane_loops.h"

#include <type_traits>

namespace dcls::cpu {

template <typename T>
struct InnerLoops {
    int64_t lanes;  // of a vector
    PlaneLoops<T> planes;
    CorrelationLoops<T> correlation;
    TapLoops<T> taps;
    PassLoops<T> passes;
    std::array<FactorLoops<T>, kVersionCount> factors;
    std::array<OuterProductLoops<T>, kVersionCount> outer_products;
};

// What a unit exports.
struct AllInnerLoops {
    InnerLoops<float> of_float;
    InnerLoops<double> of_double;
};

// The loops of the best instruction set that the processor has, or of the one that the environment variable
// DCLS_CPU_CAPABILITY named when they were first asked for. Throws where that is none, or one that the processor lacks.
const AllInnerLoops& all_inner_loops();

// Whether it does not, for callers that nothing may be thrown at.
bool has_inner_loops();

template <typename T>
const InnerLoops<T>& inner_loops() {
    if constexpr (std::is_same_v<T, float>) {
        return all_inner_loops().of_float;
    } else {
        return all_inner_loops().of_double;
    }
}

template <typename T>
const FactorLoops<T>& factor_loops(Version version) {
    return inner_loops<T>().factors[static_cast<int>(version)];
}

template <typename T>
const OuterProductLoops<T>& outer_product_loops(Version version) {
    return inner_loops<T>().outer_products[static_cast<int>(version)];
}

}  // namespace dcls::cpu
