"""Every complaint about arguments: its exact words, and the same from the compiled kernel and from the fake one."""

from contextlib import nullcontext

import pytest
import torch
from bad_calls import BAD, CALLS, tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def other_device(value: torch.Tensor) -> torch.Tensor:
    """What was on the CPU is on "meta" now, and the other way round."""
    return torch.empty_like(value, device="meta" if value.device.type == "cpu" else "cpu")


def leaf(value: torch.Tensor) -> torch.Tensor:
    return value.clone().requires_grad_(value.is_floating_point())


FAKE = FakeTensorMode()
# How tensors are made before the call, and what it is made under.
KINDS = {
    "compiled": (lambda value: value, nullcontext()),
    "autograd": (leaf, nullcontext()),
    "meta": (other_device, nullcontext()),
    "fake": (FAKE.from_tensor, FAKE),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("op", "overrides", "message"), BAD, ids=[f"{op}: {message}" for op, _, message in BAD])
def test_says_what_is_wrong(op, overrides, message, kind):
    make, context = KINDS[kind]
    arguments = {
        name: make(value) if isinstance(value, torch.Tensor) else value
        for name, value in {**CALLS[op], **overrides}.items()
    }
    expected = f"dcls::{op}: {message}"
    if kind == "meta" and "got meta" in message:
        expected = expected.replace("on cpu", "on meta").replace("got meta", "got cpu")
    with pytest.raises(RuntimeError) as error, context:
        getattr(torch.ops.dcls, op)(**arguments)
    assert str(error.value).splitlines()[0] == expected


@pytest.mark.parametrize("op", CALLS)
def test_the_calls_that_the_table_spoils_are_valid(op):
    getattr(torch.ops.dcls, op)(**CALLS[op])


@pytest.mark.parametrize("axes", [1, 3])
def test_other_dimensions_name_themselves(axes):
    arguments = (tensor(2, 4, *[5] * axes), tensor(4, 4, 3), tensor(axes, 4, 4, 3), [9] * axes)
    with pytest.raises(RuntimeError, match=rf"^dcls::conv{axes}d: kernel_size .* must not exceed the padded input"):
        getattr(torch.ops.dcls, f"conv{axes}d")(*arguments, version="v1")
