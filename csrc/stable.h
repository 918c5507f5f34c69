// The one place that names LibTorch's Stable ABI, registration macros apart: every alias used elsewhere, and the ATen
// operators we call that torch/csrc/stable/ops.h does not wrap. Nothing here is newer than torch 2.10
// (TORCH_TARGET_VERSION in CMakeLists.txt).
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

// What the operators, and the CUDA kernels, are registered as. tests/cuda_on_cpu builds the CUDA sources as operators
// of another namespace, for tensors on the CPU.
#ifndef DCLS_NAMESPACE
#define DCLS_NAMESPACE dcls
#define DCLS_CUDA CUDA
#endif

// Threads of MKL, for the calling thread; 0 is what all others have. Returns the number before. Null where torch was
// built without MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace dcls {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::headeronly::toString;
using torch::stable::contiguous;
using torch::stable::narrow;
using torch::stable::parallel_for;
using torch::stable::squeeze;
using torch::stable::Tensor;
using torch::stable::transpose;
using torch::stable::unsqueeze;
using torch::stable::view;
using torch::stable::zero_;

using IntList = std::vector<int64_t>;
using BoolList = std::vector<bool>;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;

// A `str` argument. Kernels take this handle and call take() once: the conversion to std::string in the headers of
// torch 2.13 leaks one string a call.
using StringArgument = StringHandle;

inline std::string take(StringArgument handle) {
    size_t length = 0;
    const char* characters = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &characters));
    std::string result(characters, length);
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return result;
}

inline IntList sizes(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

inline Tensor cast(const Tensor& self, ScalarType dtype) {
    return self.scalar_type() == dtype ? self : torch::stable::to(self, dtype);
}

// A new uninitialised tensor on `like`'s device.
inline Tensor empty(const IntList& sizes, ScalarType dtype, const Tensor& like) {
    return torch::stable::empty(sizes, dtype, std::nullopt, like.device());
}

// What an operator returns for a gradient that its output_mask leaves out: a tensor without elements. (Not
// an undefined one, which a fake kernel could not describe.)
inline Tensor not_computed(ScalarType dtype, const Tensor& like) { return empty({0}, dtype, like); }

inline Tensor sum_over(const Tensor& self, const IntList& dims, bool keepdim = false) {
    return torch::stable::sum(self, torch::headeronly::IntHeaderOnlyArrayRef(dims.data(), dims.size()), keepdim);
}

inline Tensor add(const Tensor& a, const Tensor& b) {
    return torch::stable::subtract(a, b, -1.0);  // what the Stable ABI has
}

inline Tensor full(const IntList& sizes, double value, ScalarType dtype, const Tensor& like) {
    return torch::stable::full(sizes, value, dtype, std::nullopt, like.device());
}

// The products of two batches of matrices. Called by an overload that autocast leaves alone.
inline Tensor batched_product(const Tensor& a, const Tensor& b) {
    using torch::stable::detail::from;
    const Tensor result = empty({a.size(0), a.size(1), b.size(2)}, a.scalar_type(), a);
    std::array<StableIValue, 3> stack{from(a), from(b), from(result)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

// result = a b, or result += a b, for matrices on the CPU. By one thread, in an order that does not depend on how many
// there are: MKL, where torch has it, cuts sums by their number even inside of a parallel region.
inline void cpu_matrix_product(const Tensor& a, const Tensor& b, bool accumulate, const Tensor& result) {
    struct OneThread {
        int before = MKL_Set_Num_Threads_Local != nullptr ? MKL_Set_Num_Threads_Local(1) : 0;
        ~OneThread() {
            if (MKL_Set_Num_Threads_Local != nullptr) {
                MKL_Set_Num_Threads_Local(before);
            }
        }
    } one_thread;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_cpu_addmm_out(result.get(), result.get(), a.get(), b.get(), accumulate ? 1.0 : 0.0, 1.0));
}

// aten::convolution without dilation or transposition.
inline Tensor aten_convolution(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                               const IntList& stride, const IntList& padding, int64_t groups) {
    using torch::stable::detail::from;
    const IntList ones(stride.size(), 1);
    const IntList zeros(stride.size(), 0);
    std::array<StableIValue, 9> stack{from(input), from(kernel), from(bias),  from(stride), from(padding),
                                      from(ones),  from(false),  from(zeros), from(groups)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::convolution", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
}

// aten::convolution_backward without dilation or transposition; output_mask and the result are for (input, kernel,
// bias).
inline std::array<Tensor, 3> aten_convolution_backward(const Tensor& grad_output, const Tensor& input,
                                                       const Tensor& kernel, const IntList& stride,
                                                       const IntList& padding, int64_t groups,
                                                       std::array<bool, 3> output_mask) {
    using torch::stable::detail::from;
    using torch::stable::detail::to;
    const IntList ones(stride.size(), 1);
    const IntList zeros(stride.size(), 0);
    const std::optional<IntList> bias_sizes = IntList{kernel.size(0)};
    const torch::headeronly::HeaderOnlyArrayRef<bool> mask(output_mask.data(), output_mask.size());
    std::array<StableIValue, 11> stack{from(grad_output), from(input),   from(kernel), from(bias_sizes),
                                       from(stride),      from(padding), from(ones),   from(false),
                                       from(zeros),       from(groups),  from(mask)};
    STABLE_TORCH_ERROR_CODE_CHECK(
        torch_call_dispatcher("aten::convolution_backward", "", stack.data(), TORCH_ABI_VERSION));
    return {to<Tensor>(stack[0]), to<Tensor>(stack[1]), to<Tensor>(stack[2])};
}

}  // namespace dcls
