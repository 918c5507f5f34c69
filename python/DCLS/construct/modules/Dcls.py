"""The layers of 2021 in which every filter has positions of its own.

In 2022 the same path held layers with the arguments of :mod:`DCLS.construct.modules`, and code that tries it first is
still around: called with ``kernel_count`` or ``dilated_kernel_size``, the classes here make those layers.
"""

from typing import Any

from DCLS._dilated import DilatedNd
from DCLS.construct import modules
from dcls_ops.nn import DclsLayer

__all__ = ["Dcls1d", "Dcls2d", "Dcls3d"]


class _EitherGeneration(type):
    """Makes a layer of the later generation from its arguments, and counts it as an instance."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "kernel_count" in kwargs or "dilated_kernel_size" in kwargs:
            return cls._later()(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) or isinstance(instance, cls._later())

    def _later(cls) -> type[DclsLayer]:
        later: type[DclsLayer] = getattr(modules, cls.__name__)
        return later


class Dcls1d(DilatedNd, metaclass=_EitherGeneration):
    """As :class:`Dcls2d`, in one dimension. Its positions are ``P`` (O, I/g, length).

    Example:
        >>> import torch
        >>> Dcls1d(16, 33, 3, dilation=4)(torch.randn(20, 16, 50)).shape
        torch.Size([20, 33, 42])
    """

    axes = 1


class Dcls2d(DilatedNd, metaclass=_EitherGeneration):
    """As :class:`DCLS.modules.Dcls.Dcls2d`, with positions for every filter: ``P_h``, ``P_w`` (O, I/g, height, width).

    Example:
        >>> import torch
        >>> Dcls2d(16, 33, 3, dilation=4, stride=2, gain=10)(torch.randn(20, 16, 50, 100)).shape
        torch.Size([20, 33, 21, 46])
    """

    axes = 2


class Dcls3d(DilatedNd, metaclass=_EitherGeneration):
    """As :class:`Dcls2d`, in three dimensions. Its positions are ``P_d``, ``P_h``, ``P_w``.

    Example:
        >>> import torch
        >>> Dcls3d(4, 8, 3, dilation=2)(torch.randn(1, 4, 8, 8, 8)).shape
        torch.Size([1, 8, 4, 4, 4])
    """

    axes = 3
