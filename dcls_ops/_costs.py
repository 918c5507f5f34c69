"""The rule of method "auto" on the CPU (csrc/cpu/costs.cpp), asked without a call."""

import ctypes
import functools
from collections.abc import Sequence

from dcls_ops import _library
from dcls_ops._checks import VERSIONS

_LIBRARY = ctypes.CDLL(str(_library.LOADED["dcls"]))
_LIBRARY.dcls_cpu_is_dense_cheapest.restype = ctypes.c_bool


def case(
    images: int,
    groups: int,
    weight: Sequence[int],
    learned_axes: int,
    version: str,
    touched_taps: int | None,
    input: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> ctypes.Array[ctypes.c_int64]:
    """A convolution as the library reads it. ``weight`` is a shape; ``input`` and what follows have an int an axis."""
    out_channels, in_channels, *elements = weight
    kernel_count = 1
    for count in elements:
        kernel_count *= count
    output = [
        (size + 2 * pad - extent) // step + 1
        for size, pad, extent, step in zip(input, padding, kernel_size, stride, strict=True)
    ]
    axes = len(kernel_size)
    numbers = [images, groups, in_channels, out_channels // groups, kernel_count, axes, learned_axes]
    numbers += [VERSIONS.index(version), touched_taps or 0]
    for along, missing in ((input, 1), (output, 1), (kernel_size, 1), (stride, 1), (padding, 0)):
        numbers += [missing] * (3 - axes) + list(along)
    return (ctypes.c_int64 * len(numbers))(*numbers)


@functools.lru_cache(maxsize=1024)
def is_dense_cheapest(is_shared: bool, *arguments: object) -> bool:
    """Whether a forward pass with a dense kernel that is there already is the cheapest. Arguments of :func:`case`."""
    answer: bool = _LIBRARY.dcls_cpu_is_dense_cheapest(case(*arguments), is_shared)  # type: ignore[arg-type]
    return answer
