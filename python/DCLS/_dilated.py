"""The layers of 2021: elements that start on a regular dilated grid, from where learned positions move them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from DCLS import _installation as _installation
from dcls_ops import functional
from dcls_ops._arguments import Size, check_channels, check_padding_mode, for_axes, pad, padding_per_side, to_tuple
from dcls_ops._layer import LearnedSpacingLayer


class DilatedNd(LearnedSpacingLayer):
    """The base class: one parameter of positions for each axis, in the units of `scaling` taps."""

    #: Whether all out channels have the same positions.
    shared_positions: ClassVar[bool] = False

    convolution_parameters = ("weight", "P", "P_d", "P_h", "P_w", "bias")

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        check_padding_mode(padding_mode)
        check_channels(in_channels, out_channels, groups)
        if not gain > 0:
            raise ValueError(f"gain must be positive, got {gain}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = to_tuple("kernel_size", kernel_size, self.spatial_axes)
        self.stride = to_tuple("stride", stride, self.spatial_axes)
        self.padding = padding if isinstance(padding, str) else to_tuple("padding", padding, self.spatial_axes)
        self.dilation = to_tuple("dilation", dilation, self.spatial_axes)
        self.groups = groups
        self.padding_mode = padding_mode
        self.gain = gain
        for name in ("kernel_size", "stride", "dilation"):
            if any(value < 1 for value in getattr(self, name)):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if any(amount < 0 for side in self._padding_per_side() for amount in side):
            raise ValueError(f"padding must be non-negative, got {self.padding}")

        filters = (in_channels // groups, *self.kernel_size)
        self.weight = Parameter(torch.empty(out_channels, *filters))
        for name in self._position_names():
            self.register_parameter(
                name, Parameter(torch.empty(filters if self.shared_positions else (out_channels, *filters)))
            )
        self.register_parameter("bias", Parameter(torch.empty(out_channels)) if bias else None)
        self.reset_parameters()

    @property
    def extent(self) -> tuple[int, ...]:
        """The extent of the dense kernel."""
        return tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))

    @property
    def scaling(self) -> float:
        """The number of taps by which a position of 1 moves an element."""
        return self.gain * math.sqrt(self._filter_size)

    @property
    def _filter_size(self) -> int:
        """The number of elements of a filter."""
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    @property
    def positions(self) -> Tensor:
        """(d, O or 1, I/g, K), in taps from the middle of the kernel, as :mod:`dcls_ops` takes them."""
        positions = _positions(
            list(self._position_parameters()), self.kernel_size, self.dilation, self.extent, self.scaling
        ).flatten(-self.spatial_axes)
        return positions.unsqueeze(1) if self.shared_positions else positions

    def reset_parameters(self) -> None:
        """Draws weight and bias as ``nn.ConvNd``, and positions that spread by half the dilation."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self._filter_size)
            nn.init.uniform_(self.bias, -bound, bound)
        for parameter, dilation in zip(self._position_parameters(), self.dilation, strict=True):
            nn.init.normal_(parameter, 0, dilation / 2 / self.scaling)

    def construct_kernel(self) -> Tensor:
        """The dense kernel (O, I/g, *extent), differentiable."""
        if self._is_plain():
            return self.weight
        return functional.construct_kernel(self.weight.flatten(2), self.positions, self.extent, version="v0")

    def forward(self, input: Tensor) -> Tensor:
        padded, padding = pad(input, self._padding_per_side(), self.padding_mode)
        if self._is_plain():
            plain = for_axes(F, "conv", self.spatial_axes)
            output: Tensor = plain(padded, self.weight, self.bias, self.stride, padding, 1, self.groups)
        else:
            output = for_axes(functional, "conv", self.spatial_axes)(
                padded,
                self.weight.flatten(2),
                self.positions,
                self.extent,
                bias=self.bias,
                stride=self.stride,
                padding=padding,
                groups=self.groups,
                version="v0",
            )
        return output

    def extra_repr(self) -> str:
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}",
            f"padding={self.padding!r}, dilation={self.dilation}",
        ]
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode!r}")
        if self.gain != 1:
            parts.append(f"gain={self.gain}")
        return ", ".join(parts)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Released code kept the positions of all axes in one P, and those of filters in other units.
        names = self._position_names()
        if self.spatial_axes > 1 and not self.shared_positions and f"{prefix}P" in state_dict:
            stacked = state_dict.pop(f"{prefix}P") * math.sqrt(self.out_channels)
            state_dict.update({f"{prefix}{name}": positions for name, positions in zip(names, stacked, strict=True)})
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def _is_plain(self) -> bool:
        """With dilation 1 there is no room between elements to move in."""
        return all(dilation == 1 for dilation in self.dilation)

    def _position_names(self) -> tuple[str, ...]:
        return ("P",) if self.spatial_axes == 1 else ("P_d", "P_h", "P_w")[-self.spatial_axes :]

    def _position_parameters(self) -> Iterator[Parameter]:
        return (getattr(self, name) for name in self._position_names())

    def _padding_per_side(self) -> tuple[tuple[int, int], ...]:
        return padding_per_side(self.padding, self.extent, self.stride)


def _positions(
    parameters: Sequence[Tensor],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    extent: Sequence[int],
    scaling: float,
) -> Tensor:
    """(d, ...) positions in taps from the middle, from the parameters of the axes."""
    # Put together by scattering: autocast would cast what torch.stack takes, and half positions with it.
    positions = parameters[0].new_zeros(len(parameters), *parameters[0].shape)
    for axis, parameter in enumerate(parameters):
        grid = torch.arange(kernel_size[axis], dtype=parameter.dtype, device=parameter.device) * dilation[axis]
        grid = grid.view(-1, *[1] * (len(kernel_size) - 1 - axis))
        taps = (parameter * scaling + grid).clamp(0, extent[axis] - 1)
        positions = torch.select_scatter(positions, taps - extent[axis] // 2, 0, axis)
    return positions


torch.fx.wrap("_positions")  # Python looks at tensors in it, for which torch.fx has no values
