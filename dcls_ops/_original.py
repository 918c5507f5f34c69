"""The conventions of the original package (DCLS 0.1.1), where they differ from ours: its order of axes and its centres.

``P[i]`` of the original does not always move elements along axis i, and it counts from the middle of axis i even where
it moves them along another one: from tap ``L[i] // 2``, where L is ``dilated_kernel_size``.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dcls_ops._versions import SMALLEST_SIGMA, effective_sigma, has_sigma

#: The narrowest width of Dcls2_1d, in taps; that of other layers is SMALLEST_SIGMA.
SMALLEST_SIGMA_2_1D = {"max": 1.0, "gauss": 1.0}


def axis_order(axes: int, version: str) -> tuple[int, ...]:
    """For every axis of the input, which of the original's positions moves elements along it."""
    if version == "v0":
        return {1: (0,), 2: (0, 1), 3: (0, 2, 1)}[axes]
    return tuple(reversed(range(axes)))


# Tensors are put together by scattering below: autocast would cast what torch.stack takes, and half positions with it.


def in_input_order(tensor: Tensor, axes: int, version: str) -> Tensor:
    """P or SIG of the original, (axes, ...), in the order of the input's axes."""
    order = axis_order(axes, version)
    if order == tuple(range(axes)):
        return tensor
    if order == tuple(reversed(range(axes))):
        return tensor.flip(0)
    return torch.slice_scatter(tensor, tensor[1:].flip(0), 0, 1)  # v0 in three dimensions


def positions_of(P: Tensor, kernel_size: Sequence[int], version: str) -> Tensor:
    """Positions as our operators take them, from P of the original."""
    order = axis_order(len(kernel_size), version)
    shifts = [kernel_size[index] // 2 - extent // 2 for index, extent in zip(order, kernel_size, strict=True)]
    positions = in_input_order(P, len(kernel_size), version)
    for axis, shift in enumerate(shifts):
        if shift:
            positions = torch.select_scatter(positions, positions[axis] + shift, 0, axis)
    return positions


def position_bounds(kernel_size: Sequence[int], version: str) -> list[tuple[int, int]]:
    """The least and the largest value of each of the original's positions: as it clamps them, but at existing taps."""
    order = axis_order(len(kernel_size), version)
    bounds = []
    for index, extent in enumerate(kernel_size):
        moved_extent = kernel_size[order.index(index)]
        bounds.append((-(extent // 2), min(extent // 2, moved_extent - 1 - extent // 2)))
    return bounds


def sigma_of(
    SIG: Tensor | None, axes: int, version: str, smallest: Mapping[str, float] = SMALLEST_SIGMA
) -> Tensor | None:
    """Effective widths as our operators take them, from SIG of the original; None where the version has none."""
    if SIG is None or not has_sigma(version):
        return None
    return effective_sigma(in_input_order(SIG, axes, version), smallest[version])
