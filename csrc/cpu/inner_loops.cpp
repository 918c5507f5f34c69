// The inner loops for one instruction set: compiled once for each, with DCLS_INSTRUCTION_SET as the name of its
// namespace. What is included here, and called from here, must be in that namespace or always inlined
// (instruction_set.h says why).
#include "instruction_set.h"
#include "lane_correlation.h"
#include "lanes.h"
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

extern const InnerLoops kInnerLoops;
constexpr InnerLoops kInnerLoops{depthwise_loops<float>(), depthwise_loops<double>(), direct_loops<float>(),
                                 direct_loops<double>()};

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
