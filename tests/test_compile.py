import pytest
import torch
from comparing import operators
from expecttest import assert_expected_inline
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd

from dcls_ops._versions import VERSIONS
from dcls_ops.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls3d


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def two_layers(version="gauss", **options):
    return nn.Sequential(
        Dcls2d(3, 8, kernel_count=5, padding=4, dilated_kernel_size=9, version=version, **options),
        nn.ReLU(),
        Dcls2d(8, 8, kernel_count=4, padding="same", dilated_kernel_size=7, groups=8, version=version, **options),
    )


every_method = pytest.mark.parametrize(
    "options", [{}, {"shared_positions": True, "method": "im2col"}], ids=["auto", "im2col"]
)


def results(model, module, input):
    """The output, and the gradients of the input and every parameter."""
    input = input.detach().requires_grad_()
    output = model(input)
    return output, *torch.autograd.grad(output.square().sum(), (input, *module.parameters()))


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * e.abs().max().item())


@pytest.mark.parametrize("version", VERSIONS)
@every_method
def test_compiled_model_equals_eager(version, options):
    model = two_layers(version, **options)
    compiled = torch.compile(model, fullgraph=True)
    input = torch.randn(2, 3, 16, 16)
    assert_same(results(compiled, model, input), results(model, model, input))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Dcls1d(3, 4, 2, dilated_kernel_size=9, padding="same"), (2, 3, 20)),
        (Dcls3d(3, 4, 2, dilated_kernel_size=3, padding_mode="circular", padding=1), (2, 3, 5, 6, 7)),
        (Dcls2_1d(3, 4, 2, dense_kernel_size=3, dilated_kernel_size=5), (2, 3, 8, 9)),
    ],
    ids=["Dcls1d", "Dcls3d", "Dcls2_1d"],
)
def test_other_layers(layer, shape):
    compiled = torch.compile(layer, fullgraph=True)
    input = torch.randn(shape)
    assert_same(results(compiled, layer, input), results(layer, layer, input))


@every_method
def test_no_recompilation_over_sizes(options):
    model = two_layers(**options)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    results(compiled, model, torch.randn(2, 3, 17, 17))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in (2, 3, 5, 8):
            for size in (17, 24, 31):
                input = torch.randn(batch, 3, size, size)
                assert_same(results(compiled, model, input), results(model, model, input))


@every_method
def test_autocast_and_channels_last(options):
    model = two_layers(**options)
    compiled = torch.compile(model, fullgraph=True)
    input = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = compiled(input), model(input)
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(output, expected)


def test_graphs_hold_the_operators():
    graphs = []

    def keep(graph_module, _):
        graphs.append(operators(graph_module.graph))
        return make_boxed_func(graph_module)

    layer = Dcls2d(3, 4, kernel_count=2, dilated_kernel_size=5, version="v1")
    compiled = torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))
    compiled(torch.randn(1, 3, 8, 8, requires_grad=True)).sum().backward()
    forward, backward = graphs
    assert_expected_inline(forward, """dcls.conv2d.default""")
    assert_expected_inline(
        backward,
        """\
dcls.conv_backward.default
<built-in function getitem>
<built-in function getitem>
<built-in function getitem>
<built-in function getitem>""",
    )
