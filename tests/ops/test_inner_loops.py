"""What the inner loops of the CPU (csrc/cpu/inner_loops/inner_loops.cpp) compute, against the reference in float64.

In the instruction set of this process: tests/test_instruction_sets.py runs this file in every other one, too.
"""

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_close, check_conv, double
from drawing import Conv, any_conv, depthwise_shapes, laid_out, parameters, well_conditioned
from hypothesis import given
from hypothesis import strategies as st

from dcls_ops import reference

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True, scope="module")
def _unwritten_is_nan():
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def check_depthwise(input, kernel, bias, stride, padding, grad=None):
    """The output and all gradients of depthwise_conv2d."""
    tensors = [t.detach().double().requires_grad_() for t in (input, kernel, bias)]
    expected = F.conv2d(*tensors, stride, padding, groups=input.shape[-3])
    output = torch.ops.dcls.depthwise_conv2d(input, kernel, bias, stride, padding)
    if grad is None:
        grad = torch.randn_like(output)
    expected_grads = torch.autograd.grad(expected, tensors, grad.double())
    if input.numel() == 0:
        assert not any(gradient.any() for gradient in expected_grads)
    grads = torch.ops.dcls.depthwise_conv2d_backward(grad, input, kernel, stride, padding, [True] * 3)
    assert_close((output, *grads), (expected.detach(), *expected_grads), input.dtype)
    assert {t.dtype for t in (output, *grads)} == {input.dtype}


@given(depthwise_shapes(axes=2), st.sampled_from(DTYPES), st.sampled_from([1, 1, 2]), st.data())
def test_depthwise_conv2d(shape, dtype, multiplier, data):
    filters = shape.channels * multiplier
    input = laid_out(data.draw, shape.input, dtype)
    *batch, _, height, width = shape.output
    grad = laid_out(data.draw, (*batch, filters, height, width), dtype)
    kernel, bias = torch.randn(filters, 1, *shape.kernel_size).to(dtype), torch.randn(filters).to(dtype)
    check_depthwise(input, kernel, bias, shape.stride, shape.padding, grad)


@given(st.integers(1, 3).flatmap(lambda axes: depthwise_shapes(axes=axes)), st.sampled_from(DTYPES), st.data())
def test_depthwise_conv_of_any_axes(shape, dtype, data):
    kernel_dtype = dtype if dtype == torch.float64 else torch.float32
    kernel = parameters("gauss", shape.kernel_size, out_channels=shape.channels, in_channels=1, dtype=kernel_dtype)
    kernel = well_conditioned(kernel)
    # Wide enough to reach every tap.
    sigma = torch.stack([s * max(1, extent / 3) for s, extent in zip(kernel.sigma, shape.kernel_size, strict=True)])
    input, grad = laid_out(data.draw, shape.input, dtype), laid_out(data.draw, shape.output, dtype)
    bias = torch.randn(shape.channels, dtype=kernel_dtype)
    case = Conv(
        input, kernel.weight, kernel.positions, shape.kernel_size, sigma, bias, shape.stride, shape.padding,
        shape.channels, "gauss", "construct",
    )  # fmt: skip
    check_conv(torch.ops.dcls, case, grad)


@pytest.mark.parametrize(
    ("input", "kernel_size", "stride", "padding"),
    [
        ((1, 20, 70, 62), (7, 9), (1, 1), (3, 4)),  # images in tiles
        ((3, 3, 80, 70), (4, 5), (3, 2), (0, 2)),  # with steps
        ((2, 5, 1, 5000), (1, 31), (1, 1), (0, 15)),  # parts of rows
        ((33, 4, 9, 10), (9, 10), (1, 1), (4, 5)),  # several images a vector, and some left over
        ((1, 20, 25, 30), (31, 31), (1, 1), (15, 15)),
        ((2, 17, 14, 14), (31, 31), (1, 1), (15, 15)),  # kernels larger than the image
        ((2, 3, 5, 6), (3, 2), (7, 5), (9, 4)),  # padding and steps beyond the kernel
        ((3, 18, 5, 21), (6, 23), (1, 1), (3, 11)),  # vectors, blocks and taps with rests
        ((2, 16, 6, 15), (5, 7), (1, 1), (2, 20)),  # results that meet nothing
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_edges_of_tiles(input, kernel_size, stride, padding, channels_last, dtype):
    image = torch.randn(input, dtype=dtype)
    if channels_last:
        image = image.contiguous(memory_format=torch.channels_last)
    kernel, bias = torch.randn(input[1], 1, *kernel_size, dtype=dtype), torch.randn(input[1], dtype=dtype)
    check_depthwise(image, kernel, bias, stride, padding)


@given(any_conv(dtype=torch.float32))
def test_every_method_in_float32(case):
    check_conv(torch.ops.dcls, case)


@given(any_conv(dtype=torch.float32))
def test_construct_kernel_in_float32(case):
    arguments = case[1:5]
    kernel = torch.ops.dcls.construct_kernel(*arguments, case.version)
    grad = torch.randn_like(kernel)
    grads = torch.ops.dcls.construct_kernel_backward(grad, *case[1:3], case.sigma, case.version, [True] * 3)
    expected_grads = reference.construct_kernel_backward(*double((grad, *case[1:3], case.sigma)), case.version)
    expected = reference.construct_kernel(*double(arguments), case.version)
    assert_close((kernel, *grads), (expected, *expected_grads), torch.float32)
