"""What the layers of 0.1.1 hand to the operators: one dtype and whole shapes, to which the original's plain arithmetic
promoted and broadcast.

Python looks at tensors here, for which torch.fx has no values: its graphs call these functions as they are.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dcls_ops import _dense
from dcls_ops._arguments import is_traced, pad
from dcls_ops._checks import HALF_DTYPES
from dcls_ops._original import positions_of, sigma_of
from dcls_ops._versions import VERSIONS, has_sigma

#: Weight (O, I/g, *dense, K), and P and SIG of the original, or positions and sigma, (d, O, I/g, *dense, K).
Operands = tuple[Tensor, Tensor, Tensor | None]


def broadcast(
    weight: Tensor, P: Tensor, SIG: Tensor | None, filters: Sequence[int], axes: int, version: str
) -> Operands:
    """Weight, P and SIG in one dtype, with all of their entries; SIG is None where the version has none."""
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {version!r}")
    width = SIG if has_sigma(version) else None
    if width is None and has_sigma(version):
        raise ValueError(f"version '{version}' needs SIG, which a layer made with version 'v0' or 'v1' does not have")
    dtype = torch.promote_types(weight.dtype, P.dtype)
    if width is not None:
        dtype = torch.promote_types(dtype, width.dtype)
    shape = (axes, *filters)
    return (
        _expanded("weight", weight, shape[1:], dtype),
        _expanded("P", P, shape, dtype),
        _expanded("SIG", width, shape, dtype) if width is not None else None,
    )


def _expanded(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if tensor.dtype != dtype:
        tensor = tensor.to(dtype)
    # Compared only where sizes are numbers.
    if not is_traced() and tensor.shape == shape:
        return tensor
    try:
        return tensor.expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to {tuple(shape)}, got {tuple(tensor.shape)}") from None


def operands(
    weight: Tensor,
    P: Tensor,
    SIG: Tensor | None,
    filters: Sequence[int],
    kernel_size: Sequence[int],
    version: str,
    smallest_sigma: Mapping[str, float],
) -> Operands:
    """Weight, positions and sigma as the operators take them."""
    axes = len(kernel_size)
    weight, P, SIG = broadcast(weight, P, SIG, filters, axes, version)
    return weight, positions_of(P, kernel_size, version), sigma_of(SIG, axes, version, smallest_sigma)


def no_wider(tensor: Tensor, weight: Tensor, input: Tensor) -> Tensor:
    """P or SIG, without the digits that neither weight nor input has: a float32 convolution takes no float64 kernel."""
    if tensor.dtype != torch.float64 or torch.float64 in (weight.dtype, input.dtype):
        return tensor
    return tensor.to(weight.dtype)


def dense_convolution(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    sides: Sequence[tuple[int, int]],
    padding_mode: str,
    groups: int,
) -> Tensor:
    """A convolution in the operators' dtypes: half inputs in their own, whatever the parameters are."""
    padded, padding = pad(input, sides, padding_mode)
    is_half = input.dtype in HALF_DTYPES and kernel.dtype != torch.float64
    dtype = input.dtype if is_half else kernel.dtype
    bias = bias.to(dtype) if bias is not None else None
    return _dense.dense_convolution(padded, kernel.to(dtype), bias, stride, padding, groups)


torch.fx.wrap("operands")
torch.fx.wrap("no_wider")
torch.fx.wrap("dense_convolution")
