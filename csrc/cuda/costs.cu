#include "costs.h"

namespace dcls::cuda {

double cost(Method method, const Convolution& convolution, Pass) {
    const KernelArguments& kernel = convolution.kernel;
    const auto out_channels_per_group = static_cast<double>(kernel.out_channels / convolution.arguments.groups);
    const auto elements = static_cast<double>(kernel.kernel_count);
    double taps = 1, touched = 1;
    for (const auto extent : kernel.kernel_size) {
        taps *= static_cast<double>(extent);
        touched *= static_cast<double>(usual_taps(kernel.version, convolution.arguments.touched_taps, extent));
    }
    switch (method) {
        case Method::direct:
            return 35 * elements * touched * out_channels_per_group;  // instructions a multiply-add
        case Method::im2col:
            return elements * (out_channels_per_group + 8 * touched);  // a bounded load from the cache each
        default:
            return taps * out_channels_per_group;
    }
}

bool is_large_depthwise(const Tensor& kernel, const ConvArguments& arguments) {
    constexpr int64_t kFewestTaps = 49;
    return kernel.dim() == 4 && kernel.size(1) == 1 && arguments.groups > 1 &&
           kernel.size(2) * kernel.size(3) >= kFewestTaps;
}

}  // namespace dcls::cuda
