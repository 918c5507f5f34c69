"""The layer of 2021 whose out channels share positions ("im2col")."""

from DCLS._dilated import DilatedNd

__all__ = ["Dcls2d"]


class Dcls2d(DilatedNd):
    """A dilated convolution whose elements learn where to be; the same places for every out channel.

    Stands in for ``nn.Conv2d``: the output's shape is the same. Elements start around the regular dilated grid; element
    (i, j) of an in channel is at ``i * dilation + P_h * s`` rows and ``j * dilation + P_w * s`` columns, where s is
    ``gain * sqrt(kernel_height * kernel_width * in_channels / groups)``, held inside the kernel, and reads the input
    there by bilinear interpolation. With a dilation of 1 it is ``nn.Conv2d``.

    Args:
        in_channels: I.
        out_channels: O.
        kernel_size: number of elements along each axis, an int or (height, width).
        stride, padding, groups, bias, padding_mode: as for ``nn.Conv2d``.
        dilation: steps of the grid in pixels, an int or (height, width).
        gain: extra factor on the positions' scale, and so on their speed of learning.

    Parameters:
        ``weight`` (O, I/g, height, width), ``P_h`` and ``P_w`` (I/g, height, width), ``bias`` (O,).

    Raises:
        ValueError: if an argument does not fit the others; the message names it.

    Example:
        >>> import torch
        >>> layer = Dcls2d(16, 33, (3, 5), stride=(2, 1), padding=(4, 2), dilation=(3, 2))
        >>> layer(torch.randn(20, 16, 50, 100)).shape
        torch.Size([20, 33, 26, 96])
    """

    spatial_axes = 2
    shared_positions = True
