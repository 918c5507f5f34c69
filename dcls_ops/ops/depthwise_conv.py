"""dcls::depthwise_conv1d, dcls::depthwise_conv2d, dcls::depthwise_conv3d and their backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcls_ops import reference
from dcls_ops._checks import Checker, check_depthwise_conv_arguments, check_grad_output
from dcls_ops.ops._memory_format import empty_in_format_of
from dcls_ops.ops._registration import (
    not_computed,
    pick,
    register_autocast,
    register_autograd,
    register_backward_reference,
    register_double_backward,
    register_reference,
)
from dcls_ops.ops._vmap import batch_first, merge_batch, split_batch


def _register(spatial_axes: int) -> None:
    """Registers everything for depthwise_conv{spatial_axes}d; the three differ in nothing else."""
    name = f"depthwise_conv{spatial_axes}d"
    qualified_name = f"dcls::{name}"
    op = getattr(torch.ops.dcls, name)
    backward_op = getattr(torch.ops.dcls, f"{name}_backward")
    ones, zeros = [1] * spatial_axes, [0] * spatial_axes

    def fake(
        input: Tensor,
        kernel: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
    ) -> Tensor:
        batched, output_shape = check_depthwise_conv_arguments(name, spatial_axes, input, kernel, bias, stride, padding)
        return empty_in_format_of(input, batched, output_shape)

    def backward(
        arguments: list[Any], needs_input_grad: Sequence[bool], grad_output: Tensor
    ) -> tuple[Tensor | None, ...]:
        input, kernel, _, stride, padding = arguments
        wanted = needs_input_grad[:3]
        gradients = backward_op(grad_output, input, kernel, stride, padding, wanted)
        return *pick(gradients, wanted), None, None

    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        input: Tensor,
        kernel: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
    ) -> tuple[Tensor, int]:
        """Merges the batch into the channels, which are independent."""
        input_dim, kernel_dim, bias_dim, *_ = (*in_dims, None)
        batched_input = batch_first(input, input_dim, info.batch_size)
        axis = batched_input.dim() - spatial_axes - 2
        output = op(
            merge_batch(batched_input, axis),
            merge_batch(batch_first(kernel, kernel_dim, info.batch_size), 0),
            merge_batch(batch_first(bias, bias_dim, info.batch_size), 0),
            stride,
            padding,
        )
        return split_batch(output, axis, info.batch_size), 0

    torch.library.register_fake(qualified_name, fake)
    register_reference(qualified_name, fake, reference.depthwise_conv)
    register_autograd(name, backward)
    register_autocast(name, cast=("input", "kernel", "bias"))
    torch.library.register_vmap(qualified_name, vmap)


def _register_backward(spatial_axes: int) -> None:
    name = f"depthwise_conv{spatial_axes}d_backward"
    qualified_name = f"dcls::{name}"
    op = getattr(torch.ops.dcls, name)

    def fake(
        grad_output: Tensor,
        input: Tensor,
        kernel: Tensor,
        stride: Sequence[int],
        padding: Sequence[int],
        output_mask: Sequence[bool],
    ) -> tuple[Tensor, ...]:
        Checker(name).output_mask(output_mask, 3)
        batched, output_shape = check_depthwise_conv_arguments(name, spatial_axes, input, kernel, None, stride, padding)
        check_grad_output(name, grad_output, input, output_shape)
        return (
            empty_in_format_of(input, batched, tuple(input.shape)) if output_mask[0] else not_computed(input),
            kernel.new_empty(kernel.shape) if output_mask[1] else not_computed(kernel),
            input.new_empty(kernel.shape[0]) if output_mask[2] else not_computed(input),
        )

    def vmap(
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
        axis = batched_input.dim() - spatial_axes - 2
        gradients = op(
            merge_batch(batched_grad, axis),
            merge_batch(batched_input, axis),
            merge_batch(batch_first(kernel, in_dims[2], info.batch_size), 0),
            stride,
            padding,
            output_mask,
        )
        batched = tuple(
            split_batch(gradient, at, info.batch_size) if ask else gradient
            for gradient, at, ask in zip(gradients, (axis, 0, 0), output_mask, strict=True)
        )
        return batched, tuple(0 if ask else None for ask in output_mask)

    torch.library.register_fake(qualified_name, fake)
    register_backward_reference(qualified_name, fake, reference.depthwise_conv_backward)
    register_double_backward(name, reference.depthwise_conv_backward)
    torch.library.register_vmap(qualified_name, vmap)


for _spatial_axes in (1, 2, 3):
    _register(_spatial_axes)
    _register_backward(_spatial_axes)
