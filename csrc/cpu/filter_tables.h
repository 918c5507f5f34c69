// The factors of one filter's elements after the other.
#pragma once

#include "../filters.h"
#include "../parameters.h"
#include "filter_factors.h"

namespace dcls::cpu {

// The tables of one filter at a time.
template <Version version, typename T, bool with_derivatives>
class FilterTables {
 public:
    FilterTables(const Filters& filters, const Parameters<T>& parameters)
        : filters_(filters),
          parameters_(parameters),
          factors_(filters.extent, filters.first_axis, filters.kernel_count) {}

    // Tabulated anew where the last filter asked for had other positions.
    const FilterFactors<version, T, with_derivatives>& of(int64_t filter) {
        const int64_t position_filter = filters_.position_filter(filter);
        if (position_filter != tabulated_) {
            const int64_t at = position_filter * filters_.kernel_count;
            factors_.tabulate(parameters_.positions + at, has_sigma(version) ? parameters_.sigma + at : nullptr,
                              filters_.position_filters() * filters_.kernel_count);
            tabulated_ = position_filter;
        }
        return factors_;
    }

 private:
    const Filters& filters_;
    Parameters<T> parameters_;
    FilterFactors<version, T, with_derivatives> factors_;
    int64_t tabulated_ = -1;
};

}  // namespace dcls::cpu
