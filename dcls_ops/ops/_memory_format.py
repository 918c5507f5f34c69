"""Which memory format a convolution's results take, for the fake kernels; csrc/memory_format.h is its twin."""

import torch
from torch import Tensor

from dcls_ops._arguments import is_traced


def _is_channels_last(batched: Tensor) -> bool:
    channels = batched.shape[1]
    if batched.dim() < 4 or channels < 2 or batched.stride(1) != 1:
        return False
    return all(batched.stride(axis) >= channels for axis in range(2, batched.dim()))


def _format_of(batched: Tensor) -> torch.memory_format:
    if not _is_channels_last(batched):
        return torch.contiguous_format
    return torch.channels_last_3d if batched.dim() == 5 else torch.channels_last


def empty_in_format_of(input: Tensor, batched: bool, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor of the given shape, in the memory format of a convolution's input."""
    if not batched:
        return empty_in_format_of(input.unsqueeze(0), True, (1, *shape)).squeeze(0)
    if not _is_channels_last(input):
        return input.new_empty(shape)
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=_format_of(input))


def in_format_of(input: Tensor, batched: bool, result: Tensor) -> Tensor:
    """The result of PyTorch's convolution in the memory format of its input."""
    if is_traced():
        return result  # strides are no numbers there
    if not batched:
        return in_format_of(input.unsqueeze(0), True, result.unsqueeze(0)).squeeze(0)
    return result.contiguous(memory_format=_format_of(input))
