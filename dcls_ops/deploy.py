"""Turning trained models into what runs without this package."""

import copy
from typing import Any

from torch import nn

from dcls_ops.nn import DclsLayer

__all__ = ["fold"]

# Any: nn.ConvNd is annotated for tuples of its own length.
_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _folded(layer: DclsLayer) -> nn.Module:
    convolution: nn.Module = _CONVOLUTIONS[layer.spatial_axes - 1](
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    convolution.weight = nn.Parameter(layer.construct_kernel().detach())
    if layer.bias is not None:
        convolution.bias = nn.Parameter(layer.bias.detach().clone())
    return convolution.train(layer.training)


def fold(model: nn.Module) -> nn.Module:
    """A copy of the model in which every DCLS layer is a plain ``nn.Conv1d/2d/3d`` that computes the same.

    A layer that occurs in several places stays one layer.

    Example:
        >>> from dcls_ops.nn import Dcls2d
        >>> fold(nn.Sequential(Dcls2d(3, 8, kernel_count=4, dilated_kernel_size=7)))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(7, 7), stride=(1, 1))
        )
    """
    folded = {id(module): _folded(module) for module in model.modules() if isinstance(module, DclsLayer)}
    # What deepcopy finds in its memo it takes as the copy.
    copied: nn.Module = copy.deepcopy(model, memo=dict(folded))
    return copied
