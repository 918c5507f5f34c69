import itertools

import pytest
import torch
import torch.nn.functional as F
from comparing import assert_vmap_is_a_loop, num_threads
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck

AXES = pytest.mark.parametrize("axes", [1, 2, 3])
# By the number of axes: a contiguous tensor, and one with its channels last.
FORMATS = {
    1: [torch.contiguous_format],
    2: [torch.contiguous_format, torch.channels_last],
    3: [torch.contiguous_format, torch.channels_last_3d],
}
EVERY_FORMAT = pytest.mark.parametrize(
    ("axes", "memory_format"), [(axes, each) for axes, formats in FORMATS.items() for each in formats]
)


def operators(axes):
    return tuple(getattr(torch.ops.dcls, f"depthwise_conv{axes}d{end}").default for end in ("", "_backward"))


def settings(axes, stride=(2, 1, 2), padding=(1, 2, 0)):
    return list(stride[:axes]), list(padding[:axes])


def arguments(
    axes=2, channels=3, multiplier=1, kernel_size=(5, 4, 3), size=(7, 8, 6), dtype=torch.float64, requires_grad=False
):
    shapes = (
        (2, channels, *size[:axes]),
        (channels * multiplier, 1, *kernel_size[:axes]),
        (channels * multiplier,),
    )
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for shape in shapes)


def along(axes, values):
    return st.tuples(*[values] * axes)


@st.composite
def convolutions(draw):
    """Input, kernel, bias, stride, padding."""
    axes = draw(st.integers(1, 3))
    channels, multiplier = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    kernel_size = draw(along(axes, st.integers(1, 7 if axes < 3 else 4)))
    stride, padding = draw(along(axes, st.integers(1, 3))), draw(along(axes, st.integers(0, 3)))
    extra = draw(along(axes, st.integers(0, 4)))
    size = [max(1, k - 2 * p) + e for k, p, e in zip(kernel_size, padding, extra, strict=True)]
    input, kernel, bias = arguments(axes, channels, multiplier, kernel_size, size, requires_grad=True)
    batch = draw(st.sampled_from([(0,), (2,), ()]))
    if batch == ():
        input = input.detach()[0]
    else:
        input = input.detach()[: batch[0]].contiguous(memory_format=draw(st.sampled_from(FORMATS[axes])))
    return input.requires_grad_(), kernel, bias, stride, padding


@given(convolutions())
def test_agrees_with_pytorch(convolution):
    input, kernel, bias, stride, padding = convolution
    axes = len(stride)
    aten = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    expected = aten(input, kernel, bias, stride, padding, groups=input.shape[-axes - 1])
    output = operators(axes)[0](input, kernel, bias, stride, padding)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(output, (input, kernel, bias), grad),
        torch.autograd.grad(expected, (input, kernel, bias), grad),
        rtol=1e-10,
        atol=1e-10,
    )


def test_several_outputs_of_channels_last_volumes():
    """PyTorch's own gradients of the kernel are wrong there."""
    input, kernel = torch.randn(2, 32, 7, 7, 7), torch.randn(64, 1, 7, 7, 7)
    depthwise_conv, _ = operators(3)
    gradients = []
    for formats in itertools.product((torch.contiguous_format, torch.channels_last_3d), repeat=2):
        # to(), not contiguous(), which sees no difference where there is one channel.
        image, weight = (t.to(memory_format=f) for t, f in zip((input, kernel), formats, strict=True))
        output = depthwise_conv(image, weight.requires_grad_(), None, [2] * 3, [3] * 3)
        gradients.append(torch.autograd.grad(output.square().sum(), weight)[0])
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-3)


@AXES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(axes, dtype):
    depthwise_conv, _ = operators(axes)
    tensors = arguments(axes, dtype=dtype, requires_grad=True)
    output = depthwise_conv(*tensors, [1] * axes, [2] * axes)
    output.sum().backward()
    assert {output.dtype, *(t.grad.dtype for t in tensors)} == {dtype}
    wide = depthwise_conv(*(t.double() for t in tensors), [1] * axes, [2] * axes)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    torch.testing.assert_close(output.double(), wide, rtol=tolerance, atol=tolerance)


@AXES
def test_gradcheck_and_gradgradcheck(axes):
    tensors = arguments(axes, channels=2, size=(5, 5, 4), requires_grad=True)

    def run(*tensors):
        return operators(axes)[0](*tensors, *settings(axes))

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


@EVERY_FORMAT
@pytest.mark.parametrize("requires_grad", [False, True], ids=["no_grad", "grad"])
def test_opcheck(axes, memory_format, requires_grad):
    depthwise_conv, backward = operators(axes)
    input, kernel, bias = arguments(axes, requires_grad=requires_grad)
    input = input.detach().contiguous(memory_format=memory_format).requires_grad_(requires_grad)
    opcheck(depthwise_conv, (input, kernel, bias, *settings(axes)))
    with torch.no_grad():
        grad = torch.randn_like(depthwise_conv(input, kernel))
    grad.requires_grad_(requires_grad)
    opcheck(backward, (grad, input, kernel, [1] * axes, [0] * axes, [True, True, True]))


@AXES
@pytest.mark.parametrize("wanted", range(3))
def test_computes_only_the_gradients_asked_for(axes, wanted):
    depthwise_conv, backward = operators(axes)
    input, kernel, bias = arguments(axes)
    grad = torch.randn_like(depthwise_conv(input, kernel, bias))
    everything = backward(grad, input, kernel, [1] * axes, [0] * axes, [True] * 3)
    mask = [index == wanted for index in range(3)]
    masked = (grad, input, kernel, [1] * axes, [0] * axes, mask)
    for result, expected, ask in zip(backward(*masked), everything, mask, strict=True):
        assert torch.equal(result, expected) if ask else (result.shape, result.dtype) == ((0,), expected.dtype)
    opcheck(backward, masked, test_utils="test_schema")  # no result is another one


@AXES
def test_autocast_casts_everything(axes):
    depthwise_conv, _ = operators(axes)
    tensors = arguments(axes, dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = depthwise_conv(*tensors)
    assert torch.equal(output, depthwise_conv(*(t.bfloat16() for t in tensors)))
    output.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


@EVERY_FORMAT
def test_memory_format(axes, memory_format):
    input, kernel, bias = arguments(axes)
    input = input.contiguous(memory_format=memory_format).requires_grad_()
    output = operators(axes)[0](input, kernel, bias)
    (grad_input,) = torch.autograd.grad(output.sum(), input)
    assert output.is_contiguous(memory_format=memory_format)
    assert grad_input.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("shape", "kernel_size"),
    [
        ((1, 3, 70, 90), (5, 4)),
        ((5, 3, 20, 20), (9, 10)),
        ((2, 37, 14, 14), (7, 7)),
        ((1, 19, 24, 24), (31, 31)),
        ((3, 19, 900), (25,)),
        ((2, 5, 9, 12, 10), (5, 7, 6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(shape, kernel_size, stride, dtype):
    axes = len(kernel_size)
    depthwise_conv, backward = operators(axes)
    input, kernel, bias = (torch.randn(s).to(dtype) for s in (shape, (shape[1], 1, *kernel_size), shape[1:2]))
    stride, padding = stride[:axes], [extent // 2 for extent in kernel_size]
    grad = torch.randn_like(depthwise_conv(input, kernel, bias, stride, padding))
    results = []
    for threads in (1, 2, 3):
        with num_threads(threads):
            output = depthwise_conv(input, kernel, bias, stride, padding)
            grads = backward(grad, input, kernel, stride, padding, [True] * 3)
            results.append((output, *grads))
    for others in results[1:]:
        for result, expected in zip(others, results[0], strict=True):
            assert torch.equal(result, expected)


@AXES
@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, None), (1, 0, 0)], ids=str)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_vmap(axes, in_dims, multiplier):
    depthwise_conv, backward = operators(axes)
    tensors = arguments(axes, multiplier=multiplier)
    batched = [t if dim is None else torch.stack([t, t + 1], dim) for t, dim in zip(tensors, in_dims, strict=True)]
    grad = torch.randn_like(depthwise_conv(*tensors))

    def grads(input, kernel, _):
        return backward(grad, input, kernel, [1] * axes, [0] * axes, [True] * 3)

    for function in (depthwise_conv, grads):
        assert_vmap_is_a_loop(function, in_dims, batched, 2)
