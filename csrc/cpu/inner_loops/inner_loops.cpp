// The inner loops for one instruction set: compiled once for each, with DCLS_INSTRUCTION_SET as the name of its
// namespace. What is included here, and called from here, must be in that namespace or always inlined
// (instruction_set.h says why).
#include "../instruction_set.h"
#include "factor_loops.h"
#include "lane_correlation.h"
#include "lanes.h"
#include "tap_loops.h"
#include "tap_sums.h"

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

template <Version version, typename T>
constexpr FilterLoops<T> filter_loops() {
    return {kLanes<T>, tabulate<version, false, T>, tabulate<version, true, T>, sum_outer_products<version, T>,
            contract<version, T>};
}

template <typename T>
constexpr InnerLoops<T> inner_loops() {
    return {{kLanes<T>, kMostColumns, gather<T>, scatter<T>, correlate<T>},
            {kLanes<T>, add_taps<T>, correlate_taps<T>},
            {filter_loops<Version::v0, T>(), filter_loops<Version::v1, T>(), filter_loops<Version::max, T>(),
             filter_loops<Version::gauss, T>()}};
}

extern const AllInnerLoops kInnerLoops;
constexpr AllInnerLoops kInnerLoops{inner_loops<float>(), inner_loops<double>()};

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
