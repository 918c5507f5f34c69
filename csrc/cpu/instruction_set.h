// The instruction sets that the inner loops of the CPU operators are compiled for, and which of them is used.
//
// inner_loops.cpp is compiled once for each. Such a unit exports nothing but its table of function pointers: an inline
// function that two units shared would be merged by the linker, and might then run on a processor without the
// instructions. cmake/check_units.cmake makes sure of it whenever the library is built.
#pragma once

#include "depthwise_loops.h"
#include "direct_loops.h"
#include "filter_loops.h"

#include <type_traits>

namespace dcls::cpu {

struct InnerLoops {
    DepthwiseLoops<float> depthwise_float;
    DepthwiseLoops<double> depthwise_double;
    DirectLoops<float> direct_float;
    DirectLoops<double> direct_double;
    std::array<FilterLoops<float>, kVersionCount> filters_float;
    std::array<FilterLoops<double>, kVersionCount> filters_double;

    template <typename T>
    const DepthwiseLoops<T>& depthwise() const {
        if constexpr (std::is_same_v<T, float>) {
            return depthwise_float;
        } else {
            return depthwise_double;
        }
    }
    template <typename T>
    const DirectLoops<T>& direct() const {
        if constexpr (std::is_same_v<T, float>) {
            return direct_float;
        } else {
            return direct_double;
        }
    }
};

// Those of the best instruction set that the processor has, or of the one that the environment variable
// DCLS_CPU_CAPABILITY named when they were first asked for. Throws where that is none, or one that the processor lacks.
const InnerLoops& inner_loops();

}  // namespace dcls::cpu
