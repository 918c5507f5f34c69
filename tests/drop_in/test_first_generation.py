"""The layers of 2021: DCLS.modules.Dcls (shared positions) and DCLS.construct.modules.Dcls (positions per filter)."""

import itertools
import math

import pytest
import torch
from DCLS.construct import modules
from DCLS.construct.modules.Dcls import Dcls1d, Dcls2d, Dcls3d
from DCLS.modules.Dcls import Dcls2d as SharedDcls2d
from torch import nn

LAYERS = {"im2col": SharedDcls2d, "construct": Dcls2d}

# The calls that the package of that time documents.
DOCUMENTED = [
    ((16, 33, 3), {"dilation": 4, "stride": 2}),
    ((16, 33, (3, 5)), {"dilation": 4, "stride": (2, 1), "padding": (4, 2)}),
    ((16, 33, (3, 5)), {"stride": (2, 1), "padding": (4, 2), "dilation": (3, 2)}),
    ((16, 33, 3), {"dilation": 4, "stride": 2, "gain": 10}),
]

every_layer = pytest.mark.parametrize("kind", LAYERS)


def convolution_like(layer):
    """nn.ConvNd with the layer's settings and parameters."""
    cls = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(layer.kernel_size) - 1]
    convolution = cls(
        layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
        layer.groups, layer.bias is not None, layer.padding_mode,
    )  # fmt: skip
    convolution.load_state_dict({key: value for key, value in layer.state_dict().items() if not key.startswith("P")})
    return convolution


def set_positions(layer, function):
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("P"):
                function(parameter)
    return layer


@every_layer
@pytest.mark.parametrize(("arguments", "settings"), DOCUMENTED)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_documented_calls_train(kind, arguments, settings, autocast):
    m = LAYERS[kind](*arguments, **settings)
    input = torch.randn(20, 16, 50, 100)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = m(input)
    assert output.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert output.shape == convolution_like(m)(input).shape
    output.float().square().mean().backward()
    assert {name for name, _ in m.named_parameters()} == {"weight", "P_h", "P_w", "bias"}
    for name, parameter in m.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("cls", "size", "shapes"),
    [
        (SharedDcls2d, (3, 5), {"P_h": (4, 3, 5), "P_w": (4, 3, 5)}),
        (Dcls1d, (3,), {"P": (6, 4, 3)}),
        (Dcls2d, (3, 5), {"P_h": (6, 4, 3, 5), "P_w": (6, 4, 3, 5)}),
        (Dcls3d, (3, 2, 5), {"P_d": (6, 4, 3, 2, 5), "P_h": (6, 4, 3, 2, 5), "P_w": (6, 4, 3, 2, 5)}),
    ],
)
def test_parameters(cls, size, shapes):
    layer = cls(8, 6, size, dilation=3, groups=2)
    expected = {"weight": (6, 4, *size), **shapes, "bias": (6,)}
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == expected


SETTINGS = [
    {},
    {"stride": 2, "padding": 3},
    {"groups": 2, "bias": False, "padding": "same"},
    {"padding": 2, "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "reflect", "stride": 3, "groups": 4},
]


@pytest.mark.parametrize(("cls", "axes"), [(SharedDcls2d, 2), (Dcls1d, 1), (Dcls2d, 2), (Dcls3d, 3)])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # PyTorch's, on its own layers
def test_unmoved_it_is_an_ordinary_convolution(cls, axes, settings, dilation, kernel_size):
    layer = set_positions(cls(4, 8, kernel_size, dilation=dilation, **settings), torch.nn.init.zeros_)
    input = torch.randn(2, 4, *[11] * axes)
    torch.testing.assert_close(layer(input), convolution_like(layer)(input))


@every_layer
def test_with_dilation_1_nothing_moves(kind):
    layer = LAYERS[kind](4, 8, 3, padding=1)
    input = torch.randn(2, 4, 9, 9)
    assert torch.equal(layer(input), convolution_like(layer)(input))


def read_bilinearly(image, y, x):
    """The value of a (height, width) image at real coordinates; zero outside of it."""
    value = 0.0
    for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column].item()
    return value


@every_layer
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_elements_read_the_input_where_they_are(kind, gain):
    layer = LAYERS[kind](2, 3, (2, 3), stride=(1, 2), padding=(1, 0), dilation=(3, 2), gain=gain, bias=False).double()
    scaling = gain * math.sqrt(2 * 2 * 3)
    image = torch.randn(2, 6, 9, dtype=torch.float64)
    output = layer(image[None])[0]
    expected = torch.zeros_like(output)
    for o, i, a, b in itertools.product(range(3), range(2), range(2), range(3)):
        at = (i, a, b) if kind == "im2col" else (o, i, a, b)
        down = min(max(3 * a + scaling * layer.P_h[at].item(), 0), 3)
        right = min(max(2 * b + scaling * layer.P_w[at].item(), 0), 4)
        for y, x in itertools.product(range(output.shape[1]), range(output.shape[2])):
            value = read_bilinearly(image[i], y - 1 + down, 2 * x + right)
            expected[o, y, x] += layer.weight[o, i, a, b].item() * value
    torch.testing.assert_close(output, expected)


def test_shared_positions_sum_their_gradients_over_out_channels():
    shared, apart = SharedDcls2d(4, 6, 3, dilation=4, groups=2), Dcls2d(4, 6, 3, dilation=4, groups=2)
    state = shared.state_dict()
    apart.load_state_dict(
        {key: value.expand(6, *value.shape).clone() if key.startswith("P") else value for key, value in state.items()}
    )
    input = torch.randn(2, 4, 20, 20)
    torch.testing.assert_close(shared(input), apart(input))
    grad = torch.randn_like(shared(input))
    for layer in (shared, apart):
        layer(input).backward(grad)
    torch.testing.assert_close(shared.weight.grad, apart.weight.grad)
    torch.testing.assert_close(shared.P_h.grad, apart.P_h.grad.sum(0))
    torch.testing.assert_close(shared.P_w.grad, apart.P_w.grad.sum(0))


@every_layer
def test_weight_and_bias_start_as_those_of_a_convolution(kind):
    torch.manual_seed(3)
    layer = LAYERS[kind](8, 6, (3, 5), dilation=2, groups=2)
    torch.manual_seed(3)
    convolution = nn.Conv2d(8, 6, (3, 5), groups=2)
    assert torch.equal(layer.weight, convolution.weight)
    assert torch.equal(layer.bias, convolution.bias)


@every_layer
def test_positions_start_around_the_grid(kind):
    layer = LAYERS[kind](64, 64, 3, dilation=(4, 6), gain=2.0)
    scaling = 2.0 * math.sqrt(3 * 3 * 64)
    assert (layer.P_h * scaling).std().item() == pytest.approx(2, rel=0.1)
    assert (layer.P_w * scaling).std().item() == pytest.approx(3, rel=0.1)


@every_layer
def test_elements_stay_inside_the_kernel(kind):
    layer = set_positions(LAYERS[kind](4, 8, 3, dilation=4, padding=4), lambda p: p.normal_(0, 100))
    kernel = layer.construct_kernel()
    assert kernel.shape == (8, 4, 9, 9)
    torch.testing.assert_close(kernel.sum((2, 3)), layer.weight.sum((2, 3)))


@every_layer
def test_an_axis_of_dilation_1_moves_where_the_other_has_room(kind):
    layer = LAYERS[kind](4, 8, 3, dilation=(1, 3), padding=(1, 3))
    input = torch.randn(2, 4, 9, 9)
    layer(input).square().sum().backward()
    assert layer.P_h.grad.abs().max() > 0
    torch.testing.assert_close(
        layer(input), torch.nn.functional.conv2d(input, layer.construct_kernel(), layer.bias, 1, (1, 3))
    )


def test_plain_kernel():
    layer = Dcls2d(4, 8, 3)
    assert torch.equal(layer.construct_kernel(), layer.weight)


def test_follows_its_parameters_dtype_and_device():
    layer = SharedDcls2d(4, 8, 3, dilation=2)
    assert layer.double()(torch.randn(1, 4, 9, 9, dtype=torch.float64)).dtype == torch.float64
    assert layer.bfloat16()(torch.randn(1, 4, 9, 9, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert layer.to("meta")(torch.randn(1, 4, 9, 9, device="meta", dtype=torch.bfloat16)).shape == (1, 8, 5, 5)


@every_layer
@pytest.mark.parametrize("dilation", [1, 4])
def test_compiles_and_exports(kind, dilation):
    layer = LAYERS[kind](4, 8, 3, dilation=dilation, padding=4)
    input = torch.randn(2, 4, 12, 12)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(input), layer(input))
    torch.testing.assert_close(torch.export.export(layer, (input,)).module()(input), layer(input))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be an int or 2 ints, got (3, 3, 3)"),
        ({"dilation": 0}, "dilation must be positive, got (0, 0)"),
        ({"kernel_size": 0}, "kernel_size must be positive, got (0, 0)"),
        ({"stride": (1, 0)}, "stride must be positive, got (1, 0)"),
        ({"padding": -1}, "padding must be non-negative, got (-1, -1)"),
        ({"groups": 3}, "groups must divide in_channels 4 and out_channels 8, got 3"),
        ({"groups": 0}, "groups must divide in_channels 4 and out_channels 8, got 0"),
        ({"groups": 4, "out_channels": 6}, "groups must divide in_channels 4 and out_channels 6, got 4"),
        ({"padding_mode": "same"}, "padding_mode must be one of zeros, reflect, replicate, circular, got 'same'"),
        ({"in_channels": 0}, "in_channels must be positive, got 0"),
        ({"out_channels": 0}, "out_channels must be positive, got 0"),
        ({"gain": 0}, "gain must be positive, got 0"),
        ({"gain": -1.5}, "gain must be positive, got -1.5"),
    ],
)
def test_says_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match="must") as error:
        SharedDcls2d(**{"in_channels": 4, "out_channels": 8, "kernel_size": 3, **settings})
    assert str(error.value) == message


def test_repr():
    assert repr(SharedDcls2d(4, 8, 3, dilation=4, gain=2.0, groups=2, bias=False, padding_mode="circular")) == (
        "Dcls2d(4, 8, kernel_size=(3, 3), stride=(1, 1), padding=(0, 0), dilation=(4, 4), groups=2, bias=False, "
        "padding_mode='circular', gain=2.0)"
    )


# In 2022 the same path held the later generation, and code still tries it first.


@pytest.mark.parametrize("cls", [Dcls1d, Dcls2d, Dcls3d])
def test_path_serves_both_generations(cls):
    later = getattr(modules, cls.__name__)
    layer = cls(8, 8, kernel_count=3, dilated_kernel_size=7, padding=3, groups=8, version="v0")
    assert type(layer) is later
    assert isinstance(layer, cls)
    assert type(cls(8, 8, 3, dilated_kernel_size=7)) is later
    assert type(cls(8, 8, kernel_count=3)) is later
    dilated = cls(8, 8, 3, dilation=2)
    assert isinstance(dilated, cls)
    assert not isinstance(dilated, later)
    assert not isinstance(nn.Identity(), cls)
    # It was bilinear, and had a factor on positions, which nobody seems to have set.
    assert cls(8, 8, kernel_count=3, dilated_kernel_size=7, scaling=1).version == "v0"
    with pytest.raises(ValueError, match="scaling must be 1, got 2: multiply P by it instead"):
        cls(8, 8, kernel_count=3, dilated_kernel_size=7, scaling=2)


class OwnDilated(Dcls2d):
    def __init__(self, channels):
        super().__init__(channels, channels, 3, dilation=2, padding=2)


def test_subclasses():
    layer = OwnDilated(4)
    assert layer(torch.randn(1, 4, 8, 8)).shape == (1, 4, 8, 8)
    assert isinstance(layer, OwnDilated)
    assert not isinstance(nn.Identity(), OwnDilated)
    assert not isinstance(modules.Dcls2d(4, 4, 3), OwnDilated)


def test_loads_the_single_parameter_of_released_code():
    # There P was (axes, O, I/g, *kernel_size), and moved an element by gain * sqrt(taps * I/g * O) * P taps.
    layer = Dcls2d(4, 6, (3, 5), dilation=3, groups=2, gain=0.5)
    state = layer.state_dict()
    P = torch.stack([state.pop("P_h"), state.pop("P_w")]) / 6**0.5  # as it would have been there
    expected = layer.positions
    other = Dcls2d(4, 6, (3, 5), dilation=3, groups=2, gain=0.5)
    nn.Sequential(other).load_state_dict({f"0.{key}": value for key, value in {**state, "P": P}.items()})
    torch.testing.assert_close(other.positions, expected)
