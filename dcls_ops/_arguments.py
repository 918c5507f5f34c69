"""Arguments in the forms that users of PyTorch's convolutions give them."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Size = int | Sequence[int]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def _integer(value: object) -> int:
    # A SymInt stays symbolic; NumPy's integers and the like become ints.
    return value if isinstance(value, torch.SymInt) else operator.index(value)  # type: ignore[return-value, arg-type]


def to_tuple(name: str, value: Size, length: int) -> tuple[int, ...]:
    """One int for every axis, from an int or as many as there are axes."""
    try:
        values = tuple(map(_integer, value)) if isinstance(value, list | tuple) else (_integer(value),) * length
        if len(values) == length:
            return values
    except TypeError:
        pass
    several = "a tuple of one" if length == 1 else f"{length} ints"
    raise ValueError(f"{name} must be an int or {several}, got {value!r}")


def for_axes(namespace: Any, name: str, spatial_axes: int) -> Any:
    """What is called ``name`` for one, two or three spatial axes: ``for_axes(F, "conv", 2)`` is ``F.conv2d``."""
    return getattr(namespace, f"{name}{spatial_axes}d")


def is_traced() -> bool:
    """Whether torch.jit.trace runs: it has tensors in the place of sizes, and warns of what Python does with them."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def sizes(tensor: Tensor, *axes: int) -> tuple[int, ...]:
    """Sizes along some axes, as ints."""
    if is_traced():
        return tuple(len(tensor.unbind(axis)) for axis in axes)
    return tuple(tensor.shape[axis] for axis in axes)


def padding_per_side(
    padding: Size | str, kernel_size: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    """(before, after) for every axis. "same" puts the odd tap after, as PyTorch's convolutions do."""
    if not isinstance(padding, str):
        return tuple((amount, amount) for amount in to_tuple("padding", padding, len(kernel_size)))
    if padding == "valid":
        return ((0, 0),) * len(kernel_size)
    if padding != "same":
        raise ValueError(f"padding must be an int, a tuple, 'same' or 'valid', got {padding!r}")
    if any(step != 1 for step in stride):
        raise ValueError(f"padding='same' needs stride 1, got {tuple(stride)}")
    return tuple(((extent - 1) // 2, extent // 2) for extent in kernel_size)


def pad(input: Tensor, sides: Sequence[tuple[int, int]], mode: str = "zeros") -> tuple[Tensor, list[int]]:
    """Pads what a convolution cannot pad by itself. Returns the input, and the padding left for the convolution."""
    if mode == "zeros" and all(before == after for before, after in sides):
        return input, [before for before, _ in sides]
    amounts = [amount for side in reversed(sides) for amount in side]
    return F.pad(input, amounts, mode="constant" if mode == "zeros" else mode), [0] * len(sides)


def check_channels(in_channels: int, out_channels: int, groups: int) -> None:
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        if channels < 1:
            raise ValueError(f"{name} must be positive, got {channels}")
    if groups < 1 or in_channels % groups or out_channels % groups:
        raise ValueError(f"groups must divide in_channels {in_channels} and out_channels {out_channels}, got {groups}")


def check_padding_mode(padding_mode: str) -> None:
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}")
