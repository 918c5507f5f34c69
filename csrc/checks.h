// Argument checks of every operator, made before any kernel runs. dcls_ops/_checks.py says the same to the fake
// kernels, check for check and word for word; tests/ops/test_bad_input.py holds the two together.
#pragma once

#include "interpolation.h"
#include "stable.h"

#include <string_view>

namespace dcls {

// The validated parameters of a dense kernel. Along leading axes it may be dense: every dense tap has K elements of its
// own, whose positions are learned along the other axes.
struct KernelArguments {
    IntList kernel_size;  // along all spatial axes
    Version version;
    int64_t out_channels;           // O
    int64_t in_channels_per_group;  // I/g
    int64_t kernel_count;           // elements of a filter, those of all dense taps
    int64_t learned_axes;           // d, the last ones
    bool shared_positions;          // positions (and sigma) are (d, 1, I/g, *dense, K)

    int64_t spatial_axes() const { return static_cast<int64_t>(kernel_size.size()); }
    bool is_partly_dense() const { return learned_axes < spatial_axes(); }
    IntList kernel_shape() const {
        IntList shape{out_channels, in_channels_per_group};
        shape.insert(shape.end(), kernel_size.begin(), kernel_size.end());
        return shape;
    }

    // Every dense tap as an in channel of its own: entries of the kernel and of its parameters lie in the same order.
    KernelArguments dense_taps_as_channels() const {
        KernelArguments split = *this;
        const auto first_learned = kernel_size.end() - learned_axes;
        for (auto extent = kernel_size.begin(); extent != first_learned; ++extent) {
            split.in_channels_per_group *= *extent;
            split.kernel_count /= *extent;
        }
        split.kernel_size.assign(first_learned, kernel_size.end());
        return split;
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
    OptionalInt touched_taps;  // about how many an element touches along an axis, if that is known
    IntList output_shape;      // batch included where there is one

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
                                   std::string_view method, const OptionalInt& touched_taps);

ConvArguments check_depthwise_conv_arguments(std::string_view op, int64_t spatial_axes, const Tensor& input,
                                             const Tensor& kernel, const OptionalTensor& bias, const IntList& stride,
                                             const IntList& padding);

// An output_mask of n entries, as an array.
template <size_t n>
std::array<bool, n> check_output_mask(std::string_view op, const BoolList& output_mask);

void check_grad_output(std::string_view op, const Tensor& grad_output, const Tensor& input, const ConvArguments& conv);

}  // namespace dcls
