"""torch.jit.trace, torch.fx and make_fx follow every layer of both packages, and what they make can be saved."""

import io
import pickle

import DCLS
import pytest
import torch
from comparing import operators
from DCLS.construct import modules
from DCLS.construct.modules.Dcls import Dcls1d, Dcls2d, Dcls3d
from DCLS.modules.Dcls import Dcls2d as SharedDcls2d
from drawing import LAYERS, parameters, randomise
from layers import input_of
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from dcls_ops import functional
from dcls_ops._versions import VERSIONS


def traced(function, input):
    return torch.jit.trace(function, input)


def traced_and_saved(function, input):
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(function, input), file)
    file.seek(0)
    return torch.jit.load(file)


def symbolic(function, input):
    return torch.fx.symbolic_trace(function)


def symbolic_and_pickled(function, input):
    return pickle.loads(pickle.dumps(torch.fx.symbolic_trace(function)))


def symbolic_twice(function, input):
    return torch.fx.symbolic_trace(torch.fx.symbolic_trace(function))


def dispatched(function, input):
    return make_fx(lambda input: function(input))(input)


def dispatched_with_symbols(function, input):
    return make_fx(lambda input: function(input), tracing_mode="symbolic", _allow_non_fake_inputs=True)(input)


TRACERS = (
    traced,
    traced_and_saved,
    symbolic,
    symbolic_and_pickled,
    symbolic_twice,
    dispatched,
    dispatched_with_symbols,
)


def cases():
    for cls, arguments, _ in LAYERS:
        for version in VERSIONS:
            yield cls, {"kernel_count": 3, "padding": 1, "version": version, **arguments}
            if hasattr(modules, cls.__name__) and "shared_positions" not in arguments:
                yield getattr(modules, cls.__name__), {"kernel_count": 3, "padding": 1, "version": version, **arguments}
    for cls in (SharedDcls2d, Dcls1d, Dcls2d, Dcls3d):
        for dilation in (1, 2):
            yield cls, {"kernel_size": 3, "dilation": dilation, "padding_mode": "circular", "padding": 1}
    yield modules.Dcls2d, {"kernel_count": 3, "dilated_kernel_size": 4, "padding": "same"}
    yield modules.Dcls2d, {"kernel_count": 3, "dilated_kernel_size": 5, "padding": 2, "padding_mode": "reflect"}


def with_tracers():
    for tracer in TRACERS:
        for cls, arguments in cases():
            name = f"{tracer.__name__}-{cls.__module__.split('.')[0]}.{cls.__name__}-{arguments.get('version')}"
            yield pytest.param(tracer, cls, arguments, id=name)


@pytest.mark.parametrize(("tracer", "cls", "arguments"), list(with_tracers()))
def test_layers(tracer, cls, arguments):
    layer = cls(4, 6, **arguments)
    if hasattr(layer, "DCK") or hasattr(layer, "SIG"):
        randomise(layer)
    program = tracer(layer, input_of(layer, size=9))
    input = input_of(layer, size=9)
    torch.testing.assert_close(program(input), layer(input))


@pytest.mark.parametrize("tracer", [traced, symbolic], ids=lambda f: f.__name__)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("module", [modules, functional], ids=["DCLS", "functional"])
def test_gradients_of_traced_models(tracer, version, module):
    if module is modules:
        layer = modules.Dcls2d(4, 6, 3, dilated_kernel_size=(5, 4), version=version)
    else:
        layer = OfFunctions("conv2d", version)
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv2d(6, 2, 1))
    input = torch.randn(2, 4, 9, 9)
    program = tracer(model, input)
    names, tensors = zip(*model.named_parameters(), strict=True)
    expected = torch.autograd.grad(model(input).square().sum(), tensors)
    actual = torch.autograd.grad(
        program(input).square().sum(), [dict(program.named_parameters())[name] for name in names]
    )
    torch.testing.assert_close(actual, expected)


class OfFunctions(nn.Module):
    """Parameters, and a function of them."""

    def __init__(self, name, version="gauss", size=None, padding=1):
        super().__init__()
        self.name, self.version, self.padding = name, version, padding
        axes = int(name[-2]) if name[-2].isdigit() else 2
        self.size = (5, 4, 3)[:axes] if size is None else size
        drawn = parameters(version, (5, 4, 3)[:axes] if size is None else (size,) * axes, out_channels=6, in_channels=4)
        self.weight, self.positions = nn.Parameter(drawn.weight.float()), nn.Parameter(drawn.positions.float())
        self.sigma = nn.Parameter(drawn.sigma.float()) if drawn.sigma is not None else None
        self.kernel = nn.Parameter(torch.randn(4, 1, *self.size)) if "depthwise" in name else None

    def forward(self, input):
        if self.name == "construct_kernel":
            kernel = functional.construct_kernel(self.weight, self.positions, self.size, self.sigma, self.version)
            return torch.nn.functional.conv2d(input, kernel)
        convolution = getattr(functional, self.name)
        if self.kernel is not None:
            return convolution(input, self.kernel, padding=self.padding)
        return convolution(
            input, self.weight, self.positions, self.size, self.sigma, padding=self.padding, version=self.version
        )


@pytest.mark.parametrize("tracer", TRACERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("name", "axes", "arguments"),
    [
        *(("construct_kernel", 2, {"version": version}) for version in VERSIONS),
        ("construct_kernel", 2, {"size": 5}),
        ("depthwise_conv1d", 1, {}),
        ("depthwise_conv2d", 2, {}),
        ("depthwise_conv3d", 3, {"padding": "same"}),
        ("depthwise_conv2d", 2, {"padding": "same"}),
        ("conv1d", 1, {}),
        ("conv2d", 2, {"size": 5}),
        ("conv3d", 3, {"padding": "same"}),
    ],
    ids=str,
)
def test_functions(tracer, name, axes, arguments):
    module = OfFunctions(name, **arguments)
    input, other = (torch.randn(2, 4, *[9] * axes) for _ in range(2))
    torch.testing.assert_close(tracer(module, input)(other), module(other))


@pytest.mark.parametrize("tracer", TRACERS, ids=lambda f: f.__name__)
def test_integer_positions_and_scalar_widths(tracer):
    layer = modules.Dcls2d(4, 6, 3, dilated_kernel_size=5)
    layer.P.requires_grad = False
    layer.P.data = torch.randint(-2, 3, layer.P.shape)
    layer.SIG = nn.Parameter(torch.tensor(0.4))
    input, other = input_of(layer, size=9), input_of(layer)
    torch.testing.assert_close(tracer(layer, input)(other), layer(other))


@pytest.mark.parametrize("tracer", TRACERS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("version", VERSIONS)
def test_exact_gradients(tracer, version):
    layer = modules.Dcls2d(4, 6, 3, dilated_kernel_size=(5, 4), version=version)
    input, other = input_of(layer, size=9), input_of(layer)
    with DCLS.exact_gradients():
        program = tracer(layer, input)
    torch.testing.assert_close(program(other), layer(other))


def test_graphs_follow_changed_parameters():
    layer = modules.Dcls2d(4, 6, 3, dilated_kernel_size=5)
    graph = torch.fx.symbolic_trace(layer)
    input = input_of(layer, size=9)
    with torch.no_grad():
        layer.P.add_(0.4)
    torch.testing.assert_close(graph(input), layer(input))
    assert "conv2d" in operators(graph.graph)
