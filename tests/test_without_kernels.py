"""On a device for which there are no compiled kernels the operators run their reference, forward and backward.

So do those on CUDA tensors where the CUDA library is missing or cannot be used.

A process of its own plays that device: it has the schemas, and no compiled library.
"""

import subprocess
import sys

import pytest
import torch
from drawing import conv

from dcls_ops._info import OPERATORS

PROGRAM = """
import sys, types, torch
path, *schemas = sys.argv[1:]
library = torch.library.Library("dcls", "DEF")
for schema in schemas:
    library.define(schema.removeprefix("dcls::"))
sys.modules["dcls_ops._library"] = types.ModuleType("dcls_ops._library")
import dcls_ops

assert not torch._C._dispatch_has_kernel_for_dispatch_key("dcls::conv2d", "CPU")
results = []
for op, arguments in torch.load(path):
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    output = getattr(torch.ops.dcls, op)(*arguments)
    results.append((output.detach(), torch.autograd.grad(output.square().sum(), tensors)))
torch.save(results, path)
"""


TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.01, torch.bfloat16: 0.05}


@pytest.fixture(scope="module")
def cases():
    torch.manual_seed(0)
    convolutions = [conv(version, axes, requires_grad=True) for version in ("v1", "gauss") for axes in (1, 2, 3)]
    half = conv("gauss", 2, dtype=torch.float32, requires_grad=True)
    half_input = half.input.detach().bfloat16().contiguous(memory_format=torch.channels_last)
    half = half._replace(input=half_input.requires_grad_())
    half_parameters = conv("gauss", 2, dtype=torch.float32).leaves(torch.float16)
    unbatched = conv("v0", 2, shared=True, requires_grad=True)
    unbatched = unbatched._replace(input=unbatched.input.detach()[0].requires_grad_())
    calls = [(f"conv{len(c.kernel_size)}d", tuple(c)) for c in (*convolutions, half, half_parameters, unbatched)]
    calls += [("construct_kernel", tuple(c[1:5])) for c in convolutions if c.version == "gauss"]
    for axes in (1, 2, 3):
        shapes = ((2, 3, *[8] * axes), (3, 1, *[5] * axes), (3,))
        depthwise = [torch.randn(shape, requires_grad=True) for shape in shapes]
        calls.append((f"depthwise_conv{axes}d", (*depthwise, [1] * axes, [2] * axes)))
    return calls


def test_agrees_with_the_compiled_kernels(cases, tmp_path):
    path = tmp_path / "calls.pt"
    torch.save(cases, path)
    schemas = [str(getattr(torch.ops.dcls, op).default._schema) for op in OPERATORS]
    subprocess.run([sys.executable, "-c", PROGRAM, str(path), *schemas], check=True)
    for (op, arguments), (output, grads) in zip(cases, torch.load(path), strict=True):
        expected = getattr(torch.ops.dcls, op)(*arguments)
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        expected_grads = torch.autograd.grad(expected.square().sum(), tensors)
        tolerance = TOLERANCE[expected.dtype]
        for actual, wanted in zip((output, *grads), (expected.detach(), *expected_grads), strict=True):
            assert actual.stride() == wanted.stride()
            scale = wanted.abs().max().item()
            torch.testing.assert_close(actual, wanted, rtol=tolerance, atol=tolerance * scale)
