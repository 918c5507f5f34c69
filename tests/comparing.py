"""How the tests compare results with what they should be."""

from contextlib import contextmanager

import torch
from drawing import Conv
from torch import Tensor

from dcls_ops import reference

# How far results may be from the reference in float64, as a share of the largest entry of each; or of 1, because what
# is left of entries about that large where they cancel, such as the position's gradient of an only tap, has no digits.
# TOLERANCE_OF_GPU: where convolutions are larger, and other libraries sum.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
TOLERANCE_OF_GPU = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.04}


def assert_within(actual, expected, tolerance, what="result", least=1.0):
    """Equal up to `tolerance` times the largest entry, or times `least`."""
    largest = max(least, expected.abs().max().item()) if expected.numel() > 0 else least
    torch.testing.assert_close(
        actual.cpu().double(), expected, rtol=0, atol=tolerance * largest, msg=lambda text: f"{what}: {text}"
    )


def assert_close(actual, expected, dtype):
    """Equal up to the dtype's rounding of the largest entry; None where there is nothing to compute."""
    for number, (a, e) in enumerate(zip(actual, expected, strict=True)):
        if e is None:
            assert a.numel() == 0
        else:
            assert_within(a, e, TOLERANCE[dtype], f"result {number}")


def double(arguments):
    return [a.double() if isinstance(a, Tensor) else a for a in arguments]


def conv_backward_arguments(case: Conv, grad_output: Tensor, *output_mask: list[bool]):
    """The arguments of the backward operator; without output_mask they are the reference's."""
    c = case
    return (
        grad_output, c.input, c.weight, c.positions, c.kernel_size, c.sigma, c.stride, c.padding, c.groups, c.version,
        c.method, c.touched_taps, *output_mask,
    )  # fmt: skip


def run_conv(ops, case: Conv, grad):
    """The output and all gradients."""
    forward = getattr(ops, f"conv{len(case.kernel_size)}d")
    return forward(*case), *ops.conv_backward(*conv_backward_arguments(case, grad), [True] * 5)


def check_conv(ops, case: Conv, grad: Tensor | None = None):
    """The output and all gradients are the reference's in float64, and have the dtypes that they should."""
    expected = reference.conv(*double(case))
    if grad is None:
        grad = torch.randn_like(expected).to(case.input.dtype)
    expected_grads = reference.conv_backward(*double(conv_backward_arguments(case, grad)))
    results = run_conv(ops, case, grad)
    assert_close(results, (expected, *expected_grads), case.input.dtype)
    assert [t.dtype for t in results] == [case.input.dtype] * 2 + [case.weight.dtype] * 3 + [case.input.dtype]


@contextmanager
def num_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def operators(graph):
    """What a graph calls, one a line; placeholders and outputs are left out."""
    return "\n".join(str(node.target) for node in graph.nodes if node.op == "call_function")


def assert_vmap_is_a_loop(function, in_dims, tensors, batch_size):
    """What vmap computes from `tensors`, batched along `in_dims`, is what a loop over the batch computes."""
    results = torch.func.vmap(function, in_dims)(*tensors)
    for entry in range(batch_size):
        arguments = (t if dim is None else t.select(dim, entry) for t, dim in zip(tensors, in_dims, strict=True))
        entries = torch.utils._pytree.tree_map(lambda t, entry=entry: t[entry], results)
        torch.testing.assert_close(entries, function(*arguments))
