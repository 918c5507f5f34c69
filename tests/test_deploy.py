import copy
import io

import pytest
import torch
import torch.nn.functional as F
from DCLS.construct import modules
from DCLS.construct.modules.Dcls import Dcls2d as DilatedDcls2d
from DCLS.modules.Dcls import Dcls2d as SharedDcls2d
from drawing import LAYERS
from torch import nn

from dcls_ops._dense import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d
from dcls_ops.deploy import fold
from dcls_ops.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls3d, DclsLayer


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # PyTorch's, on its own layers
@pytest.mark.parametrize(("cls", "arguments", "kernel_size"), LAYERS, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"padding": "same", "bias": False}, {"padding": 2, "padding_mode": "circular", "stride": 2}],
    ids=str,
)
def test_folded_layer_computes_the_same(cls, arguments, kernel_size, settings):
    layer = cls(4, 6, 3, groups=2, **arguments, **settings)
    folded = fold(layer)
    assert type(folded) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel_size) - 1]
    input = torch.randn(2, 4, *[8] * len(kernel_size))
    torch.testing.assert_close(folded(input), layer(input))


def test_folds_a_copy_of_the_whole_model():
    shared = Dcls2d(4, 4, kernel_count=3, padding=2, dilated_kernel_size=5)
    model = nn.ModuleDict({"a": shared, "block": nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.BatchNorm2d(4))}).eval()
    folded = fold(model)
    assert not any(isinstance(module, DclsLayer) for module in folded.modules())
    assert folded["a"] is folded["block"][1]
    assert model["a"] is shared
    assert not folded["a"].training
    input = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(folded["block"](input), model["block"](input))
    with torch.no_grad():
        folded["a"].bias.zero_()
    assert shared.bias.abs().sum() > 0


def test_frozen_layers_stay_frozen():
    layer = Dcls2d(4, 4, 2, dilated_kernel_size=5).requires_grad_(False)
    layer.bias.requires_grad_()
    folded = fold(layer)
    assert not folded.weight.requires_grad
    assert folded.bias.requires_grad


class Padded(Dcls2d):
    """The kernel needs no symmetric padding, and channels come last."""

    def forward(self, input):
        return super().forward(F.pad(input.permute(0, 3, 1, 2), (1, 0, 2, 0))).permute(0, 2, 3, 1)


class Scaled(Dcls2d):
    """With a parameter and a module of its own, through a method of its own, and a class between."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.norm = nn.BatchNorm2d(self.out_channels)
        nn.init.uniform_(self.norm.weight)

    def forward(self, input):
        return self.finish(super().forward(input))

    def finish(self, output):
        return self.norm(output) * self.scale


class ScaledTwice(Scaled):
    def forward(self, input):
        return super().forward(input) * 3

    def penalty(self):
        return self.P.square().mean()


class DropInScaled(modules.Dcls2d):
    def forward(self, input):
        return 2 * super().forward(input)


class DilatedScaled(DilatedDcls2d):
    def forward(self, input):
        return 2 * super().forward(input)


SETTINGS = {"kernel_count": 3, "dilated_kernel_size": 5}
AROUND = [
    (Padded, SETTINGS),
    (Scaled, SETTINGS),
    (ScaledTwice, SETTINGS),
    (DropInScaled, SETTINGS),
    (DilatedScaled, {"kernel_size": 3, "dilation": 2}),
]


@pytest.mark.parametrize(("cls", "arguments"), AROUND)
def test_a_forward_of_its_own_runs_around_the_convolution(cls, arguments):
    layer = cls(6, 6, **arguments)
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}).eval()
    folded = fold(model)
    assert isinstance(folded["a"], cls)
    assert folded["a"] is folded["b"][0]
    assert type(folded["a"].folded_convolution) is nn.Conv2d
    left = {name.split(".")[0] for name in folded["a"].state_dict()}
    assert left == {"folded_convolution", *(("scale", "norm") if issubclass(cls, Scaled) else ())}
    input = torch.randn(2, 6, 9, 6) if cls is Padded else torch.randn(2, 6, 9, 9)
    expected = layer(input)
    file = io.BytesIO()
    torch.save(folded, file)
    file.seek(0)
    for copied in (folded, copy.deepcopy(folded), fold(folded), torch.load(file, weights_only=False)):
        torch.testing.assert_close(copied["b"](input), expected)
        copied["a"].clamp_parameters()
        state = copy.deepcopy(copied.state_dict())
        copied["a"].reset_parameters()
        assert not torch.equal(copied["b"](input), expected)
        copied.load_state_dict(state)
        assert cls.__name__ in repr(copied)
    exported = torch.export.export(folded["a"], (input,)).module()
    torch.testing.assert_close(exported(input), expected)
    # The model is as it was.
    assert type(model["a"]) is cls
    assert torch.equal(layer(input), expected)


class OwnConvolution(Dcls2d):
    def forward(self, input):
        return F.conv2d(input, self.construct_kernel(), self.bias)


class Standardised(Dcls2d):
    def forward(self, input):
        self.standardise()
        return super().forward(input)

    def standardise(self):
        with torch.no_grad():
            return [self.weight.div_(self.weight.std()) for _ in range(1)]


class Resized(Dcls2d):
    def forward(self, input):
        self.padding = (0, 0) if input.shape[-1] > 9 else (2, 2)
        return super().forward(input)


class Regularised(Dcls2d):
    def forward(self, input):
        return super().forward(input) + sum(parameter.sum() for parameter in self.parameters())


class Clamped(Dcls2d):
    def forward(self, input):
        self.clamp_parameters()
        return super().forward(input)


class OwnKernel(Dcls2_1d):
    def construct_kernel(self):
        return 2 * super().construct_kernel()


class InnerConvolution(modules.Dcls2d):
    def _conv_forward(self, input, weight, bias, P, SIG):
        return super()._conv_forward(input, weight.tanh(), bias, P, SIG)


def hooked(kind):
    layer = Dcls2d(4, 4, **SETTINGS)
    getattr(layer, f"register_{kind}_hook")(lambda *arguments: None)
    return layer


def outside():
    layer = Clamped(4, 4, **SETTINGS)
    layer.P.data.mul_(100)
    return layer


def replaced():
    layer = Dcls2d(4, 4, **SETTINGS)
    layer.forward = lambda input: input
    return layer


BACKWARD, FORWARD, STATE = (
    f"it has {kind} hooks, which would be lost; remove them first" for kind in ("backward", "forward", "state_dict")
)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (OwnConvolution(4, 4, **SETTINGS), "its forward uses self.bias, not super().forward alone"),
        (Standardised(4, 4, **SETTINGS), "its forward uses self.weight, not super().forward alone"),
        (OwnKernel(4, 4, **SETTINGS), "OwnKernel has a construct_kernel of its own"),
        (InnerConvolution(4, 4, **SETTINGS), "InnerConvolution has a _conv_forward of its own"),
        (hooked("forward"), FORWARD),
        (hooked("forward_pre"), FORWARD),
        (hooked("full_backward"), BACKWARD),
        (hooked("full_backward_pre"), BACKWARD),
        (hooked("state_dict_post"), STATE),
        (hooked("load_state_dict_pre"), STATE),
        (replaced(), "its forward was replaced"),
        (Resized(4, 4, **SETTINGS), "its forward sets self.padding, which a folded convolution does not look at"),
        (Regularised(4, 4, **SETTINGS), "its forward uses self.parameters, not super().forward alone"),
        (outside(), "its forward calls self.clamp_parameters, which moves positions: call it before fold()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses_what_a_convolution_would_not_do(layer, reason):
    name = type(layer).__name__
    start = "fold() cannot fold these layers; with skip= it leaves them as they are"
    model = nn.Sequential(Dcls2d(4, 4, **SETTINGS), nn.Sequential(layer), layer)
    for each, names in ((model, ["1.0"]), (layer, ["the model itself"])):
        with pytest.raises(ValueError) as error:  # noqa: PT011, the whole message is compared
            fold(each)
        assert str(error.value) == start + "".join(f"\n  {at} ({name}): {reason}" for at in names)
    for skip in (type(layer), layer, "2", ["1"], (model[1],)):
        folded = fold(model, skip=skip)
        assert type(folded[2]) is type(layer)
        assert folded[2] is folded[1][0]
        assert folded[2] is not layer
        assert isinstance(folded[0], nn.Conv2d) == (skip is not Dcls2d)


def test_a_forward_may_clamp_what_is_inside():
    layer = Clamped(4, 4, **SETTINGS)
    input = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(fold(layer)(input), layer(input))


@pytest.mark.parametrize("parameter", ["P", "SIG", "bias", "weight"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_parameters_of_several_dtypes(parameter, dtype):
    layer = modules.Dcls2d(4, 4, **SETTINGS)
    getattr(layer, parameter).data = getattr(layer, parameter).data.to(dtype)
    input = torch.randn(1, 4, 9, 9).to(layer.weight.dtype)
    torch.testing.assert_close(fold(layer)(input), layer(input), rtol=2e-3, atol=2e-3)


def test_lists_every_layer_that_it_refuses():
    model = nn.Sequential(OwnConvolution(4, 4, **SETTINGS), Dcls2d(4, 4, **SETTINGS), hooked("forward"))
    with pytest.raises(ValueError, match=r"0 \(OwnConvolution\): .*\n  2 \(Dcls2d\): "):
        fold(model)


@pytest.mark.parametrize("skip", ["conv", ["0", "conv"], nn.ReLU(), [3]], ids=str)
def test_skip_must_be_in_the_model(skip):
    with pytest.raises(ValueError, match=r"^skip must hold classes, modules of the model or their names, got "):
        fold(nn.Sequential(Dcls2d(4, 4, **SETTINGS)), skip=skip)


class Delegating(nn.Module):
    """Forwards attributes to what it wraps, as FSDP and many others do."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("wrapped"), name)

    def forward(self, input):
        return 2 * self.wrapped(input)


def test_looks_through_wrappers_that_forward_attributes():
    layer = Dcls2d(4, 4, **SETTINGS)
    wrapper = Delegating(layer)
    assert wrapper.kernel_count == 3
    folded = fold(nn.Sequential(wrapper))
    assert type(folded[0]) is Delegating
    assert type(folded[0].wrapped) is nn.Conv2d
    input = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(folded(input), wrapper(input))


@pytest.mark.parametrize("is_inside", [False, True])
def test_a_compiled_layer_stays_compiled(is_inside):
    layer = Dcls2d(4, 4, **SETTINGS)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    folded = fold(nn.Sequential(compiled))[0] if is_inside else fold(compiled)
    assert type(folded) is type(compiled)
    assert type(folded._orig_mod) is nn.Conv2d
    input = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(folded(input), layer(input))


@pytest.mark.parametrize("cls", [Dcls2d, ScaledTwice])
def test_parametrized_weights(cls):
    layer = torch.nn.utils.parametrizations.weight_norm(cls(4, 4, **SETTINGS)).eval()
    with torch.no_grad():
        layer.parametrizations.weight.original0.mul_(2)
    folded = fold(nn.Sequential(layer))
    input = torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(folded(input), layer(input))
    assert not any("parametrizations" in name for name in folded.state_dict())
    torch.save(folded, io.BytesIO())


@pytest.mark.parametrize("cls", [DilatedDcls2d, SharedDcls2d])
@pytest.mark.parametrize("dilation", [1, 3])
def test_layers_of_2021(cls, dilation):
    layer = cls(4, 8, (3, 5), dilation=dilation, groups=2, padding=2, padding_mode="circular")
    folded = fold(torch.nn.Sequential(layer))
    assert type(folded[0]) is torch.nn.Conv2d
    input = torch.randn(2, 4, 20, 20)
    torch.testing.assert_close(folded(input), layer(input))
    assert folded[0].weight.data_ptr() != layer.weight.data_ptr()


@pytest.mark.parametrize(
    ("extent", "settings", "is_channels_last"),
    [
        (17, {"padding": 8, "groups": 6}, True),
        (17, {"padding": "same", "groups": 6}, True),
        (15, {"padding": 7, "groups": 6}, True),
        (13, {"padding": 6, "groups": 6}, False),  # oneDNN has a kernel for it
        (17, {"padding": 0, "groups": 6}, False),
        (17, {"padding": 8, "groups": 6, "padding_mode": "circular"}, False),  # padded before
        (17, {"padding": 8, "groups": 3}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("input_format", [torch.contiguous_format, torch.channels_last])
def test_depthwise_weights_are_in_the_format_that_is_fast(extent, settings, is_channels_last, input_format):
    layer = Dcls2d(6, 6, 3, dilated_kernel_size=extent, **settings)
    folded = fold(layer)
    # By strides: with one channel, is_contiguous() sees no difference.
    assert (folded.weight.stride(1) == 1) == is_channels_last
    input = torch.randn(2, 6, 20, 20).contiguous(memory_format=input_format)
    torch.testing.assert_close(folded(input), layer(input))
    other = fold(layer)
    other.load_state_dict(folded.state_dict())
    assert other.weight.stride() == folded.weight.stride()


# "construct", because what "auto" takes depends on the processor.
DENSE = {"groups": 4, "method": "construct"}
FOR_SPEED = [
    (Dcls2d(4, 4, 9, dilated_kernel_size=7, padding=3, **DENSE), (20, 20), DepthwiseConv2d),
    (Dcls2d(4, 4, 9, dilated_kernel_size=7, padding=3, padding_mode="circular", **DENSE), (20, 20), DepthwiseConv2d),
    (Dcls2d(4, 4, 9, dilated_kernel_size=6, padding="same", bias=False, **DENSE), (20, 20), DepthwiseConv2d),
    (Dcls3d(4, 4, 30, dilated_kernel_size=5, stride=2, **DENSE), (14, 12, 13), DepthwiseConv3d),
    (Dcls1d(4, 4, 9, dilated_kernel_size=9, padding=4, **DENSE), (90,), DepthwiseConv1d),
    (Dcls2_1d(4, 4, 3, dense_kernel_size=7, dilated_kernel_size=9, **DENSE), (20, 20), DepthwiseConv2d),
    (Padded(4, 4, 9, dilated_kernel_size=7, padding=3, **DENSE), (20, 20), Padded),
    (SharedDcls2d(4, 4, 3, dilation=2, groups=4), (20, 20), DepthwiseConv2d),
    (Dcls2d(4, 8, 9, dilated_kernel_size=3, **DENSE), (20, 20), nn.Conv2d),
    (Dcls2d(4, 6, 9, dilated_kernel_size=3, method="construct"), (20, 20), nn.Conv2d),
    (Dcls2d(4, 4, 9, dilated_kernel_size=7, groups=4, method="direct"), (20, 20), Dcls2d),
    (Dcls1d(64, 64, 1, dilated_kernel_size=31, version="v1"), (90,), Dcls1d),  # delays
    (modules.Dcls1d(64, 64, 1, dilated_kernel_size=31, version="v1"), (90,), modules.Dcls1d),
    (Dcls2d(8, 8, 4, dilated_kernel_size=31, shared_positions=True), (40, 40), Dcls2d),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("layer", "size", "expected"), FOR_SPEED)
def test_folded_for_speed(layer, size, expected):
    input = torch.randn(2, layer.in_channels, *size)
    if isinstance(layer, Padded):
        input = input.permute(0, 2, 3, 1)
    model = nn.Sequential(layer, nn.ReLU())
    folded = fold(model, backend="dcls")
    assert type(folded[0]).__name__ == expected.__name__
    torch.testing.assert_close(folded(input), model(input))
    if issubclass(expected, DclsLayer):
        return
    plain = fold(model)
    plain.load_state_dict(folded.state_dict())  # the same parameters
    torch.testing.assert_close(plain(input), folded(input))
    for each in (copy.deepcopy(folded), torch.export.export(folded, (input,)).module()):
        torch.testing.assert_close(each(input), folded(input))
    torch.compiler.reset()  # not one more recompilation of nn.Sequential.forward
    compiled = torch.compile(folded, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(input), folded(input))


def test_the_operator_computes_what_is_folded_for_speed():
    graph = torch.export.export(fold(FOR_SPEED[0][0], backend="dcls"), (torch.randn(2, 4, 20, 20),)).graph
    assert "dcls.depthwise_conv2d" in str(graph)


def test_traced_and_scripted_for_speed():
    folded, input = fold(FOR_SPEED[0][0], backend="dcls"), torch.randn(2, 4, 20, 20)
    for program in (torch.fx.symbolic_trace(nn.Sequential(folded)), torch.jit.trace(folded, (input,))):
        torch.testing.assert_close(program(input[:1]), folded(input[:1]))


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_folded_for_speed_takes_its_channels_only(channels):
    folded = fold(FOR_SPEED[0][0], backend="dcls")
    with pytest.raises(RuntimeError, match=f"to have 4 channels, but got {channels} channels"):
        folded(torch.randn(2, channels, 20, 20))


def test_a_layer_without_an_operator_is_dense():
    layer = modules.Dcls1d(64, 64, 1, dilated_kernel_size=31, version="v1")
    assert type(fold(nn.Sequential(layer), backend="dcls")[0]) is modules.Dcls1d
    layer.DCK.register_forward_hook(lambda module, arguments, kernel: 2 * kernel)
    folded = fold(nn.Sequential(layer), backend="dcls")
    assert type(folded[0]) is nn.Conv1d
    input = torch.randn(2, 64, 40)
    torch.testing.assert_close(folded(input), nn.Sequential(layer)(input))


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend must be 'torch' or 'dcls', got 'onnx'$"):
        fold(nn.Sequential(), backend="onnx")
