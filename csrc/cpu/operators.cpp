// The operators on the CPU.
#include "../operators.h"

#include "../aten_convolution.h"
#include "../namespace_owner.h"
#include "construct/construct_kernel.h"
#include "direct/conv_direct.h"
#include "im2col/conv_im2col.h"
#include "costs.h"
#include "depthwise/depthwise_conv.h"

#include <algorithm>

namespace dcls::cpu {
namespace {

struct Backend {
    // Whether method "direct" knows filters that are dense along leading axes.
    static constexpr bool kVisitsPartlyDense = true;

    static constexpr auto construct_kernel = cpu::construct_kernel;
    static constexpr auto construct_kernel_backward = cpu::construct_kernel_backward;

    static Method choose_method(const Convolution& convolution, Pass pass) {
        const double construct = cost(Method::construct, convolution, pass);
        const double direct = cost(Method::direct, convolution, pass);
        if (takes_im2col(convolution) && cost(Method::im2col, convolution, pass) < std::min(construct, direct)) {
            return Method::im2col;
        }
        return direct < construct ? Method::direct : Method::construct;
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
        const bool is_ours =
            is_depthwise(input, kernel, arguments) &&
            (kernel.scalar_type() == ScalarType::Double ||
             !is_faster_in_aten({kernel.sizes().begin() + 2, kernel.sizes().end()}, arguments.padding));
        return is_ours ? cpu::depthwise_conv(input, cast(kernel, input.scalar_type()), bias, arguments)
                       : aten_dense(input, kernel, bias, arguments);
    }
    static std::array<Tensor, 3> dense_backward(const Tensor& grad_output, const Tensor& input, const Tensor& kernel,
                                                const ConvArguments& arguments,
                                                const std::array<bool, 3>& output_mask) {
        return is_depthwise(input, kernel, arguments)
                   ? cpu::depthwise_conv_backward(grad_output, input, cast(kernel, input.scalar_type()), arguments,
                                                  output_mask)
                   : aten_dense_backward(grad_output, input, kernel, arguments, output_mask);
    }

    static constexpr auto depthwise_conv = dense;
    static std::array<Tensor, 3> depthwise_conv_backward(const Tensor& grad_output, const Tensor& input,
                                                         const Tensor& kernel, const ConvArguments& arguments,
                                                         const std::array<bool, 3>& output_mask) {
        auto gradients = dense_backward(grad_output, input, kernel, arguments, output_mask);
        gradients[1] = cast(gradients[1], kernel.scalar_type());
        return gradients;
    }
};

}  // namespace
}  // namespace dcls::cpu

STABLE_TORCH_LIBRARY_IMPL(dcls, CPU, m) {
    if (dcls::owns_namespace()) {
        dcls::register_operators<dcls::cpu::Backend>(m);
    }
}
