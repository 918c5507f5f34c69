"""DCLS.exact_gradients: the original's derivatives at taps, at the ends of kernels, and of SIG at 0."""

import DCLS
import pytest
import torch
from DCLS.construct import modules

from dcls_ops._versions import VERSIONS

CASES = [
    ("Dcls1d", {"dilated_kernel_size": 7}),
    ("Dcls1d", {"dilated_kernel_size": 4, "groups": 2}),
    ("Dcls2d", {"dilated_kernel_size": 5}),
    ("Dcls2d", {"dilated_kernel_size": (4, 7), "stride": 2}),
    ("Dcls3d", {"dilated_kernel_size": 3}),
    ("Dcls3d", {"dilated_kernel_size": (3, 5, 4)}),
    ("Dcls2dK1d", {"dilated_kernel_size": 5, "padding_mode": "circular"}),
    ("Dcls3_1d", {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5}),
]

POSITIONS = {
    "at taps": lambda P: P.round(),
    "at the first tap": lambda P: -(P.new_tensor(2).floor()) + 0 * P,
    "at the ends": lambda P: P.sign() * 2,
    "off the taps": lambda P: P + 0.3,
    "some of each": lambda P: torch.where(torch.rand_like(P) < 0.5, P.round(), P),
}


@pytest.fixture(autouse=True)
def _exact():
    with DCLS.exact_gradients():
        yield


def gradients(layer, input, grad):
    input = input.clone().requires_grad_()
    output = layer(input)
    output.backward(grad)
    found = {name: p.grad for name, p in layer.named_parameters()}
    return {"output": output.detach(), "input": input.grad, **found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("place", POSITIONS)
@pytest.mark.parametrize(
    ("name", "arguments", "version"),
    # The original has no Dcls3_1d of version v0.
    [(*case, version) for case in CASES for version in VERSIONS if (case[0], version) != ("Dcls3_1d", "v0")],
    ids=str,
)
def test_gradients_are_the_original_s(original, name, arguments, version, place, dtype):
    theirs, ours = (
        getattr(module, name)(4, 6, kernel_count=3, padding=3, version=version, **arguments).to(dtype)
        for module in (original, modules)
    )
    with torch.no_grad():
        theirs.P.copy_(POSITIONS[place](torch.randn_like(theirs.P)))
        theirs.clamp_parameters()
        if theirs.SIG is not None:
            theirs.SIG.copy_(torch.where(torch.rand_like(theirs.SIG) < 0.5, 0, torch.randn_like(theirs.SIG)))
    ours.load_state_dict(theirs.state_dict())
    input = torch.randn(2, 4, *[8] * ours.spatial_axes, dtype=dtype)
    grad = torch.randn_like(ours(input))
    expected, actual = gradients(theirs, input, grad), gradients(ours, input, grad)
    rtol = 1e-4 if dtype == torch.float32 else 1e-9
    for key in expected:
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(actual[key], expected[key], rtol=rtol, atol=rtol * max(1.0, scale))
    if version == "v1":
        at_taps = ours.P.round() == ours.P
        assert not expected["P"][at_taps].any()
        assert not actual["P"][at_taps].any()  # not only nearly: they must not move


@pytest.mark.parametrize("place", [-2, 2, 0])
@pytest.mark.parametrize("version", ["v1", "max"])
def test_positions_at_taps_stay(version, place):
    layer = modules.Dcls1d(1, 1, 1, dilated_kernel_size=5, version=version)
    torch.nn.init.constant_(layer.P, place)
    layer(torch.randn(1, 1, 9)).square().sum().backward()
    assert layer.P.grad.item() == 0
    assert layer.SIG is None or layer.SIG.grad.item() == 0


def test_it_is_a_switch_and_a_block():
    layer = modules.Dcls1d(1, 1, 1, dilated_kernel_size=5, version="v1", bias=False)
    torch.nn.init.constant_(layer.P, 2)
    input = torch.randn(1, 1, 9)

    def is_exact():
        return torch.autograd.grad(layer(input).square().sum(), layer.P)[0].item() == 0

    assert is_exact()
    with DCLS.exact_gradients(False):
        assert not is_exact()
        with DCLS.exact_gradients():
            assert is_exact()
        assert not is_exact()
    assert is_exact()
    before = DCLS.exact_gradients(False)
    assert not is_exact()
    with before:
        pass
    assert is_exact()


@pytest.mark.parametrize("name", [name for name, _ in CASES])
def test_under_autocast_and_in_half_types(name):
    arguments = dict(CASES)[name]
    layer = getattr(modules, name)(4, 6, kernel_count=3, padding=3, **arguments)
    input = torch.randn(2, 4, *[8] * layer.spatial_axes)
    expected = layer(input)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(input)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=5e-2, atol=5e-2)
    half = layer.bfloat16()(input.bfloat16())
    assert half.dtype == torch.bfloat16
    half.sum().backward()
    assert layer.P.grad.isfinite().all()


def test_kernels_alone_and_compiled():
    layer = modules.Dcls2d(4, 6, 3, dilated_kernel_size=5, version="v1")
    with torch.no_grad():
        layer.P.round_()
    kernel = layer.DCK(layer.weight, layer.P, layer.SIG)
    assert torch.autograd.grad(kernel.square().sum(), layer.P)[0].abs().max() == 0
    input = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(input), layer(input))
