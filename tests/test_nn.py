import copy
import importlib
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawing import LAYERS

from dcls_ops import nn
from dcls_ops._versions import VERSIONS
from dcls_ops.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls2dK1d

CONVOLUTIONS = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}

every_layer = pytest.mark.parametrize(("cls", "arguments", "kernel_size"), LAYERS, ids=lambda value: str(value))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # PyTorch's, on its own layers
@every_layer
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1, "groups": 2},
        {"padding": "same", "bias": False},
        {"padding": "valid"},
        {"padding": 2, "padding_mode": "reflect"},
        {"padding": 1, "padding_mode": "replicate", "stride": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"padding": "same", "padding_mode": "circular"},
    ],
    ids=str,
)
def test_is_the_ordinary_convolution_with_its_kernel(cls, arguments, kernel_size, version, settings):
    layer = cls(4, 6, 3, version=version, **arguments, **settings)
    assert layer.kernel_size == kernel_size
    convolution = CONVOLUTIONS[len(kernel_size)](4, 6, kernel_size, **settings)
    with torch.no_grad():
        convolution.weight.copy_(layer.construct_kernel())
        if layer.bias is not None:
            convolution.bias.copy_(layer.bias)
    for batch in ((2,), ()):
        input = torch.randn(*batch, 4, *[8] * len(kernel_size))
        torch.testing.assert_close(layer(input), convolution(input))


@every_layer
@pytest.mark.parametrize("version", VERSIONS)
def test_parameters(cls, arguments, kernel_size, version):
    layer = cls(4, 6, 3, groups=2, version=version, **arguments)
    filters = (6, 2, *layer.dense_kernel_size, 3)
    assert layer.weight.shape == filters
    position_filters = (1, *filters[1:]) if arguments.get("shared_positions") else filters
    assert layer.P.shape == (len(layer.dilated_kernel_size), *position_filters)
    assert (layer.SIG is not None) == (version in ("max", "gauss"))
    # Squared, so that the gradient is not the same for every output.
    layer(torch.randn(2, 4, *[8] * len(kernel_size))).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": "v2"}, "version must be one of v0, v1, max, gauss, got 'v2'"),
        (
            {"kernel_count": (3, 1)},
            "kernel_count must be a positive int, the number of elements per filter "
            "(the extent of the kernel is dilated_kernel_size), got (3, 1)",
        ),
        (
            {"kernel_count": 0},
            "kernel_count must be a positive int, the number of elements per filter "
            "(the extent of the kernel is dilated_kernel_size), got 0",
        ),
        ({"groups": 3}, "groups must divide in_channels 4 and out_channels 6, got 3"),
        ({"groups": 4}, "groups must divide in_channels 4 and out_channels 6, got 4"),
        ({"groups": 0}, "groups must divide in_channels 4 and out_channels 6, got 0"),
        ({"padding_mode": "same"}, "padding_mode must be one of zeros, reflect, replicate, circular, got 'same'"),
        ({"padding": "full"}, "padding must be an int, a tuple, 'same' or 'valid', got 'full'"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1, got (2, 2)"),
        ({"padding": -1}, "padding must be non-negative, got (-1, -1)"),
        ({"padding": None}, "padding must be an int or 2 ints, got None"),
        ({"stride": 0}, "stride must be positive, got (0, 0)"),
        ({"dilated_kernel_size": 7.0}, "dilated_kernel_size must be an int or 2 ints, got 7.0"),
        ({"dilated_kernel_size": (7.5, 7)}, "dilated_kernel_size must be an int or 2 ints, got (7.5, 7)"),
        ({"method": "winograd"}, "method must be one of auto, construct, direct, im2col, got 'winograd'"),
        ({"method": "im2col"}, "method 'im2col' needs shared_positions=True, got False"),
        ({"in_channels": 0}, "in_channels must be positive, got 0"),
        ({"out_channels": 0}, "out_channels must be positive, got 0"),
        ({"padding": (1, 2, 3)}, "padding must be an int or 2 ints, got (1, 2, 3)"),
        ({"stride": (1,)}, "stride must be an int or 2 ints, got (1,)"),
        ({"dilated_kernel_size": (3, 3, 3)}, "dilated_kernel_size must be an int or 2 ints, got (3, 3, 3)"),
        ({"dilated_kernel_size": 0}, "dilated_kernel_size must be positive, got (0, 0)"),
    ],
    ids=str,
)
def test_says_what_is_wrong_at_construction(arguments, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
        Dcls2d(**{"in_channels": 4, "out_channels": 6, "kernel_count": 3, **arguments})
    assert str(error.value) == message


def test_dense_axes_need_an_extent():
    with pytest.raises(ValueError, match=r"^dense_kernel_size must be an int or a tuple of one, got \(\)$"):
        Dcls2_1d(4, 6, 3, dense_kernel_size=())


def test_flat_dim_is_an_axis():
    with pytest.raises(ValueError, match=r"^flat_dim must be 0 \(height\) or 1 \(width\), got 2$"):
        Dcls2dK1d(4, 6, 3, flat_dim=2)


@pytest.mark.parametrize(("extent", "low", "high"), [(1, 0, 0), (2, -1, 0), (5, -2, 2), (6, -3, 2)])
def test_clamp_parameters_keeps_positions_on_taps_that_exist(extent, low, high):
    layer = Dcls2d(2, 2, 1, dilated_kernel_size=(extent, 9))
    with torch.no_grad():
        layer.P.copy_(torch.tensor([-100.0, 0.0, 0.0, 100.0]).view(1, 2, 2, 1).expand(2, -1, -1, -1))
    layer.clamp_parameters()
    assert layer.P[0].flatten().tolist() == [low, 0, 0, high]
    assert layer.P[1].flatten().tolist() == [-4, 0, 0, 4]


def test_initial_values():
    layer = Dcls2d(16, 32, 8, dilated_kernel_size=17)
    bound = 1 / (16 * 8) ** 0.5
    assert layer.weight.abs().max() <= bound
    assert layer.bias.abs().max() <= bound
    assert layer.P.std().item() == pytest.approx(0.5, rel=0.05)
    assert (layer.SIG == 0.23).all()
    torch.testing.assert_close(layer.sigma, torch.full_like(layer.SIG, 0.5))
    assert (Dcls2d(1, 1, 1, version="max").SIG == 0).all()


@pytest.mark.parametrize("version", ["max", "gauss"])
def test_sigma_learns_from_its_initial_value(version):
    layer = Dcls1d(2, 2, 3, dilated_kernel_size=9, version=version)
    layer(torch.randn(1, 2, 20)).square().sum().backward()
    assert (layer.SIG.grad != 0).all()


@pytest.mark.parametrize("value", [-0.7, 0.7])
def test_sigma_does_not_depend_on_the_sign_of_sig(value):
    layer = Dcls1d(1, 1, 1, dilated_kernel_size=9)
    torch.nn.init.constant_(layer.SIG, value)
    assert layer.sigma.item() == pytest.approx(0.97)
    layer.sigma.sum().backward()
    assert layer.SIG.grad.item() == (1 if value > 0 else -1)


def test_a_position_at_the_end_of_the_kernel_can_return():
    layer = Dcls1d(1, 1, 1, dilated_kernel_size=5, version="v1", bias=False)
    torch.nn.init.constant_(layer.P, 2)
    torch.nn.init.constant_(layer.weight, 1)
    input = torch.randn(4, 1, 30)
    target = F.conv1d(input, torch.tensor([[[0.0, 0, 0, 1, 0]]]))  # one tap further in
    optimiser = torch.optim.SGD([layer.P], lr=0.3)
    for _ in range(40):
        optimiser.zero_grad()
        F.mse_loss(layer(input), target).backward()
        optimiser.step()
        layer.clamp_parameters()
    assert layer.P.item() == pytest.approx(1, abs=0.05)


def test_extra_repr():
    assert repr(Dcls2d(4, 8, 3, padding=2, dilated_kernel_size=5, groups=4, bias=False, padding_mode="circular")) == (
        "Dcls2d(4, 8, kernel_count=3, dilated_kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), groups=4, "
        "bias=False, padding_mode='circular', version='gauss')"
    )
    assert repr(Dcls2_1d(4, 8, 3, dense_kernel_size=3, dilated_kernel_size=9, padding="same", version="v1")) == (
        "Dcls2_1d(4, 8, kernel_count=3, dense_kernel_size=(3,), dilated_kernel_size=(9,), stride=(1, 1), "
        "padding='same', version='v1')"
    )


@every_layer
def test_state_and_copies(cls, arguments, kernel_size):
    layer = cls(4, 6, 3, **arguments)
    assert set(layer.state_dict()) == {"weight", "P", "SIG", "bias"}
    other = cls(4, 6, 3, **arguments)
    other.load_state_dict(layer.state_dict())
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    saved = torch.load(file, weights_only=False)
    input = torch.randn(1, 4, *[8] * len(kernel_size))
    for copied in (other, copy.deepcopy(layer), saved):
        assert torch.equal(copied(input), layer(input))


@every_layer
def test_device_and_dtype(cls, arguments, kernel_size):
    assert all(p.is_meta for p in cls(4, 6, 3, device="meta", **arguments).parameters())
    layer = cls(4, 6, 3, dtype=torch.float64, **arguments)
    assert layer(torch.randn(1, 4, *[8] * len(kernel_size), dtype=torch.float64)).dtype == torch.float64


@every_layer
def test_half_inputs(cls, arguments, kernel_size):
    layer = cls(4, 6, 3, **arguments)
    input = torch.randn(1, 4, *[8] * len(kernel_size))
    expected = layer(input)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = layer(input)
    mixed = layer(input.bfloat16())
    half = copy.deepcopy(layer).bfloat16()(input.bfloat16())
    for output in (autocast, mixed, half):
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.1)
    autocast.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@every_layer
def test_refuses_inputs_of_another_dtype(cls, arguments, kernel_size):
    layer = cls(4, 6, 3, **arguments)
    for dtype in (torch.int64, torch.float64):
        with pytest.raises(RuntimeError, match=r"input must be|should be the same"):
            layer(torch.ones(1, 4, *[8] * len(kernel_size), dtype=dtype))


def test_half_layer_under_autocast_of_the_other_half_type():
    layer = Dcls2d(4, 4, 2, dilated_kernel_size=5).half()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 4, 9, 9)).dtype == torch.bfloat16


def test_takes_integers_of_any_kind():
    sizes = {"kernel_count": np.int64(3), "dilated_kernel_size": np.int64(5), "stride": [np.int32(1), 1]}
    assert repr(Dcls2d(4, 6, **sizes)) == repr(Dcls2d(4, 6, 3, dilated_kernel_size=5))


def test_layers_may_share_positions():
    first, second = (Dcls2d(4, 4, 3, dilated_kernel_size=7, groups=4, version="v1") for _ in range(2))
    second.P = first.P
    (first(torch.randn(1, 4, 9, 9)).sum() + second(torch.randn(1, 4, 9, 9)).sum()).backward()
    assert second.P.grad is first.P.grad
    assert len(list(torch.nn.Sequential(first, second).parameters())) == 5


def test_out_channels_may_share_positions():
    layer = Dcls2d(4, 6, 3, dilated_kernel_size=5)
    layer.P = torch.nn.Parameter(layer.P.detach()[:, :1].clone())
    layer.SIG = torch.nn.Parameter(layer.SIG.detach()[:, :1].clone())
    layer(torch.randn(1, 4, 9, 9)).square().sum().backward()
    assert layer.P.grad.shape == (2, 1, 4, 3)


def test_every_layer_is_listed():
    assert set(nn.__all__) == {cls.__name__ for cls, _, _ in LAYERS} | {"DclsLayer"}


@pytest.mark.parametrize("version", VERSIONS)
def test_im2col_trains_in_bfloat16_as_in_float32(version):
    layer = Dcls2d(
        16, 32, 9, padding=6, dilated_kernel_size=13, version=version, shared_positions=True, method="im2col"
    )
    with torch.no_grad():
        layer.P.uniform_(-5.5, 5.5)
    input = torch.randn(2, 16, 20, 20, requires_grad=True)

    def gradients(autocast):
        input.grad = None
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = layer(input)
        output.float().square().mean().backward()
        return {"input": input.grad, **{name: parameter.grad for name, parameter in layer.named_parameters()}}

    expected, actual = gradients(autocast=False), gradients(autocast=True)
    for name in expected:
        assert actual[name].dtype == torch.float32
        error = (actual[name] - expected[name]).norm() / expected[name].norm()
        assert error < 2**-7, name  # the unit of rounding of bfloat16 is 2**-8


@every_layer
def test_keeps_nothing_but_its_parameters_and_its_input(cls, arguments, kernel_size):
    layer = cls(4, 6, 3, **arguments)
    input = torch.randn(2, 4, *[8] * len(kernel_size))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(input)
    # Of SIG and P, also what is made of them: never what has as many entries as the dense kernel.
    largest = max(parameter.numel() for parameter in layer.parameters()) * 2
    assert all(tensor.numel() <= largest for tensor in kept if tensor.data_ptr() != input.data_ptr())
    assert tuple(layer.construct_kernel().shape) not in [tuple(tensor.shape) for tensor in kept]


@pytest.mark.parametrize("method", ["construct", "direct"])
@pytest.mark.parametrize(("cls", "arguments"), [(cls, arguments) for cls, arguments, _ in LAYERS], ids=str)
def test_every_layer_takes_a_method(cls, arguments, method):
    arguments = {**arguments, "method": method}
    layer = cls(4, 6, 3, **arguments)
    input = torch.randn(2, 4, *[8] * layer.spatial_axes)
    output = layer(input)
    layer.method = "auto"
    torch.testing.assert_close(output, layer(input))
    with pytest.raises(ValueError, match="method must be one of auto, construct, direct, im2col, got 'fft'"):
        cls(4, 6, 3, **{**arguments, "method": "fft"})


@pytest.mark.parametrize("package", ["dcls_ops.nn", "DCLS.construct.modules"])
@pytest.mark.parametrize(
    ("version", "SIG", "touched_taps"),
    [
        ("gauss", 12.0, 25),
        ("gauss", 1.0, 16),
        ("gauss", 0.23, 6),
        ("gauss", 0.0, 4),
        ("max", 0.0, 2),
        ("max", 3.0, 8),
        ("v1", None, None),
    ],
)
def test_says_how_many_taps_its_elements_touch(package, version, SIG, touched_taps):
    cls = importlib.import_module(package).Dcls1d
    layer = cls(4, 4, 1, dilated_kernel_size=25, version=version)
    if SIG is not None:
        layer.SIG.data.fill_(SIG)
    layer.clamp_parameters()
    assert layer.touched_taps == touched_taps
    loaded = cls(4, 4, 1, dilated_kernel_size=25, version=version)
    loaded.load_state_dict(layer.state_dict())
    assert loaded.touched_taps == touched_taps
    assert copy.deepcopy(layer).touched_taps == touched_taps


def test_a_layer_without_values_says_nothing_of_them():
    layer = Dcls1d(4, 4, 1, dilated_kernel_size=25, device="meta")
    assert layer.touched_taps is None
    layer.to_empty(device="cpu").reset_parameters()
    assert layer.touched_taps == 6
