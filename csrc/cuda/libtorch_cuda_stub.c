// Stands in for libtorch_cuda.so when the CUDA library is linked where torch is a CPU build: it has that soname, so
// that the real library is found at run time, and exports the shim symbols that CUDA kernels call. It is never
// installed. (A C file, so that the signatures need not match.)
void aoti_torch_create_cuda_guard(void) {}
void aoti_torch_delete_cuda_guard(void) {}
void aoti_torch_get_current_cuda_stream(void) {}
void torch_c10_cuda_check_msg(void) {}
void torch_c10_cuda_free_error_msg(void) {}
