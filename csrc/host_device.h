// Marks the functions that the CPU and CUDA kernels share.
#pragma once

#ifdef __CUDACC__
#define DCLS_HOST_DEVICE __host__ __device__ inline
#else
// Always inlined: the unit of each instruction set needs a copy of its own (cpu/instruction_set.h).
#define DCLS_HOST_DEVICE [[gnu::always_inline]] inline
#endif
