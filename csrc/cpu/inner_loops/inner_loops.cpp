// The inner loops for one instruction set: compiled once for each, with DCLS_INSTRUCTION_SET as the name of its
// namespace. What is included here, and called from here, must be in that namespace or always inlined
// (instruction_set.h says why).
#include "../instruction_set.h"
#include "factors.h"
#include "lane_correlation.h"
#include "lanes.h"
#include "outer_products.h"
#include "tap_sums.h"

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

template <Version version, typename T>
constexpr FilterLoops<T> make_filter_loops() {
    return {.tabulate = tabulate<version, false, T>,
            .tabulate_with_derivatives = tabulate<version, true, T>,
            .sum_outer_products = sum_outer_products<version, T>,
            .contract = contract<version, T>};
}

template <typename T>
constexpr InnerLoops<T> make_inner_loops() {
    return {.lanes = kLanes<T>,
            .depthwise = {.in_block = kInBlock, .gather = gather<T>, .scatter = scatter<T>, .correlate = correlate<T>},
            .direct = {.add_taps = add_taps<T>, .correlate_taps = correlate_taps<T>},
            .filters = {make_filter_loops<Version::v0, T>(), make_filter_loops<Version::v1, T>(),
                        make_filter_loops<Version::max, T>(), make_filter_loops<Version::gauss, T>()}};
}

// Declared first, or a constant would be invisible to other units.
extern const AllInnerLoops kInnerLoops;
constexpr AllInnerLoops kInnerLoops{make_inner_loops<float>(), make_inner_loops<double>()};

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
