// The inner loops for one instruction set: compiled once for each, with DCLS_INSTRUCTION_SET as the name of its
// namespace. What is included here, and called from here, must be in that namespace or always inlined
// (instruction_set.h says why).
#include "factor_loops.h"
#include "instruction_set.h"
#include "lane_correlation.h"
#include "lanes.h"
#include "tap_loops.h"
#include "tap_sums.h"

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

template <typename T>
constexpr DepthwiseLoops<T> depthwise_loops() {
    return {kLanes<T>, kMostColumns, gather<T>, scatter<T>, correlate<T>};
}

template <typename T>
constexpr DirectLoops<T> direct_loops() {
    return {kLanes<T>, static_cast<void (*)(const TapSum<T, T>&, const TapList<T>&)>(add_taps), correlate_taps};
}

template <Version version, typename T>
constexpr FilterLoops<T> filter_loops_of() {
    return {kLanes<T>, tabulate<version, false, T>, tabulate<version, true, T>, sum_outer_products<version, T>,
            contract<version, T>};
}

template <typename T>
constexpr std::array<FilterLoops<T>, kVersionCount> filter_loops_of_versions() {
    return {filter_loops_of<Version::v0, T>(), filter_loops_of<Version::v1, T>(), filter_loops_of<Version::max, T>(),
            filter_loops_of<Version::gauss, T>()};
}

extern const InnerLoops kInnerLoops;
constexpr InnerLoops kInnerLoops{depthwise_loops<float>(),         depthwise_loops<double>(),
                                 direct_loops<float>(),            direct_loops<double>(),
                                 filter_loops_of_versions<float>(), filter_loops_of_versions<double>()};

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
