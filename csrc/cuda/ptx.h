// What C++ has no words for: shared memory, and instructions written as PTX. The CUDA sources are compiled as plain C++
// too, to be tested without a GPU (tests/cuda_on_cpu); this is the one file that says what these mean there.
#pragma once

#include <torch/headeronly/util/Half.h>

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

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

// The same value, of which the compiler knows nothing: it then computes what follows from it again, where it would else
// keep that in registers.
__device__ inline int opaque(int value) {
#ifdef __CUDACC__
    asm volatile("" : "+r"(value));
#endif
    return value;
}

// threadIdx.x, read again: the compiler does not keep it in a register from one use to the next.
__device__ inline int thread_index() {
#ifdef __CUDACC__
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
#else
    return static_cast<int>(threadIdx.x);
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

// The same for `count` neighbouring entries, aligned to what they take: 4, 8 or 16 bytes.
template <int count, typename T>
__device__ void copy_async(T* to, const T* from) {
    constexpr int bytes = count * sizeof(T);
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    if constexpr (bytes == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(bytes) : "memory");
    }
#elif defined(__CUDACC__)
    struct alignas(bytes) Piece {
        T at[count];
    };
    *reinterpret_cast<Piece*>(to) = *reinterpret_cast<const Piece*>(from);
#else
    cuda_on_cpu::copy_later(to, from, bytes);
#endif
}

__device__ inline void copy_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#elif !defined(__CUDACC__)
    cuda_on_cpu::wait_for_copies();
#endif
}

// ldmatrix: four 8 x 8 matrices of a 16-bit type. Lane l points to row l % 8 of matrix l / 8, 16-byte aligned; it gets
// entries 2 (l % 4) and the next of row l / 4 of every matrix, or of column l / 4 if they are transposed. So 16 rows of
// 16 columns become the fragment that multiply_add takes: lanes 0 to 15 point to the rows' first columns, lanes 16 to
// 31 to their ninth ones.
template <bool transposed = false, typename T>
__device__ void load_matrices(uint32_t (&fragment)[4], const T* row) {
    static_assert(sizeof(T) == 2);
#ifdef __CUDACC__
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (transposed) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                     : "r"(address)
                     : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                     : "r"(address)
                     : "memory");
    }
#else
    cuda_on_cpu::expect_aligned(row, 16);
    const auto rows = cuda_on_cpu::gather_in_warp(row);
    const int r = cuda_on_cpu::lane() / 4, c = cuda_on_cpu::lane() % 4 * 2;
    for (int matrix = 0; matrix < 4; ++matrix) {
        const T* const* const of_matrix = rows.data() + matrix * 8;
        const T pair[2] = {transposed ? of_matrix[c][r] : of_matrix[r][c],
                           transposed ? of_matrix[c + 1][r] : of_matrix[r][c + 1]};
        __builtin_memcpy(&fragment[matrix], pair, sizeof(uint32_t));
    }
#endif
}

// mma: sums += a b, for a 16 x 8 steps matrix a and an 8 steps x 8 matrix b of a 16-bit type. Lane l holds, with
// r = l / 4 and c = 2 (l % 4): of the sums (r, c), (r, c + 1), (r + 8, c), (r + 8, c + 1); of a, for each step s, the
// pair (r, 8 s + c) and the next, and that of row r + 8; of b, for each step, the pair (8 s + c, r) and the one below.
// Compute capability 8.0 and up.
template <typename T, int steps>
__device__ void multiply_add(float (&sums)[4], const uint32_t (&a)[2 * steps], const uint32_t (&b)[steps]) {
    static_assert(sizeof(T) == 2 && (steps == 1 || steps == 2));
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define DCLS_MMA_K16(type)                                                              \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define DCLS_MMA_K8(type)                                                     \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." type "." type        \
                 ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"   \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) \
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]))
    constexpr bool is_half = std::is_same_v<T, torch::headeronly::Half>;
    if constexpr (steps == 2 && is_half) {
        DCLS_MMA_K16("f16");
    } else if constexpr (steps == 2) {
        DCLS_MMA_K16("bf16");
    } else if constexpr (is_half) {
        DCLS_MMA_K8("f16");
    } else {
        DCLS_MMA_K8("bf16");
    }
#undef DCLS_MMA_K16
#undef DCLS_MMA_K8
#elif defined(__CUDACC__)
    __trap();  // never launched there
#else
    struct Fragments {
        uint32_t a[2 * steps], b[steps];
    } own;
    __builtin_memcpy(own.a, a, sizeof(own.a));
    __builtin_memcpy(own.b, b, sizeof(own.b));
    const auto lanes = cuda_on_cpu::gather_in_warp(own);
    const auto entry = [](uint32_t pair, int which) {
        T value;
        __builtin_memcpy(&value, reinterpret_cast<const char*>(&pair) + which * sizeof(T), sizeof(T));
        return static_cast<float>(value);
    };
    const int row = cuda_on_cpu::lane() / 4, column = cuda_on_cpu::lane() % 4 * 2;
    for (int i = 0; i < 4; ++i) {
        const int half = i / 2, n = column + i % 2;
        for (int k = 0; k < 8 * steps; ++k) {
            const int step = k / 8, lane_of_pair = k % 8 / 2;
            sums[i] += entry(lanes[row * 4 + lane_of_pair].a[2 * step + half], k % 2) *
                       entry(lanes[n * 4 + lane_of_pair].b[step], k % 2);
        }
    }
#endif
}

}  // namespace dcls::cuda
