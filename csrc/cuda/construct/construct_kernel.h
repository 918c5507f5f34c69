// The CUDA construction kernels, for the other CUDA operators that need a dense kernel.
#pragma once

#include "../element.h"
#include "../launch.h"

namespace dcls::cuda {

// 1 / normalisation of every element with positions of its own, in the compute dtype.
Tensor inverse_normalisation(const Filters& filters, const PreparedParameters& parameters, Version version);

// See cpu/construct_kernel.h.
Tensor construct_kernel(const Tensor& weight, const Tensor& positions, const OptionalTensor& sigma,
                        const KernelArguments& arguments);

std::tuple<Tensor, Tensor, Tensor> construct_kernel_backward(const Tensor& grad_kernel, const Tensor& weight,
                                                             const Tensor& positions, const OptionalTensor& sigma,
                                                             const KernelArguments& arguments,
                                                             std::array<bool, 3> output_mask);

}  // namespace dcls::cuda
