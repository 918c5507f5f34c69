"""The rule of method "auto" on the CPU (csrc/cpu/costs.cpp), asked without a call."""

import ctypes
import math
from collections.abc import Sequence

from torch import Tensor

from dcls_ops import _library
from dcls_ops._versions import VERSIONS

# Beyond so many widths from an element, its factors are 0 or below rounding (csrc/interpolation.h).
_FURTHEST_TAP = {"max": 1.0, "gauss": 6.5}

# Closer where layers stay: with several axes, an estimate is wrong by as many times what its rounding is.
_ROUND_NUMBERS = (1, 2, 3, 4, 6, *(1 << exponent for exponent in range(3, 31)))


def touched_taps(sigma: Tensor, version: str, extent: int) -> int | None:
    """About how many taps along an axis elements of these widths touch; None if the widths are no numbers.

    One of few numbers, so that layers are seldom compiled again: near the powers of two, or the extent.
    """
    taps = float((sigma * (2 * _FURTHEST_TAP[version])).clamp_(1, extent).mean())
    if not math.isfinite(taps):
        return None
    if taps >= 0.75 * extent:
        return extent
    return min(extent, min(_ROUND_NUMBERS, key=lambda number: abs(math.log(number / taps))))


def case(
    images: int,
    input: Sequence[int],
    weight: Sequence[int],
    learned_axes: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    version: str,
    touched_taps: int | None,
) -> ctypes.Array[ctypes.c_int64]:
    """A convolution as the library reads it. ``weight`` is a shape; ``input`` has, like the others, an int an axis."""
    out_channels, in_channels, *elements = weight
    output = [
        (size + 2 * pad - extent) // step + 1
        for size, pad, extent, step in zip(input, padding, kernel_size, stride, strict=True)
    ]
    axes = len(kernel_size)
    # The members of Shape (csrc/cpu/costs.cpp), in its order.
    numbers = [images, groups, in_channels, out_channels // groups, math.prod(elements), axes, learned_axes]
    numbers += [VERSIONS.index(version), touched_taps or 0]
    for along, missing in ((input, 1), (output, 1), (kernel_size, 1), (stride, 1), (padding, 0)):
        numbers += [missing] * (3 - axes) + list(along)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def is_dense_cheapest(
    images: int,
    input: tuple[int, ...],
    weight: tuple[int, ...],
    positions: tuple[int, ...],
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    groups: int,
    version: str,
    method: str,
    touched_taps: int | None,
) -> bool:
    """Whether a forward pass would use a dense kernel that is there already; ``weight``, ``positions`` are shapes."""
    if method != "auto":
        return method == "construct"
    takes_im2col = positions[1] == 1 and len(weight) == 3
    numbers = case(images, input, weight, positions[0], kernel_size, stride, padding, groups, version, touched_taps)
    answer: bool = _library.function("dcls", "dcls_cpu_is_dense_cheapest", ctypes.c_bool)(numbers, takes_im2col)
    return answer
