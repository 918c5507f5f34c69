// The CPU construction kernels, for the other CPU operators that need a dense kernel.
#pragma once

#include "../checks.h"

namespace dcls::cpu {

// The dense kernel (O, I/g, *kernel_size), in weight's dtype.
Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments);

// Gradients for (weight, positions, sigma), each without elements where output_mask is false.
std::tuple<Tensor, Tensor, Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                             const Tensor& positions, const OptionalTensor& sigma,
                                                             const KernelArguments& arguments,
                                                             std::array<bool, 3> output_mask);

}  // namespace dcls::cpu
