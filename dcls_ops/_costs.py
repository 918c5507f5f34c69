"""The rule of method "auto" on the CPU (csrc/cpu/costs.cpp), asked without a call."""

import ctypes
import math
from collections.abc import Sequence

from dcls_ops import _library
from dcls_ops._checks import VERSIONS


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
    function = ctypes.CDLL(str(_library.LOADED["dcls"])).dcls_cpu_is_dense_cheapest
    function.restype = ctypes.c_bool
    answer: bool = function(numbers, takes_im2col)
    return answer
