"""Which memory format a convolution's results take, for the fake kernels; csrc/memory_format.h is its twin."""

import torch
from torch import Tensor


def _is_channels_last(batched: Tensor) -> bool:
    channels = batched.shape[1]
    if batched.dim() < 4 or channels < 2 or batched.stride(1) != 1:
        return False
    return all(batched.stride(axis) >= channels for axis in range(2, batched.dim()))


def empty_in_format_of(input: Tensor, batched: bool, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor of the given shape, in the memory format of a convolution's input."""
    if not batched:
        return empty_in_format_of(input.unsqueeze(0), True, (1, *shape)).squeeze(0)
    if not _is_channels_last(input):
        return input.new_empty(shape)
    memory_format = torch.channels_last_3d if input.dim() == 5 else torch.channels_last
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=memory_format)
