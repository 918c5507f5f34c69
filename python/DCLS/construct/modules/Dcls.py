"""The layers of 2021 in which every filter has positions of its own.

In 2022 the same path held bilinear layers with the arguments of :mod:`DCLS.construct.modules`, and code that tries it
first is still around: called with ``kernel_count`` or ``dilated_kernel_size``, the classes here make layers of that
module, of version "v0" unless told otherwise.
"""

from typing import Any, ClassVar

from DCLS._dilated import DilatedNd
from DCLS.construct import modules
from dcls_ops.nn import DclsLayer

__all__ = ["Dcls1d", "Dcls2d", "Dcls3d"]


class _EitherGeneration(type):
    """Makes a layer of the later generation from its arguments, and counts it as an instance. Not for subclasses."""

    def __call__(cls, *args: Any, scaling: float = 1.0, **kwargs: Any) -> Any:
        if "later" not in vars(cls) or not kwargs.keys() & {"kernel_count", "dilated_kernel_size"}:
            return super().__call__(*args, **kwargs)
        if scaling != 1:
            raise ValueError(f"scaling must be 1, got {scaling}: multiply P by it instead")
        return vars(cls)["later"](*args, **{"version": "v0", **kwargs})

    def __instancecheck__(cls, instance: Any) -> bool:
        is_later = "later" in vars(cls) and isinstance(instance, vars(cls)["later"])
        return is_later or super().__instancecheck__(instance)


class Dcls1d(DilatedNd, metaclass=_EitherGeneration):
    """As :class:`Dcls2d`, in one dimension. Its positions are ``P`` (O, I/g, length).

    Example:
        >>> import torch
        >>> Dcls1d(16, 33, 3, dilation=4)(torch.randn(20, 16, 50)).shape
        torch.Size([20, 33, 42])
    """

    spatial_axes = 1
    later: ClassVar[type[DclsLayer]] = modules.Dcls1d


class Dcls2d(DilatedNd, metaclass=_EitherGeneration):
    """As :class:`DCLS.modules.Dcls.Dcls2d`, with positions for every filter: ``P_h``, ``P_w`` (O, I/g, height, width).

    Example:
        >>> import torch
        >>> Dcls2d(16, 33, 3, dilation=4, stride=2, gain=10)(torch.randn(20, 16, 50, 100)).shape
        torch.Size([20, 33, 21, 46])
    """

    spatial_axes = 2
    later: ClassVar[type[DclsLayer]] = modules.Dcls2d


class Dcls3d(DilatedNd, metaclass=_EitherGeneration):
    """As :class:`Dcls2d`, in three dimensions. Its positions are ``P_d``, ``P_h``, ``P_w``.

    Example:
        >>> import torch
        >>> Dcls3d(4, 8, 3, dilation=2)(torch.randn(1, 4, 8, 8, 8)).shape
        torch.Size([1, 8, 4, 4, 4])
    """

    spatial_axes = 3
    later: ClassVar[type[DclsLayer]] = modules.Dcls3d
