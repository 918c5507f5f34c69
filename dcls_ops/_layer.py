"""What the layers of dcls_ops and of DCLS have in common, whatever their parameters are."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class LearnedSpacingLayer(nn.Module):
    """The base class of every layer: a convolution with the kernel of :meth:`construct_kernel`."""

    #: The number of spatial axes of the input.
    spatial_axes: ClassVar[int]
    #: The parameters from which the convolution is made; a folded layer has none of them.
    convolution_parameters: ClassVar[tuple[str, ...]]

    in_channels: int
    out_channels: int
    stride: tuple[int, ...]
    padding: Any
    groups: int
    padding_mode: str

    def construct_kernel(self) -> Tensor:
        """The dense kernel, differentiable."""
        raise NotImplementedError(f"{type(self).__name__} must say how its kernel is constructed")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def of_parameter(tensor: Tensor) -> Tensor:
            return _apply_whatever_the_axes(fn, tensor)

        if recurse:
            for name, child in self.named_children():
                # Parametrizations have the layer's parameters.
                child._apply(of_parameter if name == "parametrizations" else fn)
        return super()._apply(of_parameter, recurse=False)  # type: ignore[no-untyped-call]


def _apply_whatever_the_axes(fn: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """``fn(tensor)``, where ``fn`` does not see that the tensor has as many axes as images or volumes.

    ``Module.to(memory_format=...)`` takes every such parameter for a dense kernel, and permutes it or, with the format
    of the other kind, fails. Ours have other axes, and stay as they are: inputs and outputs have memory formats.
    """
    if tensor.dim() not in (4, 5):
        return fn(tensor)
    more_axes = tensor.unsqueeze(0).unsqueeze(0)
    result = fn(more_axes)
    return tensor if result is more_axes else result.squeeze(0).squeeze(0)
