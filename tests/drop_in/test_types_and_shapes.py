"""Parameters in the types and shapes that the original's plain arithmetic promoted and broadcast."""

import itertools

import pytest
import torch
from DCLS.construct import modules

from dcls_ops._versions import VERSIONS, has_sigma

LAYERS = {
    "Dcls1d": {"dilated_kernel_size": 7},
    "Dcls2d": {"dilated_kernel_size": (5, 4), "groups": 2},
    "Dcls3d": {"dilated_kernel_size": (3, 5, 4)},
    "Dcls2dK1d": {"dilated_kernel_size": 5},
    "Dcls2_1d": {"dense_kernel_size": 3, "dilated_kernel_size": 5},
    "Dcls3_1d": {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5},
}
# The original's Dcls3_1d has no v0, and itself no Dcls2_1d.
WITH_VERSIONS = [
    (n, v) for n in LAYERS for v in VERSIONS if (n, v) != ("Dcls3_1d", "v0") and n != "Dcls2_1d"
]  # fmt: skip
HALVES = [torch.float16, torch.bfloat16]


def make(module, name, version):
    layer = getattr(module, name)(4, 6, kernel_count=3, padding=1, version=version, **LAYERS[name])
    # Not where the gradient is not the original's: at taps, and at a SIG of 0.
    torch.nn.init.uniform_(layer.P, 0.1, 0.9)
    if layer.SIG is not None:
        torch.nn.init.constant_(layer.SIG, 0.4)
    return layer


def input_for(layer, dtype=torch.float32):
    return torch.randn(2, 4, *[8] * layer.spatial_axes).to(dtype)


def replace(layer, name, tensor):
    """In place of a parameter, without a gradient where its type has none."""
    setattr(layer, name, torch.nn.Parameter(tensor.clone(), requires_grad=tensor.is_floating_point()))


def results(layer, input):
    """The output, and the gradients of parameters in the order of their names."""
    output = layer(input)
    parameters = {n: p for n, p in layer.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(output.square().sum(), list(parameters.values()))
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        assert (gradient.dtype, gradient.shape) == (parameter.dtype, parameter.shape)
    return output, *(gradient.float() for gradient in gradients)


@pytest.mark.parametrize(("name", "version"), WITH_VERSIONS)
def test_integer_positions(original, name, version):
    theirs, ours = (make(module, name, version) for module in (original, modules))
    ours.load_state_dict(theirs.state_dict())
    positions = torch.randint(-1, 2, ours.P.shape)
    for layer in (theirs, ours):
        layer.P.requires_grad = False
        layer.P.data = positions.clone()
    input = input_for(ours)
    for actual, expected in zip(results(ours, input), results(theirs, input), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    ours.clamp_parameters()
    assert ours.P.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("name", "version", "which"),
    [(n, v, which) for n in LAYERS for v in VERSIONS for which in ("P", "SIG", "both") if which == "P" or has_sigma(v)],
)
def test_other_floats_beside_float32_weights(name, version, which, dtype):
    layer = make(modules, name, version)
    names = {"P": ["P"], "SIG": ["SIG"], "both": ["P", "SIG"]}[which]
    for each in names:
        replace(layer, each, getattr(layer, each).detach().to(dtype))
    same = make(modules, name, version)
    same.load_state_dict({key: value.float() for key, value in layer.state_dict().items()})
    input = input_for(layer)
    actual, expected = results(layer, input), results(same, input)
    assert actual[0].dtype == torch.float32
    tolerance = 1e-5 if dtype == torch.float64 else 2e-2  # of gradients, which are rounded to the parameters' type
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(actual[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())


@pytest.mark.parametrize(
    ("name", "version", "which"),
    [(n, v, which) for n, v in WITH_VERSIONS for which in ("P", "SIG") if which == "P" or has_sigma(v)],
)
def test_kernels_have_the_original_s_type(original, name, version, which):
    for dtype in (torch.float16, torch.float64):
        kernels = []
        for module in (original, modules):
            layer = make(module, name, version)
            tensor = getattr(layer, which)
            replace(layer, which, tensor.detach().to(dtype))
            kernels.append(layer.DCK(layer.weight, layer.P, layer.SIG))
        assert kernels[1].dtype == kernels[0].dtype


@pytest.mark.parametrize("version", VERSIONS)
def test_float64_inputs_of_float64_positions(original, version):
    theirs, ours = (
        module.Dcls2d(4, 6, 3, padding=1, dilated_kernel_size=5, bias=False, version=version)
        for module in (original, modules)
    )
    ours.load_state_dict(theirs.state_dict())
    for layer in (theirs, ours):
        replace(layer, "P", layer.P.detach().double())
    input = input_for(ours, torch.float64)
    torch.testing.assert_close(ours(input), theirs(input))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("half", HALVES, ids=str)
def test_half_layers_of_wider_or_integer_positions(name, half):
    for positions in (lambda P: P.float(), lambda P: P.round().long(), lambda P: P.double()):
        layer = make(modules, name, "gauss").to(half)
        replace(layer, "P", positions(layer.P.detach()))
        output = layer(input_for(layer, half))
        assert output.dtype == half
        output.float().sum().backward()
        assert layer.weight.grad.dtype == half


SHAPES = {
    "scalar SIG": ("SIG", lambda full: ()),
    "one SIG": ("SIG", lambda full: (1,) * len(full)),
    "a SIG for each axis": ("SIG", lambda full: (full[0], *[1] * (len(full) - 1))),
    "a SIG for each element": ("SIG", lambda full: (1, *[1] * (len(full) - 2), full[-1])),
    "P for each out channel": ("P", lambda full: (1, full[1], *[1] * (len(full) - 2))),
    "P of one out channel": ("P", lambda full: (full[0], 1, *full[2:])),
}


def broadcasts():
    """Of every layer and version those shapes that the original takes."""
    for (name, version), case in itertools.product(WITH_VERSIONS, SHAPES):
        if SHAPES[case][0] == "SIG":
            # It permutes the SIG of Dcls3_1d, which must have axes for that.
            is_taken = has_sigma(version) and (name, case) != ("Dcls3_1d", "scalar SIG")
        else:
            # Its v0 looks for each axis of P.
            is_taken = (version, case) != ("v0", "P for each out channel") or name not in ("Dcls2d", "Dcls3d")
        if is_taken:
            yield name, version, case


@pytest.mark.parametrize(("name", "version", "case"), list(broadcasts()))
def test_broadcast_shapes(original, name, version, case):
    which, shape = SHAPES[case]
    theirs, ours = (make(module, name, version) for module in (original, modules))
    ours.load_state_dict(theirs.state_dict())
    small = torch.rand(shape(ours.P.shape)) + 0.1
    for layer in (theirs, ours):
        replace(layer, which, small)
        layer.double()
    input = input_for(ours, torch.float64)
    for actual, expected in zip(results(ours, input), results(theirs, input), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("which", "shape"), [("P", (2, 5, 4, 3)), ("SIG", (3, 6, 4, 3))])
def test_shapes_that_do_not_broadcast(which, shape):
    layer = modules.Dcls2d(4, 6, 3, dilated_kernel_size=5)
    replace(layer, which, torch.zeros(shape))
    with pytest.raises(ValueError, match="must broadcast to") as error:
        layer(torch.randn(1, 4, 8, 8))
    assert str(error.value) == f"{which} must broadcast to (2, 6, 4, 3), got {shape}"
