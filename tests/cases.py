"""What the tests draw their arguments from."""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from dcls_ops._checks import METHODS
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


VERSIONS = ("v0", "v1", "max", "gauss")
AXES = (1, 2, 3)

# The ways through a convolution: arguments of conv() below.
ROUTES = {
    "construct": {},
    "construct_shared": {"shared": True},
    "direct": {"method": "direct"},
    "direct_shared": {"shared": True, "method": "direct"},
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


def parameters(
    version: str,
    kernel_size: tuple[int, ...],
    *,
    out_channels: int = 4,
    in_channels: int = 2,
    kernel_count: int = 3,
    shared: bool = False,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
) -> Parameters:
    """Random parameters. Positions reach one tap beyond the kernel's ends, and are not integers."""
    shape = (1 if shared else out_channels, in_channels, kernel_count)
    positions = torch.stack([torch.rand(shape, dtype=dtype) * (extent + 1) - extent // 2 - 1 for extent in kernel_size])
    sigma = torch.rand(positions.shape, dtype=dtype) + 0.4 if version in ("max", "gauss") else None
    weight = torch.randn(out_channels, in_channels, kernel_count, dtype=dtype)
    drawn = Parameters(weight, positions, kernel_size, sigma, version)
    return drawn.leaves() if requires_grad else drawn


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
    groups: int = 2,
    dtype: torch.dtype = torch.float64,
    requires_grad: bool = False,
    method: str = "construct",
) -> Conv:
    """A small convolution with uneven sizes, stride and padding."""
    kernel_size, spatial = (4, 3, 3)[:axes], (6, 5, 4)[:axes]
    kernel = parameters(version, kernel_size, shared=shared, dtype=dtype)
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


@st.composite
def any_conv(draw: st.DrawFn, versions: tuple[str, ...] = VERSIONS, methods: tuple[str, ...] = METHODS) -> Conv:
    """Any small float64 convolution: shapes, stride, padding, groups, shared positions, layout of the input, method."""
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
    )
    in_channels = kernel.weight.shape[1] * groups
    batch = draw(st.sampled_from([(), (0,), (1,), (3,)]))
    input = _laid_out(draw, (*batch, in_channels, *spatial))
    bias = draw(st.sampled_from([None, torch.randn(kernel.weight.shape[0], dtype=torch.float64)]))
    return Conv(input, *kernel[:4], bias, stride, padding, groups, kernel.version, method)


def _laid_out(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Random numbers of the given shape: contiguous, channels last, every other column, or transposed."""
    layout = draw(st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"]))
    if layout == "channels_last":
        channel_axis = len(shape) - 1 - len(shape[2:])
        moved = (*shape[:channel_axis], *shape[channel_axis + 1 :], shape[channel_axis])
        return torch.randn(moved, dtype=torch.float64).movedim(-1, channel_axis)
    if layout == "sliced":
        return torch.randn(*shape[:-1], 2 * shape[-1], dtype=torch.float64)[..., ::2]
    if layout == "transposed":
        return torch.randn(*shape[:-2], shape[-1], shape[-2], dtype=torch.float64).mT
    return torch.randn(shape, dtype=torch.float64)


@contextmanager
def num_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def operators(graph):
    """What a graph calls, one a line; placeholders and outputs are left out."""
    return "\n".join(str(node.target) for node in graph.nodes if node.op == "call_function")


def assert_vmap_is_a_loop(function, in_dims, tensors, batch_size):
    """What vmap computes from `tensors`, batched along `in_dims`, is what a loop over the batch computes."""
    results = torch.func.vmap(function, in_dims)(*tensors)
    for entry in range(batch_size):
        arguments = (t if dim is None else t.select(dim, entry) for t, dim in zip(tensors, in_dims, strict=True))
        entries = torch.utils._pytree.tree_map(lambda t, entry=entry: t[entry], results)
        torch.testing.assert_close(entries, function(*arguments))
