"""What torch.utils.flop_counter counts for the operators: a convolution with the dense kernel, whatever the method.

So a layer counts as the convolution that it folds into. Making the kernel and its gradients counts nothing: it takes a
few operations per tap, and is not done again for every pixel.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import conv_backward_flop, conv_flop_count, register_flop_formula

_OPS: Any = torch.ops.dcls

# Annotated for tensors, although it is called with shapes.
_pytorch_backward: Any = conv_backward_flop

Shape = Sequence[int]


def _batched(shape: Shape, spatial_axes: int) -> list[int]:
    return [*[1] * (spatial_axes + 2 - len(shape)), *shape]


def _convolution(input: Shape, kernel: Shape, output: Shape) -> int:
    axes = len(kernel) - 2
    return conv_flop_count(_batched(input, axes), list(kernel), _batched(output, axes))


def _convolution_backward(
    grad_output: Shape, input: Shape, kernel: Shape, needs_input_grad: bool, needs_kernel_grad: bool
) -> int:
    axes = len(kernel) - 2
    grad_output, input = _batched(grad_output, axes), _batched(input, axes)
    settings = (None, None, None, None, False, None, None)  # of which only `transposed` is looked at
    mask = (needs_input_grad, needs_kernel_grad, False)
    flops: int = _pytorch_backward(grad_output, input, kernel, *settings, mask, out_val=(input, kernel, None))
    return flops


@register_flop_formula([_OPS.construct_kernel, _OPS.construct_kernel_backward])
def _construct_kernel(*args: Any, **kwargs: Any) -> int:
    return 0


@register_flop_formula([_OPS.conv1d, _OPS.conv2d, _OPS.conv3d])
def _conv(
    input: Shape, weight: Shape, positions: Shape, kernel_size: Shape, *args: Any, out_shape: Shape, **kwargs: Any
) -> int:
    return _convolution(input, (*weight[:2], *kernel_size), out_shape)


@register_flop_formula(_OPS.conv_backward)
def _conv_backward(
    grad_output: Shape,
    input: Shape,
    weight: Shape,
    positions: Shape,
    kernel_size: Shape,
    sigma: Shape | None,
    stride: Shape,
    padding: Shape,
    groups: int,
    version: str,
    method: str,
    touched_taps: int | None,
    output_mask: Sequence[bool],
    *args: Any,
    **kwargs: Any,
) -> int:
    needs_kernel_grad = any(output_mask[1:4])
    return _convolution_backward(grad_output, input, (*weight[:2], *kernel_size), output_mask[0], needs_kernel_grad)


@register_flop_formula([_OPS.depthwise_conv1d, _OPS.depthwise_conv2d, _OPS.depthwise_conv3d])
def _depthwise_conv(input: Shape, kernel: Shape, *args: Any, out_shape: Shape, **kwargs: Any) -> int:
    return _convolution(input, kernel, out_shape)


@register_flop_formula([_OPS.depthwise_conv1d_backward, _OPS.depthwise_conv2d_backward, _OPS.depthwise_conv3d_backward])
def _depthwise_conv_backward(
    grad_output: Shape,
    input: Shape,
    kernel: Shape,
    stride: Shape,
    padding: Shape,
    output_mask: Sequence[bool],
    *args: Any,
    **kwargs: Any,
) -> int:
    return _convolution_backward(grad_output, input, kernel, output_mask[0], output_mask[1])
