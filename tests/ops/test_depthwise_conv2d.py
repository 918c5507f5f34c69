import pytest
import torch
import torch.nn.functional as F
from cases import assert_vmap_is_a_loop, num_threads
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck

depthwise_conv2d = torch.ops.dcls.depthwise_conv2d.default
depthwise_conv2d_backward = torch.ops.dcls.depthwise_conv2d_backward.default

pair = st.tuples(st.integers(1, 7), st.integers(1, 7))


def arguments(channels=3, multiplier=1, kernel_size=(5, 4), size=(7, 8), dtype=torch.float64, requires_grad=False):
    shapes = ((2, channels, *size), (channels * multiplier, 1, *kernel_size), (channels * multiplier,))
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=requires_grad) for shape in shapes)


@given(
    st.integers(1, 4), st.integers(1, 2), pair, st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.tuples(st.integers(0, 4), st.integers(0, 4)),
    st.sampled_from([torch.contiguous_format, torch.channels_last]), st.sampled_from([(0,), (2,), ()]),
)  # fmt: skip
def test_agrees_with_pytorch(channels, multiplier, kernel_size, stride, padding, extra, memory_format, batch):
    size = [max(1, k - 2 * p) + e for k, p, e in zip(kernel_size, padding, extra, strict=True)]
    input, kernel, bias = arguments(channels, multiplier, kernel_size, size, requires_grad=True)
    if batch == ():
        input = input.detach()[0].requires_grad_()
    else:
        input = input.detach()[: batch[0]].contiguous(memory_format=memory_format).requires_grad_()
    expected = F.conv2d(input, kernel, bias, stride, padding, groups=channels)
    output = depthwise_conv2d(input, kernel, bias, stride, padding)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
    grad = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(output, (input, kernel, bias), grad),
        torch.autograd.grad(expected, (input, kernel, bias), grad),
        rtol=1e-10,
        atol=1e-10,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype):
    tensors = arguments(dtype=dtype, requires_grad=True)
    output = depthwise_conv2d(*tensors, [1, 1], [2, 2])
    output.sum().backward()
    assert {output.dtype, *(t.grad.dtype for t in tensors)} == {dtype}
    wide = depthwise_conv2d(*(t.double() for t in tensors), [1, 1], [2, 2])
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}[dtype]
    torch.testing.assert_close(output.double(), wide, rtol=tolerance, atol=tolerance)


def test_gradcheck_and_gradgradcheck():
    tensors = arguments(size=(5, 5), requires_grad=True)

    def run(*tensors):
        return depthwise_conv2d(*tensors, [2, 1], [1, 2])

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors, fast_mode=True)


@pytest.mark.parametrize("requires_grad", [False, True], ids=["no_grad", "grad"])
def test_opcheck(requires_grad):
    tensors = arguments(requires_grad=requires_grad)
    opcheck(depthwise_conv2d, (*tensors, [2, 1], [1, 2]))
    channels_last = tensors[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_(requires_grad)
    opcheck(depthwise_conv2d, (channels_last, *tensors[1:]))
    with torch.no_grad():
        grad = torch.randn_like(depthwise_conv2d(*tensors))
    grad.requires_grad_(requires_grad)
    opcheck(depthwise_conv2d_backward, (grad, *tensors[:2], [1, 1], [0, 0], [True, True, True]))


@pytest.mark.parametrize("wanted", range(3))
def test_computes_only_the_gradients_asked_for(wanted):
    input, kernel, bias = arguments()
    grad = torch.randn_like(depthwise_conv2d(input, kernel, bias))
    everything = depthwise_conv2d_backward(grad, input, kernel, [1, 1], [0, 0], [True] * 3)
    mask = [index == wanted for index in range(3)]
    results = depthwise_conv2d_backward(grad, input, kernel, [1, 1], [0, 0], mask)
    for result, expected, ask in zip(results, everything, mask, strict=True):
        assert torch.equal(result, expected) if ask else result.shape == (0,)


def test_autocast_casts_everything():
    tensors = arguments(dtype=torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = depthwise_conv2d(*tensors)
    assert torch.equal(output, depthwise_conv2d(*(t.bfloat16() for t in tensors)))
    output.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in tensors)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format(memory_format):
    input, kernel, bias = arguments()
    input = input.contiguous(memory_format=memory_format).requires_grad_()
    output = depthwise_conv2d(input, kernel, bias)
    (grad_input,) = torch.autograd.grad(output.sum(), input)
    assert output.is_contiguous(memory_format=memory_format)
    assert grad_input.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("shape", "kernel_size"),
    [((1, 3, 70, 90), (5, 4)), ((5, 3, 20, 20), (9, 10)), ((2, 37, 14, 14), (7, 7)), ((1, 19, 24, 24), (31, 31))],
    ids=str,
)
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_same_bits_for_any_number_of_threads(shape, kernel_size, stride, dtype):
    input, kernel, bias = (torch.randn(s).to(dtype) for s in (shape, (shape[1], 1, *kernel_size), shape[1:2]))
    padding = [extent // 2 for extent in kernel_size]
    grad = torch.randn_like(depthwise_conv2d(input, kernel, bias, stride, padding))
    results = []
    for threads in (1, 2, 3):
        with num_threads(threads):
            output = depthwise_conv2d(input, kernel, bias, stride, padding)
            grads = depthwise_conv2d_backward(grad, input, kernel, stride, padding, [True] * 3)
            results.append((output, *grads))
    for others in results[1:]:
        for result, expected in zip(others, results[0], strict=True):
            assert torch.equal(result, expected)


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, None), (1, 0, 0)], ids=str)
@pytest.mark.parametrize("multiplier", [1, 2])
def test_vmap(in_dims, multiplier):
    tensors = arguments(multiplier=multiplier)
    batched = [t if dim is None else torch.stack([t, t + 1], dim) for t, dim in zip(tensors, in_dims, strict=True)]
    grad = torch.randn_like(depthwise_conv2d(*tensors))

    def backward(input, kernel, _):
        return depthwise_conv2d_backward(grad, input, kernel, [1, 1], [0, 0], [True] * 3)

    for function in (depthwise_conv2d, backward):
        assert_vmap_is_a_loop(function, in_dims, batched, 2)
