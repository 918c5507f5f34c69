"""Dense kernels of layers that do not train, kept from one call to the next.

To make a kernel takes longer than to convolve a small image with it. A layer's kernel is kept while it computes the
forward pass alone, on the CPU, for as long as the parameters have the values that they had. Their version counters
would not tell: writes to ``parameter.data``, which is how positions are often clamped, do not count.
"""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from dcls_ops._arguments import is_traced
from dcls_ops._costs import is_dense_cheapest

if TYPE_CHECKING:
    from dcls_ops.nn import DclsLayer

#: weight, P and SIG of a layer.
Parameters = tuple[Tensor, Tensor, Tensor | None]

_HALF_DTYPES = (torch.float16, torch.bfloat16)

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Kept(NamedTuple):
    """Replaced but never changed, so that threads see all of it."""

    made_of: tuple[object, ...]
    parameters: list[Tensor]
    kernel: Tensor


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def kernel_of(layer: "DclsLayer", input: Tensor, padding: Sequence[int], parameters: Parameters) -> Tensor | None:
    """The dense kernel for a convolution of the layer, or None where the operator does as well, or must be called.

    Args:
        layer: the layer.
        input: its input, padded but for ``padding``.
        padding: zeros that the convolution adds on either side, an int an axis.
        parameters: weight, P and SIG, of the layer or in their place.
    """
    if torch.compiler.is_compiling():
        return None
    if layer.training or torch.is_grad_enabled():
        if _KEPT:
            _KEPT.pop(layer, None)
        return None
    given = [parameter for parameter in parameters if parameter is not None]
    if not _is_ordinary(input, given) or not _is_worth_it(layer, input, padding, parameters):
        return None
    kept = _KEPT.get(layer)
    made_of = (layer.version, layer.kernel_size, input.dtype, len(given))
    if kept is None or kept.made_of != made_of or not all(map(_is_equal, kept.parameters, given)):
        # Of copies: another thread may be writing to the parameters.
        copies = [parameter.clone() for parameter in given]
        weight, positions, sigma = layer._operands_of(*copies, *[None] * (3 - len(copies)))
        kernel = torch.ops.dcls.construct_kernel(weight, positions, layer.kernel_size, sigma, layer.version)
        kept = _KEPT[layer] = _Kept(made_of, copies, kernel.to(input.dtype))
    return kept.kernel


def _is_equal(kept: Tensor, parameter: Tensor) -> bool:
    if kept.shape != parameter.shape or kept.dtype != parameter.dtype:
        return False
    if kept.is_contiguous() and parameter.is_contiguous():
        # Several times as fast as torch.equal.
        return bool(_memcmp(kept.data_ptr(), parameter.data_ptr(), kept.nbytes) == 0)
    return torch.equal(kept, parameter)


def _is_ordinary(input: Tensor, parameters: Sequence[Tensor]) -> bool:
    """Whether tensors have values, on the CPU and in dtypes that go together, and nothing records the call."""
    if any(
        type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu" for tensor in (input, *parameters)
    ):
        return False
    if is_traced() or get_proxy_mode() is not None or torch._C._len_torch_dispatch_stack() > 0:
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    (dtype, *others) = {parameter.dtype for parameter in parameters}
    if others:
        return False
    # To a float32 layer's half output the operator adds a float32 bias, unless autocast has rounded it.
    is_cast = dtype == torch.float32 and input.dtype in _HALF_DTYPES and torch.is_autocast_enabled("cpu")
    return input.dtype == dtype or is_cast


def _is_worth_it(layer: "DclsLayer", input: Tensor, padding: Sequence[int], parameters: Parameters) -> bool:
    weight, kernel_size = parameters[0], layer.kernel_size
    axes = len(kernel_size)
    # The operator says what is wrong with an input.
    if input.dim() not in (axes + 1, axes + 2) or input.shape[-axes - 1] != layer.in_channels or not input.numel():
        return False
    images, spatial = input.shape[0] if input.dim() == axes + 2 else 1, input.shape[-axes:]
    if any(size + 2 * pad < extent for size, pad, extent in zip(spatial, padding, kernel_size, strict=True)):
        return False
    if layer.method != "auto":
        return layer.method == "construct"
    is_shared = parameters[1].shape[1] == 1
    return is_dense_cheapest(
        is_shared and not layer.dense_kernel_size,
        images,
        layer.groups,
        weight.shape,
        len(layer.dilated_kernel_size),
        layer.version,
        layer.touched_taps,
        spatial,
        kernel_size,
        layer.stride,
        tuple(padding),
    )
