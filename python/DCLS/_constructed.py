"""The layers of 0.1.1: their kernels are constructed by a module of their own, ``DCK``.

They differ from those of :mod:`dcls_ops.nn` in the meaning of ``P`` and ``SIG`` (:mod:`dcls_ops._original`): in two and
three dimensions the order of their axes depends on the version, and kernels that are not square have other centres.
Checkpoints of the original load as they are, and give the same results.

Differences from the original, each with a test, are in docs/migrating.md: among them, ``clamp_parameters`` stops at
taps that exist, and positions at a tap get the mean of their one-sided derivatives.
"""

from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from DCLS import _exact, _operands
from DCLS import _installation as _installation
from DCLS._construct_kernel import (
    LAYERS_OF,
    AnyConstructKernel,
    ConstructKernel1d,
    ConstructKernel2_1d,
    ConstructKernel2d,
    ConstructKernel3_1d,
    ConstructKernel3d,
)
from dcls_ops._arguments import Size, to_tuple
from dcls_ops._original import position_bounds
from dcls_ops._versions import effective_sigma
from dcls_ops.nn import DclsLayer, flat_operands


class _Layer(DclsLayer):
    """What the layers below have in common: a module that constructs kernels, and the original's conventions."""

    #: The interpolation. Can be set; ``DCK`` has the same.
    version: str
    #: Any module that makes a dense kernel from (weight, P, SIG).
    DCK: Any
    has_original_conventions = True

    _dck_class: ClassVar[Any] = None  # an AnyConstructKernel, of a layer that is ready to use

    __constants__: ClassVar[list[str]] = [
        "stride",
        "padding",
        "dilated_kernel_size",
        "groups",
        "padding_mode",
        "output_padding",
        "in_channels",
        "out_channels",
        "kernel_count",
        "version",
    ]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size,
        padding: Size | str,
        dense_kernel_size: Size | None,
        dilated_kernel_size: Size,
        transposed: bool,
        output_padding: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        version: str,
    ) -> None:
        # A subclass made by others says by its arguments how many axes it has.
        if not hasattr(self, "spatial_axes"):
            self.spatial_axes = len(stride)  # type: ignore[misc, arg-type]
        if not hasattr(self, "learned_axes"):
            self.learned_axes = len(dilated_kernel_size)  # type: ignore[misc, arg-type]
        super().__init__(
            # The filters of a transposed convolution belong to its in channels.
            in_channels=out_channels if transposed else in_channels,
            out_channels=in_channels if transposed else out_channels,
            kernel_count=kernel_count,
            stride=stride,
            padding=padding,
            dense_kernel_size=dense_kernel_size,
            dilated_kernel_size=dilated_kernel_size,
            groups=groups,
            bias=bias and not transposed,
            padding_mode=padding_mode,
            version=version,
            device="meta" if transposed else None,
        )
        self.transposed = transposed
        self.output_padding = to_tuple("output_padding", output_padding, self.spatial_axes)
        if transposed:
            self.in_channels, self.out_channels = in_channels, out_channels
            self.to_empty(device=torch.get_default_device())
            if bias:
                self.bias = Parameter(torch.empty(out_channels))
            self.reset_parameters()
        self._reversed_padding_repeated_twice = self._padding_for_pad()
        if self._dck_class:
            sizes = (*([self.dense_kernel_size] if self.dense_kernel_size else []), self.dilated_kernel_size)
            self.DCK = self._dck_class(out_channels, in_channels, groups, kernel_count, *sizes, version)

    def _padding_for_pad(self) -> tuple[int, ...]:
        """The padding as F.pad takes it: from the last axis to the first, before and after."""
        return tuple(amount for side in reversed(self._padding_per_side()) for amount in side)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "version":
            if "DCK" in self._modules:
                self.DCK.version = value
        elif name == "DCK":
            self._follow(value)

    def _follow(self, dck: nn.Module) -> None:
        """The module decides what is computed, so its version is the layer's."""
        if isinstance(dck, AnyConstructKernel):
            LAYERS_OF.setdefault(dck, WeakSet()).add(self)
        if hasattr(dck, "version"):
            vars(self)["version"] = dck.version
        self.update_touched_taps()

    def update_touched_taps(self) -> None:
        if isinstance(self._modules.get("DCK"), AnyConstructKernel):
            super().update_touched_taps()

    def _widths(self, SIG: Tensor) -> Tensor:
        # Whatever its shape: P and SIG need not fit a DCK that has just been set, others may follow.
        return effective_sigma(SIG, self.DCK.smallest_sigma[self.version])

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A module that the original has pickled as a whole lacks what it had no need of.
        super().__setstate__({"dense_kernel_size": (), "transposed": False, **state})  # type: ignore[no-untyped-call]
        defaults = {
            "output_padding": (0,) * self.spatial_axes,
            "_reversed_padding_repeated_twice": self._padding_for_pad(),
        }
        vars(self).update({name: value for name, value in defaults.items() if name not in vars(self)})
        if "DCK" in self._modules:
            self._follow(self.DCK)

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Extent of the dense kernel along every spatial axis."""
        size = (*self.dense_kernel_size, *self.dilated_kernel_size)
        return (*[1] * (self.spatial_axes - len(size)), *size)

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
        if self.transposed:
            raise NotImplementedError(f"{type(self).__name__} is transposed: it needs a _conv_forward of its own")
        P = _operands.no_wider(P, weight, input)
        SIG = _operands.no_wider(SIG, weight, input) if SIG is not None else None
        if not self._has_operator():
            kernel = self._construct(weight, P, SIG)
            return _operands.dense_convolution(
                input, kernel, bias, self.stride, self._padding_per_side(), self.padding_mode, self.groups
            )
        weight, positions, sigma = self._operands_of(weight, P, SIG)
        return self._convolve(input, weight, positions, sigma, bias.to(weight.dtype) if bias is not None else None)

    def _operands_of(self, weight: Tensor, P: Tensor, SIG: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        operands: tuple[Tensor, Tensor, Tensor | None] = self.DCK.operands(weight, P, SIG)
        return operands

    def _operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self._operands_of(self.weight, self.P, self.SIG)

    def _has_operator(self) -> bool:
        dck = self.DCK
        return isinstance(dck, AnyConstructKernel) and dck.is_as_it_came() and not _exact.is_enabled()


class _DclsNd(_Layer):
    """Learned along every axis; for subclasses, which set ``DCK``. The arguments are the original's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size,
        padding: Size | str,
        dilated_kernel_size: Size,
        transposed: bool,
        output_padding: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        version: str,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_count,
            stride,
            padding,
            None,
            dilated_kernel_size,
            transposed,
            output_padding,
            groups,
            bias,
            padding_mode,
            version,
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


class _WithDefaults(_DclsNd):
    """The arguments of the layers: without those of transposed convolutions."""

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
            in_channels,
            out_channels,
            kernel_count,
            stride,
            padding,
            dilated_kernel_size,
            False,
            0,
            groups,
            bias,
            padding_mode,
            version,
        )


class Dcls1d(_WithDefaults):
    """DCLS in one dimension. Arguments as for :class:`Dcls2d`.

    Example:
        >>> Dcls1d(16, 32, kernel_count=4, padding=12, dilated_kernel_size=25)(torch.randn(8, 16, 100)).shape
        torch.Size([8, 32, 100])
    """

    spatial_axes = 1
    learned_axes = 1
    _dck_class = ConstructKernel1d


class Dcls2d(_WithDefaults):
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
    learned_axes = 2
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
        # What code that has copied the original's forward asks, before it calls another package.
        self.use_implicit_gemm = False
        halves = tuple(extent // 2 for extent in self.dilated_kernel_size)
        self.cond = in_channels == out_channels == groups and self.padding == halves


class Dcls3d(_WithDefaults):
    """DCLS in three dimensions. Arguments as for :class:`Dcls2d`.

    ``P`` runs along (depth, width, height) in "v0" and along (width, height, depth) in the others.

    Example:
        >>> Dcls3d(4, 8, kernel_count=10, padding=3, dilated_kernel_size=7)(torch.randn(1, 4, 8, 8, 8)).shape
        torch.Size([1, 8, 8, 8, 8])
    """

    spatial_axes = 3
    learned_axes = 3
    _dck_class = ConstructKernel3d


class Dcls2dK1d(_WithDefaults):
    """A flat two-dimensional kernel: (L, 1) for ``flat_dim=0``, (1, L) for ``flat_dim=1``.

    Other arguments as for :class:`Dcls2d`; ``dilated_kernel_size`` is one int.

    Example:
        >>> Dcls2dK1d(4, 8, kernel_count=3, dilated_kernel_size=11, padding=(5, 0)).construct_kernel().shape
        torch.Size([8, 4, 11, 1])
    """

    spatial_axes = 2
    learned_axes = 1
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

    def _operands_of(self, weight: Tensor, P: Tensor, SIG: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        return flat_operands(*super()._operands_of(weight, P, SIG), flat_dim=1 - self.flat_dim)


class _DclsN_Md(_Layer):
    """Dense along the leading axes, learned along the last one; for subclasses, which set ``DCK``.

    The arguments are the original's.
    """

    __constants__: ClassVar[list[str]] = ["dense_kernel_size", *_Layer.__constants__]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_count: int,
        stride: Size,
        padding: Size | str,
        dense_kernel_size: Size,
        dilated_kernel_size: Size,
        transposed: bool,
        output_padding: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        version: str,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_count,
            stride,
            padding,
            dense_kernel_size,
            dilated_kernel_size,
            transposed,
            output_padding,
            groups,
            bias,
            padding_mode,
            version,
        )

    def _reset_positions(self) -> None:
        (extent,) = self.dilated_kernel_size
        nn.init.uniform_(self.P, -(extent // 2), extent // 2)
        self.clamp_parameters()


class _PartialWithDefaults(_DclsN_Md):
    """The arguments of the layers: without those of transposed convolutions."""

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
            in_channels,
            out_channels,
            kernel_count,
            stride,
            padding,
            dense_kernel_size,
            dilated_kernel_size,
            False,
            0,
            groups,
            bias,
            padding_mode,
            version,
        )


class Dcls2_1d(_PartialWithDefaults):
    """Two axes: dense along the first, learned along the last. Its Gaussians are at least 1 tap wide.

    Arguments as for :class:`Dcls2d`, with ``dense_kernel_size`` before ``dilated_kernel_size``, both ints.

    Example:
        >>> layer = Dcls2_1d(1, 8, kernel_count=2, dense_kernel_size=3, dilated_kernel_size=25, padding=(1, 12))
        >>> layer(torch.randn(4, 1, 40, 100)).shape
        torch.Size([4, 8, 40, 100])
    """

    spatial_axes = 2
    learned_axes = 1
    _dck_class = ConstructKernel2_1d

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Index tables that the original kept as buffers.
        for name in ("IDX", "lim"):
            state_dict.pop(f"{prefix}DCK.{name}", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Dcls3_1d(_PartialWithDefaults):
    """Three axes: dense along the first two, learned along the last.

    Arguments as for :class:`Dcls2_1d`; ``dense_kernel_size`` is an int or a pair.

    Example:
        >>> layer = Dcls3_1d(2, 4, kernel_count=1, dense_kernel_size=(5, 5), dilated_kernel_size=9, padding=(2, 2, 4))
        >>> layer(torch.randn(1, 2, 8, 8, 20)).shape
        torch.Size([1, 4, 8, 8, 20])
    """

    spatial_axes = 3
    learned_axes = 1
    _dck_class = ConstructKernel3_1d
