"""DCLS layers, beside ``torch.nn.Conv1d/2d/3d``.

Every layer has ``kernel_count`` elements per filter at learned positions inside a kernel of extent
``dilated_kernel_size``. In the shapes below, O, I, g and K are out channels, in channels, groups and kernel count, and
d is the number of axes along which positions are learned.

Parameters of a layer:

- ``weight``: (O, I/g, K);
- ``P``: (d, O, I/g, K), or (d, 1, I/g, K) where out channels share them; positions in taps along the input's own axes;
  0 is the middle, tap ``extent // 2``;
- ``SIG``: like P, from which the interpolation's width is computed (:attr:`sigma`); None for "v0" and "v1";
- ``bias``: (O,), or None.
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from dcls_ops import _costs, _kept_kernel, functional
from dcls_ops._arguments import Size, check_channels, check_padding_mode, for_axes, pad, padding_per_side, to_tuple
from dcls_ops._layer import LearnedSpacingLayer
from dcls_ops._versions import INITIAL_SIG, METHODS, SMALLEST_SIGMA, VERSIONS, effective_sigma, has_sigma

__all__ = ["Dcls1d", "Dcls2_1d", "Dcls2d", "Dcls2dK1d", "Dcls3_1d", "Dcls3_2d", "Dcls3d", "DclsLayer"]


class DclsLayer(LearnedSpacingLayer):
    """The base class of all layers: ``isinstance(module, DclsLayer)`` finds them in a model.

    Filters are dense along the leading spatial axes (``dense_kernel_size``, often none) and learned along the others.
    """

    #: The number of axes along which positions are learned, the last ones.
    learned_axes: ClassVar[int]
    #: Whether P and SIG mean what they do in the original package, as those of the layers of ``DCLS`` do.
    has_original_conventions: ClassVar[bool] = False
    convolution_parameters = ("weight", "P", "SIG", "bias")

    #: How the convolution is computed.
    method: str = "auto"
    #: About how many taps an element touches along an axis, as :meth:`update_touched_taps` saw it last; None: unknown.
    touched_taps: int | None = None

    weight: Parameter
    P: Parameter
    SIG: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size,
        padding: Size | str,
        dense_kernel_size: Size | None = None,
        dilated_kernel_size: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        version: str,
        shared_positions: bool = False,
        method: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        if method == "im2col" and not shared_positions:
            raise ValueError("method 'im2col' needs shared_positions=True, got False")
        if version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {version!r}")
        check_padding_mode(padding_mode)
        if not hasattr(kernel_count, "__index__") or kernel_count < 1:
            raise ValueError(
                "kernel_count must be a positive int, the number of elements per filter (the extent of the kernel is "
                f"dilated_kernel_size), got {kernel_count!r}"
            )
        check_channels(in_channels, out_channels, groups)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_count = int(kernel_count)
        self.stride = to_tuple("stride", stride, self.spatial_axes)
        self.padding = padding if isinstance(padding, str) else to_tuple("padding", padding, self.spatial_axes)
        self.dense_kernel_size = (
            to_tuple("dense_kernel_size", dense_kernel_size, self.spatial_axes - self.learned_axes)
            if dense_kernel_size is not None
            else ()
        )
        self.dilated_kernel_size = to_tuple("dilated_kernel_size", dilated_kernel_size, self.learned_axes)
        self.groups = groups
        self.padding_mode = padding_mode
        self.version = version
        self.method = method
        for name in ("stride", "dense_kernel_size", "dilated_kernel_size"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if any(amount < 0 for side in self._padding_per_side() for amount in side):
            raise ValueError(f"padding must be non-negative, got {self.padding}")

        def parameter(*shape: int) -> Parameter:
            return Parameter(torch.empty(shape, device=device, dtype=dtype))

        filters = (out_channels, in_channels // groups, *self.dense_kernel_size, self.kernel_count)
        self.weight = parameter(*filters)
        self.P = parameter(self.learned_axes, 1 if shared_positions else out_channels, *filters[1:])
        self.register_parameter("SIG", parameter(*self.P.shape) if has_sigma(version) else None)
        self.register_parameter("bias", parameter(out_channels) if bias else None)
        self.reset_parameters()

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Extent of the dense kernel along every spatial axis."""
        return (*self.dense_kernel_size, *self.dilated_kernel_size)

    @property
    def sigma(self) -> Tensor | None:
        """Effective width of every element in taps, in the shape of P: \\|SIG\\| + 1 for "max", + 0.27 for "gauss"."""
        if self.SIG is None or not has_sigma(self.version):
            return None
        return effective_sigma(self.SIG, SMALLEST_SIGMA[self.version])

    def reset_parameters(self) -> None:
        """Draws weight and bias as ``nn.ConvNd`` with K taps would, and positions with standard deviation 0.5 taps."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            nn.init.uniform_(self.bias, -bound, bound)
        self._reset_positions()
        if self.SIG is not None:
            nn.init.constant_(self.SIG, INITIAL_SIG.get(self.version, 0.0))
        self.update_touched_taps()

    def _reset_positions(self) -> None:
        nn.init.normal_(self.P, 0, 0.5)
        self.clamp_parameters()

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        """Moves positions that have left the kernel to its nearest tap. To be called after an optimiser's step."""
        bounds = self._position_bounds()
        if len(set(bounds)) == 1:
            self.P.clamp_(*bounds[0])
        else:
            # Whole tensors, because P may be sharded along its axes, and made from P, to be on its mesh.
            low, high = (
                torch.cat([self.P.new_full((1,) * self.P.dim(), bound) for bound in each])
                for each in zip(*bounds, strict=True)
            )
            self.P.clamp_(low, high)
        self.update_touched_taps()

    def _position_bounds(self) -> list[tuple[int, int]]:
        """The least and the largest value of each of the positions."""
        return [(-(extent // 2), extent - 1 - extent // 2) for extent in self.dilated_kernel_size]

    @torch.no_grad()
    def update_touched_taps(self) -> None:
        """Looks at how wide elements are, from which method "auto" estimates what they cost.

        Operators choose by shapes and never look at values, so they need to be told. :meth:`clamp_parameters`,
        :meth:`reset_parameters` and loading a state do it on the CPU; call it after setting SIG by hand. The number is
        rounded, near a power of two or to the kernel's extent: a compiled layer is compiled again when it changes.
        """
        SIG = self.SIG
        if SIG is None or not has_sigma(self.version) or torch.compiler.is_compiling():
            return
        # Elsewhere a look at values waits for the device, or there are none.
        if type(SIG) is not Parameter or SIG.device.type != "cpu" or not SIG.numel():
            return
        found = _costs.touched_taps(self._widths(SIG), self.version, max(self.dilated_kernel_size))
        if found is not None:
            self.touched_taps = found

    def _widths(self, SIG: Tensor) -> Tensor:
        """The widths of all elements, in any shape."""
        sigma = self.sigma
        assert sigma is not None
        return sigma

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.update_touched_taps()

    def _operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, positions and sigma as the operators take them, for a kernel of extent :attr:`kernel_size`."""
        return self.weight, self.P, self.sigma

    def _has_operator(self) -> bool:
        """Whether one operator computes the layer; otherwise it convolves with :meth:`construct_kernel`."""
        return True

    def construct_kernel(self) -> Tensor:
        """The dense kernel (O, I/g, *kernel_size), differentiable."""
        weight, positions, sigma = self._operands()
        kernel: Tensor = torch.ops.dcls.construct_kernel(weight, positions, self.kernel_size, sigma, self.version)
        return kernel

    def forward(self, input: Tensor) -> Tensor:
        return self._convolve(input, *self._operands(), self.bias)

    def _convolve(
        self, input: Tensor, weight: Tensor, positions: Tensor, sigma: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        padded, padding = pad(input, self._padding_per_side(), self.padding_mode)
        convolution = _kept_kernel.Convolution(
            padded,
            weight,
            positions,
            self.kernel_size,
            sigma,
            bias,
            self.stride,
            padding,
            self.groups,
            self.version,
            self.method,
            self.touched_taps,
        )
        output = _kept_kernel.convolve(self, convolution)
        if output is None:
            output = for_axes(functional, "conv", self.spatial_axes)(*convolution)
        return output

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_count={self.kernel_count}"]
        if self.dense_kernel_size:
            parts.append(f"dense_kernel_size={self.dense_kernel_size}")
        parts.append(f"dilated_kernel_size={self.dilated_kernel_size}, stride={self.stride}")
        if self.padding != (0,) * self.spatial_axes:
            parts.append(f"padding={self.padding!r}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        parts.append(f"version={self.version!r}")
        if self.method != "auto":
            parts.append(f"method={self.method!r}")
        return ", ".join(parts)

    def _padding_per_side(self) -> tuple[tuple[int, int], ...]:
        return padding_per_side(self.padding, self.kernel_size, self.stride)


class _DclsNd(DclsLayer):
    """Learned along every axis: one operator does it all."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size = 1,
        padding: Size | str = 0,
        dilated_kernel_size: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        version: str = "gauss",
        *,
        shared_positions: bool = False,
        method: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_count=kernel_count,
            stride=stride,
            padding=padding,
            dilated_kernel_size=dilated_kernel_size,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            version=version,
            shared_positions=shared_positions,
            method=method,
            device=device,
            dtype=dtype,
        )
        self.shared_positions = shared_positions

    def extra_repr(self) -> str:
        return super().extra_repr() + (", shared_positions=True" if self.shared_positions else "")


class Dcls1d(_DclsNd):
    """DCLS in one dimension: K elements per filter at learned times. Arguments as for :class:`Dcls2d`.

    Input (N, I, length) or (I, length).

    Example:
        >>> layer = Dcls1d(16, 32, kernel_count=4, padding="same", dilated_kernel_size=25)
        >>> layer(torch.randn(8, 16, 100)).shape
        torch.Size([8, 32, 100])
    """

    spatial_axes = 1
    learned_axes = 1


class Dcls2d(_DclsNd):
    """DCLS in two dimensions: K elements per filter at learned places of a large kernel.

    Stands in for ``nn.Conv2d`` with a large kernel. Input (N, I, height, width) or (I, height, width).

    Args:
        in_channels: I.
        out_channels: O.
        kernel_count: K, the number of elements per filter; not the extent of the kernel.
        stride: steps between outputs, an int or one per axis.
        padding: zeros on either side, an int or one per axis; or "same" (stride 1 only) or "valid".
        dilated_kernel_size: extent of the dense kernel, an int or one per axis.
        groups: g; divides I and O.
        bias: whether a learned bias is added.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        version: the interpolation, "v0", "v1", "max" or "gauss" (:func:`dcls_ops.functional.construct_kernel`).
        shared_positions: whether all out channels have the same positions; ``P`` is then (d, 1, I/g, K). Far faster for
            sparse kernels with many out channels, whatever their extent.
        method: how the convolution is computed, "auto", "construct", "direct" or "im2col"
            (:func:`dcls_ops.functional.conv2d`).

    Raises:
        ValueError: if an argument does not fit the others; the message names it.

    Example:
        >>> layer = Dcls2d(96, 96, kernel_count=26, padding=8, dilated_kernel_size=17, groups=96)
        >>> layer(torch.randn(1, 96, 14, 14)).shape
        torch.Size([1, 96, 14, 14])
    """

    spatial_axes = 2
    learned_axes = 2


class Dcls3d(_DclsNd):
    """DCLS in three dimensions. Arguments as for :class:`Dcls2d`.

    Input (N, I, depth, height, width) or (I, depth, height, width).

    Example:
        >>> layer = Dcls3d(4, 8, kernel_count=10, padding=3, dilated_kernel_size=7)
        >>> layer(torch.randn(1, 4, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8, 8])
    """

    spatial_axes = 3
    learned_axes = 3


class _DclsPartial(DclsLayer):
    """Dense along the leading axes, learned along the last ones."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size = 1,
        padding: Size | str = 0,
        dense_kernel_size: Size = 1,
        dilated_kernel_size: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        version: str = "gauss",
        *,
        method: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_count=kernel_count,
            stride=stride,
            padding=padding,
            dense_kernel_size=dense_kernel_size,
            dilated_kernel_size=dilated_kernel_size,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            version=version,
            method=method,
            device=device,
            dtype=dtype,
        )


class Dcls2_1d(_DclsPartial):
    """Two axes: dense along the first (frequency, say), learned along the last (time).

    Arguments as for :class:`Dcls2d`, with ``dense_kernel_size`` for the first axis and ``dilated_kernel_size`` for the
    last. ``weight`` is (O, I/g, dense, K) and ``P`` (1, O, I/g, dense, K): every dense tap has K elements of its own.

    Example:
        >>> layer = Dcls2_1d(1, 8, kernel_count=2, dense_kernel_size=3, dilated_kernel_size=25, padding=(1, 12))
        >>> layer(torch.randn(4, 1, 40, 100)).shape
        torch.Size([4, 8, 40, 100])
    """

    spatial_axes = 2
    learned_axes = 1


class Dcls3_1d(_DclsPartial):
    """Three axes: dense along the first two (an image), learned along the last (time).

    Arguments as for :class:`Dcls2_1d`; ``weight`` is (O, I/g, dense, dense, K).

    Example:
        >>> layer = Dcls3_1d(2, 4, kernel_count=1, dense_kernel_size=(5, 5), dilated_kernel_size=9, padding=(2, 2, 4))
        >>> layer(torch.randn(1, 2, 8, 8, 20)).shape
        torch.Size([1, 4, 8, 8, 20])
    """

    spatial_axes = 3
    learned_axes = 1


class Dcls3_2d(_DclsPartial):
    """Three axes: dense along the first (time, say), learned along the last two (an image).

    Arguments as for :class:`Dcls2_1d`; ``weight`` is (O, I/g, dense, K) and ``P`` (2, O, I/g, dense, K).

    Example:
        >>> layer = Dcls3_2d(2, 4, kernel_count=5, dense_kernel_size=3, dilated_kernel_size=7, padding=(1, 3, 3))
        >>> layer(torch.randn(1, 2, 8, 16, 16)).shape
        torch.Size([1, 4, 8, 16, 16])
    """

    spatial_axes = 3
    learned_axes = 2


def flat_operands(
    weight: Tensor, positions: Tensor, sigma: Tensor | None, flat_dim: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Operands of one learned axis, for two-dimensional kernels of extent 1 along axis ``flat_dim``."""
    if flat_dim == 0:  # a dense axis of one tap
        return weight.unsqueeze(2), positions.unsqueeze(3), sigma.unsqueeze(3) if sigma is not None else None
    # A second axis, with one tap, on which every element is.
    after = (0, 0, 0, 0, 0, 0, 0, 1)
    return weight, F.pad(positions, after), F.pad(sigma, after, value=1.0) if sigma is not None else None


class Dcls2dK1d(DclsLayer):
    """Two axes, with a flat kernel: extent 1 along axis ``flat_dim`` and learned positions along the other one.

    Other arguments as for :class:`Dcls2d`; ``dilated_kernel_size`` is one int, and ``P`` is (1, O, I/g, K).

    Example:
        >>> layer = Dcls2dK1d(4, 8, kernel_count=3, dilated_kernel_size=11, padding=(0, 5), flat_dim=0)
        >>> layer.kernel_size
        (1, 11)
    """

    spatial_axes = 2
    learned_axes = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size = 1,
        padding: Size | str = 0,
        dilated_kernel_size: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        version: str = "gauss",
        flat_dim: int = 0,
        *,
        method: str = "auto",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if flat_dim not in (0, 1):
            raise ValueError(f"flat_dim must be 0 (height) or 1 (width), got {flat_dim!r}")
        self.flat_dim = flat_dim
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_count=kernel_count,
            stride=stride,
            padding=padding,
            dilated_kernel_size=dilated_kernel_size,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            version=version,
            method=method,
            device=device,
            dtype=dtype,
        )

    @property
    def kernel_size(self) -> tuple[int, ...]:
        (extent,) = self.dilated_kernel_size
        return (1, extent) if self.flat_dim == 0 else (extent, 1)

    def _operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return flat_operands(self.weight, self.P, self.sigma, self.flat_dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, flat_dim={self.flat_dim}"
