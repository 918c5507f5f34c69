#include "depthwise_conv2d.h"

#include "../../aten_convolution.h"
#include "../dtypes.h"
#include "kernels.h"

#include <algorithm>
#include <optional>

namespace dcls::cuda {
namespace {

constexpr int64_t kMost = int64_t{1} << 30;

// Whether entries are less than kMost apart, along all but the first `dims` dimensions.
bool fits(const Tensor& tensor, int64_t dims) {
    int64_t last = 0;
    for (int64_t dim = dims; dim < tensor.dim(); ++dim) {
        last += (tensor.size(dim) - 1) * tensor.stride(dim);
    }
    return last < kMost;
}

// Nothing where a number does not fit in what kernels compute with, some steps beyond the last entry included.
std::optional<Problem> make_problem(const Tensor& input, const Tensor& kernel, const ConvArguments& arguments) {
    bool all_fit = fits(input, 1) && fits(kernel, 0) && kernel.numel() < kMost && input.size(0) < kMost;
    const auto narrow = [&](int64_t value) {
        all_fit = all_fit && value < kMost / 4;
        return static_cast<int>(value);
    };
    const auto axis = [&](size_t a) {
        const auto at = static_cast<int64_t>(a) + 2;
        all_fit = all_fit && arguments.stride[a] < kMost / 4096;
        return AxisShape{narrow(input.size(at)), narrow(kernel.size(at)),
                         narrow(arguments.batched_output_shape()[a + 2]), narrow(arguments.stride[a]),
                         narrow(arguments.padding[a])};
    };
    const Problem problem{axis(0), axis(1), static_cast<int>(input.size(0)), static_cast<int>(input.size(1)),
                          static_cast<int>(kernel.size(0) / std::max<int64_t>(input.size(1), 1))};
    return all_fit ? std::optional(problem) : std::nullopt;
}

// False where no kernel of ours can: then nothing was computed.
bool correlate(Role role, const std::optional<Problem>& problem, const Tensor& in, const Tensor& kernel,
               const Tensor& out, const PreparedBias& bias) {
    bool done = problem.has_value() && fits(in, 1);
    const bool channels_last = is_channels_last(in);
    dispatch_dtype(in.scalar_type(), [&]<typename T>() {
        if (done) {
            if constexpr (sizeof(T) == 2) {
                done = correlate_by_tensor_cores<T>(role, *problem, channels_last, in, kernel, out, bias.pointer<T>());
            } else {
                done = correlate<T>(role, *problem, channels_last, in, kernel, out, bias.pointer<T>());
            }
        }
    });
    return done;
}

std::optional<Tensor> kernel_gradient(const std::optional<Problem>& problem, const Tensor& input,
                                      const Tensor& grad_output) {
    std::optional<Tensor> gradient;
    dispatch_dtype(input.scalar_type(), [&]<typename T>() {
        if (problem.has_value() && fits(grad_output, 1)) {
            if constexpr (sizeof(T) == 2) {
                gradient = kernel_gradient_by_tensor_cores<T>(*problem, input, grad_output);
            } else {
                gradient = kernel_gradient<T>(*problem, input, grad_output);
            }
        }
    });
    return gradient;
}

}  // namespace

Tensor depthwise_conv2d(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                        const ConvArguments& arguments) {
    const ScalarType dtype = input.scalar_type();
    const PreparedBias prepared_bias(bias, dtype);
    const Tensor output = empty_in_format_of(input, arguments.batched_output_shape());
    return correlate(Role::forward, make_problem(input, kernel, arguments), input, cast(kernel, dtype), output,
                     prepared_bias)
               ? output
               : aten_dense(input, kernel, bias, arguments);
}

DenseGradients<Tensor> depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                 const ConvArguments& arguments, const DenseGradients<bool>& wanted,
                                                 ScalarType grad_kernel_dtype) {
    const ScalarType dtype = input.scalar_type();
    const std::optional<Problem> problem = make_problem(input, kernel, arguments);
    const auto by_aten = [&](const DenseGradients<bool>& some) {
        return aten_dense_backward(grad_output, input, kernel, arguments, some);
    };
    Tensor grad_input = not_computed(dtype, input), grad_kernel = not_computed(dtype, input);
    if (wanted.input) {
        grad_input = empty_in_format_of(input, sizes(input));
        if (arguments.stride[0] > kernel.size(2) || arguments.stride[1] > kernel.size(3)) {
            zero_(grad_input);  // inputs between kernels are in no phase
        }
        if (!correlate(Role::grad_input, problem, grad_output, cast(kernel, dtype), grad_input,
                       PreparedBias(std::nullopt, dtype))) {
            grad_input = by_aten({true, false, false}).input;
        }
    }
    if (wanted.kernel) {
        const std::optional<Tensor> gradient = kernel_gradient(problem, input, grad_output);
        grad_kernel = gradient.has_value() ? unsqueeze(cast(*gradient, grad_kernel_dtype), 1)
                                           : cast(by_aten({false, true, false}).kernel, grad_kernel_dtype);
    }
    return {grad_input, grad_kernel, wanted.bias ? aten_bias_gradient(grad_output) : not_computed(dtype, input)};
}

}  // namespace dcls::cuda
