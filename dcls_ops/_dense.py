"""Convolution with a dense kernel that is there already, by the faster of PyTorch and the library."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dcls_ops._arguments import for_axes, pad, padding_per_side, sizes
from dcls_ops.ops._memory_format import in_format_of


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
    # With other channels PyTorch says what it expected; the library would take them for several outputs a channel.
    if (*sizes(kernel, 0, 1), *sizes(input, -axes - 1)) == (groups, 1, groups):
        depthwise_conv = for_axes(torch.ops.dcls, "depthwise_conv", axes)
        output: Tensor = depthwise_conv(input, kernel, bias, stride, padding)
        return output
    output = for_axes(F, "conv", axes)(input, kernel, bias, stride, padding, groups=groups)
    return in_format_of(input, input.dim() == axes + 2, output)


# Python looks at shapes in it, for which torch.fx has no values: its graphs call it as it is.
torch.fx.wrap("dense_convolution")


class _ByTheLibrary(nn.modules.conv._ConvNd):
    """An ``nn.ConvNd`` of which every channel has one filter, computed by ``torch.ops.dcls.depthwise_conv*``.

    Arguments, parameters and state_dict are those of ``nn.ConvNd``, with groups = in_channels = out_channels.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        sides = padding_per_side(self.padding, self.kernel_size, self.stride)
        padded, padding = pad(input, sides, self.padding_mode)
        return dense_convolution(padded, weight, bias, self.stride, padding, self.groups)


class DepthwiseConv1d(_ByTheLibrary, nn.Conv1d):
    __doc__ = str(_ByTheLibrary.__doc__)


class DepthwiseConv2d(_ByTheLibrary, nn.Conv2d):
    __doc__ = str(_ByTheLibrary.__doc__)


class DepthwiseConv3d(_ByTheLibrary, nn.Conv3d):
    __doc__ = str(_ByTheLibrary.__doc__)
