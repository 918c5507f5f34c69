"""The operators in plain ATen: what they compute, stated once for readers and for tests.

Every function here takes the arguments of the operator of the same name (``conv`` those of conv1d, conv2d and conv3d),
runs on any device, and can be differentiated
any number of times (a backward function takes all arguments but output_mask). Tests compare the compiled kernels with
these functions in float64. On devices for which the library has no kernels, the operators run them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcls_ops._arguments import for_axes
from dcls_ops._checks import HALF_DTYPES, check_kernel_arguments

#: What a backward function returns: one gradient for each differentiable argument, None where the argument is None.
Gradients = tuple[Tensor | None, ...]

#: Keeps the normalisation finite where an element lies far outside the kernel.
NORMALISATION_EPSILON = 1e-7


def _triangle(offset: Tensor, width: Tensor | float, inward: Tensor) -> Tensor:
    """relu(width - |offset|), with the mean of the one-sided derivatives at its kinks, or the one of the side `inward`.

    `offset` is tap - position. Moving a position to larger values makes its offsets smaller.
    """
    at_peak = offset == 0
    distance = torch.where(at_peak, -inward * offset, offset.abs())
    height = width - distance
    half_height = height * (1 + inward * offset.sign()) / 2
    return torch.where(height == 0, half_height, height.relu())


def _factors(positions: Tensor, sigma: Tensor | None, extent: int, version: str) -> Tensor:
    """One axis: positions and sigma (..., K) -> (..., K, extent)."""
    taps = torch.arange(extent, dtype=positions.dtype, device=positions.device)
    position = (positions + extent // 2).unsqueeze(-1)
    offset = taps - position
    width = sigma.unsqueeze(-1) if sigma is not None else 1.0
    if version == "gauss":
        return torch.exp(-0.5 * (offset / width) ** 2)
    first, last = position == 0, position == extent - 1
    inward = first.to(offset.dtype) - last.to(offset.dtype)
    return _triangle(offset, width, inward)


def construct_kernel(
    weight: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    sigma: Tensor | None = None,
    version: str = "gauss",
) -> Tensor:
    """The dense kernel (O, I/g, *kernel_size): the sum over elements of weight times interpolation."""
    return _wide_kernel(weight, positions, kernel_size, sigma, version).to(weight.dtype)


def _wide_kernel(
    weight: Tensor, positions: Tensor, kernel_size: Sequence[int], sigma: Tensor | None, version: str
) -> Tensor:
    """The dense kernel, not rounded yet: float32 for half parameters."""
    check_kernel_arguments("construct_kernel", weight, positions, kernel_size, sigma, version)
    dense_axes = weight.dim() - 3
    if dense_axes > 0:
        # Every dense tap is a filter of its own, as an in channel is.
        of_taps = (weight.flatten(1, -2), positions.flatten(2, -2), sigma.flatten(2, -2) if sigma is not None else None)
        kernel = _wide_kernel(of_taps[0], of_taps[1], kernel_size[dense_axes:], of_taps[2], version)
        return kernel.reshape(*weight.shape[:2], *kernel_size)
    if weight.dtype in HALF_DTYPES:
        weight, positions, sigma = weight.float(), positions.float(), sigma.float() if sigma is not None else None
    factors = [
        _factors(positions[axis], sigma[axis] if sigma is not None else None, extent, version)
        for axis, extent in enumerate(kernel_size)
    ]
    if version != "v0":
        total = torch.stack([factor.sum(-1) for factor in factors]).prod(0)
        weight = weight / (total + NORMALISATION_EPSILON)
    axes = "xyz"[: len(factors)]
    operands = ",".join(f"oik{axis}" for axis in axes)
    return torch.einsum(f"oik,{operands}->oi{axes}", weight, *factors)


def construct_kernel_backward(
    grad_kernel: Tensor, weight: Tensor, positions: Tensor, sigma: Tensor | None, version: str
) -> Gradients:
    """Gradients for weight, positions and sigma."""

    def forward(weight: Tensor, positions: Tensor, sigma: Tensor | None) -> Tensor:
        return construct_kernel(weight, positions, grad_kernel.shape[2:], sigma, version)

    return _gradients(forward, (weight, positions, sigma), grad_kernel)


def conv(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    sigma: Tensor | None = None,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    groups: int = 1,
    version: str = "gauss",
    method: str = "auto",  # all methods mean this
    touched_taps: int | None = None,
) -> Tensor:
    """conv1d, conv2d and conv3d: convolution with the dense kernel, in the input's dtype."""
    kernel = _wide_kernel(weight, positions, kernel_size, sigma, version).to(input.dtype)
    bias = bias.to(input.dtype) if bias is not None else None
    convolution = for_axes(F, "conv", len(kernel_size))
    output: Tensor = convolution(input, kernel, bias, stride, padding, groups=groups)
    return output


def conv_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    sigma: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
    version: str,
    method: str,
    touched_taps: int | None,
) -> Gradients:
    """Gradients for input, weight, positions, sigma and bias."""

    def forward(input: Tensor, weight: Tensor, positions: Tensor, sigma: Tensor | None, bias: Tensor) -> Tensor:
        return conv(input, weight, positions, kernel_size, sigma, bias, stride, padding, groups, version, method)

    # The output is linear in bias, so its gradient does not depend on the value taken here.
    bias = input.new_zeros(weight.shape[0])
    return _gradients(forward, (input, weight, positions, sigma, bias), grad_output)


def depthwise_conv(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
) -> Tensor:
    """depthwise_conv1d, depthwise_conv2d and depthwise_conv3d: each channel convolved with its own kernels."""
    spatial_axes = kernel.dim() - 2
    convolution = for_axes(F, "conv", spatial_axes)
    output: Tensor = convolution(input, kernel, bias, stride, padding, groups=input.shape[-spatial_axes - 1])
    return output


def depthwise_conv_backward(
    grad_output: Tensor, input: Tensor, kernel: Tensor, stride: Sequence[int], padding: Sequence[int]
) -> Gradients:
    """Gradients for input, kernel and bias."""

    def forward(input: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        return depthwise_conv(input, kernel, bias, stride, padding)

    return _gradients(forward, (input, kernel, input.new_zeros(kernel.shape[0])), grad_output)


# Their names when there was the two-dimensional operator alone.
depthwise_conv2d = depthwise_conv
depthwise_conv2d_backward = depthwise_conv_backward


def function_of_tensors(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Callable[..., Any], list[int]]:
    """``function`` of those of its arguments that are tensors, the others fixed; and where these stand."""
    tensors_at = [index for index, argument in enumerate(arguments) if isinstance(argument, Tensor)]

    def of_tensors(*tensors: Tensor) -> Any:
        filled = list(arguments)
        for index, tensor in zip(tensors_at, tensors, strict=True):
            filled[index] = tensor
        return function(*filled)

    return of_tensors, tensors_at


def _gradients(forward: Callable[..., Tensor], arguments: Sequence[Tensor | None], grad_output: Tensor) -> Gradients:
    """The vector-Jacobian product of forward, with None for arguments that are None."""
    of_tensors, tensors_at = function_of_tensors(forward, arguments)
    pullback: Any = torch.func.vjp(of_tensors, *(arguments[index] for index in tensors_at))[1]
    by_index = dict(zip(tensors_at, pullback(grad_output), strict=True))
    return tuple(by_index.get(index) for index in range(len(arguments)))
