// A kernel with defects that can be turned on: the tests of the harness show that each is found.
#include "cuda/launch.h"
#include "cuda/ptx.h"

#include <cstring>
#include <exception>

namespace {

constexpr int kThreads = 64;

enum Defect {
    none,
    missing_barrier,
    barrier_for_some,       // that half of the threads never reach
    barrier_in_two_places,  // half of the threads wait in another place than the rest
    shuffle_for_some,       // lanes that the rest of their warp does not meet
    missing_wait,           // for an asynchronous copy
    copy_not_aligned,
    shared_index_off_by_one,  // past the end of shared memory
    global_index_off_by_one,  // past the end of the input
};

// Each row's sum, by a block: out[row] = sum over columns of in[row, column].
__global__ void sum_rows(const float* in, float* out, int rows, int columns, Defect defect) {
    float* const shared = dcls::cuda::shared_memory<float>();
    dcls::cuda::for_each_item(rows, [&](int64_t row) {
        const auto thread = static_cast<int>(threadIdx.x);
        const int column = thread + (defect == global_index_off_by_one ? 1 : 0);
        __syncthreads();
        dcls::cuda::copy_async(shared + thread + (defect == shared_index_off_by_one ? 1 : 0),
                               in + row * columns + column, thread < columns);
        if (defect == copy_not_aligned) {
            auto* const bytes = reinterpret_cast<char*>(shared + thread);
            dcls::cuda::copy_async(reinterpret_cast<float*>(bytes + 2), in, thread + 1 < kThreads);
        }
        if (defect != missing_wait) {
            dcls::cuda::copy_wait();
        }
        for (int half = kThreads / 2; half > 0; half /= 2) {
            if (defect == barrier_in_two_places && thread < half) {
                __syncthreads();
            } else if (defect != missing_barrier && (defect != barrier_for_some || thread < half)) {
                __syncthreads();
            }
            if (thread < half) {
                shared[thread] += shared[thread + half];
            }
        }
        if (defect != shuffle_for_some || thread != 0) {
            __shfl_xor_sync(~0u, 0.0f, 1);
        }
        if (thread == 0) {
            out[row] = shared[0];
        }
    });
}

}  // namespace

// Writes what went wrong to `message`, or nothing.
extern "C" __attribute__((visibility("default"))) void cuda_on_cpu_sum_rows(const float* in, float* out, int rows,
                                                                            int columns, int defect, char* message,
                                                                            int most_characters) {
    message[0] = 0;
    cudaLaunchConfig_t config;
    config.gridDim = dim3(static_cast<unsigned>(rows));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = kThreads * sizeof(float);
    try {
        cudaLaunchKernelEx(&config, sum_rows, in, out, rows, columns, static_cast<Defect>(defect));
    } catch (const std::exception& error) {
        std::strncpy(message, error.what(), static_cast<size_t>(most_characters) - 1);
    }
}
