"""dcls::construct_kernel and its backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dcls_ops import reference
from dcls_ops._checks import Checker, check_construct_kernel_backward_arguments, check_kernel_arguments
from dcls_ops.ops._registration import (
    not_computed,
    pick,
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

_OP = "dcls::construct_kernel"
_BACKWARD_OP = "dcls::construct_kernel_backward"


@torch.library.register_fake(_OP)
def _fake(
    weight: Tensor, positions: Tensor, kernel_size: Sequence[int], sigma: Tensor | None = None, version: str = "gauss"
) -> Tensor:
    check_kernel_arguments("construct_kernel", weight, positions, kernel_size, sigma, version)
    return weight.new_empty((*weight.shape[:2], *kernel_size))


register_reference(_OP, _fake, reference.construct_kernel)


def _backward(arguments: list[Any], needs_input_grad: Sequence[bool], grad_kernel: Tensor) -> tuple[Tensor | None, ...]:
    weight, positions, _, sigma, version = arguments
    wanted = (needs_input_grad[0], needs_input_grad[1], needs_input_grad[3])
    gradients = torch.ops.dcls.construct_kernel_backward(grad_kernel, weight, positions, sigma, version, wanted)
    grad_weight, grad_positions, grad_sigma = pick(gradients, wanted)
    return grad_weight, grad_positions, None, grad_sigma, None


register_autograd("construct_kernel", _backward)


@torch.library.register_vmap(_OP)
def _vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    weight: Tensor,
    positions: Tensor,
    kernel_size: Sequence[int],
    sigma: Tensor | None = None,
    version: str = "gauss",
) -> tuple[Tensor, int]:
    """Merges the batch into the out channels."""
    batch_size = info.batch_size
    weight, positions, sigma, _ = merge_parameters(
        batch_size,
        (weight, in_dims[0]),
        (positions, in_dims[1]),
        (sigma, in_dims[3] if len(in_dims) > 3 else None),
    )
    kernel = torch.ops.dcls.construct_kernel(weight, positions, kernel_size, sigma, version)
    return split_batch(kernel, 0, batch_size), 0


@torch.library.register_fake(_BACKWARD_OP)
def _backward_fake(
    grad_kernel: Tensor,
    weight: Tensor,
    positions: Tensor,
    sigma: Tensor | None,
    version: str,
    output_mask: Sequence[bool],
) -> tuple[Tensor, ...]:
    op = "construct_kernel_backward"
    Checker(op).output_mask(output_mask, 3)
    check_construct_kernel_backward_arguments(op, grad_kernel, weight, positions, sigma, version)
    return empty_parameter_gradients(weight, positions, sigma, output_mask)


register_backward_reference(_BACKWARD_OP, _backward_fake, reference.construct_kernel_backward)
register_double_backward("construct_kernel_backward", reference.construct_kernel_backward)


@torch.library.register_vmap(_BACKWARD_OP)
def _backward_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    grad_kernel: Tensor,
    weight: Tensor,
    positions: Tensor,
    sigma: Tensor | None,
    version: str,
    output_mask: Sequence[bool],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    batch_size = info.batch_size
    grad_kernel = merge_batch(batch_first(grad_kernel, in_dims[0], batch_size), 0)
    weight, positions, sigma, shared = merge_parameters(
        batch_size, (weight, in_dims[1]), (positions, in_dims[2]), (sigma, in_dims[3])
    )
    gradients = torch.ops.dcls.construct_kernel_backward(grad_kernel, weight, positions, sigma, version, output_mask)
    return split_parameter_gradients(gradients, batch_size, shared)


def empty_parameter_gradients(
    weight: Tensor, positions: Tensor, sigma: Tensor | None, output_mask: Sequence[bool]
) -> tuple[Tensor, ...]:
    """Uninitialised gradients for weight, positions and sigma."""
    wanted = (output_mask[0], output_mask[1], output_mask[2] and sigma is not None)
    return tuple(
        like.new_empty(like.shape) if ask else not_computed(like)
        for like, ask in zip((weight, positions, positions), wanted, strict=True)
    )
