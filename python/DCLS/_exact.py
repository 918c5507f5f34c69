"""The original's own derivatives, where they are not the operators': at taps, and of ``SIG`` at 0."""

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from DCLS import _operands
from dcls_ops._checks import HALF_DTYPES
from dcls_ops._original import axis_order
from dcls_ops.reference import NORMALISATION_EPSILON

_is_enabled = False


def is_enabled() -> bool:
    return _is_enabled


class exact_gradients:  # a function to its callers, like torch.no_grad
    """Gives positions at a tap, and ``SIG`` at 0, the gradients that the original package gives them.

    Without it they get the mean of the one-sided derivatives, from which positions at the ends of a kernel can leave
    them. With it, in "v1" and "max", positions at a tap stay where they are, and ``SIG`` stays at 0; in "v0" positions
    at a tap get the derivative to the right. Layers of version 0.1.1 then construct dense kernels in plain PyTorch,
    which takes more time and memory.

    It holds for all threads from the call on, or until the end of the block where it is used in a ``with``.

    Args:
        mode: whether gradients are the original's.

    Example:
        >>> import torch
        >>> from DCLS.construct.modules import Dcls1d
        >>> layer = Dcls1d(1, 1, kernel_count=1, dilated_kernel_size=5, version="v1")
        >>> _ = torch.nn.init.constant_(layer.P, 2)  # the last tap
        >>> input = torch.tensor([[[1.0, 10.0, 100.0, 1000.0, 10000.0]]])
        >>> with exact_gradients():
        ...     torch.autograd.grad(layer(input).sum() / layer.weight.sum(), layer.P)[0].item()
        0.0
    """

    def __init__(self, mode: bool = True) -> None:
        global _is_enabled
        self._before, _is_enabled = _is_enabled, bool(mode)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exception: Any) -> None:
        global _is_enabled
        _is_enabled = self._before


def construct_kernel(
    weight: Tensor,
    P: Tensor,
    SIG: Tensor | None,
    filters: Sequence[int],
    kernel_size: Sequence[int],
    version: str,
    smallest_sigma: Mapping[str, float],
) -> Tensor:
    """The dense kernel (O, I/g, *dense, *kernel_size), by PyTorch, whose derivatives at kinks are the original's."""
    weight, P, SIG = _operands.broadcast(weight, P, SIG, filters, len(kernel_size), version)
    dtype, device = weight.dtype, weight.device
    if dtype in HALF_DTYPES:
        weight, P, SIG = weight.float(), P.float(), SIG.float() if SIG is not None else None
    factors = []
    for index, extent in zip(axis_order(len(kernel_size), version), kernel_size, strict=True):
        # Added in the original's order, so that what rounds to a tap there does so here.
        place = (P[index] + kernel_size[index] // 2).unsqueeze(-1)
        width = SIG[index].abs().unsqueeze(-1) + smallest_sigma[version] if SIG is not None else 1.0
        taps = torch.arange(extent, dtype=place.dtype, device=device)
        factors.append(_factor(place, width, taps, version))
    if version != "v0":
        total = functools.reduce(torch.mul, [factor.sum(-1) for factor in factors])
        weight = weight / (total + NORMALISATION_EPSILON)
    axes = "xyz"[: len(factors)]
    inputs = ",".join(f"...k{axis}" for axis in axes)
    # Autocast would round what einsum multiplies.
    is_available = torch.amp.is_autocast_available(device.type)
    with torch.autocast(device.type, enabled=False) if is_available else nullcontext():
        return torch.einsum(f"...k,{inputs}->...{axes}", weight, *factors).to(dtype)


def _factor(place: Tensor, width: Tensor | float, taps: Tensor, version: str) -> Tensor:
    """One axis: an element's part in every tap."""
    if version == "v0":
        before = place.floor()
        zero = place.new_zeros(())
        return torch.where(taps == before, 1 - (place - before), zero) + torch.where(
            taps == before + 1, place - before, zero
        )
    if version == "gauss":
        return torch.exp(-0.5 * ((taps - place) / width) ** 2)
    return (width - (taps - place).abs()).relu()


torch.fx.wrap("construct_kernel")
