"""Layers that do not train keep their dense kernel, and nobody can tell but by the time."""

import copy
import gc
import io
import pickle
import threading
import weakref
from contextlib import contextmanager

import pytest
import torch
from DCLS.construct import modules
from layers import EVERY_LAYER, input_of, name_of
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from dcls_ops import _kept_kernel
from dcls_ops.nn import Dcls1d, Dcls2d, DclsLayer

KEEPING = [(cls, arguments) for cls, arguments in EVERY_LAYER if issubclass(cls, DclsLayer)]


def depthwise(**settings):
    """A layer whose kernel is kept, for 11x11 pixels and more."""
    return Dcls2d(4, 4, 9, dilated_kernel_size=7, padding=3, groups=4, **settings).eval()


@contextmanager
def unkept(layer):
    """The output as the operators compute it."""
    layer.train()
    yield
    layer.eval()


def is_kept(layer):
    return layer in _kept_kernel._KEPT


@pytest.mark.parametrize(("cls", "arguments"), KEEPING, ids=name_of)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(
    "kind", ["float32", "float64", "bfloat16", "autocast", "autocast of halves", "unbatched", "channels_last"]
)
def test_the_same_bits_as_the_operator(cls, arguments, groups, kind):
    layer = cls(4, 4, **arguments, groups=groups, stride=2, padding=1).eval()
    layer.method = "construct"
    input = input_of(layer)
    if kind == "float64":
        layer, input = layer.double(), input.double()
    elif kind == "bfloat16":
        layer, input = layer.bfloat16(), input.bfloat16()
    elif kind == "autocast of halves":
        input = input.bfloat16()
    elif kind == "unbatched":
        input = input[0]
    elif kind == "channels_last" and layer.spatial_axes > 1:
        formats = (torch.channels_last, torch.channels_last_3d)
        input = input.contiguous(memory_format=formats[layer.spatial_axes - 2])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="autocast" in kind):
        with unkept(layer):
            expected = layer(input)
        assert not is_kept(layer)
        for _ in range(2):
            output = layer(input)
            assert is_kept(layer)
            assert torch.equal(output, expected)
            assert output.stride() == expected.stride()
            assert output.dtype == expected.dtype


def test_made_once():
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    with torch.inference_mode():
        layer(input)
    kernel = _kept_kernel._KEPT[layer].kernel
    with torch.no_grad():
        layer(input)
        layer(torch.randn(1, 4, 15, 30))
    assert _kept_kernel._KEPT[layer].kernel is kernel


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        # Where the dense kernel is the cheapest only once it is there, in some instruction set.
        (lambda: Dcls1d(16, 16, 1, dilated_kernel_size=31, padding=15, groups=16, version="v0"), (200,)),
        (lambda: Dcls1d(32, 32, 10, dilated_kernel_size=61, padding=30, version="max"), (200,)),
        (lambda: Dcls2d(16, 16, 9, dilated_kernel_size=9, padding=4, shared_positions=True), (28, 28)),
        (lambda: Dcls2d(32, 32, 9, dilated_kernel_size=17, padding=8, groups=32, version="v1"), (7, 7)),
    ],
    ids=["sparse", "wide", "shared", "depthwise"],
)
@torch.no_grad()
def test_the_same_bits_in_every_call(layer, size):
    layer = layer().eval()
    input = torch.randn(1, layer.in_channels, *size)
    first, *others = (layer(input) for _ in range(3))
    assert all(torch.equal(first, other) for other in others)


def swap(layer, name, value):
    setattr(layer, name, nn.Parameter(value))


CHANGES = {
    "in place": lambda layer: layer.P.add_(0.5),
    "through data": lambda layer: layer.P.data.add_(0.5),
    "width through data": lambda layer: layer.SIG.data.add_(0.5),
    "weight, one entry": lambda layer: layer.weight.data.view(-1)[-1].mul_(2),
    "through a view": lambda layer: layer.P[0].detach().numpy().__iadd__(0.5),
    "data replaced": lambda layer: setattr(layer.P, "data", layer.P.data + 0.5),
    "parameter replaced": lambda layer: swap(layer, "P", layer.P.data + 0.5),
    "not contiguous": lambda layer: swap(layer, "P", (layer.P + 0.5).transpose(0, 1).contiguous().transpose(0, 1)),
    "clamped": lambda layer: (layer.P.data.mul_(100), layer.clamp_parameters()),
    "state loaded": lambda layer: layer.load_state_dict({k: v + 0.5 for k, v in layer.state_dict().items()}),
    "negated": lambda layer: setattr(layer.P, "data", torch._neg_view(layer.P.data)),  # the same memory
    "version": lambda layer: setattr(layer, "version", "max"),
    "extent": lambda layer: setattr(layer, "dilated_kernel_size", (5, 7)),
    "bias": lambda layer: layer.bias.data.add_(1),
    "dtype": lambda layer: layer.double(),
}


@pytest.mark.parametrize("cls", [Dcls2d, modules.Dcls2d], ids=name_of)
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_follows_every_change(cls, change):
    layer = cls(4, 4, 9, dilated_kernel_size=7, padding=3, groups=4).eval()
    input = torch.randn(2, 4, 20, 20)
    before = layer(input)
    assert is_kept(layer)
    CHANGES[change](layer)
    input = input.to(layer.weight.dtype)
    output = layer(input)
    assert is_kept(layer)
    with unkept(layer):
        expected = layer(input)
    assert torch.equal(output, expected)
    if change != "dtype":
        assert not torch.equal(output, before)


class Wide(Dcls2d):
    factor = 1

    @property
    def sigma(self):
        return super().sigma * self.factor


@torch.no_grad()
def test_follows_what_subclasses_make_of_parameters():
    layer = Wide(4, 4, 9, dilated_kernel_size=7, padding=3, groups=4).eval()
    input = torch.randn(2, 4, 20, 20)
    outputs = []
    for layer.factor in (1, 3):
        outputs.append(layer(input))
        assert is_kept(layer)
        with unkept(layer):
            assert torch.equal(outputs[-1], layer(input))
    assert not torch.equal(*outputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda dck: setattr(dck, "smallest_sigma", {"max": 1.0, "gauss": 2.0}),
        lambda dck: setattr(dck, "dilated_kernel_size", (7, 4)),
    ],
    ids=["widths", "centre"],
)
@torch.no_grad()
def test_follows_the_module_that_makes_the_kernel(change):
    layer = modules.Dcls2d(4, 4, 9, dilated_kernel_size=7, padding=3, groups=4).eval()
    input = torch.randn(2, 4, 20, 20)
    before = layer(input)
    change(layer.DCK)
    output = layer(input)
    with unkept(layer):
        assert torch.equal(output, layer(input))
    assert not torch.equal(output, before)


@pytest.mark.parametrize("layer_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("input_dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast_dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_rounded_once_whatever_the_half_types(layer_dtype, input_dtype, autocast_dtype):
    layer, input = depthwise().to(layer_dtype), torch.randn(2, 4, 20, 20).to(input_dtype)
    with torch.autocast("cpu", autocast_dtype):
        output = layer(input)
        with unkept(layer):
            assert torch.equal(output, layer(input))


@torch.no_grad()
def test_forward_mode_is_not_lost():
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    layer(input)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(input, torch.ones_like(input))
        with (
            pytest.raises(NotImplementedError, match="no forward-mode derivative"),
            forward_ad._set_fwd_grad_enabled(True),
        ):
            layer(dual)


@torch.no_grad()
def test_a_half_input_of_a_float32_layer_is_the_operator_s():
    layer = depthwise()
    layer(torch.randn(2, 4, 20, 20).bfloat16())
    assert not is_kept(layer)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (depthwise(method="direct"), (20, 20)),
        (Dcls1d(64, 64, 1, dilated_kernel_size=31, version="v1").eval(), (100,)),  # cheaper tap by tap
        (Dcls2d(8, 8, 4, dilated_kernel_size=31, shared_positions=True, padding=15).eval(), (30, 30)),
    ],
    ids=["direct", "delays", "shared"],
)
@torch.no_grad()
def test_not_kept_where_other_methods_are_cheaper(layer, size):
    layer(torch.randn(2, layer.in_channels, *size))
    assert not is_kept(layer)


def test_not_kept_with_gradients_or_in_training():
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    layer(input).sum().backward()
    assert layer.P.grad is not None
    with torch.no_grad():
        layer.train()(input)
    assert not is_kept(layer)


@pytest.mark.parametrize("before", ["train", "grad"])
def test_let_go_by_training(before):
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    with torch.no_grad():
        layer(input)
    assert is_kept(layer)
    layer.train(before == "train")(input)
    assert not is_kept(layer)


TRACERS = {
    "compile": lambda layer, x: torch.compile(layer, fullgraph=True, backend="aot_eager"),
    "export": lambda layer, x: torch.export.export(layer, (x,), strict=False).module(),
    "strict export": lambda layer, x: torch.export.export(layer, (x,), strict=True).module(),
    "jit.trace": lambda layer, x: torch.jit.trace(layer, (x,)),
    "fx": lambda layer, x: torch.fx.symbolic_trace(layer),
    "make_fx": lambda layer, x: make_fx(layer)(x),
    "make_fx, pre-dispatch": lambda layer, x: make_fx(layer, pre_dispatch=True)(x),
    "make_fx, fake": lambda layer, x: make_fx(layer, tracing_mode="fake", _allow_non_fake_inputs=True)(x),
    "functionalize": lambda layer, x: torch.func.functionalize(layer),
}


@pytest.mark.parametrize("tracer", TRACERS)
@torch.no_grad()
def test_traced_programs_make_their_kernel(tracer):
    """A kernel must not become a constant, whether it was kept before or not."""
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    expected = layer(input)
    program = TRACERS[tracer](layer, input)
    torch.testing.assert_close(program(input), expected)
    if tracer != "make_fx, fake":  # which makes constants of all parameters
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        torch.testing.assert_close(program(input), 2 * expected)
    graph = getattr(program, "graph", None)
    if isinstance(graph, torch.fx.Graph):
        assert "depthwise" not in str(graph)
    elif graph is not None:
        assert "dcls::conv2d" in str(graph)


@torch.no_grad()
def test_functional_transforms():
    layer, input = depthwise(), torch.randn(3, 2, 4, 20, 20)
    expected = torch.stack([layer(each) for each in input])
    torch.testing.assert_close(torch.vmap(layer)(input), expected)
    others = [depthwise() for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(others)
    outputs = torch.vmap(lambda p, x: torch.func.functional_call(layer, p, x))(stacked, input)
    torch.testing.assert_close(outputs, torch.stack([other(x) for other, x in zip(others, input, strict=True)]))
    changed = {"P": layer.P + 0.5}
    with unkept(layer):
        wanted = torch.func.functional_call(layer, changed, input[0])
    assert torch.equal(torch.func.functional_call(layer, changed, input[0]), wanted)
    assert torch.equal(layer(input[0]), expected[0])


@torch.no_grad()
def test_flops_are_those_of_the_operator():
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    layer(input)
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            layer(input)
        counts.append(counter.get_flop_counts()["Global"])
        layer.train()
    assert counts[0] == counts[1]
    assert torch.ops.dcls.conv2d in counts[0]


@torch.no_grad()
def test_mistakes_are_those_of_the_operator():
    layer = depthwise()
    layer(torch.randn(2, 4, 20, 20))
    for input in (
        torch.randn(2, 3, 20, 20),
        torch.randn(4, 20),
        torch.randn(2, 4, 20, 20).double(),
        torch.zeros(1, 4, 0, 9),
    ):
        with pytest.raises(RuntimeError, match=r"^dcls::conv2d: input"):
            layer(input)
    with pytest.raises(RuntimeError, match=r"^dcls::conv2d: kernel_size .* must not exceed the padded input"):
        Dcls2d(4, 4, 9, dilated_kernel_size=7, groups=4).eval()(torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bias", torch.zeros(4, dtype=torch.float64), "bias must have the dtype of input or weight"),
        ("bias", torch.zeros(3), "bias must have shape"),
        ("P", torch.zeros(2, 4, 1, 8), "positions must have shape"),
        ("SIG", None, "sigma must be given"),
        ("weight", torch.zeros(4, 1, 0), "weight must not be empty"),
    ],
)
@torch.no_grad()
def test_mistakes_in_a_layer_are_those_of_the_operator(name, value, message):
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    layer(input)
    setattr(layer, name, nn.Parameter(value) if value is not None else None)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"^dcls::conv2d: {message}"):
            layer(input)


@pytest.mark.parametrize(("name", "value"), [("stride", 1), ("stride", [1, 1]), ("touched_taps", 5)])
@torch.no_grad()
def test_attributes_that_the_functions_take(name, value):
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    expected = layer(input)
    setattr(layer, name, value)
    torch.testing.assert_close(layer(input), expected)


@torch.no_grad()
def test_freed_with_the_layer():
    layer = depthwise()
    layer(torch.randn(2, 4, 20, 20))
    kernel = weakref.ref(_kept_kernel._KEPT[layer].kernel)
    layer = weakref.ref(layer)
    gc.collect()
    assert layer() is None
    assert kernel() is None


@torch.no_grad()
def test_no_part_of_what_is_copied_or_saved():
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    fresh, attributes = len(pickle.dumps(layer)), set(vars(layer))
    expected = layer(input)
    assert is_kept(layer)
    assert set(vars(layer)) == attributes
    assert set(layer.state_dict()) == {"weight", "P", "SIG", "bias"}
    assert len(pickle.dumps(layer)) == fresh
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert not is_kept(other)
        assert torch.equal(other(input), expected)


@torch.no_grad()
def test_a_kernel_is_kept_with_what_it_was_made_of(monkeypatch):
    """Another thread writes to a parameter while the kernel is made."""
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    with unkept(layer):
        expected = layer(input)
    before, copies = layer.P.clone(), _kept_kernel._copies

    def copies_before_a_write(operands):
        copied = copies(operands)
        layer.P.add_(1)
        return copied

    with monkeypatch.context() as patch:
        patch.setattr(_kept_kernel, "_copies", copies_before_a_write)
        layer(input)
    layer.P.copy_(before)
    assert torch.equal(layer(input), expected)


def test_threads():
    """Parameters are replaced while others read: each output is that of one state of them."""
    layer, input = depthwise(), torch.randn(2, 4, 20, 20)
    with torch.no_grad():
        states = [torch.full_like(layer.P, value) for value in (-1.0, 0.25, 1.5)]
        expected = []
        for state in states:
            layer.P.copy_(state)
            expected.append(layer(input))
    stop, failures = threading.Event(), []

    def read():
        with torch.no_grad():
            while not stop.is_set():
                output = layer(input)  # with a kept kernel or without: the same bits
                if not any(torch.equal(output, each) for each in expected):
                    failures.append(output)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    for index in range(300):
        layer.P = nn.Parameter(states[index % 3])
    stop.set()
    for reader in readers:
        reader.join()
    assert not failures
    with torch.no_grad():
        assert torch.equal(layer(input), expected[299 % 3])
