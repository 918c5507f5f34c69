// What this library was compiled for, read by `python -m dcls_ops info` through ctypes.
#include "../stable.h"

#include <cuda_runtime.h>

extern "C" __attribute__((visibility("default"))) const char* dcls_cuda_build_info() {
    return "compiled by " DCLS_COMPILER ", CUDA architectures " DCLS_CUDA_ARCHITECTURES;
}
