// The operators on the CPU, and the rule of method "auto" there.
#include "../operators.h"

#include "../aten_convolution.h"
#include "construct_kernel.h"
#include "conv_direct.h"
#include "conv_im2col.h"
#include "depthwise_conv.h"

#include <algorithm>

namespace dcls::cpu {
namespace {

// The rule behind method "auto": the cheaper of the methods, each by its estimated cost for one in channel and output
// pixel in multiply-adds of a large matrix product. The constants are fitted to `make bench-shared` on one processor
// with AVX-512; benchmarks/results/shared-positions-cpu.json has the times of both methods and of "auto".
double construct_cost(const KernelArguments& kernel, const ConvArguments& conv, Pass pass) {
    double taps = 1;
    for (const auto extent : kernel.kernel_size) {
        taps *= static_cast<double>(extent);
    }
    const int64_t out_channels = kernel.out_channels / conv.groups;
    if (out_channels > 1) {
        return (pass == Pass::forward ? 0.65 : 0.85) * taps * static_cast<double>(out_channels);
    }
    // Depthwise: aten's fast kernels have no backward, and stop at a padding of 6.
    const bool is_fast = pass == Pass::forward && *std::max_element(conv.padding.begin(), conv.padding.end()) <= 6;
    return (is_fast ? 2 : pass == Pass::forward ? 22 : 15) * taps;
}

struct Backend {
    static constexpr auto construct_kernel = cpu::construct_kernel;
    static constexpr auto construct_kernel_backward = cpu::construct_kernel_backward;

    static Method choose_method(const Convolution& convolution, Pass pass) {
        const bool is_cheaper =
            convolution.kernel.shared_positions &&
            im2col_cost(convolution, pass) < construct_cost(convolution.kernel, convolution.arguments, pass);
        return is_cheaper ? Method::im2col : Method::construct;
    }

    static Tensor conv(Method method, const Convolution& convolution, const OptionalTensor& bias) {
        return method == Method::direct ? conv_direct(convolution, bias) : conv_im2col(convolution, bias);
    }
    static auto conv_backward(Method method, const Tensor& grad_output, const Convolution& convolution,
                              const std::array<bool, 5>& output_mask) {
        return method == Method::direct ? conv_direct_backward(grad_output, convolution, output_mask)
                                        : conv_im2col_backward(grad_output, convolution, output_mask);
    }

    static Tensor dense(const Tensor& input, const Tensor& kernel, const OptionalTensor& bias,
                        const ConvArguments& arguments) {
        return is_depthwise(input, sizes(kernel), arguments)
                   ? depthwise_conv(input, cast(kernel, input.scalar_type()), bias, arguments)
                   : aten_dense(input, kernel, bias, arguments);
    }
    static std::array<Tensor, 3> dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                const ConvArguments& arguments,
                                                const std::array<bool, 3>& output_mask) {
        return is_depthwise(input, sizes(kernel), arguments)
                   ? depthwise_conv_backward(grad_output, input, cast(kernel, input.scalar_type()), arguments,
                                             output_mask)
                   : aten_dense_backward(grad_output, input, kernel, arguments, output_mask);
    }

    static constexpr auto depthwise_conv2d = dense;
    static std::array<Tensor, 3> depthwise_conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                                           const Tensor& kernel, const ConvArguments& arguments,
                                                           const std::array<bool, 3>& output_mask) {
        auto gradients = dense_backward(grad_output, input, kernel, arguments, output_mask);
        gradients[1] = cast(gradients[1], kernel.scalar_type());
        return gradients;
    }
};

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) { dcls::register_operators<dcls::cpu::Backend>(m); }
