// Construction of dense kernels on the CPU, and its gradients.
#pragma once

#include "../../checks.h"
#include "../../gradients.h"

namespace dcls::cpu {

// The dense kernel (O, I/g, *kernel_size), not rounded yet: float64 for float64 parameters, else float32.
Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments);

// Gradients in the parameters' dtype. grad_kernel may have any dtype.
ParameterGradients<Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                     const Tensor& positions, const OptionalTensor& sigma,
                                                     const KernelArguments& arguments,
                                                     const ParameterGradients<bool>& wanted);

}  // namespace dcls::cpu
