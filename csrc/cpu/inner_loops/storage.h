// The types that tensors store, and conversions written so that compilers vectorise loops of them. (Those of PyTorch's
// headers would be merged between instruction sets: instruction_set.h.)
#pragma once

#include "../plane_loops.h"

#include <bit>
#include <cstdint>
#include <type_traits>

namespace dcls::cpu::DCLS_INSTRUCTION_SET {

struct Float16 {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

template <typename T>
T widen(double value) {
    return static_cast<T>(value);
}
template <typename T>
T widen(float value) {
    return value;
}
template <typename T>
T widen(BFloat16 value) {
    return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}
template <typename T>
T widen(Float16 value) {
    // The exponent is moved up by multiplying with 2^112, which makes subnormal numbers normal, too.
    const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
    const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
    const float finite = std::bit_cast<float>(magnitude) * 0x1p112f;
    const uint32_t infinite_or_nan = magnitude | 0x7f800000;
    const uint32_t bits = magnitude >= 0x0f800000 ? infinite_or_nan : std::bit_cast<uint32_t>(finite);
    return std::bit_cast<float>(bits | sign);
}

inline void round_to(double value, double& entry) { entry = value; }
inline void round_to(float value, float& entry) { entry = value; }
inline void round_to(float value, BFloat16& entry) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t even = bits + 0x7fff + (bits >> 16 & 1);
    entry.bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : even >> 16);
}
inline void round_to(float value, Float16& entry) {
    const auto bits = std::bit_cast<uint32_t>(value);
    const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    // 13 bits of the fraction are rounded off; what rounds past the largest number becomes infinity, 0x7c00.
    const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
    const uint32_t finite = normal < 0x7c00 ? normal : 0x7c00;
    // The last place of 0.5 is the smallest subnormal number.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    const uint32_t subnormal = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f);
    const uint32_t number = magnitude < 0x38800000 ? subnormal : finite;
    entry.bits = static_cast<uint16_t>(sign | (magnitude > 0x7f800000 ? 0x7e00 : number));
}

// Calls body.template operator()<Entry>() for the storages that are computed in T.
template <typename T, typename Body>
void visit_storage(Storage storage, const Body& body) {
    if constexpr (std::is_same_v<T, double>) {
        body.template operator()<double>();
    } else if (storage == Storage::float16) {
        body.template operator()<Float16>();
    } else if (storage == Storage::bfloat16) {
        body.template operator()<BFloat16>();
    } else {
        body.template operator()<float>();
    }
}

}  // namespace dcls::cpu::DCLS_INSTRUCTION_SET
