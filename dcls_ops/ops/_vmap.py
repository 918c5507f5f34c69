"""What the batching rules of the operators have in common: vmapped axes go into channels, and come out of them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def batch_first(tensor: Tensor | None, dim: int | None, batch_size: int) -> Any:
    """The vmapped tensor with its batch dimension first, expanded where it had none; None for None."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.unsqueeze(0).expand(batch_size, *tensor.shape)
    return tensor.movedim(dim, 0)


def merge_batch(tensor: Tensor | None, axis: int) -> Any:
    """(B, ..., n, ...) -> (..., B n, ...), where n is axis ``axis`` of the result; None for None."""
    return tensor.movedim(0, axis).flatten(axis, axis + 1) if tensor is not None else None


def split_batch(tensor: Tensor, axis: int, batch_size: int) -> Tensor:
    """The inverse of merge_batch."""
    unflattened: Tensor = tensor.unflatten(axis, (batch_size, -1))
    return unflattened.movedim(axis, 0)


def merge_parameters(
    batch_size: int,
    weight: tuple[Tensor, int | None],
    positions: tuple[Tensor, int | None],
    sigma: tuple[Tensor | None, int | None],
) -> tuple[Any, Any, Any, bool]:
    """Merges the batch of vmapped parameters, given with their batch dimensions, into the out channels.

    Returns weight, positions, sigma, and whether positions were shared by the out channels: merged ones are not.
    """
    batched_weight = batch_first(*weight, batch_size)
    batched_positions = batch_first(*positions, batch_size)
    batched_sigma = batch_first(*sigma, batch_size)
    out_channels = batched_weight.shape[1]
    shared = batched_positions.shape[2] != out_channels
    if shared:
        shape = (*batched_positions.shape[:2], out_channels, *batched_positions.shape[3:])
        batched_positions = batched_positions.expand(shape)
        batched_sigma = batched_sigma.expand(shape) if batched_sigma is not None else None
    merged = (merge_batch(batched_weight, 0), merge_batch(batched_positions, 1), merge_batch(batched_sigma, 1))
    return *merged, shared


def split_parameter_gradients(
    gradients: Sequence[Tensor], batch_size: int, shared: bool
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Undoes merge_parameters, for the gradients. Returns them and their batch dimensions."""

    def split(gradient: Tensor, axis: int) -> Tensor:
        if gradient.numel() == 0:  # not asked for, or no sigma
            return gradient
        batched = split_batch(gradient, axis, batch_size)
        return batched.sum(2, keepdim=True) if shared and axis == 1 else batched

    batched = tuple(split(gradient, axis) for gradient, axis in zip(gradients, (0, 1, 1), strict=True))
    return batched, tuple(None if gradient.numel() == 0 else 0 for gradient in batched)
