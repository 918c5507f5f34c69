// The inner loops for one instruction set: compiled once for each, with DCLS_INSTRUCTION_SET as the name of its
// namespace. What is included here, and called from here, must be in that namespace or always inlined
// (instruction_set.h says why).
#include "../instruction_set.h"
#include "correlation_loops.h"
#include "factor_loops.h"
#include "outer_product_loops.h"
#include "pass_loops.h"
#include "plane_loops.h"
#include "tap_loops.h"

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// One table for each version, by its number.
template <typename T, int... versions>
constexpr InnerLoops<T> make_inner_loops(std::integer_sequence<int, versions...>) {
    return {.lanes = kLanes<T>,
            .planes = {.gather = gather<T>, .scatter = scatter<T>},
            .correlation = {.in_block = kInBlock, .correlate = correlate<T>},
            .taps = {.add_taps = add_taps<T>, .correlate_taps = correlate_taps<T>},
            .passes = {.weigh = weigh<T>, .spread = spread<T>, .correlate = correlate_pass<T>},
            .factors = {FactorLoops<T>{.tabulate = tabulate<Version{versions}, false, T>,
                                       .tabulate_with_derivatives = tabulate<Version{versions}, true, T>}...},
            .outer_products = {OuterProductLoops<T>{.sum_outer_products = sum_outer_products<Version{versions}, T>,
                                                    .contract = contract<Version{versions}, T>}...}};
}

template <typename T>
constexpr InnerLoops<T> make_inner_loops() {
    return make_inner_loops<T>(std::make_integer_sequence<int, kVersionCount>());
}

// Declared first, or a constant would be invisible to other units.
extern const AllInnerLoops kInnerLoops;
constexpr AllInnerLoops kInnerLoops{make_inner_loops<float>(), make_inner_loops<double>()};

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
