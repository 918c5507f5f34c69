import itertools
import math

import pytest
import torch
from drawing import AXES, KERNEL_SIZES, Parameters, any_parameters, parameters
from gpu import assert_agrees, call, on_a_grid, opcheck_backward, to_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from dcls_ops import reference
from dcls_ops._versions import VERSIONS

construct_kernel = torch.ops.dcls.construct_kernel.default
construct_kernel_backward = torch.ops.dcls.construct_kernel_backward.default

every_case = pytest.mark.parametrize(
    ("version", "axes", "shared"), list(itertools.product(VERSIONS, AXES, (False, True))), ids=str
)
every_version = pytest.mark.parametrize("version", VERSIONS)


def on_gpu(p: Parameters, dtype: torch.dtype = torch.float64) -> Parameters:
    return p.map(lambda tensor: to_gpu(tensor, dtype))


def permute(tensor: torch.Tensor) -> torch.Tensor:
    """Parameters of the same numbers, not contiguous."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


@settings(max_examples=200)
@given(any_parameters(), st.sampled_from([torch.float64, torch.float32]), st.booleans())
def test_agrees_with_the_reference(p, dtype, permuted):
    if dtype == torch.float32:
        p = on_a_grid(p)
    if permuted:
        p = p.map(permute)
    assert_agrees(call(on_gpu(p, dtype)), permute if permuted else lambda grad: grad)


@pytest.mark.parametrize(
    ("kernel_size", "channels", "kernel_count"),
    [
        ((5000,), (2, 3), 4),  # kernels in several boxes of taps
        ((70, 71), (3, 2), 5),
        ((9, 20, 21), (2, 2), 3),
        ((5, 4), (6, 5), 700),  # elements in several tables
        ((2, 3), (70_000, 1), 2),
        ((2,), (300, 300), 1),
        ((1, 1, 1), (1, 1), 1),
        ((17, 17), (96, 1), 26),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shared", [False, True], ids=["per_filter", "shared"])
@pytest.mark.parametrize("version", ["v0", "max", "gauss"])
def test_more_than_one_block(kernel_size, channels, kernel_count, dtype, shared, version):
    out_channels, in_channels = channels
    p = parameters(
        version,
        kernel_size,
        out_channels=out_channels,
        in_channels=in_channels,
        kernel_count=kernel_count,
        shared=shared,
    )
    assert_agrees(call(on_gpu(on_a_grid(p), dtype)))


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_parameters_are_computed_in_float32_and_rounded_once(version, axes, shared, dtype):
    p = on_gpu(parameters(version, KERNEL_SIZES[axes], shared=shared), dtype)
    wide = p.to(torch.float32)
    assert torch.equal(construct_kernel(*p), construct_kernel(*wide).to(dtype))
    grad = torch.randn_like(construct_kernel(*p))
    grads = [
        construct_kernel_backward(g, q.weight, q.positions, q.sigma, version, [True] * 3)
        for g, q in ((grad, p), (grad.float(), wide))
    ]
    for narrow, expected in zip(*grads, strict=True):
        assert torch.equal(narrow, expected.to(dtype))


@pytest.mark.parametrize("wanted", range(3))
@every_version
def test_computes_only_the_gradients_asked_for(version, wanted):
    p = on_gpu(parameters(version, (4, 3)))
    grad = torch.randn_like(construct_kernel(*p))
    arguments = (grad, p.weight, p.positions, p.sigma, version)
    everything = construct_kernel_backward(*arguments, [True] * 3)
    mask = [index == wanted for index in range(3)]
    for result, expected, ask in zip(construct_kernel_backward(*arguments, mask), everything, mask, strict=True):
        assert torch.equal(result, expected) if ask else result.shape == (0,)


@every_version
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_that_are_no_places_follow_the_formula(version, bad, axis):
    p = parameters(version, (4, 5), out_channels=2, in_channels=1)
    p.positions[axis, 0, 0, 1] = bad
    kernel = construct_kernel(*on_gpu(p))
    torch.testing.assert_close(kernel.cpu(), reference.construct_kernel(*p), equal_nan=True)
    # The other filter does not notice, and neither does its gradient.
    _, grad_weight, grad_positions, *_ = call(on_gpu(p)).results(torch.ones_like(kernel))
    assert grad_weight[1].isfinite().all()
    assert grad_positions[:, 1].isfinite().all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("version", ["max", "gauss"])
def test_widths_that_are_no_widths_follow_the_formula(version, sigma):
    p = parameters(version, (4, 5), out_channels=1, in_channels=1)
    p.sigma[0, 0, 0, 1] = sigma
    kernel = construct_kernel(*on_gpu(p))
    torch.testing.assert_close(kernel.cpu(), reference.construct_kernel(*p), equal_nan=True)


@every_case
def test_gradcheck_and_gradgradcheck(version, axes, shared):
    p = on_gpu(parameters(version, KERNEL_SIZES[axes], out_channels=2, kernel_count=2, shared=shared)).leaves()

    def kernel(weight, positions, sigma=None):
        return construct_kernel(weight, positions, p.kernel_size, sigma, version)

    assert torch.autograd.gradcheck(kernel, p.tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(kernel, p.tensors, fast_mode=True, nondet_tol=1e-10)


@pytest.mark.parametrize("version", ["v1", "gauss"])
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("shared", [False, True])
def test_opcheck(version, axes, shared):
    p = on_gpu(parameters(version, KERNEL_SIZES[axes], shared=shared))
    opcheck(construct_kernel, p.leaves())
    grad = torch.randn_like(construct_kernel(*p))
    opcheck_backward(construct_kernel_backward, (grad, p.weight, p.positions, p.sigma, version, [True] * 3))
