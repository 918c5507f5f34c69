// Construction of dense kernels on CUDA, and its gradients.
#pragma once

#include "../../checks.h"
#include "../../gradients.h"

namespace dcls::cuda {

// What both functions return is said in cpu/construct/construct_kernel.h.
Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments);

ParameterGradients<Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                     const Tensor& positions, const OptionalTensor& sigma,
                                                     const KernelArguments& arguments,
                                                     const ParameterGradients<bool>& wanted);

}  // namespace dcls::cuda
