import itertools
import math

import pytest
import torch
from comparing import assert_vmap_is_a_loop
from drawing import AXES, KERNEL_SIZES, Parameters, any_parameters, parameters
from hypothesis import given
from hypothesis import strategies as st
from torch.library import opcheck

from dcls_ops import reference
from dcls_ops._versions import VERSIONS

construct_kernel = torch.ops.dcls.construct_kernel.default
construct_kernel_backward = torch.ops.dcls.construct_kernel_backward.default

every_case = pytest.mark.parametrize(
    ("version", "axes", "shared"), list(itertools.product(VERSIONS, AXES, (False, True))), ids=str
)


def by_loops(p: Parameters) -> torch.Tensor:
    """The dense kernel, one number at a time."""
    out_channels, in_channels, *dense, _ = p.weight.shape
    learned = p.kernel_size[len(dense) :]
    kernel = torch.zeros(out_channels, in_channels, *p.kernel_size, dtype=torch.float64)
    for o, i, *rest in itertools.product(*map(range, p.weight.shape)):
        shares = {}
        for taps in itertools.product(*map(range, learned)):
            share = 1.0
            for axis, (tap, extent) in enumerate(zip(taps, learned, strict=True)):
                at = (axis, o if p.positions.shape[1] > 1 else 0, i, *rest)
                distance = abs(tap - extent // 2 - p.positions[at].item())
                sigma = p.sigma[at].item() if p.sigma is not None else 1.0
                share *= (
                    math.exp(-((distance / sigma) ** 2) / 2) if p.version == "gauss" else max(0.0, sigma - distance)
                )
            shares[taps] = share
        total = 1.0 if p.version == "v0" else sum(shares.values()) + 1e-7
        for taps, share in shares.items():
            kernel[(o, i, *rest[:-1], *taps)] += p.weight[(o, i, *rest)].item() * share / total
    return kernel


@every_case
@pytest.mark.parametrize("dense_axes", [0, 1, 2])
def test_equals_the_formula_written_as_loops(version, axes, shared, dense_axes):
    p = parameters(version, KERNEL_SIZES[axes], shared=shared, dense_axes=min(dense_axes, axes - 1))
    expected = by_loops(p)
    torch.testing.assert_close(construct_kernel(*p), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reference.construct_kernel(*p), expected, rtol=1e-12, atol=1e-12)


@given(any_parameters(), st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_agrees_with_the_reference_in_float64(p, dtype, permuted):
    p = p.to(dtype)
    expected = reference.construct_kernel(*p.to(torch.float64))
    grad = torch.randn(expected.shape, dtype=dtype)
    expected_grads = reference.construct_kernel_backward(
        grad.double(),
        *(t.double() if isinstance(t, torch.Tensor) else t for t in (p.weight, p.positions, p.sigma)),
        p.version,
    )
    if permuted:  # the same numbers, not contiguous
        grad = grad.transpose(0, 1).contiguous().transpose(0, 1)
        p = p.map(lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1))
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    kernel = construct_kernel(*p)
    assert kernel.dtype == dtype
    torch.testing.assert_close(kernel.double(), expected, **tolerance)
    grads = construct_kernel_backward(grad, p.weight, p.positions, p.sigma, p.version, [True] * 3)
    for grad, expected_grad, like in zip(grads, expected_grads, (p.weight, p.positions, p.sigma), strict=True):
        if like is None:
            assert grad.numel() == 0
        else:
            assert grad.dtype == dtype
            torch.testing.assert_close(grad.double(), expected_grad, **tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("version", VERSIONS)
def test_half_parameters_are_computed_in_float32_and_rounded_once(version, dtype):
    p = parameters(version, (5, 5)).to(dtype)
    wide = p.to(torch.float32)
    torch.testing.assert_close(construct_kernel(*p), construct_kernel(*wide).to(dtype), rtol=0, atol=0)
    grad = torch.randn(4, 2, 5, 5).to(dtype)
    mask = [True, True, p.sigma is not None]
    narrow_grads = construct_kernel_backward(grad, p.weight, p.positions, p.sigma, version, mask)
    wide_grads = construct_kernel_backward(grad.float(), wide.weight, wide.positions, wide.sigma, version, mask)
    for narrow_grad, wide_grad in zip(narrow_grads, wide_grads, strict=True):
        torch.testing.assert_close(narrow_grad, wide_grad.to(dtype), rtol=0, atol=0)


@every_case
def test_gradcheck_and_gradgradcheck(version, axes, shared):
    p = parameters(version, KERNEL_SIZES[axes], out_channels=2, kernel_count=2, shared=shared, requires_grad=True)

    def kernel(weight, positions, sigma=None):
        return construct_kernel(weight, positions, p.kernel_size, sigma, version)

    assert torch.autograd.gradcheck(kernel, p.tensors)
    assert torch.autograd.gradgradcheck(kernel, p.tensors)


@pytest.mark.parametrize("version", ["v1", "gauss"])  # without sigma, and with
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("shared", [False, True], ids=["per_filter", "shared"])
@pytest.mark.parametrize("requires_grad", [False, True], ids=["no_grad", "grad"])
def test_opcheck(version, axes, shared, requires_grad):
    p = parameters(version, KERNEL_SIZES[axes], shared=shared, requires_grad=requires_grad)
    opcheck(construct_kernel, p)
    grad = torch.randn(4, 2, *p.kernel_size, dtype=torch.float64, requires_grad=requires_grad)
    opcheck(construct_kernel_backward, (grad, p.weight, p.positions, p.sigma, version, [True, True, True]))


@pytest.mark.parametrize(
    ("position", "derivative"),
    # A unit weight and the gradient 1, 10, 100, 1000, 10000 of taps -2..2 of a kernel of extent 5.
    [
        (0.0, (1000 - 10) / 2),  # inside: the mean of the one-sided derivatives 1000 - 100 and 100 - 10
        (1.0, (10000 - 100) / 2),
        (-2.0, 10 - 1),  # at an end: the derivative of moving inwards
        (2.0, 10000 - 1000),
        (0.5, 1000 - 100),  # between taps: the derivative
    ],
)
@pytest.mark.parametrize("version", ["v0", "v1", "max"])
@pytest.mark.parametrize(
    "compute", [construct_kernel_backward, reference.construct_kernel_backward], ids=["op", "reference"]
)
def test_position_gradient_at_kinks(version, position, derivative, compute):
    weight = torch.ones(1, 1, 1, dtype=torch.float64)
    positions = torch.full((1, 1, 1, 1), position, dtype=torch.float64)
    sigma = torch.ones_like(positions) if version == "max" else None
    grad_kernel = torch.tensor([[[1.0, 10, 100, 1000, 10000]]], dtype=torch.float64)
    arguments = (grad_kernel, weight, positions, sigma, version)
    _, grad_positions, _ = (
        compute(*arguments, [True] * 3) if compute is construct_kernel_backward else compute(*arguments)
    )
    assert grad_positions.item() == pytest.approx(derivative, rel=1e-6)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
@pytest.mark.parametrize("axis", [0, 1])
def test_positions_that_are_no_places(version, bad, axis):
    p = parameters(version, (4, 5), out_channels=2, in_channels=1)
    p.positions[axis, 0, 0, 1] = bad
    torch.testing.assert_close(construct_kernel(*p), reference.construct_kernel(*p), equal_nan=True)
    # The other filter does not notice, and neither does its gradient.
    grads = construct_kernel_backward(
        torch.ones(2, 1, 4, 5, dtype=torch.float64), p.weight, p.positions, p.sigma, version, [True] * 3
    )
    assert grads[0][1].isfinite().all()
    assert grads[1][:, 1].isfinite().all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("version", ["max", "gauss"])
def test_widths_that_are_no_widths_follow_the_formula(version, sigma):
    p = parameters(version, (4, 5), out_channels=1, in_channels=1)
    p.sigma[0, 0, 0, 1] = sigma
    torch.testing.assert_close(construct_kernel(*p), reference.construct_kernel(*p), equal_nan=True)


@pytest.mark.parametrize("shared", [False, True])
def test_same_bits_for_any_number_of_threads(threads, shared):
    p = parameters("gauss", (9, 9), out_channels=64, in_channels=3, kernel_count=8, shared=shared, dtype=torch.float32)
    grad = torch.randn(64, 3, 9, 9)

    def everything():
        grads = construct_kernel_backward(grad, p.weight, p.positions, p.sigma, p.version, [True] * 3)
        return (construct_kernel(*p), *grads)

    results = everything()
    torch.set_num_threads(1)
    for result, expected in zip(results, everything(), strict=True):
        assert torch.equal(result, expected)


def test_keeps_its_inputs_only():
    p = parameters("gauss", (7, 7), requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        construct_kernel(*p)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in p.tensors}


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)], ids=str)
def test_computes_only_the_gradients_asked_for(wanted):
    p = parameters("gauss", (4, 3))
    arguments = (torch.randn(4, 2, 4, 3, dtype=torch.float64), p.weight, p.positions, p.sigma, p.version)
    everything = construct_kernel_backward(*arguments, [True] * 3)
    for result, expected, ask in zip(
        construct_kernel_backward(*arguments, list(wanted)), everything, wanted, strict=True
    ):
        assert torch.equal(result, expected) if ask else result.shape == (0,)


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 2, 1), (None, 0, None)], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_vmap(in_dims, shared):
    p = parameters("gauss", (4, 3), shared=shared)
    grad = torch.randn(4, 2, 4, 3, dtype=torch.float64)
    batched = [
        t if dim is None else torch.stack([t, t * 1.1, t * 0.9], dim) for t, dim in zip(p.tensors, in_dims, strict=True)
    ]

    def forward(weight, positions, sigma):
        return construct_kernel(weight, positions, p.kernel_size, sigma, p.version)

    def backward(weight, positions, sigma):
        return construct_kernel_backward(grad, weight, positions, sigma, p.version, [True] * 3)

    for function in (forward, backward):
        assert_vmap_is_a_loop(function, in_dims, batched, 3)


def test_batched_gradients():
    p = parameters("gauss", (4, 3), shared=True, requires_grad=True)
    kernel = construct_kernel(*p)
    grads = torch.randn(5, *kernel.shape, dtype=torch.float64)
    results = torch.autograd.grad(kernel, p.tensors, grads, is_grads_batched=True, retain_graph=True)
    for entry, grad in enumerate(grads):
        expected = torch.autograd.grad(kernel, p.tensors, grad, retain_graph=True)
        torch.testing.assert_close(tuple(result[entry] for result in results), expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_backward_with_positions_that_are_no_places_follows_the_formula(version):
    p = parameters(version, (4, 5), out_channels=3, in_channels=1)
    for filter, bad in enumerate((math.inf, -1e30)):
        p.positions[0, filter, 0, 1] = bad
    grad = torch.randn(3, 1, 4, 5, dtype=torch.float64)
    results = construct_kernel_backward(grad, p.weight, p.positions, p.sigma, version, [True] * 3)
    expected = reference.construct_kernel_backward(grad, p.weight, p.positions, p.sigma, version)
    for result, wanted in zip(results, expected, strict=True):
        if wanted is not None:
            torch.testing.assert_close(result, wanted, equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "sigma", "most_taps"),
    [
        (torch.float32, 0.05, 2),
        (torch.float32, 0.5, 7),
        (torch.float32, 1.0, 14),
        (torch.float32, 3.0, 31),
        (torch.float64, 0.5, 10),
        (torch.float64, 1.0, 19),
    ],
    ids=str,
)
def test_a_gaussian_leaves_out_what_is_below_rounding(dtype, sigma, most_taps):
    """Positions inside, between taps, at taps and outside; each compared with the largest entry of its element."""
    extent = 31
    places = torch.cat([torch.linspace(-15, 15, 201), torch.arange(-15.0, 16), torch.tensor([-17.0, 15.6, 20.0])])
    positions = places.to(dtype).view(1, -1, 1, 1).requires_grad_()
    widths = torch.full_like(positions, sigma).requires_grad_()
    weight = torch.ones(len(places), 1, 1, dtype=dtype, requires_grad=True)
    kernel = construct_kernel(weight, positions, (extent,), widths, "gauss")
    assert (kernel != 0).sum(-1).max() == most_taps

    exact = [t.detach().double().requires_grad_() for t in (weight, positions, widths)]
    expected = reference.construct_kernel(*exact[:2], (extent,), exact[2], "gauss")
    rounding, smallest = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    largest = expected.amax(-1, keepdim=True)
    # The exponential of -z^2 / 2 magnifies the rounding of z.
    distance = (positions.detach().flatten() / sigma).abs().view(-1, 1, 1).double()
    assert ((kernel - expected).abs() <= 8 * rounding * (4 + distance**2) * largest + smallest).all()

    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grads = torch.autograd.grad(kernel, (weight, positions, widths), grad)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    inside = (places.abs() <= 15).view(-1)
    for result, wanted, scale in zip(grads, expected_grads, (1, 1 / sigma, 1 / sigma), strict=True):
        error = (result.double() - wanted).flatten()[inside].abs() / scale
        assert error.max() <= 64 * rounding * (1 + 15 / sigma)
