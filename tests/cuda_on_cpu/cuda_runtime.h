// Stands in for CUDA's own header where the sources of csrc/cuda are compiled as C++ and run without a GPU: as much of
// the language and the runtime as they use. blocks.cpp runs the blocks.
//
// Blocks run in turn. The threads of a block are fibres, which run one at a time, each until it waits for others. What
// CUDA leaves undefined is an error here where it can be told, or else gives different bits in another order of
// threads (Settings::order): a barrier that not all threads of a block reach, a warp operation that not all lanes
// of a warp take part in, reads of shared memory that nothing was written to.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>
#include <unordered_map>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// Where the fibre that runs is.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

using Where = std::source_location;

// Runs a kernel: body() is one thread.
void run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

// The running block's dynamic shared memory.
void* shared_memory();

void wait_for_block(Where where);

void wait_for_warp(Where where);

// Waits for the 32 lanes of the warp; returns what each of them brought.
const uint64_t* exchange_in_warp(uint64_t value, Where where);

// The values that the lanes of the warp bring.
template <typename T>
std::array<T, 32> gather_in_warp(const T& value, Where where = Where::current()) {
    const uint64_t* addresses = exchange_in_warp(reinterpret_cast<uint64_t>(&value), where);
    std::array<T, 32> values;
    for (int lane = 0; lane < 32; ++lane) {
        __builtin_memcpy(&values[lane], reinterpret_cast<const T*>(addresses[lane]), sizeof(T));
    }
    exchange_in_warp(0, where);  // nobody's value goes out of scope before all have read it
    return values;
}

// For what hardware reads and writes in one piece.
void expect_aligned(const void* address, size_t bytes, Where where = Where::current());

// A copy that happens when the thread waits for it; zeros are written where `from` is null.
void copy_later(void* to, const void* from, size_t bytes, Where where = Where::current());
void wait_for_copies();

// For the plain meaning of warp-wide operations.
inline int lane() { return static_cast<int>(threadIdx.x % 32); }

}  // namespace cuda_on_cpu

inline void __syncthreads(cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
    cuda_on_cpu::wait_for_block(where);
}

inline void __syncwarp(cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) { cuda_on_cpu::wait_for_warp(where); }

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, cuda_on_cpu::Where where = cuda_on_cpu::Where::current()) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    // A mask of some lanes only is not supported, and gives what nobody expects.
    bits = cuda_on_cpu::exchange_in_warp(bits, where)[(cuda_on_cpu::lane() ^ lane_mask) & (mask == ~0u ? 31 : 0)];
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
}

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };

struct cudaFuncAttributes {
    int ptxVersion = 0;
};

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
    attributes->ptxVersion = 90;
    return cudaSuccess;
}

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

namespace cuda_on_cpu {

constexpr size_t kSharedBytes = 48 << 10;       // what every GPU gives without being asked
constexpr size_t kMostSharedBytes = 99 << 10;  // what all of compute capability 8.0 and up give when asked

// The dynamic shared memory that a kernel may have.
inline std::unordered_map<const void*, size_t> allowed_shared_bytes;

}  // namespace cuda_on_cpu

enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = static_cast<int>(cuda_on_cpu::kMostSharedBytes);
    return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
    if (value < 0 || static_cast<size_t>(value) > cuda_on_cpu::kMostSharedBytes) {
        return cudaErrorInvalidConfiguration;
    }
    cuda_on_cpu::allowed_shared_bytes[reinterpret_cast<const void*>(kernel)] = static_cast<size_t>(value);
    return cudaSuccess;
}

using cudaStream_t = struct CUstream_st*;

struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
    cudaLaunchAttribute* attrs = nullptr;
    unsigned numAttrs = 0;
};

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    constexpr unsigned kMaxThreads = 1024;
    const auto allowed = cuda_on_cpu::allowed_shared_bytes.find(reinterpret_cast<const void*>(kernel));
    const size_t most_shared_bytes =
        allowed == cuda_on_cpu::allowed_shared_bytes.end() ? cuda_on_cpu::kSharedBytes : allowed->second;
    const dim3 grid = config->gridDim, block = config->blockDim;
    if (grid.x == 0 || grid.x > 0x7fffffffu || grid.y != 1 || grid.z != 1 || block.x == 0 || block.x > kMaxThreads ||
        block.y != 1 || block.z != 1 || config->dynamicSmemBytes > most_shared_bytes) {
        return cudaErrorInvalidConfiguration;
    }
    cuda_on_cpu::run_grid(grid, block, config->dynamicSmemBytes, [&] { kernel(arguments...); });
    return cudaSuccess;
}
