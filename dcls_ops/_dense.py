"""Convolution with a dense kernel that is there already, by the faster of PyTorch and the library."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dcls_ops.ops._formats import in_format_of


def dense_convolution(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    groups: int,
) -> Tensor:
    """What the operators do with the kernel that they make; one int for every axis."""
    axes = kernel.dim() - 2
    ops: Any = torch.ops.dcls
    if kernel.shape[0] == groups and kernel.shape[1] == 1:
        depthwise = (ops.depthwise_conv1d, ops.depthwise_conv2d, ops.depthwise_conv3d)[axes - 1]
        output: Tensor = depthwise(input, kernel, bias, stride, padding)
        return output
    convolution: Any = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return in_format_of(
        input, input.dim() == axes + 2, convolution(input, kernel, bias, stride, padding, groups=groups)
    )
