"""The layers against the original package, where it is right: see `map_axes` for what differs in it."""

import pytest
import torch

from dcls_ops import nn
from dcls_ops._versions import VERSIONS

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-10}

# The original's order of the axes of P, as indices of the input's. Its kernels must be square: it takes the centre of
# an axis from the extent of another one.
AXIS_ORDER = {
    (1, "v0"): (0,),
    (1, "other"): (0,),
    (2, "v0"): (0, 1),
    (2, "other"): (1, 0),
    (3, "v0"): (0, 2, 1),
    (3, "other"): (2, 1, 0),
}


def map_axes(tensor: torch.Tensor, axes: int, version: str) -> torch.Tensor:
    """P, SIG or a gradient of theirs, from our order of axes to the original's."""
    order = AXIS_ORDER[axes, "v0" if version == "v0" else "other"]
    return torch.stack([tensor[axis] for axis in order])


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_same(ours, theirs, input, axes, version, dtype):
    """Outputs and all gradients agree, from parameters drawn here."""
    with torch.no_grad():
        extent = torch.tensor(ours.dilated_kernel_size).view(-1, *[1] * (ours.P.dim() - 1))
        ours.P.copy_((torch.rand_like(ours.P) - 0.5) * (extent - 1))  # inside; almost surely no integer
        if ours.SIG is not None:
            ours.SIG.copy_(torch.rand_like(ours.SIG) * 2 - 0.5)
        theirs.weight.copy_(ours.weight)
        theirs.P.copy_(map_axes(ours.P, axes, version))
        if theirs.SIG is not None:
            theirs.SIG.copy_(map_axes(ours.SIG, axes, version))
        theirs.bias.copy_(ours.bias)
    inputs = [input.clone().requires_grad_() for _ in range(2)]
    outputs = [layer(x) for layer, x in zip((ours, theirs), inputs, strict=True)]
    grad = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(grad)
    pairs = {
        "output": outputs,
        "input": [x.grad for x in inputs],
        "weight": [ours.weight.grad, theirs.weight.grad],
        "P": [map_axes(ours.P.grad, axes, version), theirs.P.grad],
        "bias": [ours.bias.grad, theirs.bias.grad],
    }
    if ours.SIG is not None:
        pairs["SIG"] = [map_axes(ours.SIG.grad, axes, version), theirs.SIG.grad]
    for name, (actual, expected) in pairs.items():
        assert relative_error(actual, expected) < TOLERANCES[dtype], name


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("axes", "extent", "arguments"),
    [
        (1, 7, {}),
        (1, 6, {"groups": 2, "stride": 2, "padding": 3}),
        (2, 7, {}),
        (2, 6, {"groups": 4, "stride": (2, 1), "padding": (1, 3), "padding_mode": "circular"}),
        (2, 17, {"groups": 4, "padding": 8}),
        (3, 5, {}),
        (3, 4, {"groups": 2, "stride": (1, 2, 1), "padding": (2, 0, 1), "padding_mode": "replicate"}),
    ],
    ids=str,
)
def test_same_as_the_original(original, axes, extent, arguments, version, dtype):
    arguments = {"kernel_count": 5, "dilated_kernel_size": extent, "version": version, **arguments}
    name = f"Dcls{axes}d"
    ours, theirs = (getattr(module, name)(4, 8, **arguments).to(dtype) for module in (nn, original))
    assert_same(ours, theirs, torch.randn(2, 4, *[12] * axes, dtype=dtype), axes, version, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("version", ["v1", "max", "gauss"])
def test_dense_and_learned_axes_are_the_original_s(original, version, dtype):
    arguments = {"kernel_count": 3, "dense_kernel_size": (2, 3), "dilated_kernel_size": 7, "version": version}
    ours, theirs = (module.Dcls3_1d(4, 8, groups=2, padding=1, **arguments).to(dtype) for module in (nn, original))
    assert_same(ours, theirs, torch.randn(2, 4, 5, 6, 12, dtype=dtype), 1, version, dtype)


@pytest.mark.parametrize("flat_dim", [0, 1])
@pytest.mark.parametrize("version", VERSIONS)
def test_flat_kernels_are_the_original_s(original, version, flat_dim):
    arguments = {"kernel_count": 3, "dilated_kernel_size": 7, "version": version}
    ours = nn.Dcls2dK1d(4, 8, flat_dim=flat_dim, **arguments).double()
    # The original's flat_dim counts from the last axis.
    theirs = original.Dcls2dK1d(4, 8, flat_dim=1 - flat_dim, **arguments).double()
    assert_same(ours, theirs, torch.randn(2, 4, 9, 9, dtype=torch.float64), 1, version, torch.float64)
