"""The modules that the layers of 0.1.1 keep as ``DCK``: from (weight, P, SIG) to the dense kernel."""

from collections.abc import MutableMapping
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from DCLS import _exact, _operands
from dcls_ops._arguments import Size, to_tuple
from dcls_ops._original import SMALLEST_SIGMA_2_1D
from dcls_ops._versions import SMALLEST_SIGMA, VERSIONS, has_sigma

#: The layers that keep a module as their DCK. Not in the module itself: its copies and pickles would take them along.
LAYERS_OF: MutableMapping[nn.Module, "WeakSet[Any]"] = WeakKeyDictionary()


class AnyConstructKernel(nn.Module):
    """The module that layers keep as ``DCK``: from (weight, P, SIG) to the dense kernel."""

    #: The number of axes along which positions are learned.
    learned_axes: ClassVar[int]
    smallest_sigma: ClassVar[dict[str, float]] = SMALLEST_SIGMA

    dense_kernel_size: tuple[int, ...] = ()

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

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "version":
            for layer in LAYERS_OF.get(self, ()):
                if layer.DCK is self:
                    vars(layer)["version"] = value

    @property
    def _filters(self) -> tuple[int, ...]:
        """The shape of a weight: (O, I/g, *dense, K)."""
        per_group = self.in_channels // self.groups
        return (self.out_channels, per_group, *self.dense_kernel_size, self.kernel_count)

    def operands(
        self, W: Tensor, P: Tensor, SIG: Tensor | None, version: str | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, positions and sigma as the operators take them: in one dtype, with all entries, in their own axes."""
        version = version or self.version
        together = _operands.operands(W, P, SIG, self._filters, self.dilated_kernel_size, version, self.smallest_sigma)
        # Not unpacked, which torch.fx cannot do.
        return together[0], together[1], together[2] if has_sigma(version) else None

    def interpolation(self, P: Tensor, SIG: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Positions and sigma as the operators take them."""
        _, positions, sigma = self.operands(P.new_ones(()), P, SIG)
        return positions, sigma

    def forward(self, W: Tensor, P: Tensor, SIG: Tensor | None) -> Tensor:
        if self.version == "v0":
            return self.forward_v0(W, P)
        if self.version == "v1":
            return self.forward_v1(W, P)
        if self.version == "max":
            return self.forward_vmax(W, P, SIG)
        if self.version == "gauss":
            return self.forward_vgauss(W, P, SIG)
        raise ValueError(f"version must be one of {', '.join(VERSIONS)}, got {self.version!r}")

    # Methods of their own, because subclasses override one of them.
    def forward_v0(self, W: Tensor, P: Tensor) -> Tensor:
        return self._construct(W, P, None, "v0")

    def forward_v1(self, W: Tensor, P: Tensor) -> Tensor:
        return self._construct(W, P, None, "v1")

    def forward_vmax(self, W: Tensor, P: Tensor, SIG: Tensor | None) -> Tensor:
        return self._construct(W, P, SIG, "max")

    def forward_vgauss(self, W: Tensor, P: Tensor, SIG: Tensor | None) -> Tensor:
        return self._construct(W, P, SIG, "gauss")

    def _construct(self, W: Tensor, P: Tensor, SIG: Tensor | None, version: str) -> Tensor:
        if _exact.is_enabled():
            return _exact.construct_kernel(
                W, P, SIG, self._filters, self.dilated_kernel_size, version, self.smallest_sigma
            )
        weight, positions, sigma = self.operands(W, P, SIG, version)
        size = (*self.dense_kernel_size, *self.dilated_kernel_size)
        kernel: Tensor = torch.ops.dcls.construct_kernel(weight, positions, size, sigma, version)
        return kernel

    def is_as_it_came(self) -> bool:
        """Whether nobody has changed how the kernel is made, so that an operator may make it."""
        changeable = ("forward", "forward_v0", "forward_v1", "forward_vmax", "forward_vgauss", "operands")
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return all(
            name not in vars(self) and getattr(type(self), name) is vars(AnyConstructKernel)[name]
            for name in changeable
        ) and not any(getattr(self, name) for name in hooks)

    # The tables of indices that the original makes at its first forward; for code that has copied one of its formulas.

    @property
    def IDX(self) -> Tensor:  # noqa: N802
        """(*dilated_kernel_size, *dense, d, O, I/g, K): the index of every tap along the last axis, ..., the first."""
        return self._table("IDX")

    @IDX.setter
    def IDX(self, value: Tensor | None) -> None:  # noqa: N802
        vars(self)["IDX"] = value

    @property
    def lim(self) -> Tensor:
        """(d, O, I/g, K): the extents."""
        return self._table("lim")

    @lim.setter
    def lim(self, value: Tensor | None) -> None:
        vars(self)["lim"] = value

    def _table(self, name: str) -> Tensor:
        if vars(self).get(name) is None:
            layer = next(iter(LAYERS_OF.get(self, ())), None)
            self.__init_tmp_variables__(layer.weight.device if layer is not None else torch.get_default_device())
        table: Tensor = vars(self)[name]
        return table

    def __init_tmp_variables__(self, device: torch.device | str) -> None:
        """Makes both tables, unless they are there and on the device."""
        device = torch.empty(0, device=device).device
        tables = vars(self)
        if any(tables.get(name) is None or tables[name].device != device for name in ("IDX", "lim")):
            size, axes = self.dilated_kernel_size, self.learned_axes
            elements = (self.out_channels, self.in_channels // self.groups, self.kernel_count)
            grids = torch.meshgrid(*(torch.arange(extent, device=device) for extent in size), indexing="ij")
            index = torch.stack(grids[::-1], -1).view(*size, *[1] * len(self.dense_kernel_size), axes, 1, 1, 1)
            tables["IDX"] = index.expand(*size, *self.dense_kernel_size, axes, *elements)
            tables["lim"] = torch.tensor(size, device=device).view(axes, 1, 1, 1).expand(axes, *elements)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_count={self.kernel_count}, version={self.version!r}, "
            f"dilated_kernel_size={self.dilated_kernel_size}, groups={self.groups}"
        )


class ConstructKernel1d(AnyConstructKernel):
    """(O, I/g, K) weights and (1, O, I/g, K) positions to an (O, I/g, L) kernel."""

    learned_axes = 1


class ConstructKernel2d(AnyConstructKernel):
    """(O, I/g, K) weights and (2, O, I/g, K) positions to an (O, I/g, L1, L2) kernel."""

    learned_axes = 2


class ConstructKernel3d(AnyConstructKernel):
    """(O, I/g, K) weights and (3, O, I/g, K) positions to an (O, I/g, L1, L2, L3) kernel."""

    learned_axes = 3


class _ConstructPartialKernel(AnyConstructKernel):
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
