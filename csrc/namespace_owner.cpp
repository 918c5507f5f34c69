#include "namespace_owner.h"

#include "stable.h"

#include <dlfcn.h>

#include <cstdio>

namespace dcls {
namespace {

// STABLE_TORCH_LIBRARY would do this too, but it takes no notice of the error, and defines operators on a library that
// was never made: a segmentation fault. Nothing may be thrown instead, because there is nobody to catch it in dlopen.
bool take_namespace() {
    TorchLibraryHandle library = nullptr;  // kept as long as the process: the namespace is given back with it
    if (aoti_torch_library_init_def(C10_STRINGIZE(DCLS_NAMESPACE), __FILE__, __LINE__, &library) ==
        AOTI_TORCH_SUCCESS) {
        return true;
    }
    Dl_info here{};
    dladdr(reinterpret_cast<const void*>(&take_namespace), &here);
    std::fprintf(stderr,
                 "dcls_ops: %s registers nothing, because another library has defined torch.ops." C10_STRINGIZE(
                     DCLS_NAMESPACE) " before: load one copy of libdcls.so only\n",
                 here.dli_fname != nullptr ? here.dli_fname : "this library");
    return false;
}

}  // namespace

bool owns_namespace() {
    static const bool is_first = take_namespace();
    return is_first;
}

}  // namespace dcls

// Read by dcls_ops/_library.py through ctypes.
extern "C" __attribute__((visibility("default"))) int dcls_owns_namespace() { return dcls::owns_namespace(); }
