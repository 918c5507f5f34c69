"""Turning trained models into what runs without this package."""

import copy
from typing import Any

from torch import nn

__all__ = ["fold"]

# The packages whose layers do nothing but convolve.
_PACKAGES = ("dcls_ops", "DCLS")

# Any: nn.ConvNd is annotated for tuples of its own length.
_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _folded(layer: Any) -> nn.Module:
    # A convolution would not do what these do.
    if type(layer).forward.__module__.split(".")[0] not in _PACKAGES:
        raise ValueError(f"fold() cannot fold {type(layer).__name__}, which has a forward of its own")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError(f"fold() cannot fold a {type(layer).__name__} with forward hooks; remove them first")
    kernel = layer.construct_kernel().detach().clone()
    convolution: nn.Module = _CONVOLUTIONS[kernel.dim() - 3](
        layer.in_channels,
        layer.out_channels,
        tuple(kernel.shape[2:]),
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    convolution.weight = nn.Parameter(kernel, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        convolution.bias = nn.Parameter(layer.bias.detach().clone(), requires_grad=layer.bias.requires_grad)
    return convolution.train(layer.training)


def fold(model: nn.Module) -> nn.Module:
    """A copy of the model in which every DCLS layer is a plain ``nn.Conv1d/2d/3d`` that computes the same.

    A layer that occurs in several places stays one layer. Parameters require gradients where the layer's weight and
    bias do.

    Raises:
        ValueError: if a layer's class has a ``forward`` of its own, or a layer has forward hooks.

    Example:
        >>> from dcls_ops.nn import Dcls2d
        >>> fold(nn.Sequential(Dcls2d(3, 8, kernel_count=4, dilated_kernel_size=7)))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(7, 7), stride=(1, 1))
        )
    """
    layers = [module for module in model.modules() if hasattr(module, "construct_kernel")]
    folded: dict[int, Any] = {id(layer): _folded(layer) for layer in layers}
    # What deepcopy finds in its memo it takes as the copy.
    copied: nn.Module = copy.deepcopy(model, memo=folded)
    return copied
