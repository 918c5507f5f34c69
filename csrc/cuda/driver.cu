#include "driver.h"

#include <cuda_runtime.h>
#include <dlfcn.h>

namespace dcls::cuda {
namespace {

// The newest CUDA that the driver knows, 12040 for 12.4, or 0 without a driver. Asked of the driver itself, because
// cudaDriverGetVersion starts CUDA: a process could not fork or choose CUDA_VISIBLE_DEVICES once it has imported us.
int driver_version() {
    void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (driver == nullptr) {
        return 0;
    }
    const auto get_version = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDriverGetVersion"));
    int version = 0;
    return get_version != nullptr && get_version(&version) == 0 ? version : 0;
}

constexpr int major_of(int version) { return version / 1000; }

}  // namespace

// Any driver for the runtime's major version will do (CUDA's "minor version compatibility"). What that leaves out is
// PTX, which only a driver as new as nvcc compiles: it matters to GPUs newer than every architecture that the library
// was built for, and there CUDA says so in the first call.
bool driver_suffices() {
    const int driver = driver_version();
    return driver == 0 || major_of(driver) >= major_of(CUDART_VERSION);
}

}  // namespace dcls::cuda

// Read by dcls_ops/_library.py through ctypes.
#define DCLS_EXPORT extern "C" __attribute__((visibility("default")))
DCLS_EXPORT int dcls_cuda_driver_suffices() { return dcls::cuda::driver_suffices(); }
DCLS_EXPORT int dcls_cuda_driver_version() { return dcls::cuda::driver_version(); }
DCLS_EXPORT int dcls_cuda_runtime_version() { return CUDART_VERSION; }
