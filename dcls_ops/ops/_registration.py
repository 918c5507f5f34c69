"""Helpers for registering the operators with PyTorch."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch import autograd_function as functorch
from torch.autograd import forward_ad

from dcls_ops.reference import function_of_tensors

_FRAGMENT = torch.library.Library("dcls", "FRAGMENT")


def register_autocast(op: str, cast: Sequence[str]) -> None:
    """Casts the arguments named in ``cast`` under autocast, as PyTorch does for its own convolutions.

    ``torch.library.register_autocast`` would cast every tensor argument; positions and sigma must stay as they are.
    """
    overload = getattr(torch.ops.dcls, op).default
    names = [argument.name for argument in overload._schema.arguments]
    for key, device_type in (("AutocastCPU", "cpu"), ("AutocastCUDA", "cuda")):

        def kernel(*args: Any, device_type: str = device_type) -> Any:
            dtype = torch.get_autocast_dtype(device_type)
            arguments = [
                argument.to(dtype) if name in cast and _is_eligible(argument) else argument
                for name, argument in zip(names, args, strict=False)
            ]
            with torch.autocast(device_type, enabled=False):
                return overload(*arguments)

        _FRAGMENT.impl(op, kernel, key)


def _is_eligible(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point() and argument.dtype != torch.float64


def not_computed(like: Tensor) -> Tensor:
    """What a backward operator returns for a gradient that its output_mask leaves out: a tensor without elements."""
    return like.new_empty(0)


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
    """Registers the plain ATen implementation of a backward operator, whose last argument is output_mask."""

    def kernel(*args: Any) -> tuple[Tensor, ...]:
        *arguments, output_mask = args
        results = fake(*args)
        for result, gradient, ask in zip(results, reference(*arguments), output_mask, strict=True):
            if ask and gradient is not None:
                result.copy_(gradient)
        return tuple(results)

    torch.library.register_kernel(op, None, kernel)


def register_autograd(op: str, backward: Callable[..., Any]) -> None:
    """Registers an operator's derivative. What is saved are its arguments.

    ``backward(arguments, needs_input_grad, *grads)`` returns one gradient, or None, for every argument. Forward-mode
    derivatives are an error.

    ``torch.library.register_autograd`` comes short in two ways: it refuses ``torch.func.grad`` and ``vjp``, and with
    them per-sample gradients, and it lets forward-mode derivatives silently be zero. This does what it does, in the way
    of PyTorch's own operators: the derivative belongs to the level of ``torch.func`` that calls it.
    """
    overload = getattr(torch.ops.dcls, op).default
    defaults = [argument.default_value for argument in overload._schema.arguments]

    class Derivative(torch.autograd.Function):
        @staticmethod
        def forward(*inputs: Any) -> Any:
            *arguments, grad_mode = inputs
            # autograd.Function turns both modes off, but outer levels of torch.func have a derivative to record too.
            with (
                forward_ad._set_fwd_grad_enabled(True),
                torch.set_grad_enabled(grad_mode),
                torch._C._AutoDispatchBelowAutograd(),
            ):
                return overload(*arguments)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            arguments = inputs[:-1]
            ctx.save_for_backward(*(argument if isinstance(argument, Tensor) else None for argument in arguments))
            ctx.others = [None if isinstance(argument, Tensor) else argument for argument in arguments]

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Any:
            arguments = [t if t is not None else o for t, o in zip(ctx.saved_tensors, ctx.others, strict=True)]
            return *backward(arguments, ctx.needs_input_grad[:-1], *grads), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
            raise NotImplementedError(f"dcls::{op} has no forward-mode derivative; dcls_ops.reference has them all")

    def kernel(*arguments: Any) -> Any:
        # The dispatcher drops trailing arguments that equal their default.
        arguments = (*arguments, *defaults[len(arguments) :])
        apply: Any = super(torch.autograd.Function, Derivative).apply
        with functorch.enable_single_level_autograd_function():  # type: ignore[attr-defined]
            return apply(*arguments, torch.is_grad_enabled())

    _FRAGMENT.impl(op, kernel, "Autograd")


def register_double_backward(op: str, reference: Callable[..., Any]) -> None:
    """Makes a backward operator differentiable, by differentiating its plain ATen implementation."""

    def backward(arguments: list[Any], needs_input_grad: Sequence[bool], *grads: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, output_mask = arguments
        computed: list[bool] = []

        def first_backward(*arguments: Any) -> tuple[Tensor, ...]:
            gradients = reference(*arguments)
            computed[:] = [ask and g is not None for g, ask in zip(gradients, output_mask, strict=True)]
            return tuple(itertools.compress(gradients, computed))

        of_tensors, tensors_at = function_of_tensors(first_backward, arguments)
        pullback: Any = torch.func.vjp(of_tensors, *(arguments[index] for index in tensors_at))[1]
        gradients = pullback(tuple(itertools.compress(grads, computed)))
        results: list[Tensor | None] = [None] * (len(arguments) + 1)
        for index, gradient in zip(tensors_at, gradients, strict=True):
            results[index] = gradient if needs_input_grad[index] else None
        return tuple(results)

    register_autograd(op, backward)
