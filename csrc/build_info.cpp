// What this library was compiled for, read by `python -m dcls_ops info` through ctypes.
#if defined(__x86_64__)
#define DCLS_CPU_BASELINE "x86-64"
#elif defined(__aarch64__)
#define DCLS_CPU_BASELINE "arm64"
#else
#define DCLS_CPU_BASELINE "generic"
#endif

extern "C" __attribute__((visibility("default"))) const char* dcls_build_info() {
    return "compiled by " DCLS_COMPILER ", CPU kernels for " DCLS_CPU_BASELINE;
}
