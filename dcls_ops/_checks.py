"""Argument checks for the fake kernels.

csrc/checks.cpp says the same to the compiled kernels, check for check and word for word; tests/ops/test_bad_input.py
holds the two together. Sizes may be symbolic here.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dcls_ops._versions import METHODS, VERSIONS, has_sigma

# The extents of kernels of one, two and three spatial axes, in words.
_KERNEL_AXES = ("kernel_length", "kernel_height, kernel_width", "kernel_depth, kernel_height, kernel_width")

HALF_DTYPES = (torch.float16, torch.bfloat16)
_DTYPES = (*HALF_DTYPES, torch.float32, torch.float64)

# What an input may be besides the parameters' own dtype, in words.
_INPUT_DTYPES = {
    torch.float64: "torch.float64",
    torch.float32: "torch.float16, torch.bfloat16 or torch.float32",
    torch.float16: "torch.float16 or torch.bfloat16",
    torch.bfloat16: "torch.float16 or torch.bfloat16",
}

# No extent, stride or padding comes near; below it, their sums and products fit 64 bits.
_LIMIT = 2**31


class Checker:
    """Raises RuntimeError with the operator's name before the message."""

    def __init__(self, op: str) -> None:
        self.op = op

    def __call__(self, condition: bool, message: str) -> None:
        # torch._check also records the condition of a size that is only known at run time (torch.export).
        torch._check(condition, lambda: f"dcls::{self.op}: {message}")

    def floating(self, name: str, tensor: Tensor) -> None:
        self(
            tensor.dtype in _DTYPES,
            f"{name} must be torch.float16, torch.bfloat16, torch.float32 or torch.float64, got {tensor.dtype}",
        )

    def same_device(self, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
        self(
            tensor.device == other.device,
            f"{name} must be on {other.device} like {other_name}, got {tensor.device}",
        )

    def like(self, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
        self.same_device(name, tensor, other_name, other)
        self(tensor.dtype == other.dtype, f"{name} must be {other.dtype} like {other_name}, got {tensor.dtype}")

    def entries(self, name: str, values: Sequence[int], count: int, least: int) -> None:
        entries = "entry" if count == 1 else "entries"
        self(len(values) == count, f"{name} must have {count} {entries}, got {tuple(values)}")
        for value in values:
            sign = "non-negative" if least == 0 else "positive"
            self(least <= value < _LIMIT, f"{name} must be {sign} and below 2**31, got {tuple(values)}")

    def output_mask(self, output_mask: Sequence[bool], count: int) -> None:
        self(len(output_mask) == count, f"output_mask must have {count} entries, got {len(output_mask)}")


def check_kernel_arguments(
    op: str, weight: Tensor, positions: Tensor, kernel_size: Sequence[int], sigma: Tensor | None, version: str
) -> None:
    check = Checker(op)
    check(version in VERSIONS, f"version must be one of {', '.join(VERSIONS)}, got '{version}'")
    check(
        weight.dim() >= 3,
        "weight must have shape (out_channels, in_channels / groups, *dense_kernel_size, kernel_count), "
        f"got {tuple(weight.shape)}",
    )
    check(weight.numel() > 0, f"weight must not be empty, got {tuple(weight.shape)}")
    axes = len(kernel_size)
    check(1 <= axes <= 3, f"kernel_size must have 1 to 3 entries, got {tuple(kernel_size)}")
    check.entries("kernel_size", kernel_size, axes, 1)
    check(math.prod(kernel_size) < _LIMIT, f"kernel_size must have fewer than 2**31 taps, got {tuple(kernel_size)}")
    check.floating("weight", weight)

    dense = tuple(weight.shape[2:-1])
    check(
        len(dense) < axes and tuple(kernel_size[: len(dense)]) == dense,
        f"kernel_size must begin with weight's dense_kernel_size {dense} and go on with a learned axis, "
        f"got {tuple(kernel_size)}",
    )
    per_filter = (axes - len(dense), *weight.shape)
    shared = (axes - len(dense), 1, *weight.shape[1:])
    check(
        tuple(positions.shape) in (per_filter, shared),
        f"positions must have shape {per_filter} or {shared}, got {tuple(positions.shape)}",
    )
    check.like("positions", positions, "weight", weight)
    if has_sigma(version):
        check(sigma is not None, f"sigma must be given for version '{version}', got None")
        assert sigma is not None
        check(
            sigma.shape == positions.shape,
            f"sigma must have the shape of positions {tuple(positions.shape)}, got {tuple(sigma.shape)}",
        )
        check.like("sigma", sigma, "weight", weight)
    else:
        check(sigma is None, f"sigma must be None for version '{version}', got a tensor")


def check_construct_kernel_backward_arguments(
    op: str, grad_kernel: Tensor, weight: Tensor, positions: Tensor, sigma: Tensor | None, version: str
) -> None:
    check = Checker(op)
    check(
        grad_kernel.dim() >= 3,
        "grad_kernel must have shape (out_channels, in_channels / groups, *kernel_size), "
        f"got {tuple(grad_kernel.shape)}",
    )
    kernel_size = grad_kernel.shape[2:]
    check_kernel_arguments(op, weight, positions, kernel_size, sigma, version)
    expected = (*weight.shape[:2], *kernel_size)
    check(
        tuple(grad_kernel.shape) == expected,
        f"grad_kernel must have shape {expected}, got {tuple(grad_kernel.shape)}",
    )
    check.like("grad_kernel", grad_kernel, "weight", weight)


class ConvArguments(NamedTuple):
    """What the checks of a convolution find out."""

    batched: bool
    output_shape: tuple[int, ...]


def check_conv_arguments(
    op: str,
    spatial_axes: int,
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    method: str,
    touched_taps: int | None,
) -> ConvArguments:
    check = Checker(op)
    check(method in METHODS, f"method must be one of {', '.join(METHODS)}, got '{method}'")
    shared = (spatial_axes, 1, weight.shape[1], weight.shape[-1])
    check(
        method != "im2col" or (positions.shape[1] == 1 and weight.dim() == 3),
        f"method 'im2col' needs positions of shape {shared}, shared by all out channels, got {tuple(positions.shape)}",
    )
    check(touched_taps is None or touched_taps >= 1, f"touched_taps must be positive, got {touched_taps}")
    check.entries("kernel_size", kernel_size, spatial_axes, 1)
    check(
        input.dim() in (spatial_axes + 1, spatial_axes + 2),
        f"input must have {spatial_axes + 1} (unbatched) or {spatial_axes + 2} dimensions, got {tuple(input.shape)}",
    )
    check(groups >= 1, f"groups must be positive, got {groups}")
    out_channels, per_group = weight.shape[:2]
    check(out_channels % groups == 0, f"groups must divide out_channels {out_channels}, got {groups}")
    in_channels = input.shape[-spatial_axes - 1]
    check(
        in_channels == per_group * groups,
        f"input must have {per_group * groups} channels ({per_group} per group, groups={groups}), got {in_channels}",
    )
    check.same_device("input", input, "weight", weight)
    check(
        input.dtype == weight.dtype or (weight.dtype != torch.float64 and input.dtype in HALF_DTYPES),
        f"input must be {_INPUT_DTYPES[weight.dtype]} for {weight.dtype} parameters, got {input.dtype}",
    )
    if bias is not None:
        check(
            tuple(bias.shape) == (out_channels,),
            f"bias must have shape {(out_channels,)}, got {tuple(bias.shape)}",
        )
        check.same_device("bias", bias, "weight", weight)
        check(
            bias.dtype in (weight.dtype, input.dtype),
            f"bias must have the dtype of input or weight, got {bias.dtype}",
        )
    return _check_geometry(check, input, kernel_size, out_channels, stride, padding)


def check_depthwise_conv_arguments(
    op: str,
    spatial_axes: int,
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
) -> ConvArguments:
    check = Checker(op)
    check(
        kernel.dim() == spatial_axes + 2 and kernel.shape[1] == 1,
        f"kernel must have shape (out_channels, 1, {_KERNEL_AXES[spatial_axes - 1]}), got {tuple(kernel.shape)}",
    )
    check.floating("kernel", kernel)
    out_channels, _, *kernel_size = kernel.shape
    check(kernel.numel() > 0, f"kernel must not be empty, got {tuple(kernel.shape)}")
    check(
        input.dim() in (spatial_axes + 1, spatial_axes + 2),
        f"input must have {spatial_axes + 1} (unbatched) or {spatial_axes + 2} dimensions, got {tuple(input.shape)}",
    )
    channels = input.shape[-spatial_axes - 1]
    check(
        channels >= 1 and out_channels % channels == 0,
        f"out_channels {out_channels} must be a multiple of the input's channels, got {channels}",
    )
    check.like("input", input, "kernel", kernel)
    if bias is not None:
        check(
            tuple(bias.shape) == (out_channels,),
            f"bias must have shape {(out_channels,)}, got {tuple(bias.shape)}",
        )
        check.like("bias", bias, "kernel", kernel)
    return _check_geometry(check, input, kernel_size, out_channels, stride, padding)


def check_grad_output(op: str, grad_output: Tensor, input: Tensor, output_shape: tuple[int, ...]) -> None:
    check = Checker(op)
    check(
        tuple(grad_output.shape) == output_shape,
        f"grad_output must have shape {output_shape}, got {tuple(grad_output.shape)}",
    )
    check.like("grad_output", grad_output, "input", input)


def _check_geometry(
    check: Checker,
    input: Tensor,
    kernel_size: Sequence[int],
    out_channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
) -> ConvArguments:
    axes = len(kernel_size)
    check.entries("stride", stride, axes, 1)
    check.entries("padding", padding, axes, 0)
    for size in input.shape[-axes:]:
        check(size >= 1, f"input must not be empty along a spatial axis, got {tuple(input.shape)}")
    padded = tuple(size + 2 * pad for size, pad in zip(input.shape[-axes:], padding, strict=True))
    for available, needed in zip(padded, kernel_size, strict=True):
        check(available >= needed, f"kernel_size {tuple(kernel_size)} must not exceed the padded input, got {padded}")
    output_size = [
        (available - needed) // step + 1 for available, needed, step in zip(padded, kernel_size, stride, strict=True)
    ]
    batched = input.dim() == axes + 2
    return ConvArguments(batched, (*input.shape[: 1 if batched else 0], out_channels, *output_size))
