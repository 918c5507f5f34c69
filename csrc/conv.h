// A convolution with learned positions, as its methods take it.
#pragma once

#include "checks.h"

namespace dcls {

// Its checked arguments, but for the bias.
struct Convolution {
    const Tensor &input, &weight, &positions;
    const OptionalTensor& sigma;
    const KernelArguments& kernel;
    const ConvArguments& arguments;
};

enum class Pass { forward, backward };

}  // namespace dcls
