"""Helpers for registering the operators with PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_FRAGMENT = torch.library.Library("dcls", "FRAGMENT")


def cast_for_autocast(tensor: Tensor | None, device_type: str) -> Tensor | None:
    """Casts what PyTorch's own convolutions would cast: floating tensors of the device, except float64."""
    if tensor is None or not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return tensor
    return tensor.to(torch.get_autocast_dtype(device_type))


def register_autocast(op: str, make_kernel: Callable[[str], Callable[..., Any]]) -> None:
    """Registers ``make_kernel(device_type)`` to run ``op`` under autocast.

    ``torch.library.register_autocast`` would cast every tensor argument; positions and sigma must stay as they are.
    """
    for key, device_type in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):
        kernel = make_kernel(device_type)

        def run(*args: Any, kernel: Callable[..., Any] = kernel, device_type: str = device_type) -> Any:
            with torch.autocast(device_type, enabled=False):
                return kernel(*args)

        _FRAGMENT.impl(op, run, key)


def zero_element(like: Tensor) -> Tensor:
    """What a backward operator returns for a gradient that its output_mask leaves out."""
    return like.new_empty(0)


def pick(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Backward operators return a tensor for every gradient; autograd wants None for those not asked for."""
    return tuple(gradient if ask else None for gradient, ask in zip(gradients, wanted, strict=True))


def batch_first(tensor: Tensor | None, dim: int | None, batch_size: int) -> Tensor | None:
    """The vmapped tensor with its batch dimension first, expanded where it had none."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.unsqueeze(0).expand(batch_size, *tensor.shape)
    return tensor.movedim(dim, 0)


def fold(tensor: Tensor | None, axis: int) -> Tensor | None:
    """(B, ..., n, ...) -> (..., B n, ...), where n is axis ``axis`` of the result."""
    return tensor.movedim(0, axis).flatten(axis, axis + 1) if tensor is not None else None


def unfold(tensor: Tensor, axis: int, batch_size: int) -> Tensor:
    """The inverse of fold."""
    return tensor.unflatten(axis, (batch_size, -1)).movedim(axis, 0)
