// How loops go along the last axis of an element: a narrow one, which touches two or three taps, tap by tap; a wide one
// a vector at a time, from the multiple of a vector before its first tap. Its factors are 0 where it does not touch.
#pragma once

#include "../../interpolation.h"
#include "vectors.h"

#include <type_traits>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

constexpr bool is_wide(Version version) { return has_sigma(version); }

// What is visited at a time.
template <Version version, typename T>
using Columns = std::conditional_t<is_wide(version), Vector<T>, T>;

template <typename V, typename T>
constexpr int64_t kColumns = sizeof(V) / sizeof(T);

// Calls body(column) for the first of the columns in every V that meets the range.
template <typename V, typename T, typename Body>
void for_each_columns(TapRange range, const Body& body) {
    for (int64_t column = range.begin / kColumns<V, T> * kColumns<V, T>; column < range.end; column += kColumns<V, T>) {
        body(column);
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
