"""Autocast casts inputs, but no arithmetic on positions and widths, in layers of the other half type too."""

import pytest
import torch
from DCLS.construct import modules
from DCLS.construct.modules.Dcls import Dcls1d, Dcls2d, Dcls3d
from DCLS.modules.Dcls import Dcls2d as SharedDcls2d
from drawing import LAYERS, randomise
from layers import input_of

from dcls_ops._versions import VERSIONS

HALVES = [(torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16), (torch.float32, torch.bfloat16)]


def layers():
    """A function for every layer of both packages and every version."""
    for cls, arguments, _ in LAYERS:
        for version in VERSIONS:
            if hasattr(modules, cls.__name__) and "shared_positions" not in arguments:
                ours = getattr(modules, cls.__name__)
                yield lambda c=ours, a=arguments, v=version: randomise(c(4, 6, kernel_count=3, version=v, **a))
            yield lambda c=cls, a=arguments, v=version: randomise(c(4, 6, kernel_count=3, version=v, **a))
    for cls in (SharedDcls2d, Dcls1d, Dcls2d, Dcls3d):
        for dilation in (1, 2):
            yield lambda c=cls, d=dilation: c(4, 6, 3, dilation=d)


def run(layer, input):
    for parameter in layer.parameters():
        parameter.grad = None
    output = layer(input)
    output.float().square().mean().backward()
    return output, {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "region"), HALVES, ids=str)
@pytest.mark.parametrize("make", list(layers()))
def test_layers(make, dtype, region):
    layer = make().to(dtype)
    input = input_of(layer, size=9).to(dtype)
    with torch.autocast("cpu", region):
        output, gradients = run(layer, input)
    # In the types that autocast casts to, but without it: as every operator does with inputs beside its parameters.
    expected, expected_gradients = run(layer, input)
    assert output.dtype == region
    scale = expected.abs().max().item()
    torch.testing.assert_close(output.float(), expected.float(), rtol=3e-2, atol=3e-2 * scale)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        reference = expected_gradients[name].float()
        error = (gradient.float() - reference).norm() / reference.norm().clamp(min=1e-3)
        assert error < 0.1, name


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extent", [(5, 5), (4, 7), (3, 4, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_positions_and_widths_are_not_cast(version, extent, dtype):
    layer = randomise(getattr(modules, f"Dcls{len(extent)}d")(4, 6, 3, dilated_kernel_size=extent, version=version))
    layer.to(dtype)
    expected = layer.DCK.operands(layer.weight, layer.P, layer.SIG)
    kernel = layer.construct_kernel()
    for region in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", region):
            actual = layer.DCK.operands(layer.weight, layer.P, layer.SIG)
            assert torch.equal(layer.construct_kernel(), kernel)
        for a, e in zip(actual, expected, strict=True):
            assert (a is None) == (e is None)
            assert a is None or (a.dtype == dtype and torch.equal(a, e))


@pytest.mark.parametrize("cls", [SharedDcls2d, Dcls1d, Dcls2d, Dcls3d])
def test_positions_of_2021_are_not_cast(cls):
    layer = cls(4, 6, 3, dilation=3).half()
    expected = layer.positions
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.positions, expected)
