// Every operator of the library. Their mathematics: docs/operators.md. operators.h checks a call, chooses a method and
// calls a backend, the tables in cpu/operators.cpp and cuda/operators.cu; fake kernels, autograd, autocast and vmap are
// in dcls_ops/ops. The whole path is drawn in docs/architecture.md.
#include "namespace_owner.h"
#include "stable.h"

// Shapes: weight (O, I/g, *dense, K), positions and sigma (d, O, I/g, *dense, K) or, shared by all out channels,
// (d, 1, I/g, *dense, K); input (N, I, *spatial) or (I, *spatial). There are d spatial axes that are learned, after as
// many as `dense` has extents, often none. A *_backward operator returns one gradient for each entry of output_mask;
// a gradient that is not asked for is a tensor without elements.
STABLE_TORCH_LIBRARY_FRAGMENT(DCLS_NAMESPACE, m) {
    if (!dcls::owns_namespace()) {
        return;
    }
    m.def(
        "construct_kernel(Tensor weight, Tensor positions, SymInt[] kernel_size, Tensor? sigma=None, "
        "str version=\"gauss\") -> Tensor");
    m.def(
        "construct_kernel_backward(Tensor grad_kernel, Tensor weight, Tensor positions, Tensor? sigma, str version, "
        "bool[3] output_mask) -> (Tensor grad_weight, Tensor grad_positions, Tensor grad_sigma)");

    m.def(
        "conv1d(Tensor input, Tensor weight, Tensor positions, SymInt[1] kernel_size, Tensor? sigma=None, "
        "Tensor? bias=None, SymInt[1] stride=1, SymInt[1] padding=0, SymInt groups=1, str version=\"gauss\", "
        "str method=\"auto\", SymInt? touched_taps=None) -> Tensor");
    m.def(
        "conv2d(Tensor input, Tensor weight, Tensor positions, SymInt[2] kernel_size, Tensor? sigma=None, "
        "Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0, SymInt groups=1, str version=\"gauss\", "
        "str method=\"auto\", SymInt? touched_taps=None) -> Tensor");
    m.def(
        "conv3d(Tensor input, Tensor weight, Tensor positions, SymInt[3] kernel_size, Tensor? sigma=None, "
        "Tensor? bias=None, SymInt[3] stride=1, SymInt[3] padding=0, SymInt groups=1, str version=\"gauss\", "
        "str method=\"auto\", SymInt? touched_taps=None) -> Tensor");
    m.def(
        "conv_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor positions, SymInt[] kernel_size, "
        "Tensor? sigma, SymInt[] stride, SymInt[] padding, SymInt groups, str version, str method, "
        "SymInt? touched_taps, bool[5] output_mask) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_positions, "
        "Tensor grad_sigma, Tensor grad_bias)");

    m.def(
        "depthwise_conv1d(Tensor input, Tensor kernel, Tensor? bias=None, SymInt[1] stride=1, SymInt[1] padding=0) "
        "-> Tensor");
    m.def(
        "depthwise_conv2d(Tensor input, Tensor kernel, Tensor? bias=None, SymInt[2] stride=1, SymInt[2] padding=0) "
        "-> Tensor");
    m.def(
        "depthwise_conv3d(Tensor input, Tensor kernel, Tensor? bias=None, SymInt[3] stride=1, SymInt[3] padding=0) "
        "-> Tensor");
    m.def(
        "depthwise_conv1d_backward(Tensor grad_output, Tensor input, Tensor kernel, SymInt[1] stride, "
        "SymInt[1] padding, bool[3] output_mask) -> (Tensor grad_input, Tensor grad_kernel, Tensor grad_bias)");
    m.def(
        "depthwise_conv2d_backward(Tensor grad_output, Tensor input, Tensor kernel, SymInt[2] stride, "
        "SymInt[2] padding, bool[3] output_mask) -> (Tensor grad_input, Tensor grad_kernel, Tensor grad_bias)");
    m.def(
        "depthwise_conv3d_backward(Tensor grad_output, Tensor input, Tensor kernel, SymInt[3] stride, "
        "SymInt[3] padding, bool[3] output_mask) -> (Tensor grad_input, Tensor grad_kernel, Tensor grad_bias)");
}
