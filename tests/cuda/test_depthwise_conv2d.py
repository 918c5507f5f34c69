import itertools

import pytest
import torch
from comparing import TOLERANCE_OF_GPU, assert_within
from drawing import channels_last
from gpu import GPU, Call, assert_agrees, depthwise, opcheck_backward
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from dcls_ops import reference

depthwise_conv2d = torch.ops.dcls.depthwise_conv2d.default
depthwise_conv2d_backward = torch.ops.dcls.depthwise_conv2d_backward.default

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": channels_last,
    "channels_of_channels_last": lambda x: channels_last(torch.cat([x, x], 1))[:, : x.shape[1]],
    "sliced": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
    "unbatched": lambda x: x[0],
    "empty": lambda x: x[:0],
}


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@settings(max_examples=200)
@given(
    st.integers(1, 9), st.integers(1, 2), pairs(1, 9), pairs(1, 3), pairs(0, 4), pairs(0, 9), st.integers(0, 3),
    st.sampled_from(list(LAYOUTS)), st.sampled_from(DTYPES[:2]),
)  # fmt: skip
def test_agrees_with_the_reference(channels, multiplier, kernel_size, stride, padding, extra, batch, layout, dtype):
    size = [max(1, k - 2 * p) + e for k, p, e in zip(kernel_size, padding, extra, strict=True)]
    shape = (max(batch, layout == "unbatched"), channels, *size)
    assert_agrees(depthwise(shape, kernel_size, stride, padding, multiplier, LAYOUTS[layout]).to_gpu(dtype))


@pytest.mark.parametrize(
    ("input", "kernel_size", "stride", "padding", "multiplier"),
    [
        ((1, 1, 1, 1), (1, 1), (1, 1), (0, 0), 1),
        ((2, 3, 1, 1), (7, 7), (1, 1), (3, 3), 2),
        ((3, 8, 56, 56), (17, 17), (1, 1), (8, 8), 1),
        ((2, 5, 33, 65), (31, 31), (1, 1), (15, 15), 1),
        ((2, 4, 40, 70), (35, 38), (1, 1), (17, 18), 1),  # more taps than a block takes at a time
        ((2, 6, 31, 29), (7, 5), (2, 3), (3, 2), 2),
        ((2, 3, 20, 23), (2, 3), (3, 5), (1, 0), 1),  # steps longer than the kernel
        ((65, 3, 9, 9), (9, 9), (1, 1), (4, 4), 1),
        ((2, 20, 14, 14), (13, 13), (1, 1), (6, 6), 1),
        ((1, 3, 300, 5), (3, 5), (1, 1), (9, 1), 1),
        ((1, 2, 5, 700), (5, 51), (1, 2), (2, 25), 1),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [
        *itertools.product(DTYPES, ["contiguous", "channels_last"]),
        *itertools.product(DTYPES[:2], ["sliced", "transposed"]),
    ],
    ids=str,
)
def test_more_than_one_block(input, kernel_size, stride, padding, multiplier, layout, dtype):
    assert_agrees(depthwise(input, kernel_size, stride, padding, multiplier, LAYOUTS[layout]).to_gpu(dtype))


# The second and third extent of a grid may not exceed 65535.
MANY = 70_000


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_images(layout, dtype):
    assert_agrees(depthwise((MANY, 2, 4, 3), (5, 5), padding=(2, 2), layout=LAYOUTS[layout]).to_gpu(dtype))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_channels(layout, dtype):
    on_gpu = depthwise((2, MANY, 4, 3), (5, 5), padding=(2, 2), layout=LAYOUTS[layout]).to_gpu(dtype)
    assert_planes_agree(on_gpu, [0, 1, 65_534, 65_535, 65_536, MANY - 1])


# Of an image that has more than 2**31 pixels in all its channels, and bytes that hold it and everything made of it.
HUGE = (1, 2080, 1024, 1024)
BYTES = 30 << 30


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_more_than_two_to_the_31_entries(layout):
    free, _ = torch.cuda.mem_get_info(GPU)
    if free < BYTES:
        pytest.skip(f"needs {BYTES >> 30} GiB of GPU memory, and {free >> 30} GiB are free")
    images, channels, height, width = HUGE
    if layout == "contiguous":
        input = torch.randn(HUGE, dtype=torch.bfloat16, device=GPU)
    else:
        input = torch.randn(images, height, width, channels, dtype=torch.bfloat16, device=GPU).movedim(-1, 1)
    kernel = torch.randn(channels, 1, 5, 7, dtype=torch.bfloat16, device=GPU)
    bias = torch.randn(channels, dtype=torch.bfloat16, device=GPU)
    on_gpu = Call(depthwise_conv2d, reference.depthwise_conv2d, (input, kernel, bias, (1, 1), (2, 3)))
    # In contiguous planes, entry 2**31 is the first of plane 2048.
    assert_planes_agree(on_gpu, [0, 1, channels - 33, channels - 32, channels - 1])


def assert_planes_agree(on_gpu: Call, channels: list[int]) -> None:
    """Output and gradients of some channels, which do not depend on the others, are those of the reference."""
    input, kernel, bias, stride, padding = on_gpu.arguments
    actual = on_gpu.results()
    output, grad_input, grad_kernel, grad_bias = actual
    picked = (output[:, channels], grad_input[:, channels], grad_kernel[channels], grad_bias[channels])
    some = on_gpu._replace(arguments=(input[:, channels], kernel[channels], bias[channels], stride, padding))
    expected = some.map(lambda tensor: tensor.cpu().double()).expected(picked[0].cpu().double())
    for name, a, e in zip(("output", "grad_input", "grad_kernel", "grad_bias"), picked, expected, strict=True):
        assert_within(a, e, TOLERANCE_OF_GPU[input.dtype], name)


@pytest.mark.parametrize("wanted", range(3))
@pytest.mark.parametrize("dtype", DTYPES)
def test_computes_only_the_gradients_asked_for(wanted, dtype):
    input, kernel, bias, *settings = depthwise((2, 3, 9, 8), (5, 4)).to_gpu(dtype).arguments
    grad = torch.randn_like(depthwise_conv2d(input, kernel, bias, *settings))
    everything = depthwise_conv2d_backward(grad, input, kernel, *settings, [True] * 3)
    mask = [index == wanted for index in range(3)]
    results = depthwise_conv2d_backward(grad, input, kernel, *settings, mask)
    for result, expected, ask in zip(results, everything, mask, strict=True):
        assert torch.equal(result, expected) if ask else result.shape == (0,)


# What autograd may hand to the backward operator.
@pytest.mark.parametrize(
    "change",
    [
        channels_last,
        lambda grad: grad.repeat_interleave(2, -1)[..., ::2],
        lambda grad: grad.mT.contiguous().mT,
        lambda grad: grad[:1, :1, :1, :1].expand_as(grad),
    ],
    ids=["channels_last", "sliced", "transposed", "expanded"],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts_of_the_gradient(change, layout, dtype):
    assert_agrees(depthwise((3, 10, 19, 21), (7, 7), layout=LAYOUTS[layout]).to_gpu(dtype), change)


def test_gradcheck_and_gradgradcheck():
    on_gpu = depthwise((2, 3, 5, 5), (4, 3)).to_gpu(torch.float64)
    tensors = tuple(tensor.requires_grad_() for tensor in on_gpu.tensors)

    def run(*tensors):
        return depthwise_conv2d(*tensors, [2, 1], [1, 2])

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True, nondet_tol=1e-10)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "unbatched", "empty"])
def test_opcheck(layout):
    on_gpu = depthwise((2, 3, 7, 8), (5, 4), (2, 1), (1, 2), layout=LAYOUTS[layout]).to_gpu(torch.float64)
    input, kernel, bias, *settings = on_gpu.arguments
    grad = torch.randn_like(depthwise_conv2d(input, kernel, bias, *settings))
    opcheck_backward(depthwise_conv2d_backward, (grad, input, kernel, *settings, [True] * 3))
    opcheck(depthwise_conv2d, on_gpu.map(lambda tensor: tensor.requires_grad_()).arguments)
