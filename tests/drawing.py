"""What the tests draw their arguments from."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from dcls_ops._versions import METHODS, VERSIONS, has_sigma
from dcls_ops.nn import Dcls1d, Dcls2_1d, Dcls2d, Dcls2dK1d, Dcls3_1d, Dcls3_2d, Dcls3d

# A layer of every kind, with the extent of its dense kernel.
LAYERS = [
    (Dcls1d, {"dilated_kernel_size": 7}, (7,)),
    (Dcls2d, {"dilated_kernel_size": (5, 4)}, (5, 4)),
    (Dcls3d, {"dilated_kernel_size": (3, 5, 4)}, (3, 5, 4)),
    (Dcls2d, {"dilated_kernel_size": (5, 4), "shared_positions": True}, (5, 4)),
    (Dcls3d, {"dilated_kernel_size": 3, "shared_positions": True, "method": "im2col"}, (3, 3, 3)),
    (Dcls2_1d, {"dense_kernel_size": 3, "dilated_kernel_size": 6}, (3, 6)),
    (Dcls3_1d, {"dense_kernel_size": (2, 3), "dilated_kernel_size": 5}, (2, 3, 5)),
    (Dcls3_2d, {"dense_kernel_size": 2, "dilated_kernel_size": (4, 3)}, (2, 4, 3)),
    (Dcls2dK1d, {"dilated_kernel_size": 5, "flat_dim": 0}, (1, 5)),
    (Dcls2dK1d, {"dilated_kernel_size": 5, "flat_dim": 1}, (5, 1)),
]


def randomise(layer):
    """Parameters as training may leave them: positions up to a tap beyond their bounds, widths of either sign."""
    with torch.no_grad():
        for positions, extent in zip(layer.P, layer.dilated_kernel_size, strict=True):
            positions.uniform_(-(extent // 2) - 1, extent // 2 + 1)
        if layer.SIG is not None:
            layer.SIG.uniform_(-1, 1.5)
    return layer


AXES = (1, 2, 3)

# A small kernel for each number of axes.
KERNEL_SIZES = {1: (5,), 2: (4, 3), 3: (3, 2, 4)}

# The ways through a convolution: arguments of conv() below.
ROUTES = {
    "construct": {},
    "construct_shared": {"shared": True},
    "direct": {"method": "direct"},
    "direct_shared": {"shared": True, "method": "direct"},
    "construct_partly_dense": {"dense_axes": 1},
    "direct_partly_dense": {"dense_axes": 1, "method": "direct"},
    "im2col": {"shared": True, "method": "im2col"},
}


class Parameters(NamedTuple):
    """The parameters of one kernel, in the order in which construct_kernel takes them."""

    weight: Tensor
    positions: Tensor
    kernel_size: tuple[int, ...]
    sigma: Tensor | None
    version: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.weight, self.positions, self.sigma) if t is not None)

    def to(self, dtype: torch.dtype) -> "Parameters":
        return self.map(lambda t: t.detach().to(dtype))

    def map(self, function) -> "Parameters":
        return self._replace(
            weight=function(self.weight),
            positions=function(self.positions),
            sigma=function(self.sigma) if self.sigma is not None else None,
        )

    def leaves(self) -> "Parameters":
        return self.map(lambda t: t.detach().clone().requires_grad_())


def well_conditioned(drawn: Parameters) -> Parameters:
    """Elements within the kernel and not narrow: to divide by a small sum of factors would magnify rounding."""
    learned = drawn.kernel_size[-len(drawn.positions) :]
    positions = [p.clamp(-(extent // 2), (extent - 1) // 2) for p, extent in zip(drawn.positions, learned, strict=True)]
    return drawn._replace(
        positions=torch.stack(positions), sigma=drawn.sigma.clamp(min=0.8) if drawn.sigma is not None else None
    )


def parameters(
    version: str,
    kernel_size: tuple[int, ...],
    *,
    out_channels: int = 4,
    in_channels: int = 2,
    kernel_count: int = 3,
    shared: bool = False,
    dense_axes: int = 0,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
) -> Parameters:
    """Random parameters. Positions reach one tap beyond the kernel's ends, and are not integers."""
    dense, learned = kernel_size[:dense_axes], kernel_size[dense_axes:]
    shape = (1 if shared else out_channels, in_channels, *dense, kernel_count)
    positions = torch.stack([torch.rand(shape, dtype=dtype) * (extent + 1) - extent // 2 - 1 for extent in learned])
    sigma = torch.rand(positions.shape, dtype=dtype) + 0.4 if has_sigma(version) else None
    weight = torch.randn(out_channels, in_channels, *dense, kernel_count, dtype=dtype)
    drawn = Parameters(weight, positions, kernel_size, sigma, version)
    return drawn.leaves() if requires_grad else drawn


@st.composite
def any_parameters(draw: st.DrawFn) -> Parameters:
    """Any small kernel."""
    axes = draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    dense_axes = draw(st.integers(0, axes - 1))
    return parameters(
        draw(st.sampled_from(VERSIONS)),
        tuple(draw(st.integers(1, 9)) for _ in range(axes)),
        out_channels=draw(st.integers(1, 5)),
        in_channels=draw(st.integers(1, 3)),
        kernel_count=draw(st.integers(1, 7)),
        shared=draw(st.booleans()),
        dense_axes=dense_axes,
    )


class Conv(NamedTuple):
    """The arguments of one convolution, in the operator's order."""

    input: Tensor
    weight: Tensor
    positions: Tensor
    kernel_size: tuple[int, ...]
    sigma: Tensor | None
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    version: str
    method: str = "auto"
    touched_taps: int | None = None

    @property
    def op(self):
        return getattr(torch.ops.dcls, f"conv{len(self.kernel_size)}d").default

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for t in self if isinstance(t, Tensor))

    def replace_tensors(self, tensors) -> "Conv":
        remaining = iter(tensors)
        return Conv(*(next(remaining) if isinstance(a, Tensor) else a for a in self))

    def leaves(self, dtype: torch.dtype | None = None) -> "Conv":
        return self.replace_tensors(t.detach().to(dtype).requires_grad_() for t in self.tensors)


def conv(
    version: str,
    axes: int,
    *,
    shared: bool = False,
    dense_axes: int = 0,
    groups: int = 2,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
    method: str = "construct",
) -> Conv:
    """A small convolution with uneven sizes, stride and padding."""
    kernel_size, spatial = (4, 3, 3)[:axes], (6, 5, 4)[:axes]
    kernel = parameters(version, kernel_size, shared=shared, dense_axes=min(dense_axes, axes - 1), dtype=dtype)
    input = torch.randn(2, 2 * groups, *spatial, dtype=dtype)
    bias = torch.randn(4, dtype=dtype)
    stride, padding = (2, 1, 1)[:axes], (1, 1, 0)[:axes]
    drawn = Conv(
        input,
        kernel.weight,
        kernel.positions,
        kernel_size,
        kernel.sigma,
        bias,
        stride,
        padding,
        groups,
        version,
        method,
    )
    return drawn.leaves() if requires_grad else drawn


def sized_conv(
    input: tuple[int, ...],
    kernel_size: tuple[int, ...],
    *,
    version: str = "v1",
    method: str = "construct",
    out_channels: int = 4,
    groups: int = 1,
    kernel_count: int = 3,
    stride: tuple[int, ...] | None = None,
    padding: tuple[int, ...] | Literal["half"] | None = None,
    shared: bool = False,
    dense_axes: int = 0,
    layout: Callable[[Tensor], Tensor] = lambda image: image,
    dtype: torch.dtype = torch.float64,
) -> Conv:
    """A convolution of these sizes, by default without stride and padding. Positions are shared for "im2col"."""
    axes = len(kernel_size)
    if padding == "half":
        padding = tuple(extent // 2 for extent in kernel_size)
    kernel = parameters(
        version,
        kernel_size,
        out_channels=out_channels,
        in_channels=input[1] // groups,
        kernel_count=kernel_count,
        shared=shared or method == "im2col",
        dense_axes=min(dense_axes, axes - 1),
        dtype=dtype,
    )
    image, bias = layout(torch.randn(input, dtype=dtype)), torch.randn(out_channels, dtype=dtype)
    return Conv(image, *kernel[:4], bias, stride or (1,) * axes, padding or (0,) * axes, groups, version, method)


@st.composite
def any_conv(
    draw: st.DrawFn,
    versions: tuple[str, ...] = VERSIONS,
    methods: tuple[str, ...] = METHODS,
    dtype: torch.dtype = torch.float64,
) -> Conv:
    """Any small convolution: shapes, dense axes, stride, padding, groups, shared positions, input's layout, method."""
    axes = draw(st.integers(1, 3))
    ints = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel_size, stride, padding = ints(1, 6), ints(1, 3), ints(0, 3)
    spatial = tuple(
        max(1, extent - 2 * pad) + extra for extent, pad, extra in zip(kernel_size, padding, ints(0, 5), strict=True)
    )
    groups = draw(st.integers(1, 3))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    method = draw(st.sampled_from(methods))
    shared = method == "im2col" or draw(st.booleans())
    kernel = parameters(
        draw(st.sampled_from(versions)),
        kernel_size,
        out_channels=groups * draw(st.integers(1, 3)),
        in_channels=draw(st.integers(1, 3)),
        kernel_count=draw(st.integers(1, 4)),
        shared=shared,
        dense_axes=0 if method == "im2col" else draw(st.integers(0, axes - 1)),
        dtype=dtype,
    )
    if dtype == torch.float32:
        kernel = well_conditioned(kernel)
    in_channels = kernel.weight.shape[1] * groups
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    input = laid_out(draw, (*batch, in_channels, *spatial), dtype)
    bias = draw(st.sampled_from([None, torch.randn(kernel.weight.shape[0], dtype=dtype)]))
    touched_taps = draw(st.sampled_from([None, 1, 3, 100]))
    return Conv(input, *kernel[:4], bias, stride, padding, groups, kernel.version, method, touched_taps)


class DepthwiseShape(NamedTuple):
    """Sizes of a depthwise convolution, and the shape of its input."""

    input: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    channels: int

    @property
    def output(self) -> tuple[int, ...]:
        sizes = zip(self.input[-len(self.stride) :], self.kernel_size, self.stride, self.padding, strict=True)
        return (*self.input[: -len(self.stride)], *((size + 2 * p - k) // s + 1 for size, k, s, p in sizes))


@st.composite
def depthwise_shapes(draw: st.DrawFn, axes: int) -> DepthwiseShape:
    """Kernels of up to 31 taps an axis; fewer channels than a vector has lanes, as many, more, and no multiple."""
    longest, most_extra = ((31, 70), (31, 20), (6, 9))[axes - 1]
    ints = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    kernel_size, stride, padding = ints(1, longest), ints(1, 3), ints(0, longest // 2 + 2)
    spatial = tuple(
        max(1, extent - 2 * pad) + extra
        for extent, pad, extra in zip(kernel_size, padding, ints(0, most_extra), strict=True)
    )
    channels = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 19, 35]))
    batch = draw(st.sampled_from([(), (0,), *((n,) for n in (1, 2, 3, 17) if n * channels <= 40)]))
    torch.manual_seed(draw(st.integers(0, 2**32)))
    return DepthwiseShape((*batch, channels, *spatial), kernel_size, stride, padding, channels)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def laid_out(draw: st.DrawFn, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers of the given shape, in any order in memory."""
    layout = draw(st.sampled_from(["contiguous", "channels_last", "sliced", "transposed", "rows_alike", "all_alike"]))
    if layout == "channels_last":
        channel_axis = len(shape) - 1 - len(shape[2:])
        moved = (*shape[:channel_axis], *shape[channel_axis + 1 :], shape[channel_axis])
        return torch.randn(moved, dtype=dtype).movedim(-1, channel_axis)
    if layout == "sliced":
        return torch.randn(*shape[:-1], 2 * shape[-1], dtype=dtype)[..., ::2]
    if layout == "transposed":
        return torch.randn(*shape[:-2], shape[-1], shape[-2], dtype=dtype).mT
    if layout == "rows_alike":
        return torch.randn(*shape[:-2], 1, shape[-1], dtype=dtype).expand(shape)
    if layout == "all_alike":
        return torch.randn((), dtype=dtype).expand(shape)
    return torch.randn(shape, dtype=dtype)
