// Work items shared out among threads.
#pragma once

#include "../stable.h"

#include <algorithm>

namespace dcls::cpu {

// worker(item) for every item, by workers that make_worker() makes, one a thread. A single item runs in a parallel
// region too: outside of one, a matrix product may use several threads, and round differently with their number.
template <typename MakeWorker>
void for_each_item(int64_t items, const MakeWorker& make_worker) {
    if (items == 0) {
        return;
    }
    parallel_for(0, std::max<int64_t>(items, 2), 1, [&](int64_t begin, int64_t end) {
        auto worker = make_worker();
        for (int64_t item = begin; item < std::min(end, items); ++item) {
            worker(item);
        }
    });
}

}  // namespace dcls::cpu
