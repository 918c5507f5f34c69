// The operators on CUDA, and the rule of method "auto" there.
#include "../operators.h"

#include "../aten_convolution.h"
#include "construct_kernel.h"
#include "depthwise_conv2d.h"

namespace dcls::cuda {
namespace {

struct Backend {
    static constexpr auto construct_kernel = cuda::construct_kernel;
    static constexpr auto construct_kernel_backward = cuda::construct_kernel_backward;

    static Method choose_method(const Convolution&, Pass) { return Method::construct; }

    static Tensor conv(Method, const Convolution&, const OptionalTensor& bias) { return *bias; }
    static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> conv_backward(Method, const Tensor& t, const Convolution&,
                                                                            const std::array<bool, 5>&) {
        return {t, t, t, t, t};
    }

    static constexpr auto dense = aten_dense;
    static constexpr auto dense_backward = aten_dense_backward;
    static constexpr auto depthwise_conv2d = cuda::depthwise_conv2d;
    static constexpr auto depthwise_conv2d_backward = cuda::depthwise_conv2d_backward;
};

}  // namespace
}  // namespace dcls::cuda

STABLE_TORCH_LIBRARY_IMPL(DCLS_NAMESPACE, DCLS_CUDA, m) { dcls::register_operators<dcls::cuda::Backend>(m); }
