// Construction of dense kernels on the CPU, and its gradients.
#pragma once

#include "../../checks.h"

namespace dcls::cpu {

// The dense kernel (O, I/g, *kernel_size), not rounded yet: float64 for float64 parameters, else float32.
Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments);

// Gradients for (weight, positions, sigma) in their dtype, each without elements where output_mask is false.
// grad_kernel may have any dtype.
std::tuple<Tensor, Tensor, Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                             const Tensor& positions, const OptionalTensor& sigma,
                                                             const KernelArguments& arguments,
                                                             std::array<bool, 3> output_mask);

}  // namespace dcls::cpu
