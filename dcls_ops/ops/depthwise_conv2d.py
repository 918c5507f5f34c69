"""dcls::depthwise_conv2d and its backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcls_ops import reference
from dcls_ops._checks import Checker, check_depthwise_conv2d_arguments, check_grad_output
from dcls_ops.ops._formats import empty_in_format_of
from dcls_ops.ops._registration import (
    batch_first,
    fold,
    not_computed,
    pick,
    register_autocast,
    register_autograd,
    register_backward_reference,
    register_double_backward,
    register_reference,
    unfold,
)

_OP = "dcls::depthwise_conv2d"
_BACKWARD_OP = "dcls::depthwise_conv2d_backward"


@torch.library.register_fake(_OP)
def _fake(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    batched, output_shape = check_depthwise_conv2d_arguments("depthwise_conv2d", input, kernel, bias, stride, padding)
    return empty_in_format_of(input, batched, output_shape)


register_reference(_OP, _fake, reference.depthwise_conv2d)


def _backward(arguments: list[Any], needs_input_grad: Sequence[bool], grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, kernel, _, stride, padding = arguments
    wanted = needs_input_grad[:3]
    gradients = torch.ops.dcls.depthwise_conv2d_backward(grad_output, input, kernel, stride, padding, wanted)
    return *pick(gradients, wanted), None, None


register_autograd("depthwise_conv2d", _backward)
register_autocast("depthwise_conv2d", cast=("input", "kernel", "bias"))


@torch.library.register_vmap(_OP)
def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> tuple[Tensor, int]:
    """Folds the batch into the channels, which are independent."""
    input_dim, kernel_dim, bias_dim, *_ = (*in_dims, None)
    batched_input = batch_first(input, input_dim, info.batch_size)
    axis = batched_input.dim() - 4
    output = torch.ops.dcls.depthwise_conv2d(
        fold(batched_input, axis),
        fold(batch_first(kernel, kernel_dim, info.batch_size), 0),
        fold(batch_first(bias, bias_dim, info.batch_size), 0),
        stride,
        padding,
    )
    return unfold(output, axis, info.batch_size), 0


@torch.library.register_fake(_BACKWARD_OP)
def _backward_fake(
    grad_output: Tensor,
    input: Tensor,
    kernel: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:
    op = "depthwise_conv2d_backward"
    Checker(op).output_mask(output_mask, 3)
    batched, output_shape = check_depthwise_conv2d_arguments(op, input, kernel, None, stride, padding)
    check_grad_output(op, grad_output, input, output_shape)
    return (
        empty_in_format_of(input, batched, tuple(input.shape)) if output_mask[0] else not_computed(input),
        kernel.new_empty(kernel.shape) if output_mask[1] else not_computed(kernel),
        input.new_empty(kernel.shape[0]) if output_mask[2] else not_computed(input),
    )


register_backward_reference(_BACKWARD_OP, _backward_fake, reference.depthwise_conv2d_backward)
register_double_backward("depthwise_conv2d_backward", reference.depthwise_conv2d_backward)


@torch.library.register_vmap(_BACKWARD_OP)
def _backward_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad_output: Tensor,
    input: Tensor,
    kernel: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_mask: Sequence[bool],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    batched_grad = batch_first(grad_output, in_dims[0], info.batch_size)
    batched_input = batch_first(input, in_dims[1], info.batch_size)
    axis = batched_input.dim() - 4
    gradients = torch.ops.dcls.depthwise_conv2d_backward(
        fold(batched_grad, axis),
        fold(batched_input, axis),
        fold(batch_first(kernel, in_dims[2], info.batch_size), 0),
        stride,
        padding,
        output_mask,
    )
    unfolded = tuple(
        unfold(gradient, at, info.batch_size) if ask else gradient
        for gradient, at, ask in zip(gradients, (axis, 0, 0), output_mask, strict=True)
    )
    return unfolded, tuple(0 if ask else None for ask in output_mask)
