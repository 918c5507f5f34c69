"""dcls::conv1d, dcls::conv2d, dcls::conv3d and their backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcls_ops import reference
from dcls_ops._checks import Checker, check_conv_arguments, check_grad_output, check_kernel_arguments
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
from dcls_ops.ops._vmap import (
    batch_first,
    merge_batch,
    merge_parameters,
    split_batch,
    split_parameter_gradients,
)
from dcls_ops.ops.construct_kernel import empty_parameter_gradients

_BACKWARD_OP = "dcls::conv_backward"


def _backward(arguments: list[Any], needs_input_grad: Sequence[bool], grad_output: Tensor) -> tuple[Tensor | None, ...]:
    input, weight, positions, kernel_size, sigma, _, *settings = arguments
    needs_input, needs_weight, needs_positions, _, needs_sigma, needs_bias, *_ = needs_input_grad
    wanted = (needs_input, needs_weight, needs_positions, needs_sigma, needs_bias)
    gradients = torch.ops.dcls.conv_backward(
        grad_output, input, weight, positions, kernel_size, sigma, *settings, wanted
    )
    grad_input, grad_weight, grad_positions, grad_sigma, grad_bias = pick(gradients, wanted)
    return grad_input, grad_weight, grad_positions, None, grad_sigma, grad_bias, *[None] * len(settings)


def _method_of_merged(method: str) -> str:
    """The method for merged parameters: shared positions are then not shared any more."""
    return "auto" if method == "im2col" else method


def _register(spatial_axes: int) -> None:
    """Registers everything for conv{spatial_axes}d; the three differ in nothing else."""
    name = f"conv{spatial_axes}d"
    qualified_name = f"dcls::{name}"
    op = getattr(torch.ops.dcls, name)
    ones, zeros = [1] * spatial_axes, [0] * spatial_axes

    def fake(
        input: Tensor,
        weight: Tensor,
        positions: Tensor,
        kernel_size: Sequence[int],
        sigma: Tensor | None = None,
        bias: Tensor | None = None,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
        groups: int = 1,
        version: str = "gauss",
        method: str = "auto",
        touched_taps: int | None = None,
    ) -> Tensor:
        check_kernel_arguments(name, weight, positions, kernel_size, sigma, version)
        batched, output_shape = check_conv_arguments(
            name,
            spatial_axes,
            input,
            weight,
            positions,
            kernel_size,
            bias,
            stride,
            padding,
            groups,
            method,
            touched_taps,
        )
        return empty_in_format_of(input, batched, output_shape)

    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        input: Tensor,
        weight: Tensor,
        positions: Tensor,
        kernel_size: Sequence[int],
        sigma: Tensor | None = None,
        bias: Tensor | None = None,
        stride: Sequence[int] = ones,
        padding: Sequence[int] = zeros,
        groups: int = 1,
        version: str = "gauss",
        method: str = "auto",
        touched_taps: int | None = None,
    ) -> tuple[Tensor, int]:
        batch_size = info.batch_size
        input_dim, weight_dim, positions_dim, _, sigma_dim, bias_dim = (*in_dims, None, None)[:6]
        settings = (stride, padding, groups, version, method, touched_taps)
        if all(dim is None for dim in (weight_dim, positions_dim, sigma_dim, bias_dim)):
            # The same layer on many inputs: the batches go together.
            assert input_dim is not None
            input = input.movedim(input_dim, 0)
            if input.dim() == spatial_axes + 2:
                return op(input, weight, positions, kernel_size, sigma, bias, *settings), 0
            output = op(input.flatten(0, 1), weight, positions, kernel_size, sigma, bias, *settings)
            return output.unflatten(0, (batch_size, -1)), 0
        # Many layers: they become groups of one.
        batched_input = batch_first(input, input_dim, batch_size)
        channel_axis = batched_input.dim() - spatial_axes - 2
        weight, positions, sigma, _ = merge_parameters(
            batch_size, (weight, weight_dim), (positions, positions_dim), (sigma, sigma_dim)
        )
        bias = merge_batch(batch_first(bias, bias_dim, batch_size), 0)
        settings = (stride, padding, groups * batch_size, version, _method_of_merged(method), touched_taps)
        output = op(merge_batch(batched_input, channel_axis), weight, positions, kernel_size, sigma, bias, *settings)
        return split_batch(output, channel_axis, batch_size), 0

    torch.library.register_fake(qualified_name, fake)
    register_reference(qualified_name, fake, reference.conv)
    register_autograd(name, _backward)
    register_autocast(name, cast=("input", "bias"))
    torch.library.register_vmap(qualified_name, vmap)


for _spatial_axes in (1, 2, 3):
    _register(_spatial_axes)


@torch.library.register_fake(_BACKWARD_OP)
def _backward_fake(
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
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:
    name = "conv_backward"
    Checker(name).output_mask(output_mask, 5)
    check_kernel_arguments(name, weight, positions, kernel_size, sigma, version)
    batched, output_shape = check_conv_arguments(
        name,
        len(kernel_size),
        input,
        weight,
        positions,
        kernel_size,
        None,
        stride,
        padding,
        groups,
        method,
        touched_taps,
    )
    check_grad_output(name, grad_output, input, output_shape)
    return (
        empty_in_format_of(input, batched, tuple(input.shape)) if output_mask[0] else not_computed(input),
        *empty_parameter_gradients(weight, positions, sigma, output_mask[1:4]),
        input.new_empty(weight.shape[0]) if output_mask[4] else not_computed(input),
    )


register_backward_reference(_BACKWARD_OP, _backward_fake, reference.conv_backward)
register_double_backward("conv_backward", reference.conv_backward)


@torch.library.register_vmap(_BACKWARD_OP)
def _backward_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
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
    output_mask: Sequence[bool],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Merges the batch into the groups, so that every entry has parameter gradients of its own."""
    batch_size = info.batch_size
    batched_grad = batch_first(grad_output, in_dims[0], batch_size)
    batched_input = batch_first(input, in_dims[1], batch_size)
    axis = batched_input.dim() - len(kernel_size) - 2
    merged_weight, merged_positions, merged_sigma, shared = merge_parameters(
        batch_size, (weight, in_dims[2]), (positions, in_dims[3]), (sigma, in_dims[5])
    )
    grad_input, *grad_parameters, grad_bias = torch.ops.dcls.conv_backward(
        merge_batch(batched_grad, axis),
        merge_batch(batched_input, axis),
        merged_weight,
        merged_positions,
        kernel_size,
        merged_sigma,
        stride,
        padding,
        groups * batch_size,
        version,
        _method_of_merged(method),
        touched_taps,
        output_mask,
    )
    parameters, parameter_dims = split_parameter_gradients(grad_parameters, batch_size, shared)
    wanted_input, *_, wanted_bias = output_mask
    return (
        split_batch(grad_input, axis, batch_size) if wanted_input else grad_input,
        *parameters,
        split_batch(grad_bias, 0, batch_size) if wanted_bias else grad_bias,
    ), (0 if wanted_input else None, *parameter_dims, 0 if wanted_bias else None)
