from pathlib import Path

import pytest
import torch

from dcls_ops._info import OPERATORS

# What has been released. A released schema is never edited here: the current one must keep accepting old calls and
# saved graphs. Additions go at the end, with defaults.
_PARAMETERS = "Tensor input, Tensor weight, Tensor positions"
_REST = 'Tensor? sigma=None, Tensor? bias=None, SymInt[{d}] stride=1, SymInt[{d}] padding=0, SymInt groups=1, str version="gauss", str method="auto"'
RELEASED = {
    "0.1.0": [
        'construct_kernel(Tensor weight, Tensor positions, SymInt[] kernel_size, Tensor? sigma=None, str version="gauss") -> Tensor',
        *(f"conv{d}d({_PARAMETERS}, SymInt[{d}] kernel_size, {_REST.format(d=d)}) -> Tensor" for d in (1, 2, 3)),
        "construct_kernel_backward(Tensor grad_kernel, Tensor weight, Tensor positions, Tensor? sigma, str version, bool[3] output_mask) -> (Tensor grad_weight, Tensor grad_positions, Tensor grad_sigma)",
        "conv_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor positions, SymInt[] kernel_size, Tensor? sigma, SymInt[] stride, SymInt[] padding, SymInt groups, str version, str method, SymInt? touched_taps, bool[5] output_mask) -> (Tensor grad_input, Tensor grad_weight, Tensor grad_positions, Tensor grad_sigma, Tensor grad_bias)",
        *(f"depthwise_conv{d}d_backward(Tensor grad_output, Tensor input, Tensor kernel, SymInt[{d}] stride, SymInt[{d}] padding, bool[3] output_mask) -> (Tensor grad_input, Tensor grad_kernel, Tensor grad_bias)" for d in (1, 2, 3)),
        *(f"depthwise_conv{d}d(Tensor input, Tensor kernel, Tensor? bias=None, SymInt[{d}] stride=1, SymInt[{d}] padding=0) -> Tensor" for d in (1, 2, 3)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("schema", [schema for released in RELEASED.values() for schema in released])
def test_released_calls_keep_working(schema):
    old = torch._C.parse_schema(f"dcls::{schema}")
    current = getattr(torch.ops.dcls, old.name.removeprefix("dcls::")).default._schema
    assert current.is_backward_compatible_with(old)


def test_a_schema_that_lost_an_argument_is_not_compatible():
    current = torch.ops.dcls.conv2d.default._schema
    longer = torch._C.parse_schema(str(current).replace("str method=", "int dilation=1, str method="))
    assert not current.is_backward_compatible_with(longer)


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_every_registration(operator):
    keys = ["CPU", "CompositeExplicitAutograd", "Meta", "Autograd", "FuncTorchBatched"]
    if "conv" in operator and not operator.endswith("_backward"):
        keys += ["AutocastCPU", "AutocastCUDA"]
    for key in keys:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"dcls::{operator}", key), key


def test_the_documented_schemas_are_the_real_ones():
    page = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()
    documented = [line for line in page.splitlines() if line.startswith("dcls::")]
    assert len(documented) == 7
    for line in documented:
        schema = torch._C.parse_schema(line)
        assert schema == getattr(torch.ops.dcls, schema.name.removeprefix("dcls::")).default._schema
