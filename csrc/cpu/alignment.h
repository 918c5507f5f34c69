// Where buffers of vectors start, for every instruction set.
#pragma once

#include <cstdint>

namespace dcls::cpu {

constexpr int64_t kBufferAlignment = 64;

}  // namespace dcls::cpu
