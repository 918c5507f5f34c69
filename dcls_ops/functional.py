"""The operators as functions.

They do what ``torch.ops.dcls.*`` does, and also take an int where the operators want a list, and ``padding="same"`` or
``"valid"``. In the shapes below, O, I, g and K are out channels, in channels, groups and kernel count (elements per
filter), d is the number of learned axes, and L is ``kernel_size``, the extent of the dense kernel.
"""

import torch
from torch import Tensor

from dcls_ops import ops as ops  # defines torch.ops.dcls
from dcls_ops._arguments import Size, for_axes, pad, padding_per_side, sizes, to_tuple

__all__ = ["construct_kernel", "conv1d", "conv2d", "conv3d", "depthwise_conv1d", "depthwise_conv2d", "depthwise_conv3d"]


def construct_kernel(
    weight: Tensor, positions: Tensor, kernel_size: Size, sigma: Tensor | None = None, version: str = "gauss"
) -> Tensor:
    r"""The dense kernel of a DCLS convolution: an ordinary convolution weight.

    Every element spreads its weight over the taps around its position, by an interpolation that is a product over the
    axes (Khalfaoui-Hassani et al., "Dilated convolution with learnable spacings", ICLR 2023, and "... beyond bilinear
    interpolation", 2023). With :math:`u` the distance from a tap to the element in taps and :math:`s` its width:

    ========= ======================== ==========
    version   factor of an axis        normalised
    ========= ======================== ==========
    ``v0``    relu(1 - \|u\|)           no
    ``v1``    relu(1 - \|u\|)           yes
    ``max``   relu(s - \|u\|)           yes
    ``gauss`` exp(-u\ :sup:`2`/2s\ :sup:`2`) yes
    ========= ======================== ==========

    Args:
        weight: (O, I/g, K), float32 or float64; half types are accepted and computed in float32. (O, I/g, \*dense, K)
            makes the kernel dense along leading axes: kernel_size begins with those extents, every dense tap has K
            elements of its own, and positions, with as many axes more, are along the d axes that follow.
        positions: (d, O, I/g, K), or (d, 1, I/g, K) to share them among out channels. In taps along the input's own
            axes; 0 is tap ``L // 2``.
        kernel_size: L, one int per spatial axis; an int stands for that extent on each.
        sigma: effective width in taps, greater than 0, in the shape of positions. For "max" and "gauss" only.
        version: "v0", "v1", "max" or "gauss".

    Returns:
        (O, I/g, \*L), in weight's dtype.

    Raises:
        RuntimeError: if an argument does not fit the others; the message names it.
        ValueError: if kernel_size is neither.

    Example:
        >>> weight, positions = torch.ones(1, 1, 1), torch.tensor([0.25]).view(1, 1, 1, 1)
        >>> construct_kernel(weight, positions, 5, version="v0")
        tensor([[[0.0000, 0.0000, 0.7500, 0.2500, 0.0000]]])
    """
    return _construct_kernel(weight, positions, kernel_size, sigma, version)


def _construct_kernel(
    weight: Tensor, positions: Tensor, kernel_size: Size, sigma: Tensor | None, version: str
) -> Tensor:
    dense_axes = max(weight.dim() - 3, 0)
    size = to_tuple("kernel_size", kernel_size, *(axes + dense_axes for axes in sizes(positions, 0)))
    kernel: Tensor = torch.ops.dcls.construct_kernel(weight, positions, size, sigma, version)
    return kernel


# Python looks at shapes in these, for which torch.fx has no values: its graphs call them as they are. They are not the
# public functions, because torch.fx finds a wrapped function by its name in this module only.
torch.fx.wrap("_construct_kernel")
torch.fx.wrap("_depthwise_conv")


def _conv(
    spatial_axes: int,
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Size,
    sigma: Tensor | None,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    groups: int,
    version: str,
    method: str,
    touched_taps: int | None,
) -> Tensor:
    op = for_axes(torch.ops.dcls, "conv", spatial_axes)
    size = to_tuple("kernel_size", kernel_size, spatial_axes)
    steps = to_tuple("stride", stride, spatial_axes)
    padded, remaining = pad(input, padding_per_side(padding, size, steps))
    output: Tensor = op(
        padded, weight, positions, size, sigma, bias, steps, remaining, groups, version, method, touched_taps
    )
    return output


def conv1d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Size,
    sigma: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    groups: int = 1,
    version: str = "gauss",
    method: str = "auto",
    touched_taps: int | None = None,
) -> Tensor:
    """DCLS convolution of (N, I, length) or (I, length). Arguments as in :func:`conv2d`, for one spatial axis.

    Example:
        >>> input, weight, positions = torch.randn(8, 4, 100), torch.randn(6, 4, 3), torch.randn(1, 6, 4, 3)
        >>> conv1d(input, weight, positions, 25, padding="same", version="v1").shape
        torch.Size([8, 6, 100])
    """
    settings = (stride, padding, groups, version, method, touched_taps)
    return _conv(1, input, weight, positions, kernel_size, sigma, bias, *settings)


def conv2d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Size,
    sigma: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    groups: int = 1,
    version: str = "gauss",
    method: str = "auto",
    touched_taps: int | None = None,
) -> Tensor:
    """DCLS convolution of (N, I, height, width) or (I, height, width).

    The same as ``F.conv2d`` with the kernel of :func:`construct_kernel`, except that nothing but the arguments is kept
    for backward.

    Args:
        input: in the parameters' dtype; float16 or bfloat16 also with parameters in another one of float16, bfloat16
            and float32. Under autocast it is cast, and parameters are not.
        weight, positions, sigma, version: as in :func:`construct_kernel`, for two spatial axes.
        kernel_size: extent of the dense kernel, an int or one per axis.
        bias: (O,), in the dtype of input or weight.
        stride: steps between outputs, an int or one per axis.
        padding: zeros on either side, an int or one per axis; or "same" (stride 1 only) or "valid".
        groups: g; divides I and O.
        method: "construct" builds the dense kernel and convolves with it. "direct" visits only the taps that elements
            touch, in a time that grows with them and not with kernel_size: best for sparse kernels. "im2col", for
            shared positions only, interpolates the input once per element and pixel and multiplies by the weights, in
            a time that hardly depends on kernel_size. It keeps a tile of columns at a time: at most 2**18 entries
            (1 MiB of float32) a thread, twice that in backward; only with more than 2**18 elements a filter, one pixel
            of one in channel. "auto" takes the cheapest by an estimate.
        touched_taps: about how many taps an element touches along an axis, if the caller knows how wide elements are:
            2 * 6.5 sigma for "gauss", 2 sigma for "max". For the estimate of "auto" only.

    Returns:
        (N, O, *out) or (O, *out), in the input's dtype and memory format, with
        out = (size + 2 padding - kernel_size) // stride + 1.

    Raises:
        RuntimeError: if an argument does not fit the others; the message names it.
        ValueError: if kernel_size, stride or padding has the wrong length, or padding is none of the above.

    Example:
        >>> input, weight, positions = torch.randn(8, 32, 14, 14), torch.randn(32, 1, 5), torch.randn(2, 32, 1, 5)
        >>> conv2d(input, weight, positions, 7, padding=3, groups=32, version="v1").shape
        torch.Size([8, 32, 14, 14])
    """
    settings = (stride, padding, groups, version, method, touched_taps)
    return _conv(2, input, weight, positions, kernel_size, sigma, bias, *settings)


def conv3d(
    input: Tensor,
    weight: Tensor,
    positions: Tensor,
    kernel_size: Size,
    sigma: Tensor | None = None,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    groups: int = 1,
    version: str = "gauss",
    method: str = "auto",
    touched_taps: int | None = None,
) -> Tensor:
    """DCLS convolution of (N, I, depth, height, width) or (I, depth, height, width).

    Arguments as in :func:`conv2d`, for three spatial axes.

    Example:
        >>> input, weight, positions = torch.randn(2, 4, 8, 8, 8), torch.randn(6, 4, 3), torch.randn(3, 6, 4, 3)
        >>> conv3d(input, weight, positions, 5, padding=2, version="v1").shape
        torch.Size([2, 6, 8, 8, 8])
    """
    settings = (stride, padding, groups, version, method, touched_taps)
    return _conv(3, input, weight, positions, kernel_size, sigma, bias, *settings)


def depthwise_conv1d(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
) -> Tensor:
    """Depthwise convolution of (N, C, length) or (C, length) with dense kernels (m C, 1, kernel_length).

    Arguments as in :func:`depthwise_conv2d`.

    Example:
        >>> depthwise_conv1d(torch.randn(2, 8, 100), torch.randn(8, 1, 25), padding="same").shape
        torch.Size([2, 8, 100])
    """
    return _depthwise_conv(1, input, kernel, bias, stride, padding)


def depthwise_conv2d(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
) -> Tensor:
    """Depthwise convolution with large dense kernels, learned spacings or not.

    Args:
        input: (N, C, height, width) or (C, height, width).
        kernel: (m C, 1, kernel_height, kernel_width), in the input's dtype. Channel c makes outputs m c to m c + m - 1.
        bias: (m C,), in the input's dtype.
        stride: steps between outputs, an int or one per axis.
        padding: zeros on either side, an int or one per axis; or "same" (stride 1 only) or "valid".

    Returns:
        (N, m C, *out) or (m C, *out), in the input's memory format.

    Raises:
        RuntimeError: if an argument does not fit the others; the message names it.
        ValueError: if stride or padding has the wrong length, or padding is none of the above.

    Example:
        >>> depthwise_conv2d(torch.randn(2, 8, 14, 14), torch.randn(8, 1, 7, 7), padding="same").shape
        torch.Size([2, 8, 14, 14])
    """
    return _depthwise_conv(2, input, kernel, bias, stride, padding)


def depthwise_conv3d(
    input: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
) -> Tensor:
    """Depthwise convolution of (N, C, depth, height, width) or (C, depth, height, width).

    Dense kernels are (m C, 1, kernel_depth, kernel_height, kernel_width). Other arguments as in
    :func:`depthwise_conv2d`.

    Example:
        >>> depthwise_conv3d(torch.randn(2, 8, 9, 9, 9), torch.randn(8, 1, 5, 5, 5), padding="same").shape
        torch.Size([2, 8, 9, 9, 9])
    """
    return _depthwise_conv(3, input, kernel, bias, stride, padding)


def _depthwise_conv(
    spatial_axes: int, input: Tensor, kernel: Tensor, bias: Tensor | None, stride: Size, padding: Size | str
) -> Tensor:
    op = for_axes(torch.ops.dcls, "depthwise_conv", spatial_axes)
    steps = to_tuple("stride", stride, spatial_axes)
    kernel_size = sizes(kernel, *range(2, kernel.dim())) if padding == "same" else (1,) * spatial_axes
    padded, remaining = pad(input, padding_per_side(padding, kernel_size, steps))
    output: Tensor = op(padded, kernel, bias, steps, remaining)
    return output
