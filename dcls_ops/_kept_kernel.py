"""Dense kernels of layers that do not train, kept from one call to the next.

To make a kernel takes longer than to convolve a small image with it. A layer's kernel is kept while it computes the
forward pass alone, on the CPU, for as long as the operands have the values that they had. Version counters would not
tell: writes to ``parameter.data``, which is how positions are often clamped, do not count.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from dcls_ops._arguments import is_traced, to_tuple
from dcls_ops._checks import HALF_DTYPES, check_conv_arguments, check_kernel_arguments
from dcls_ops._costs import is_dense_cheapest
from dcls_ops._dense import dense_convolution

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Convolution(NamedTuple):
    """The arguments of conv1d, conv2d or conv3d."""

    input: Tensor
    weight: Tensor
    positions: Tensor
    kernel_size: tuple[int, ...]
    sigma: Tensor | None
    bias: Tensor | None
    stride: int | Sequence[int]
    padding: Sequence[int]
    groups: int
    version: str
    method: str
    touched_taps: int | None

    @property
    def operands(self) -> list[Tensor]:
        """What the kernel is made of."""
        return [operand for operand in (self.weight, self.positions, self.sigma) if operand is not None]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.input, self.weight, self.positions, self.sigma, self.bias

    @property
    def settings(self) -> tuple[Any, ...]:
        """The arguments that are no tensors."""
        return self.kernel_size, *self[6:]


class _Kept(NamedTuple):
    """Replaced but never changed, so that threads see all of it."""

    settings: tuple[object, ...]
    operands: list[Tensor]
    kernel: Tensor


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()

# By shapes, dtypes and settings: checks take longer than a small convolution.
_DECISIONS: dict[tuple[Any, ...], bool] = {}
_MOST_DECISIONS = 1024


def convolve(layer: nn.Module, convolution: Convolution) -> Tensor | None:
    """A layer's convolution with a kernel that is kept, or None where the operator is to be called."""
    if torch.compiler.is_compiling():
        return None
    if layer.training or torch.is_grad_enabled():
        if _KEPT:
            _KEPT.pop(layer, None)
        return None
    if not _is_ordinary(convolution) or not _is_dense_cheapest(convolution):
        return None
    kernel = _kernel(layer, convolution)
    bias = convolution.bias.to(kernel.dtype) if convolution.bias is not None else None
    stride = to_tuple("stride", convolution.stride, kernel.dim() - 2)
    return dense_convolution(convolution.input, kernel, bias, stride, convolution.padding, convolution.groups)


def _kernel(layer: nn.Module, convolution: Convolution) -> Tensor:
    """From the first call on, so that all calls give the same bits."""
    kept = _KEPT.get(layer)
    version, kernel_size, dtype = settings = (convolution.version, convolution.kernel_size, convolution.input.dtype)
    if kept is None or kept.settings != settings or not _are_equal(kept.operands, convolution.operands):
        # The kernel of copies: another thread may be writing to the parameters.
        operands = _copies(convolution.operands)
        weight, positions, sigma = (*operands, None)[:3]
        kernel = torch.ops.dcls.construct_kernel(weight, positions, kernel_size, sigma, version).to(dtype)
        kept = _KEPT[layer] = _Kept(settings, operands, kernel)
    return kept.kernel


def _copies(operands: Sequence[Tensor]) -> list[Tensor]:
    return [operand.clone() for operand in operands]


def _are_equal(kept: Sequence[Tensor], operands: Sequence[Tensor]) -> bool:
    return len(kept) == len(operands) and all(map(_is_equal, kept, operands))


def _is_equal(kept: Tensor, operand: Tensor) -> bool:
    if kept.shape != operand.shape or kept.dtype != operand.dtype:
        return False
    if kept.is_contiguous() and operand.is_contiguous():
        # Several times as fast as torch.equal.
        return bool(_memcmp(kept.data_ptr(), operand.data_ptr(), kept.nbytes) == 0)
    return torch.equal(kept, operand)


def _is_ordinary(convolution: Convolution) -> bool:
    """Whether tensors have values, on the CPU, nothing records the call, and half types are rounded once."""
    for tensor in convolution.tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu" or tensor.is_neg():
            return False
    if is_traced() or get_proxy_mode() is not None or torch._C._len_torch_dispatch_stack() > 0:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    dtype, of_parameters = convolution.input.dtype, convolution.weight.dtype
    if torch.is_autocast_enabled("cpu") and dtype in HALF_DTYPES:
        return dtype == torch.get_autocast_dtype("cpu") and of_parameters in (dtype, torch.float32)
    # To a float32 layer's half output the operator adds a float32 bias.
    return dtype == of_parameters


def _is_dense_cheapest(convolution: Convolution) -> bool:
    """Whether the operator takes the call, and a dense kernel that is there already would be the cheapest."""
    sizes = tuple((tensor.shape, tensor.dtype) if tensor is not None else None for tensor in convolution.tensors)
    key = (sizes, *map(_hashable, convolution.settings))
    found = _DECISIONS.get(key)
    if found is None:
        if len(_DECISIONS) >= _MOST_DECISIONS:
            _DECISIONS.clear()
        found = _DECISIONS[key] = _decide(convolution)
    return found


def _hashable(argument: Any) -> Any:
    return tuple(argument) if isinstance(argument, list) else argument


def _decide(convolution: Convolution) -> bool:
    input, weight, positions, kernel_size, sigma, bias, stride, padding, groups, version, method, taps = convolution
    axes = len(kernel_size)
    steps = to_tuple("stride", stride, axes)
    op = f"conv{axes}d"
    try:
        check_kernel_arguments(op, weight, positions, kernel_size, sigma, version)
        check_conv_arguments(
            op, axes, input, weight, positions, kernel_size, bias, steps, padding, groups, method, taps
        )
    except RuntimeError:
        return False  # as the operator will say
    return bool(input.numel()) and is_dense_cheapest(
        input.shape[0] if input.dim() == axes + 2 else 1,
        input.shape[-axes:],
        weight.shape,
        positions.shape,
        kernel_size,
        steps,
        tuple(padding),
        groups,
        version,
        method,
        taps,
    )
