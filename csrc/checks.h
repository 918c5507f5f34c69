// Argument checks of every operator, made before any kernel runs. dcls_ops/_checks.py says the same to the fake
// kernels, check for check and word for word; tests/ops/test_bad_input.py holds the two together.
#pragma once

#include "interpolation.h"
#include "stable.h"

#include <string_view>

namespace dcls {

// The validated parameters of a dense kernel.
struct KernelArguments {
    IntList kernel_size;  // (L_1, ..., L_d)
    Version version;
    int64_t out_channels;           // O
    int64_t in_channels_per_group;  // I/g
    int64_t kernel_count;           // K
    bool shared_positions;          // positions (and sigma) are (d, 1, I/g, K)

    int64_t spatial_axes() const { return static_cast<int64_t>(kernel_size.size()); }
    IntList kernel_shape() const {
        IntList shape{out_channels, in_channels_per_group};
        shape.insert(shape.end(), kernel_size.begin(), kernel_size.end());
        return shape;
    }
};

// `op` is the operator's name in messages.
KernelArguments check_kernel_arguments(std::string_view op, const Tensor& weight, const Tensor& positions,
                                       const IntList& kernel_size, const OptionalTensor& sigma,
                                       std::string_view version);

KernelArguments check_construct_kernel_backward_arguments(std::string_view op, const Tensor& grad_kernel,
                                                          const Tensor& weight, const Tensor& positions,
                                                          const OptionalTensor& sigma, std::string_view version);

enum class Method { automatic, construct, direct, im2col };

// The validated arguments of a convolution.
struct ConvArguments {
    IntList stride, padding;
    int64_t groups;
    bool batched;
    Method method;
    IntList output_shape;  // batch included where there is one

    IntList batched_output_shape() const {
        IntList shape = output_shape;
        if (!batched) {
            shape.insert(shape.begin(), 1);
        }
        return shape;
    }
};

ConvArguments check_conv_arguments(std::string_view op, int64_t spatial_axes, const Tensor& input, const Tensor& weight,
                                   const Tensor& positions, const IntList& kernel_size, const OptionalTensor& bias,
                                   const IntList& stride, const IntList& padding, int64_t groups,
                                   std::string_view method);

ConvArguments check_depthwise_conv2d_arguments(std::string_view op, const Tensor& input, const Tensor& kernel,
                                               const OptionalTensor& bias, const IntList& stride,
                                               const IntList& padding);

// An output_mask of n entries, as an array.
template <size_t n>
std::array<bool, n> check_output_mask(std::string_view op, const BoolList& output_mask);

void check_grad_output(std::string_view op, const Tensor& grad_output, const Tensor& input, const ConvArguments& conv);

}  // namespace dcls
