"""The standard shapes. Their names are stable: results of different versions are compared by them."""

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

#: Effective width of a Gaussian element, in taps.
SIGMA = 0.5
#: By how much elements on a grid are off it, in taps: where positions are integers, fewer taps are touched.
GRID_NOISE = 0.1


class Tensors(NamedTuple):
    """Arguments of a convolution, in the order in which the operators take them."""

    input: Tensor
    weight: Tensor
    positions: Tensor
    sigma: Tensor | None

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in self[1:] if tensor is not None)


class Case(NamedTuple):
    """One convolution of stride 1 without bias, padded to the size of its input."""

    name: str
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    spatial: tuple[int, ...]
    extent: int  # of the kernel along every axis, odd
    kernel_count: int
    version: str
    placement: str = "uniform"  # of the elements; "integer", or on a "grid" that out channels share

    @property
    def axes(self) -> int:
        return len(self.spatial)

    @property
    def kernel_size(self) -> list[int]:
        return [self.extent] * self.axes

    @property
    def padding(self) -> list[int]:
        return [self.extent // 2] * self.axes

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_channels

    @property
    def is_shared(self) -> bool:
        return self.placement == "grid"

    @property
    def dense_kernel_shape(self) -> list[int]:
        return [self.out_channels, self.in_channels // self.groups, *self.kernel_size]

    @property
    def dense_kernel_bytes(self) -> int:
        return 4 * math.prod(self.dense_kernel_shape)

    @property
    def nominal_flops(self) -> int:
        """The FLOPs of one pass over the dense kernel: every tap at every output pixel, outside of the input too."""
        return 2 * math.prod(self.dense_kernel_shape) * self.batch * math.prod(self.spatial)

    def shrunk(self) -> "Case":
        """A convolution of the same kind that takes little time."""
        channels = 4 if self.is_depthwise else 3
        groups = channels if self.is_depthwise else 1
        spatial = tuple(min(size, 6 + axis) for axis, size in enumerate(self.spatial))
        return self._replace(batch=2, in_channels=channels, out_channels=channels, groups=groups, spatial=spatial)

    def draw(self, device: str = "cpu") -> Tensors:
        """Random tensors that require gradients, the same ones for a case every time."""
        generator = torch.Generator().manual_seed(0)
        channels = self.in_channels // self.groups
        filters = 1 if self.is_shared else self.out_channels
        shape = (self.axes, filters, channels, self.kernel_count)
        if self.placement == "grid":
            side = round(self.kernel_count ** (1 / self.axes))
            line = torch.linspace(-(self.extent // 2), self.extent // 2, side)
            grid = torch.cartesian_prod(*[line] * self.axes).reshape(-1, self.axes)
            positions = grid.T[:, None, None] + GRID_NOISE * torch.randn(shape, generator=generator)
            positions = positions.clamp(-(self.extent // 2), self.extent // 2)
        else:
            positions = (torch.rand(shape, generator=generator) - 0.5) * (self.extent - 1)
            if self.placement == "integer":
                positions = positions.round()
        input = torch.randn(self.batch, self.in_channels, *self.spatial, generator=generator)
        weight = torch.randn(self.out_channels, channels, self.kernel_count, generator=generator)
        sigma = torch.full(shape, SIGMA) if self.version == "gauss" else None
        leaves = (t.to(device).requires_grad_() if t is not None else None for t in (input, weight, positions, sigma))
        return Tensors(*leaves)  # type: ignore[arg-type]


def _depthwise(channels: int, size: int, extent: int, kernel_count: int, version: str) -> Case:
    prefix, suffix = "" if extent == 17 else extent, "" if version == "gauss" else f"-{version}"
    name = f"depthwise{prefix}-{channels}-{size}{suffix}"
    return Case(name, 4, channels, channels, channels, (size, size), extent, kernel_count, version)


def _delays(name: str, version: str, placement: str = "uniform") -> Case:
    return Case(f"delays-{name}", 32, 256, 256, 1, (100,), 25, 1, version, placement)


def _filters(name: str, extent: int, placement: str) -> Case:
    return Case(name, 4, 64, 64, 1, (56, 56), extent, 9, "v1", placement)


_STAGES = ((96, 56), (192, 28), (384, 14), (768, 7))  # channels and image size in a ConvNeXt

CASES = {
    case.name: case
    for case in (
        *(_depthwise(*stage, 17, 26, "gauss") for stage in _STAGES),
        *(_depthwise(*stage, 17, 34, "v1") for stage in _STAGES),
        _depthwise(96, 56, 23, 26, "gauss"),
        _delays("gauss", "gauss"),
        _delays("v1", "v1"),
        _delays("discrete", "v1", "integer"),
        *(_filters(f"shared-{dilation}", 2 * dilation + 1, "grid") for dilation in (2, 4, 8, 16)),
        *(_filters(f"filters-{extent}", extent, "uniform") for extent in (5, 9, 17, 33)),
        Case("conv3d", 2, 32, 32, 1, (16, 16, 16), 7, 10, "gauss"),
    )
}


_T = TypeVar("_T")


def select(kind: str, known: Mapping[str, _T], names: list[str]) -> list[_T]:
    """The cases, or models, of these names, in their own order."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no {kind} {', '.join(unknown)}; there are {', '.join(known)}")
    return [each for name, each in known.items() if name in names]
