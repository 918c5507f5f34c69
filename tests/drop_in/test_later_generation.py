"""DCLS.construct.modules against the original package, version 0.1.1, from its own state_dict."""

import copy
import inspect
import random

import pytest
import torch
from comparing import operators
from DCLS.construct import modules
from drawing import randomise
from torch import nn

from dcls_ops import deploy
from dcls_ops._versions import VERSIONS

NAMES = ("Dcls1d", "Dcls2d", "Dcls3d", "Dcls2dK1d", "Dcls3_1d")
AXES = {"Dcls1d": 1, "Dcls2d": 2, "Dcls2dK1d": 2, "Dcls3d": 3, "Dcls3_1d": 3, "Dcls2_1d": 2}


def per_axis(rng, axes, low, high):
    """An int for all axes, or one for each."""
    return rng.randint(low, high) if rng.random() < 0.4 else tuple(rng.randint(low, high) for _ in range(axes))


def draw(seed):
    """A layer's name, its arguments, and an input, all random."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    name = rng.choice(NAMES)
    axes, groups = AXES[name], rng.choice([1, 1, 2, 3])
    arguments = {
        "in_channels": groups * rng.randint(1, 3),
        "out_channels": groups * rng.randint(1, 3),
        "kernel_count": rng.randint(1, 6),
        "stride": per_axis(rng, axes, 1, 3),
        "padding": per_axis(rng, axes, 0, 3),
        "groups": groups,
        "bias": rng.random() < 0.8,
        "padding_mode": rng.choice(["zeros", "zeros", "reflect", "replicate", "circular"]),
        # The original's Dcls3_1d has no v0.
        "version": rng.choice(VERSIONS[1:] if name == "Dcls3_1d" else VERSIONS),
    }
    if name == "Dcls3_1d":
        arguments["dense_kernel_size"] = per_axis(rng, 2, 1, 3)
    if name == "Dcls2dK1d":
        arguments["flat_dim"] = rng.randint(0, 1)
    flat = name in ("Dcls3_1d", "Dcls2dK1d")
    arguments["dilated_kernel_size"] = per_axis(
        rng, 1 if flat else axes, 1, {1: 25, 2: 12, 3: 6 if not flat else 12}[axes]
    )
    smallest = {"Dcls1d": 25, "Dcls3d": 6}.get(name, 12)
    size = [rng.randint(smallest, smallest + 4) for _ in range(axes)]
    return name, arguments, torch.randn(rng.choice([1, 2, 3]), arguments["in_channels"], *size)


def pair(original, name, arguments):
    """The original's layer, and ours with its state."""
    theirs = randomise(getattr(original, name)(**arguments))
    ours = getattr(modules, name)(**arguments)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def results(layer, input, grad=None):
    """The output, and the gradients of the input and of every parameter."""
    input = input.detach().clone().requires_grad_()
    output = layer(input)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    grads = torch.autograd.grad(output, (input, *parameters), torch.ones_like(output) if grad is None else grad)
    return dict(zip(("output", "input", *names), (output, *grads), strict=True))


def error(actual, expected):
    """Relative to the largest entry."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


@pytest.mark.parametrize("seed", range(300))
def test_same_as_the_original(original, seed):
    name, arguments, input = draw(seed)
    theirs, ours = pair(original, name, arguments)
    wide_theirs, wide_ours = copy.deepcopy(theirs).double(), copy.deepcopy(ours).double()
    grad = torch.randn_like(ours(input))
    actual = results(ours, input, grad)
    # The original's for some multiples of the gradient, which are rounded differently.
    expected = [(multiple, results(theirs, input, multiple * grad)) for multiple in (1, 1.001, 1.002, 1.004)]
    wide_expected = results(wide_theirs, input.double(), grad.double())
    wide_actual = results(wide_ours, input.double(), grad.double())
    assert actual.keys() == wide_expected.keys()
    for key in actual:
        assert error(wide_actual[key], wide_expected[key]) < 1e-8, key
        # Where an element has nearly left the kernel, or touches one tap only, the gradient of its position is a small
        # difference of large numbers, and float32 leaves both packages with rounding errors: of about the size of the
        # original's, which its own results in float64 tell. One of its results may be lucky, so several are looked at.
        rounding = max(
            error(each[key] / (1 if key == "output" else multiple), wide_expected[key]) for multiple, each in expected
        )
        assert error(actual[key], wide_expected[key]) < 1e-5 + 10 * rounding, key


def test_most_drawn_configurations_leave_float32_room(original):
    """So that the tolerance above is nearly always 1e-5."""
    tight = 0
    for seed in range(300):
        name, arguments, input = draw(seed)
        theirs = randomise(getattr(original, name)(**arguments))
        narrow, wide = results(theirs, input), results(copy.deepcopy(theirs).double(), input.double())
        tight += all(error(narrow[key], wide[key]) < 1e-6 for key in narrow)
    assert tight >= 200


@pytest.mark.parametrize("version", ["v1", "max", "gauss"])
def test_dcls2_1d(original, version):
    # Not in 0.1.1: later, it was Dcls3_1d without an axis, and with Gaussians of |SIG| + 1.0 instead of + 0.27 taps.
    theirs = randomise(original.Dcls3_1d(4, 6, 3, (1, 2, 1), (0, 1, 3), (1, 3), 6, 2, True, "zeros", version)).double()
    ours = modules.Dcls2_1d(4, 6, 3, (2, 1), (1, 3), 3, 6, 2, True, "zeros", version).double()
    state = {name: tensor.squeeze(-3) if name != "bias" else tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict({**state, "DCK.IDX": torch.zeros(6), "DCK.lim": torch.zeros(1)})
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    if version == "gauss":
        with torch.no_grad():
            theirs.SIG.copy_(theirs.SIG.abs() + 0.73)
            ours.SIG.abs_()
    input = torch.randn(2, 4, 9, 12, dtype=torch.float64)
    expected, actual = results(theirs, input.unsqueeze(2)), results(ours, input)
    for key in actual:
        assert error(actual[key].flatten(), expected[key].flatten()) < 1e-10, key


WITH_VERSIONS = [(n, v) for n in NAMES for v in VERSIONS if (n, v) != ("Dcls3_1d", "v0")]


@pytest.mark.parametrize(("name", "version"), WITH_VERSIONS)
def test_starts_from_the_original_s_numbers(original, name, version):
    arguments = {"kernel_count": 5, "dilated_kernel_size": 7, "groups": 2, "version": version}
    states = []
    for module in (original, modules):
        torch.manual_seed(1)
        states.append(getattr(module, name)(8, 12, **arguments).state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize(
    "name", [*NAMES, "ConstructKernel1d", "ConstructKernel2d", "ConstructKernel3d", "ConstructKernel3_1d"]
)
def test_takes_the_original_s_arguments(original, name):
    theirs, ours = (inspect.signature(getattr(module, name)).parameters.values() for module in (original, modules))
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


@pytest.mark.parametrize("name", NAMES)
def test_has_the_original_s_attributes(original, name):
    arguments = {"stride": 2, "padding": 1, "dilated_kernel_size": 5, "groups": 2, "version": "v1"}
    theirs, ours = (getattr(module, name)(4, 6, 3, **arguments) for module in (original, modules))
    names = "in_channels out_channels kernel_count stride padding dilated_kernel_size dense_kernel_size groups flat_dim"
    for attribute in [*names.split(), "padding_mode", "version", "SIG"]:
        for a, b in ((ours, theirs), (ours.DCK, theirs.DCK)):
            if hasattr(b, attribute):
                assert getattr(a, attribute) == getattr(b, attribute), attribute


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [*NAMES, "Dcls2_1d"])
def test_starts_at_taps_that_exist(name, version):
    layer = getattr(modules, name)(16, 16, 5, dilated_kernel_size=2, version=version)
    assert layer.P.min() >= -1
    assert layer.P.max() <= 0


@pytest.mark.parametrize(("name", "version"), WITH_VERSIONS)
def test_states_load_in_the_original(original, name, version):
    arguments = {"kernel_count": 3, "dilated_kernel_size": 5, "version": version}
    ours = randomise(getattr(modules, name)(4, 6, **arguments)).double()
    theirs = getattr(original, name)(4, 6, **arguments).double()
    theirs.load_state_dict(ours.state_dict())
    input = torch.randn(2, 4, *[9] * AXES[name], dtype=torch.float64)
    torch.testing.assert_close(ours(input), theirs(input))


@pytest.mark.parametrize(
    ("name", "extents"), [("ConstructKernel1d", (7,)), ("ConstructKernel2d", (4, 7)), ("ConstructKernel3d", (2, 3, 5))]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_kernels_alone(original, name, extents, version):
    theirs, ours = (
        getattr(module, name)(
            out_channels=4, in_channels=6, groups=2, kernel_count=5, dilated_kernel_size=extents, version=version
        )
        for module in (original, modules)
    )
    weight, positions, sig = (
        torch.randn(*d, 4, 3, 5, dtype=torch.float64) for d in ((), (len(extents),), (len(extents),))
    )
    torch.testing.assert_close(ours(weight, positions, sig), theirs(weight, positions, sig))


def test_kernels_alone_with_dense_axes(original):
    theirs, ours = (module.ConstructKernel3_1d(4, 6, 2, 5, (2, 3), (7,), "gauss") for module in (original, modules))
    weight, positions, sig = (torch.randn(*d, 4, 3, 2, 3, 5, dtype=torch.float64) for d in ((), (1,), (1,)))
    torch.testing.assert_close(ours(weight, positions, sig), theirs(weight, positions, sig))


# What people do with layers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("set_both", [False, True], ids=["layer", "layer_and_DCK"])
def test_version_can_change(original, name, set_both):
    theirs, ours = pair(
        original,
        name,
        {"in_channels": 4, "out_channels": 6, "kernel_count": 3, "dilated_kernel_size": 5, "version": "gauss"},
    )
    theirs.version = theirs.DCK.version = "max"
    ours.version = "max"
    if set_both:
        ours.DCK.version = "max"
    for layer in (theirs, ours):
        with torch.no_grad():
            layer.SIG *= 0
            layer.P.round_()
        layer.clamp_parameters()
    assert ours.version == ours.DCK.version == "max"
    input = torch.randn(2, 4, *[9] * AXES[name])
    torch.testing.assert_close(ours(input), theirs(input))


def test_version_without_its_parameter():
    layer = modules.Dcls2d(4, 4, 3, dilated_kernel_size=5, version="v1")
    layer.version = "gauss"
    with pytest.raises(ValueError, match="version 'gauss' needs SIG, which a layer made with version 'v0' or 'v1'"):
        layer(torch.randn(1, 4, 9, 9))
    layer.version = "v2"
    with pytest.raises(ValueError, match="version must be one of v0, v1, max, gauss, got 'v2'"):
        layer(torch.randn(1, 4, 9, 9))


def test_layers_can_share_parameters():
    first, second = (modules.Dcls2d(4, 4, 3, dilated_kernel_size=5, groups=4) for _ in range(2))
    second.P, second.SIG = first.P, first.SIG
    model = nn.Sequential(first, second)
    assert len(list(model.parameters())) == 6
    model(torch.randn(1, 4, 20, 20)).sum().backward()
    assert second.P.grad is first.P.grad


def test_own_construction_is_used():
    class Doubled(modules.ConstructKernel2d):
        def forward(self, W, P, SIG):
            return 2 * super().forward(W, P, SIG)

    layer = modules.Dcls2d(4, 4, 3, dilated_kernel_size=5, bias=False)
    input = torch.randn(1, 4, 9, 9)
    expected = 2 * layer(input)
    hooked = copy.deepcopy(layer)
    layer.DCK = Doubled(4, 4, 1, 3, (5, 5), "gauss")
    torch.testing.assert_close(layer(input), expected)
    torch.testing.assert_close(deploy.fold(nn.Sequential(layer))(input), expected)
    handle = hooked.DCK.register_forward_hook(lambda module, arguments, kernel: 2 * kernel)
    torch.testing.assert_close(hooked(input), expected)
    handle.remove()
    hooked.DCK.register_forward_pre_hook(lambda module, arguments: (2 * arguments[0], *arguments[1:]))
    torch.testing.assert_close(hooked(input), expected)


def test_wrapped_and_patched_constructions_are_used():
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.version = inner, inner.version

        def forward(self, W, P, SIG):
            return 3 * self.inner(W, P, SIG)

    input = torch.randn(1, 4, 9, 9)
    wrapped = modules.Dcls2d(4, 4, 3, dilated_kernel_size=5, bias=False)
    patched = copy.deepcopy(wrapped)
    expected = 3 * wrapped(input)
    wrapped.DCK = Wrapper(wrapped.DCK)
    torch.testing.assert_close(wrapped(input), expected)
    construct = patched.DCK.forward
    patched.DCK.forward = lambda W, P, SIG: 3 * construct(W, P, SIG)
    torch.testing.assert_close(patched(input), expected)


@pytest.mark.parametrize("name", NAMES)
def test_whole_modules_that_the_original_pickled(original, name):
    theirs = randomise(getattr(original, name)(4, 6, 3, dilated_kernel_size=5, padding=1))
    input = torch.randn(2, 4, *[9] * AXES[name])
    expected = theirs(input)  # which makes it cache its index tables
    ours = getattr(modules, name).__new__(getattr(modules, name))
    state = copy.deepcopy(theirs.__getstate__() if hasattr(theirs, "__getstate__") else theirs.__dict__)
    dck = getattr(modules, type(theirs.DCK).__name__)
    state["_modules"]["DCK"] = dck.__new__(dck)
    state["_modules"]["DCK"].__setstate__(copy.deepcopy(theirs.DCK.__dict__))
    ours.__setstate__(state)
    torch.testing.assert_close(ours(input), expected)
    assert "kernel_count=3" in repr(ours)


class Noisy(modules.Dcls1d):
    """As in networks of spiking neurons: all arguments by position, and other positions for each call."""

    def __init__(self, in_channels, out_channels):
        super().__init__(in_channels, out_channels, 2, 1, 0, 9, 1, True, "zeros", "gauss")

    def forward(self, input):
        return self._conv_forward(input, 2 * self.weight, self.bias + 3, self.P + 1, self.SIG * 4)


def test_subclasses():
    layer = Noisy(3, 4)
    assert isinstance(layer, modules._DclsNd)
    input = torch.randn(2, 3, 20)
    moved = modules.Dcls1d(3, 4, 2, 1, 0, 9)
    moved.load_state_dict(layer.state_dict())
    with torch.no_grad():
        moved.weight *= 2
        moved.bias += 3
        moved.P += 1
        moved.SIG *= 4
    torch.testing.assert_close(layer(input), moved(input))


@pytest.mark.parametrize("use_implicit_gemm", [False, True])
def test_implicit_gemm_is_accepted(use_implicit_gemm):
    layer = modules.Dcls2d(8, 8, 5, 1, 3, 7, 8, True, "zeros", "v1", use_implicit_gemm)
    assert layer.use_implicit_gemm is False  # as in the original where there is no such package
    assert layer(torch.randn(1, 8, 9, 9)).shape == (1, 8, 9, 9)


def test_flat_dim_is_checked():
    with pytest.raises(ValueError, match=r"flat_dim must be 0 \(the kernel has width 1\) or 1 \(height 1\), got 2"):
        modules.Dcls2dK1d(4, 4, 3, flat_dim=2)


@pytest.mark.parametrize(("version", "smallest"), [("max", 1.0), ("gauss", 0.27)])
def test_sigma_is_along_the_input_s_axes(version, smallest):
    layer = randomise(modules.Dcls2d(3, 4, 5, dilated_kernel_size=7, version=version))
    torch.testing.assert_close(layer.sigma, layer.SIG.flip(0).abs() + smallest)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("extents", [7, 6, (3, 8), (9, 4)], ids=str)
def test_clamped_positions_are_at_taps_that_exist(version, extents):
    layer = modules.Dcls2d(3, 4, 5, dilated_kernel_size=extents, version=version)
    with torch.no_grad():
        layer.P.normal_(0, 20)
    before = layer.P.clone()
    layer.clamp_parameters()
    positions, _ = layer.DCK.interpolation(layer.P, layer.SIG)
    for axis, extent in zip(positions, layer.dilated_kernel_size, strict=True):
        taps = axis + extent // 2
        assert taps.min() >= 0
        assert taps.max() <= extent - 1
    for moved, original, extent in zip(layer.P, before, layer.dilated_kernel_size, strict=True):
        assert moved.abs().max() <= extent // 2
        if extents == 7:
            assert torch.equal(moved, original.clamp(-3, 3))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Dcls1d", {"dilated_kernel_size": 7}),
        ("Dcls2d", {"dilated_kernel_size": (5, 4)}),
        ("Dcls3d", {"dilated_kernel_size": (3, 5, 4), "version": "v0"}),
        ("Dcls2dK1d", {"dilated_kernel_size": 5}),
        ("Dcls2_1d", {"dense_kernel_size": 3, "dilated_kernel_size": 6}),
        ("Dcls3_1d", {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5}),
    ],
)
def test_compiles_exports_and_folds(name, arguments):
    layer = randomise(getattr(modules, name)(4, 6, 3, padding=1, **arguments))
    input = torch.randn(2, 4, *[9] * AXES[name])
    expected = layer(input)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(input), expected)
    exported = torch.export.export(layer, (input,))
    torch.testing.assert_close(exported.module()(input), expected)
    own = [op for op in operators(exported.graph).split() if op.startswith("dcls")]
    assert own == [f"dcls.conv{AXES[name]}d.default"]
    folded = deploy.fold(layer)
    assert type(folded).__name__ == f"Conv{AXES[name]}d"
    torch.testing.assert_close(folded(input), expected)


@pytest.mark.parametrize("name", NAMES)
def test_trains_under_autocast(name):
    layer = getattr(modules, name)(4, 6, 3, dilated_kernel_size=5)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(torch.randn(2, 4, *[9] * AXES[name]))
    assert output.dtype == torch.bfloat16
    output.float().square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 0
