// What C++ has no words for: shared memory, and instructions written as PTX. The CUDA sources are compiled as plain C++
// too, to be tested without a GPU (tests/cuda_on_cpu); this is the one file that says what these mean there.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace dcls::cuda {

// The block's dynamic shared memory, 16-byte aligned.
template <typename T>
__device__ T* shared_memory() {
#ifdef __CUDACC__
    extern __shared__ __align__(16) unsigned char bytes[];
    return reinterpret_cast<T*>(bytes);
#else
    return static_cast<T*>(cuda_on_cpu::shared_memory());
#endif
}

// cp.async: starts to copy an element to shared memory, or to write 0 there if `valid` is false, in which case `from`
// is not read. It is there once copy_wait() has returned, and for other threads after a barrier behind that.
template <typename T>
__device__ void copy_async(T* to, const T* from, bool valid) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    const int bytes_read = valid ? static_cast<int>(sizeof(T)) : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(sizeof(T)),
                 "r"(bytes_read)
                 : "memory");
#elif defined(__CUDACC__)
    *to = valid ? *from : T(0);  // before compute capability 8.0
#else
    cuda_on_cpu::copy_later(to, valid ? from : nullptr, sizeof(T));
#endif
}

__device__ inline void copy_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#elif !defined(__CUDACC__)
    cuda_on_cpu::wait_for_copies();
#endif
}

}  // namespace dcls::cuda
