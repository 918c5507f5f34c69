// From the factors of a filter's elements to its taps, and from a gradient of the taps back.
//
// Wide elements (last_axis.h) are visited in a copy of the filter with rows of whole vectors: no row has a rest, and a
// vector that one element stores is what the next one loads. Narrow ones are visited in place.
//
// Bound by a load, a multiply-add and a store a vector and row of an element; back, by one load and three
// multiply-adds.
#pragma once

#include "../outer_product_loops.h"
#include "last_axis.h"

#include <algorithm>
#include <cmath>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

// The last vector is one that ends with the row, whether or not it starts where another one ended.
template <int bytes = kVectorBytes, typename T>
void copy_row(const T* from, int64_t count, T* to) {
    constexpr int64_t lanes = bytes / sizeof(T);
    if constexpr (bytes < 16) {
        for (int64_t i = 0; i < count; ++i) {
            to[i] = from[i];
        }
    } else if (count < lanes) {
        copy_row<bytes / 2>(from, count, to);
    } else {
        for (int64_t i = 0; i + lanes < count; i += lanes) {
            store(load_as<Vector<T, bytes>>(from + i), to + i);
        }
        store(load_as<Vector<T, bytes>>(from + count - lanes), to + count - lanes);
    }
}

template <typename T>
void copy_rows(const FilterElements<T>& elements, const T* from, int64_t from_width, T* to, int64_t to_width) {
    for (int64_t row = 0; row < elements.extent[0] * elements.extent[1]; ++row) {
        copy_row(from + row * from_width, elements.extent[2], to + row * to_width);
    }
}

// taps += scale * the outer product of the element's factors.
template <typename V, typename T>
void add_outer_product(const AxisFactors<T>* axes, T scale, T* taps, int64_t height, int64_t width) {
    const AxisFactors<T>&z = axes[0], &y = axes[1], &x = axes[2];
    for_each_columns<V, T>(x.range, [&](int64_t column) {
        const V column_factor = load_as<V>(x.value + column) * scale;
        for (int64_t i = z.range.begin; i < z.range.end; ++i) {
            const V factor = column_factor * z.value[i];
            T* at = taps + (i * height + y.range.begin) * width + column;
            for (int64_t j = y.range.begin; j < y.range.end; ++j, at += width) {
                store(load_as<V>(at) + factor * y.value[j], at);
            }
        }
    });
}

template <Version version, typename T>
void sum_outer_products(const FilterElements<T>& elements, const T* weight, T* padded, T* taps) {
    const int64_t height = elements.extent[1], width = elements.extent[2], rows = elements.extent[0] * height;
    const int64_t sums_width = is_wide(version) ? round_up(width, kLanes<T>) : width;
    T* const sums = is_wide(version) ? padded : taps;
    std::fill_n(sums, rows * sums_width, T(0));
    for (int64_t k = 0; k < elements.count; ++k) {
        const AxisFactors<T>* axes = elements.axes + k * kAxes;
        const T scale = weight[k] / normalisation<version, T>({axes[0].sums, axes[1].sums, axes[2].sums});
        if (std::isfinite(scale)) {
            add_outer_product<Columns<version, T>>(axes, scale, sums, height, sums_width);
        } else {
            // Times a factor of 0 it would be NaN, in taps that the element does not touch.
            add_outer_product<T>(axes, scale, sums, height, sums_width);
        }
    }
    if constexpr (is_wide(version)) {
        copy_rows(elements, padded, sums_width, taps, width);
    }
}

// Contracts some columns of the taps with an element along the leading axes. Where those are not learned, `taps` is the
// row, or the plane, of the element's dense tap.
template <int first_axis, Version version, typename V, typename T>
Contraction<V> contract_columns(const T* taps, const AxisFactors<T>* axes, int64_t height, int64_t width) {
    const AxisFactors<T>&z = axes[0], &y = axes[1];
    if constexpr (first_axis == 2) {
        Contraction<V> columns;
        columns.value = load_as<V>(taps);
        return columns;
    }
    Contraction<V> columns;
    for (int64_t j = y.range.begin; j < y.range.end; ++j) {
        Contraction<V> row;
        if constexpr (first_axis == 0) {
            for (int64_t i = z.range.begin; i < z.range.end; ++i) {
                const V tap = load_as<V>(taps + (i * height + j) * width);
                row.value += z.value[i] * tap;
                row.d_position[0] += z.d_position[i] * tap;
                if constexpr (has_sigma(version)) {
                    row.d_sigma[0] += z.d_sigma[i] * tap;
                }
            }
            columns.d_position[0] += y.value[j] * row.d_position[0];
            if constexpr (has_sigma(version)) {
                columns.d_sigma[0] += y.value[j] * row.d_sigma[0];
            }
        } else {
            row.value = load_as<V>(taps + j * width);
        }
        columns.value += y.value[j] * row.value;
        columns.d_position[1] += y.d_position[j] * row.value;
        if constexpr (has_sigma(version)) {
            columns.d_sigma[1] += y.d_sigma[j] * row.value;
        }
    }
    return columns;
}

// Always inlined, so that the sums stay in registers.
template <int first_axis, Version version, typename V, typename T>
[[gnu::always_inline]] inline void contract_element(const T* taps, const AxisFactors<T>* axes, int64_t height,
                                                    int64_t width, Contraction<T>& result) {
    const AxisFactors<T>& x = axes[2];
    const int64_t plane = first_axis > 0 ? axes[0].range.begin : 0, row = first_axis > 1 ? axes[1].range.begin : 0;
    taps += (plane * height + row) * width;
    Contraction<V> sums;
    for_each_columns<V, T>(x.range, [&](int64_t column) {
        const auto columns = contract_columns<first_axis, version, V>(taps + column, axes, height, width);
        const V value = load_as<V>(x.value + column);
        sums.value += value * columns.value;
        for (int axis = first_axis; axis < 2; ++axis) {
            sums.d_position[axis] += value * columns.d_position[axis];
            sums.d_sigma[axis] += value * columns.d_sigma[axis];
        }
        sums.d_position[2] += load_as<V>(x.d_position + column) * columns.value;
        if constexpr (has_sigma(version)) {
            sums.d_sigma[2] += load_as<V>(x.d_sigma + column) * columns.value;
        }
    });
    result.value = sum_lanes<T>(sums.value);
    for (int axis = first_axis; axis < kAxes; ++axis) {
        result.d_position[axis] = sum_lanes<T>(sums.d_position[axis]);
        if constexpr (has_sigma(version)) {
            result.d_sigma[axis] = sum_lanes<T>(sums.d_sigma[axis]);
        }
    }
}

template <int first_axis, Version version, typename T>
void contract_elements(const FilterElements<T>& elements, const T* taps, int64_t width, Contraction<T>* contractions) {
    for (int64_t k = 0; k < elements.count; ++k) {
        contract_element<first_axis, version, Columns<version, T>>(taps, elements.axes + k * kAxes, elements.extent[1],
                                                                   width, contractions[k]);
    }
}

template <Version version, typename T>
void contract(const FilterElements<T>& elements, const T* grad_taps, T* padded, Contraction<T>* contractions) {
    int64_t width = elements.extent[2];
    if constexpr (is_wide(version)) {
        const int64_t padded_width = round_up(width, kLanes<T>);
        copy_rows(elements, grad_taps, width, padded, padded_width);
        grad_taps = padded;
        width = padded_width;
    }
    switch (elements.first_axis) {
        case 0:
            return contract_elements<0, version>(elements, grad_taps, width, contractions);
        case 1:
            return contract_elements<1, version>(elements, grad_taps, width, contractions);
        default:
            return contract_elements<2, version>(elements, grad_taps, width, contractions);
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
