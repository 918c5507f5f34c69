// The kernels of depthwise convolution, a file each.
#pragma once

#include "../../stable.h"
#include "depthwise_maps.h"

#include <cuda_runtime.h>

#include <optional>

namespace dcls::cuda {

// The output (with the bias, which may be null) or the gradient of the input: in float32 and float64, and in half
// types. False where a kernel cannot: then nothing was launched.
template <typename T>
bool correlate(Role role, const Problem& problem, bool channels_last, const Tensor& in, const Tensor& kernel,
               const Tensor& out, const T* bias);
template <typename T>
bool correlate_by_tensor_cores(Role role, const Problem& problem, bool channels_last, const Tensor& in,
                               const Tensor& kernel, const Tensor& out, const T* bias);

// The gradient of the kernel (out channels, *kernel) in the compute dtype; nothing where a kernel cannot.
template <typename T>
std::optional<Tensor> kernel_gradient(const Problem& problem, const Tensor& input, const Tensor& grad_output);
template <typename T>
std::optional<Tensor> kernel_gradient_by_tensor_cores(const Problem& problem, const Tensor& input,
                                                      const Tensor& grad_output);

// A tensor whose planes lie in one piece each: the same one, or a copy of one in channels_last.
Tensor whole_planes(const Tensor& tensor);

// Kernels number their pieces of work with an int.
constexpr int64_t kMostItems = (int64_t{1} << 31) - 1;

// Calls body.template operator()<count>(), for least <= count <= most.
#pragma nv_exec_check_disable  // a body of either kind will do
template <int least, int most, typename Body>
__host__ __device__ void dispatch_count(int count, const Body& body) {
    if constexpr (least == most) {
        body.template operator()<most>();
    } else if (count == most) {
        body.template operator()<most>();
    } else {
        dispatch_count<least, most - 1>(count, body);
    }
}

}  // namespace dcls::cuda
