"""What DCLS.construct.modules does not keep of the original: the table of docs/migrating.md, row by row."""

import logging

import pytest
import torch
from DCLS.construct import modules


def pair(original, **arguments):
    arguments = {"kernel_count": 3, "dilated_kernel_size": 7, **arguments}
    theirs, ours = original.Dcls2d(4, 4, **arguments), modules.Dcls2d(4, 4, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def gradients(layer):
    layer.zero_grad()
    layer(torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    return {name: parameter.grad.abs().max().item() for name, parameter in layer.named_parameters()}


def test_clamping_stops_at_taps_that_exist(original):
    theirs, ours = pair(original, dilated_kernel_size=8, version="v1")
    for layer in (theirs, ours):
        with torch.no_grad():
            layer.P.fill_(100)
        layer.clamp_parameters()
    assert theirs.P.max() == 4
    assert ours.P.max() == 3
    assert theirs.DCK(theirs.weight, theirs.P, None).abs().max() == 0
    assert ours.DCK(ours.weight, ours.P, None).abs().max() > 0


@pytest.mark.parametrize("version", ["v1", "max"])
@pytest.mark.parametrize("place", [0.0, 3.0, -3.0])
def test_positions_at_taps_get_a_gradient(original, version, place):
    theirs, ours = pair(original, version=version)
    for layer in (theirs, ours):
        with torch.no_grad():
            layer.P.fill_(place)
    assert gradients(theirs)["P"] == 0
    # In the middle, left and right cancel up to what normalisation and the neighbouring taps leave.
    assert gradients(ours)["P"] > 0


@pytest.mark.parametrize(
    ("place", "their_gradient", "our_gradient"), [(0, 900, 495), (1, 9000, 4950), (2, -10000, 9000), (-2, 9, 9)]
)
def test_positions_of_v0_at_taps_get_the_mean_derivative(original, place, their_gradient, our_gradient):
    for layers, expected in ((original, their_gradient), (modules, our_gradient)):
        layer = layers.Dcls1d(1, 1, 1, dilated_kernel_size=5, version="v0", bias=False)
        with torch.no_grad():
            layer.weight.fill_(1)
            layer.P.fill_(place)
        layer(torch.tensor([[[1.0, 10.0, 100.0, 1000.0, 10000.0]]])).sum().backward()
        assert layer.P.grad.item() == pytest.approx(expected)


def test_sig_of_max_gets_a_gradient_at_0(original):
    theirs, ours = pair(original, version="max")
    with torch.no_grad():
        theirs.P.fill_(0.3)
        ours.P.fill_(0.3)
    assert gradients(theirs)["SIG"] == 0
    assert gradients(ours)["SIG"] > 0


def test_versions_of_layer_and_dck_are_one(original):
    theirs, ours = pair(original, version="gauss")
    for layer in (theirs, ours):
        layer.version = "max"
    assert (theirs.DCK.version, ours.DCK.version) == ("gauss", "max")
    ours.DCK.version = "gauss"
    assert ours.version == "gauss"


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(original, padding):
    theirs, ours = pair(original, padding=padding)
    with pytest.raises(TypeError):
        theirs(torch.randn(1, 4, 12, 12))
    assert ours(torch.randn(1, 4, 12, 12)).shape[-1] == {"same": 12, "valid": 6}[padding]


def test_bad_version(original):
    theirs = original.Dcls2d(4, 4, 3, dilated_kernel_size=7, version="v2")
    with pytest.raises(RuntimeError, match="No active exception to reraise"):
        theirs(torch.randn(1, 4, 12, 12))
    with pytest.raises(ValueError, match="version must be one of v0, v1, max, gauss, got 'v2'"):
        modules.Dcls2d(4, 4, 3, dilated_kernel_size=7, version="v2")


def test_compiles_without_graph_breaks(original):
    theirs, ours = pair(original)
    input = torch.randn(1, 4, 12, 12)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(theirs, fullgraph=True, backend="eager")(input)
    torch.testing.assert_close(torch.compile(ours, fullgraph=True, backend="eager")(input), ours(input))


@pytest.mark.parametrize("name", ["original", "ours"])
def test_implicit_gemm_logs_nothing(original, name):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    try:
        layers = original if name == "original" else modules
        layers.Dcls2d(4, 4, 3, dilated_kernel_size=7, use_implicit_gemm=True)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert bool(records) == (name == "original")
