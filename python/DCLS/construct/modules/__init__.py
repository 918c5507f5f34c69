"""The layers of DCLS 0.1.1, with its arguments, parameters and conventions.

They differ from those of :mod:`dcls_ops.nn` in the meaning of ``P`` and ``SIG`` (:mod:`dcls_ops._original`): in two and
three dimensions the order of their axes depends on the version, and kernels that are not square have other centres.
Checkpoints of the original load as they are, and give the same results.

Differences from the original, each with a test, are in docs/migrating.md: among them, ``clamp_parameters`` stops at
taps that exist, and positions at a tap get the mean of their one-sided derivatives.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from DCLS import _installation as _installation
from dcls_ops import functional
from dcls_ops._arguments import Size, pad, to_tuple
from dcls_ops._checks import VERSIONS
from dcls_ops._original import (
    SMALLEST_SIGMA,
    SMALLEST_SIGMA_2_1D,
    position_bounds,
    positions_of,
    sigma_of,
)
from dcls_ops.nn import DclsLayer

__all__ = [
    "ConstructKernel1d",
    "ConstructKernel2_1d",
    "ConstructKernel2d",
    "ConstructKernel3_1d",
    "ConstructKernel3d",
    "Dcls1d",
    "Dcls2_1d",
    "Dcls2d",
    "Dcls2dK1d",
    "Dcls3_1d",
    "Dcls3d",
]


class _ConstructKernel(nn.Module):
    """The module that layers keep as ``DCK``: from (weight, P, SIG) to the dense kernel."""

    #: The number of axes along which positions are learned.
    learned_axes: ClassVar[int]
    smallest_sigma: ClassVar[dict[str, float]] = SMALLEST_SIGMA

    def __init__(
        self,
        out_channels: int,
        in_channels: int,
        groups: int,
        kernel_count: int,
        dilated_kernel_size: Size,
        version: str,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.in_channels = in_channels
        self.groups = groups
        self.kernel_count = kernel_count
        self.dilated_kernel_size = to_tuple("dilated_kernel_size", dilated_kernel_size, self.learned_axes)
        self.version = version

    def interpolation(self, P: Tensor, SIG: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Positions and sigma as the operators take them."""
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {self.version!r}")
        positions = positions_of(P, self.dilated_kernel_size, self.version)
        return positions, sigma_of(SIG, self.version, self.smallest_sigma)

    def forward(self, W: Tensor, P: Tensor, SIG: Tensor | None) -> Tensor:
        positions, sigma = self.interpolation(P, SIG)
        # Dense axes, where there are any, are between the channels and the elements.
        kernel = functional.construct_kernel(
            W.flatten(1, -2),
            positions.flatten(2, -2),
            self.dilated_kernel_size,
            sigma.flatten(2, -2) if sigma is not None else None,
            self.version,
        )
        return kernel.view(*W.shape[:-1], *self.dilated_kernel_size)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_count={self.kernel_count}, version={self.version!r}, "
            f"dilated_kernel_size={self.dilated_kernel_size}, groups={self.groups}"
        )


class ConstructKernel1d(_ConstructKernel):
    """(O, I/g, K) weights and (1, O, I/g, K) positions to an (O, I/g, L) kernel."""

    learned_axes = 1


class ConstructKernel2d(_ConstructKernel):
    """(O, I/g, K) weights and (2, O, I/g, K) positions to an (O, I/g, L1, L2) kernel."""

    learned_axes = 2


class ConstructKernel3d(_ConstructKernel):
    """(O, I/g, K) weights and (3, O, I/g, K) positions to an (O, I/g, L1, L2, L3) kernel."""

    learned_axes = 3


class _ConstructPartialKernel(_ConstructKernel):
    """Dense along leading axes, learned along the last one."""

    learned_axes = 1
    dense_axes: ClassVar[int]

    def __init__(
        self,
        out_channels: int,
        in_channels: int,
        groups: int,
        kernel_count: int,
        dense_kernel_size: Size,
        dilated_kernel_size: Size,
        version: str,
    ) -> None:
        super().__init__(out_channels, in_channels, groups, kernel_count, dilated_kernel_size, version)
        self.dense_kernel_size = to_tuple("dense_kernel_size", dense_kernel_size, self.dense_axes)


class ConstructKernel2_1d(_ConstructPartialKernel):
    """(O, I/g, dense, K) weights to an (O, I/g, dense, L) kernel. A Gaussian is at least 1 tap wide."""

    dense_axes = 1
    smallest_sigma = SMALLEST_SIGMA_2_1D


class ConstructKernel3_1d(_ConstructPartialKernel):
    """(O, I/g, dense, dense, K) weights to an (O, I/g, dense, dense, L) kernel."""

    dense_axes = 2


class _Layer(DclsLayer):
    """What the layers below have in common: a module that constructs kernels, and the original's conventions."""

    #: Any module that makes a dense kernel from (weight, P, SIG).
    DCK: Any
    has_original_conventions = True

    @property
    def version(self) -> str:
        """The interpolation. Can be set; ``DCK`` has the same."""
        version: str = self.DCK.version
        return version

    @version.setter
    def version(self, version: str) -> None:
        # DclsLayer sets it when all that DCK is made from is set.
        if "DCK" in self._modules:
            self.DCK.version = version
        else:
            self.DCK = self._make_dck(version)

    def _make_dck(self, version: str) -> _ConstructKernel:
        """Abstract: each of the layers makes the kind of its axes."""
        raise NotImplementedError(f"{type(self).__name__} is a base class: use a layer, such as Dcls2d")

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A module that the original has pickled as a whole lacks what it had no need of.
        super().__setstate__({"dense_kernel_size": (), **state})  # type: ignore[no-untyped-call]

    @property
    def sigma(self) -> Tensor | None:
        """Effective width of every element in taps, along the input's own axes."""
        sigma: Tensor | None = self.DCK.interpolation(self.P, self.SIG)[1]
        return sigma

    def _position_bounds(self) -> list[tuple[int, int]]:
        return position_bounds(self.dilated_kernel_size, self.version)

    def construct_kernel(self) -> Tensor:
        """The dense kernel, differentiable."""
        return self._construct(self.weight, self.P, self.SIG)

    def _construct(self, weight: Tensor, P: Tensor, SIG: Tensor | None) -> Tensor:
        kernel: Tensor = self.DCK(weight, P, SIG)
        return kernel

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight, self.bias, self.P, self.SIG)

    def _conv_forward(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        P: Tensor,
        SIG: Tensor | None,
    ) -> Tensor:
        """The convolution with parameters that may be others than the layer's; for subclasses."""
        return self._convolve(input, self._construct(weight, P, SIG), bias)


class _DclsNd(_Layer):
    """Learned along every axis."""

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
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_count=kernel_count,
            stride=stride,
            padding=padding,
            dilated_kernel_size=dilated_kernel_size,
            learned_axes=self._dck_class.learned_axes,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            version=version,
        )

    _dck_class: ClassVar[type[_ConstructKernel]]

    def _make_dck(self, version: str) -> _ConstructKernel:
        return self._dck_class(
            self.out_channels, self.in_channels, self.groups, self.kernel_count, self.dilated_kernel_size, version
        )

    @torch.no_grad()
    def _reset_positions(self) -> None:
        axes, *filters = self.P.shape
        if axes == 1:
            nn.init.normal_(self.P, 0, 0.5)
        else:
            # One axis at a time draws the original's numbers; P is set as a whole, because it may be sharded by axis.
            draws = [nn.init.normal_(self.P.new_empty((1, *filters)), 0, 0.5) for _ in range(axes)]
            self.P.copy_(torch.cat(draws))
        self.clamp_parameters()

    def _is_customised(self) -> bool:
        """Whether somebody has changed how the kernel is made, so that DCK must be called."""
        dck = self.DCK
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return type(dck) is not self._dck_class or "forward" in vars(dck) or any(getattr(dck, name) for name in hooks)

    def _conv_forward(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        P: Tensor,
        SIG: Tensor | None,
    ) -> Tensor:
        is_flat = self.spatial_axes != self._dck_class.learned_axes
        if is_flat or self._is_customised():
            return super()._conv_forward(input, weight, bias, P, SIG)
        positions, sigma = self.DCK.interpolation(P, SIG)
        padded, padding = pad(input, self._padding_per_side(), self.padding_mode)
        convolution = (functional.conv1d, functional.conv2d, functional.conv3d)[self.spatial_axes - 1]
        return convolution(
            padded,
            weight,
            positions,
            self.dilated_kernel_size,
            sigma,
            bias,
            self.stride,
            padding,
            self.groups,
            self.version,
        )


class Dcls1d(_DclsNd):
    """DCLS in one dimension. Arguments as for :class:`Dcls2d`.

    Example:
        >>> Dcls1d(16, 32, kernel_count=4, padding=12, dilated_kernel_size=25)(torch.randn(8, 16, 100)).shape
        torch.Size([8, 32, 100])
    """

    spatial_axes = 1
    _dck_class = ConstructKernel1d


class Dcls2d(_DclsNd):
    """DCLS in two dimensions.

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
        version: the interpolation, "v0", "v1", "max" or "gauss". ``P[0]`` runs along the height in "v0" and along the
            width in the others.
        use_implicit_gemm: taken for compatibility; the library chooses the fastest way by itself.

    Raises:
        ValueError: if an argument does not fit the others; the message names it.

    Example:
        >>> layer = Dcls2d(96, 96, kernel_count=34, dilated_kernel_size=17, padding=8, groups=96, version="v1")
        >>> layer(torch.randn(1, 96, 14, 14)).shape
        torch.Size([1, 96, 14, 14])
    """

    spatial_axes = 2
    _dck_class = ConstructKernel2d

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
        use_implicit_gemm: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_count,
            stride,
            padding,
            dilated_kernel_size,
            groups,
            bias,
            padding_mode,
            version,
        )
        self.use_implicit_gemm = use_implicit_gemm


class Dcls3d(_DclsNd):
    """DCLS in three dimensions. Arguments as for :class:`Dcls2d`.

    ``P`` runs along (depth, width, height) in "v0" and along (width, height, depth) in the others.

    Example:
        >>> Dcls3d(4, 8, kernel_count=10, padding=3, dilated_kernel_size=7)(torch.randn(1, 4, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8, 8])
    """

    spatial_axes = 3
    _dck_class = ConstructKernel3d


class Dcls2dK1d(_DclsNd):
    """A flat two-dimensional kernel: (L, 1) for ``flat_dim=0``, (1, L) for ``flat_dim=1``.

    Other arguments as for :class:`Dcls2d`; ``dilated_kernel_size`` is one int.

    Example:
        >>> Dcls2dK1d(4, 8, kernel_count=3, dilated_kernel_size=11, padding=(5, 0)).construct_kernel().shape
        torch.Size([8, 4, 11, 1])
    """

    spatial_axes = 2
    _dck_class = ConstructKernel1d

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
        version: str = "v1",
        flat_dim: int = 0,
    ) -> None:
        if flat_dim not in (0, 1):
            raise ValueError(f"flat_dim must be 0 (the kernel has width 1) or 1 (height 1), got {flat_dim!r}")
        self.flat_dim = flat_dim
        super().__init__(
            in_channels,
            out_channels,
            kernel_count,
            stride,
            padding,
            dilated_kernel_size,
            groups,
            bias,
            padding_mode,
            version,
        )

    @property
    def kernel_size(self) -> tuple[int, ...]:
        (extent,) = self.dilated_kernel_size
        return (extent, 1) if self.flat_dim == 0 else (1, extent)

    def _construct(self, weight: Tensor, P: Tensor, SIG: Tensor | None) -> Tensor:
        return super()._construct(weight, P, SIG).unsqueeze(-1 - self.flat_dim)


class _DclsN_Md(_Layer):
    """Dense along the leading axes, learned along the last one."""

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
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_count=kernel_count,
            stride=stride,
            padding=padding,
            dense_kernel_size=dense_kernel_size,
            dilated_kernel_size=dilated_kernel_size,
            learned_axes=1,
            groups=groups,
            bias=bias,
            padding_mode=padding_mode,
            version=version,
        )

    _dck_class: ClassVar[type[_ConstructPartialKernel]]

    def _make_dck(self, version: str) -> _ConstructKernel:
        return self._dck_class(
            self.out_channels,
            self.in_channels,
            self.groups,
            self.kernel_count,
            self.dense_kernel_size,
            self.dilated_kernel_size,
            version,
        )

    def _reset_positions(self) -> None:
        (extent,) = self.dilated_kernel_size
        nn.init.uniform_(self.P, -(extent // 2), extent // 2)
        self.clamp_parameters()


class Dcls2_1d(_DclsN_Md):
    """Two axes: dense along the first, learned along the last. Its Gaussians are at least 1 tap wide.

    Arguments as for :class:`Dcls2d`, with ``dense_kernel_size`` before ``dilated_kernel_size``, both ints.

    Example:
        >>> layer = Dcls2_1d(1, 8, kernel_count=2, dense_kernel_size=3, dilated_kernel_size=25, padding=(1, 12))
        >>> layer(torch.randn(4, 1, 40, 100)).shape
        torch.Size([4, 8, 40, 100])
    """

    spatial_axes = 2
    _dck_class = ConstructKernel2_1d

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Index tables that the original kept as buffers.
        for name in ("IDX", "lim"):
            state_dict.pop(f"{prefix}DCK.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Dcls3_1d(_DclsN_Md):
    """Three axes: dense along the first two, learned along the last.

    Arguments as for :class:`Dcls2_1d`; ``dense_kernel_size`` is an int or a pair.

    Example:
        >>> layer = Dcls3_1d(2, 4, kernel_count=1, dense_kernel_size=(5, 5), dilated_kernel_size=9, padding=(2, 2, 4))
        >>> layer(torch.randn(1, 2, 8, 8, 20)).shape
        torch.Size([1, 4, 8, 8, 20])
    """

    spatial_axes = 3
    _dck_class = ConstructKernel3_1d
