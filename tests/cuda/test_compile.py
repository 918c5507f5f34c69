"""torch.compile with CUDA graphs."""

import pytest
import torch
from gpu import GPU
from torch import nn
from torch._dynamo.utils import counters

from dcls_ops import functional
from dcls_ops.nn import Dcls1d, Dcls2d, Dcls3d


@pytest.fixture(scope="module")
def _compiler():
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=GPU))
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        pytest.skip(f"torch.compile makes no kernels on this machine, not even for a sine: {first_line}")


@pytest.fixture(autouse=True)
def _fresh_compiler(_compiler):
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 1, 13, 13) / 13)

    def forward(self, input):
        return functional.depthwise_conv2d(input, self.kernel, padding="same")


def layers(**options):
    return nn.Sequential(
        Dcls2d(3, 8, kernel_count=5, padding=4, dilated_kernel_size=9, **options),
        nn.GELU(),
        Dcls2d(8, 8, kernel_count=6, padding="same", dilated_kernel_size=17, groups=8, **options),
        nn.GELU(),
        Depthwise(),
    )


def results(model, parameters, input):
    """Output and gradients, as copies: the next replay of a graph overwrites them."""
    input = input.clone().requires_grad_()
    output = model(input)
    gradients = torch.autograd.grad(output, (input, *parameters), output.detach().clone())
    return [tensor.detach().clone() for tensor in (output, *gradients)]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (layers, (4, 3, 24, 24)),
        (lambda: layers(version="v1", method="direct"), (4, 3, 24, 24)),
        (lambda: layers(version="max", shared_positions=True, method="im2col"), (4, 3, 24, 24)),
        (lambda: Dcls1d(4, 6, 3, padding="same", dilated_kernel_size=25, groups=2), (3, 4, 50)),
        (lambda: Dcls3d(2, 4, 3, padding=2, dilated_kernel_size=5, version="v0"), (2, 2, 6, 7, 8)),
    ],
    ids=["auto", "direct", "im2col", "Dcls1d", "Dcls3d"],
)
def test_compiled_with_cuda_graphs_equals_eager(make, shape):
    model = make().to(GPU)
    parameters = tuple(model.parameters())
    compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")
    # The first calls warm up and record, the others replay.
    for _ in range(5):
        input = torch.randn(shape, device=GPU)
        torch.compiler.cudagraph_mark_step_begin()
        actual = results(compiled, parameters, input)
        for a, e in zip(actual, results(model, parameters, input), strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-4 * e.abs().max().item())
    assert counters["inductor"]["cudagraph_skips"] == 0


def test_compiled_under_autocast():
    model = layers().to(GPU).to(memory_format=torch.channels_last)
    compiled = torch.compile(model, fullgraph=True, mode="reduce-overhead")
    for _ in range(4):
        input = torch.randn(4, 3, 24, 24, device=GPU).contiguous(memory_format=torch.channels_last)
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad(), torch.autocast(GPU.type, torch.bfloat16):
            output, expected = compiled(input).clone(), model(input)
        assert output.dtype == torch.bfloat16
        assert output.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(output, expected, rtol=0, atol=0.05 * expected.abs().max().item())
