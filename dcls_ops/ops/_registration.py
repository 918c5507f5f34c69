"""Helpers for registering the operators with PyTorch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_FRAGMENT = torch.library.Library("dcls", "FRAGMENT")


def register_autocast(op: str, cast: Sequence[int]) -> None:
    """Casts the arguments at the positions ``cast`` under autocast, as PyTorch does for its own convolutions.

    ``torch.library.register_autocast`` would cast every tensor argument; positions and sigma must stay as they are.
    """
    for key, device_type in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):

        def kernel(*args: Any, device_type: str = device_type) -> Any:
            dtype = torch.get_autocast_dtype(device_type)
            arguments = [
                argument.to(dtype) if index in cast and _is_eligible(argument) else argument
                for index, argument in enumerate(args)
            ]
            with torch.autocast(device_type, enabled=False):
                return getattr(torch.ops.dcls, op)(*arguments)

        _FRAGMENT.impl(op, kernel, key)


def _is_eligible(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point() and argument.dtype != torch.float64


def zero_element(like: Tensor) -> Tensor:
    """What a backward operator returns for a gradient that its output_mask leaves out."""
    return like.new_empty(0)


def needs_input_grad(ctx: Any, count: int) -> tuple[bool, ...]:
    """ctx.needs_input_grad for ``count`` arguments: the dispatcher drops trailing ones left at their default."""
    return (*ctx.needs_input_grad, *[False] * count)[:count]


def pick(gradients: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Backward operators return a tensor for every gradient; autograd wants None for those not asked for."""
    return tuple(gradient if ask else None for gradient, ask in zip(gradients, wanted, strict=True))


def register_reference(op: str, fake: Callable[..., Any], reference: Callable[..., Any]) -> None:
    """Registers the plain ATen implementation, for devices without a compiled kernel.

    ``fake`` makes the checks and allocates the results.
    """

    def kernel(*args: Any) -> Tensor:
        output: Tensor = fake(*args)
        return output.copy_(reference(*args))

    torch.library.register_kernel(op, None, kernel)


def register_backward_reference(op: str, fake: Callable[..., Any], reference: Callable[..., Any]) -> None:
    """The same for a backward operator, whose last argument is output_mask."""

    def kernel(*args: Any) -> tuple[Tensor, ...]:
        *arguments, output_mask = args
        results = fake(*args)
        for result, gradient, ask in zip(results, reference(*arguments), output_mask, strict=True):
            if ask and gradient is not None:
                result.copy_(gradient)
        return tuple(results)

    torch.library.register_kernel(op, None, kernel)


def register_double_backward(op: str, reference: Callable[..., Any]) -> None:
    """Makes a backward operator differentiable, by differentiating its plain ATen implementation."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *arguments, ctx.output_mask = inputs
        ctx.tensors_at = [index for index, argument in enumerate(arguments) if isinstance(argument, Tensor)]
        ctx.save_for_backward(*(arguments[index] for index in ctx.tensors_at))
        ctx.others = [None if isinstance(argument, Tensor) else argument for argument in arguments]

    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        def first_backward(*tensors: Tensor) -> tuple[Tensor, ...]:
            arguments = list(ctx.others)
            for index, tensor in zip(ctx.tensors_at, tensors, strict=True):
                arguments[index] = tensor
            # A gradient that is not asked for, or has no argument, contributes nothing.
            return tuple(
                gradient if ask and gradient is not None else tensors[0].new_zeros(0)
                for gradient, ask in zip(reference(*arguments), ctx.output_mask, strict=True)
            )

        pullback: Any = torch.func.vjp(first_backward, *ctx.saved_tensors)[1]
        results: list[Tensor | None] = [None] * (len(ctx.others) + 1)
        for index, gradient in zip(ctx.tensors_at, pullback(grads), strict=True):
            results[index] = gradient if ctx.needs_input_grad[index] else None
        return tuple(results)

    torch.library.register_autograd(op, backward, setup_context=setup_context)


def batch_first(tensor: Tensor | None, dim: int | None, batch_size: int) -> Any:
    """The vmapped tensor with its batch dimension first, expanded where it had none; None for None."""
    if tensor is None:
        return None
    if dim is None:
        return tensor.unsqueeze(0).expand(batch_size, *tensor.shape)
    return tensor.movedim(dim, 0)


def fold(tensor: Tensor | None, axis: int) -> Any:
    """(B, ..., n, ...) -> (..., B n, ...), where n is axis ``axis`` of the result; None for None."""
    return tensor.movedim(0, axis).flatten(axis, axis + 1) if tensor is not None else None


def unfold(tensor: Tensor, axis: int, batch_size: int) -> Tensor:
    """The inverse of fold."""
    unflattened: Tensor = tensor.unflatten(axis, (batch_size, -1))
    return unflattened.movedim(axis, 0)
