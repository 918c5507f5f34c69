// Vectors as wide as the registers of the instruction set that a unit is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // every processor that we know has registers for them
#endif

// A struct of its own, because an alias of a vector type may lose its attribute.
template <typename T, int bytes>
struct VectorOf {
    typedef T Type __attribute__((vector_size(bytes)));
};
template <typename T, int bytes = kVectorBytes>
using Vector = typename VectorOf<T, bytes>::Type;

template <typename T>
constexpr int64_t kLanes = kVectorBytes / sizeof(T);

template <typename V, typename T>
V load_as(const T* from) {
    V vector;
    std::memcpy(&vector, from, sizeof(V));
    return vector;
}

template <typename T>
Vector<T> load(const T* from) {
    return load_as<Vector<T>>(from);
}

// Keeps a compiler from loading a vector again for each of its uses, as gcc does where instructions take operands from
// memory.
template <typename V>
void keep_in_register([[maybe_unused]] V& vector) {
#if defined(__x86_64__)
    asm("" : "+v"(vector));
#endif
}

template <typename V, int... lanes>
auto add_halves(const V& vector, std::integer_sequence<int, lanes...>) {
    return __builtin_shufflevector(vector, vector, lanes...) +
           __builtin_shufflevector(vector, vector, static_cast<int>(sizeof...(lanes)) + lanes...);
}

// The sum of the lanes of a vector of T, or of a single T.
template <typename T, typename V>
T sum_lanes(const V& vector) {
    constexpr int count = sizeof(V) / sizeof(T);
    if constexpr (count == 1) {
        return load_as<T>(&vector);
    } else if constexpr (count == 2) {
        return vector[0] + vector[1];
    } else {
        return sum_lanes<T>(add_halves(vector, std::make_integer_sequence<int, count / 2>()));
    }
}

template <typename V, typename T>
void store(const V& vector, T* to) {
    std::memcpy(to, &vector, sizeof(V));
}

// Converted when compiling: the other way would be a conversion of integers for every vector.
template <typename T>
constexpr T kLaneNumbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Calls body(std::integral_constant<int, count>()), for a count of 1 to `most`.
template <int most, typename Body>
void with_count(int64_t count, const Body& body) {
    if constexpr (most > 1) {
        if (count < most) {
            return with_count<most - 1>(count, body);
        }
    }
    body(std::integral_constant<int, most>());
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
