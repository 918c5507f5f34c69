"""The messages of tests/bad_calls.py for tensors on a GPU."""

from contextlib import nullcontext

import pytest
import torch
from bad_calls import BAD, CALLS
from gpu import GPU
from torch._subclasses.fake_tensor import FakeTensorMode


def same(value: torch.Tensor) -> torch.Tensor:
    return value


def leaf(value: torch.Tensor) -> torch.Tensor:
    return value.clone().requires_grad_(value.is_floating_point())


FAKE = FakeTensorMode()
# How tensors are changed before the call, and what it is made under.
KINDS = {
    "compiled": (same, nullcontext()),
    "autograd": (leaf, nullcontext()),
    "fake": (FAKE.from_tensor, FAKE),
}


def message_for(op, overrides, make, context):
    """What a valid call on the GPU says with some arguments replaced."""
    arguments = {
        name: make(value) if isinstance(value, torch.Tensor) else value
        for name, value in {**move(CALLS[op], GPU), **overrides}.items()
    }
    with pytest.raises(RuntimeError) as error, context:
        getattr(torch.ops.dcls, op)(**arguments)
    return str(error.value).splitlines()[0]


def move(arguments, device):
    """All tensors on the device, but for those on "meta", which stand for another device."""
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) and not value.is_meta else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("op", "overrides", "message"), BAD, ids=[f"{op}: {message}" for op, _, message in BAD])
def test_says_what_is_wrong(op, overrides, message, kind):
    expected = f"dcls::{op}: {message}".replace("on cpu", f"on {GPU}")
    assert message_for(op, move(overrides, GPU), *KINDS[kind]) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("op", "overrides", "message"), [row for row in BAD if "got meta" in row[2]], ids=str)
def test_a_tensor_left_on_the_cpu(op, overrides, message, kind):
    on_cpu = {name: torch.zeros(value.shape) for name, value in overrides.items()}
    expected = f"dcls::{op}: {message}".replace("on cpu", f"on {GPU}").replace("got meta", "got cpu")
    assert message_for(op, on_cpu, *KINDS[kind]) == expected


@pytest.mark.parametrize("op", CALLS)
def test_the_calls_that_the_table_spoils_are_valid(op):
    getattr(torch.ops.dcls, op)(**move(CALLS[op], GPU))
