// Vectors whose entries start at a multiple of kBufferAlignment bytes.
#pragma once

#include <cstdint>
#include <new>
#include <vector>

namespace dcls::cpu {

constexpr int64_t kBufferAlignment = 64;  // of vectors, for every instruction set

template <typename T>
struct AlignedAllocator {
    using value_type = T;
    AlignedAllocator() = default;
    template <typename U>
    explicit AlignedAllocator(const AlignedAllocator<U>&) {}

    T* allocate(size_t count) {
        return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(kBufferAlignment)));
    }
    void deallocate(T* entries, size_t) { ::operator delete(entries, std::align_val_t(kBufferAlignment)); }
    bool operator==(const AlignedAllocator&) const { return true; }
};

template <typename T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace dcls::cpu
