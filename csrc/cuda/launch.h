// Where and how kernels are launched.
#pragma once

#include "../stable.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>

namespace dcls::cuda {

constexpr int kWarp = 32;

// For __launch_bounds__: blocks that a multiprocessor must have room for. Without, the compiler spills registers for
// the sake of more. float64 takes twice the registers.
template <typename T>
constexpr int kFewestBlocks = std::is_same_v<T, double> ? 2 : 3;

// Launches kernels on a tensor's device, on the current stream there; the device is the current one for as long as the
// launcher lives. Nothing waits for the device, so that all of it can be captured in a CUDA graph.
class Launcher {
 public:
    explicit Launcher(const Tensor& on) : guard_(nullptr, [](CUDAGuardHandle g) { aoti_torch_delete_cuda_guard(g); }) {
        const int32_t device = on.get_device_index();
        CUDAGuardHandle guard = nullptr;
        STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(device, &guard));
        guard_.reset(guard);
        void* stream = nullptr;
        STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
        stream_ = static_cast<cudaStream_t>(stream);
    }

    // For `items` pieces of work of a block each. A grid has a limit, so kernels visit them with for_each_item.
    template <typename... Parameters, typename... Arguments>
    void operator()(void (*kernel)(Parameters...), int64_t items, int threads, int64_t shared_bytes,
                    Arguments&&... arguments) const {
        if (items == 0) {
            return;
        }
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<unsigned>(std::min<int64_t>(items, kMaxBlocks)));
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
        config.stream = stream_;
        if (shared_bytes > kSharedWithoutAsking) {
            STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                static_cast<int>(shared_bytes)));
        }
        STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...));
    }

 private:
    static constexpr int64_t kSharedWithoutAsking = 48 << 10;
    static constexpr int64_t kMaxBlocks = (int64_t{1} << 31) - 1;

    std::unique_ptr<CUDAGuardOpaque, void (*)(CUDAGuardHandle)> guard_;
    cudaStream_t stream_ = nullptr;
};

// The shared memory that a block may have on a tensor's device.
inline int64_t most_shared_bytes(const Tensor& on) {
    int bytes = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, on.get_device_index()));
    return bytes;
}

// The compute capability that a kernel's code for the current device was written for: 80 for 8.0. It is below the
// device's where the driver compiled PTX of an older one.
template <typename... Parameters>
int compiled_for(void (*kernel)(Parameters...)) {
    cudaFuncAttributes attributes{};
    STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
    return attributes.ptxVersion;
}

// body(item) for the block's share of `items`.
template <typename I, typename Body>
__device__ void for_each_item(I items, const Body& body) {
    for (I item = blockIdx.x; item < items; item += gridDim.x) {
        body(item);
    }
}

}  // namespace dcls::cuda
