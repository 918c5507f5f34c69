// Whether the NVIDIA driver of this machine can run the kernels of this library.
#pragma once

namespace dcls::cuda {

// False where the driver is too old for the CUDA runtime that is linked into the library, of which every call would
// fail. True without a driver: nothing can fail there, since tensors on a GPU need one.
bool driver_suffices();

}  // namespace dcls::cuda
