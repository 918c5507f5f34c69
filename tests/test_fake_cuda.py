"""What needs no GPU although tensors are on one: fake kernels, export and compilation for device "cuda"."""

import pytest
import torch
from comparing import operators
from drawing import ROUTES, conv
from torch._subclasses.fake_tensor import FakeTensorMode

from dcls_ops._versions import VERSIONS
from dcls_ops.nn import Dcls1d, Dcls2d

# What torch itself needs for a layer whose parameters are on a GPU. (Its autograd also needs a driver there.)
needs_cuda_build = pytest.mark.skipif(
    torch.version.cuda is None, reason="a CPU build of torch draws no random numbers for CUDA tensors"
)


@pytest.fixture
def fake():
    torch.compiler.reset()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    torch.compiler.reset()


def on_cuda(case):
    return case.replace_tensors([torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in case.tensors])


def devices(tensors):
    return {t.device.type for t in tensors}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_operators(fake, version, axes, route):
    case = on_cuda(conv(version, axes, dtype=torch.float32, **ROUTES[route]))
    output = case.op(*case)
    c = case
    grads = torch.ops.dcls.conv_backward(
        output, c.input, c.weight, c.positions, c.kernel_size, c.sigma, c.stride, c.padding, c.groups, version,
        c.method, c.touched_taps, [True] * 5,
    )  # fmt: skip
    kernel = torch.ops.dcls.construct_kernel(*case[1:5], version)
    assert devices((output, *grads, kernel)) == {"cuda"}
    parameters = [t for t in (c.input, c.weight, c.positions, c.sigma, c.bias) if t is not None]
    assert [g.shape for g in grads if g.numel()] == [t.shape for t in parameters]


def test_depthwise_conv2d_keeps_channels_last(fake):
    input = torch.empty(2, 4, 9, 8, device="cuda", memory_format=torch.channels_last)
    kernel = torch.empty(4, 1, 5, 3, device="cuda")
    output = torch.ops.dcls.depthwise_conv2d(input, kernel, padding=[2, 1])
    grads = torch.ops.dcls.depthwise_conv2d_backward(output, input, kernel, [1, 1], [2, 1], [True] * 3)
    assert devices((output, *grads)) == {"cuda"}
    for tensor in (output, grads[0]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_other_devices_are_named(fake):
    case = conv("v1", 2)
    cuda = on_cuda(case)
    with pytest.raises(RuntimeError, match="dcls::conv2d: positions must be on cuda:0 like weight, got cpu"):
        case.op(*cuda._replace(positions=case.positions))


class Call(torch.nn.Module):
    def forward(self, *case):
        return torch.ops.dcls.conv2d(*case[:3], [4, 3], *case[3:], groups=2)


def tensors_of_a_call():
    return on_cuda(conv("gauss", 2, dtype=torch.float32)).tensors


@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_call(fake, strict):
    exported = torch.export.export(Call(), tensors_of_a_call(), strict=strict)
    assert operators(exported.graph) == "dcls.conv2d.default"
    assert {node.meta["val"].device.type for node in exported.graph.nodes if node.op == "call_function"} == {"cuda"}


def test_compile_of_a_call(fake):
    output = torch.compile(Call(), fullgraph=True, backend="aot_eager")(*tensors_of_a_call())
    assert (output.device.type, output.shape) == ("cuda", (2, 4, 3, 3))


def model(**options):
    with torch.device("cuda"):
        return torch.nn.Sequential(
            Dcls2d(3, 8, 5, padding=4, dilated_kernel_size=9, **options),
            torch.nn.ReLU(),
            Dcls2d(8, 8, 4, padding="same", dilated_kernel_size=7, groups=8, **options),
        )


OPTIONS = [{}, {"version": "v1", "method": "direct"}, {"shared_positions": True, "method": "im2col"}]


@needs_cuda_build
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_export_of_layers(fake, options, strict):
    exported = torch.export.export(model(**options), (torch.empty(2, 3, 20, 20, device="cuda"),), strict=strict)
    assert operators(exported.graph).count("dcls.conv2d.default") == 2


@needs_cuda_build
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_compile_of_layers(fake, options):
    compiled = torch.compile(model(**options), fullgraph=True, backend="aot_eager")
    output = compiled(torch.empty(2, 3, 20, 20, device="cuda"))
    assert (output.device.type, output.shape) == ("cuda", (2, 8, 20, 20))


@needs_cuda_build
@torch.no_grad()
def test_compile_of_delays(fake):
    with torch.device("cuda"):
        layer = Dcls1d(4, 6, 1, dilated_kernel_size=25, padding=24, version="gauss")
    output = torch.compile(layer, fullgraph=True, backend="aot_eager")(torch.empty(2, 4, 50, device="cuda"))
    assert output.shape == (2, 6, 74)
