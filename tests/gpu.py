"""What the tests on a GPU have in common: where they run, how tensors get there, and what is right."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from comparing import TOLERANCE_OF_GPU, assert_within
from drawing import AXES, ROUTES, Conv, Parameters, channels_last, parameters, sized_conv
from torch import Tensor
from torch.library import opcheck

from dcls_ops import _library, reference
from dcls_ops.reference import function_of_tensors

GPU = torch.device("cuda", 0)
SECOND_GPU = torch.device("cuda", 1)


def why_not() -> str | None:
    """Why these tests cannot run here, or None."""
    if torch.version.cuda is None:
        return f"needs an NVIDIA GPU, and torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU, and torch.cuda.is_available() is False"
    if _library.CUDA_PROBLEM is not None:
        return f"dcls_ops runs without CUDA kernels: {_library.CUDA_PROBLEM}"
    if "dcls_cuda" not in _library.LOADED:
        return "dcls_ops is installed without CUDA kernels: build it where nvcc is found, or with DCLS_CUDA=ON"
    return None


def to_gpu(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the same numbers and strides on the GPU."""
    moved = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype or tensor.dtype, device=GPU)
    return moved.copy_(tensor.detach())


class Call(NamedTuple):
    """A call of an operator, and the reference for it."""

    op: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    arguments: tuple[Any, ...]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Call":
        return self._replace(arguments=tuple(function(a) if isinstance(a, Tensor) else a for a in self.arguments))

    def to_gpu(self, dtype: torch.dtype | None = None) -> "Call":
        return self.map(lambda tensor: to_gpu(tensor, dtype))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(a for a in self.arguments if isinstance(a, Tensor))

    def results(self, grad_output: Tensor | None = None) -> tuple[Tensor, ...]:
        """The output, and the gradients of all tensors where the output's gradient is grad_output, or itself."""
        return _results(self.op, self.arguments, grad_output)

    def expected(self, grad_output: Tensor) -> tuple[Tensor, ...]:
        return _results(self.reference, self.arguments, grad_output)


def _results(function: Callable[..., Tensor], arguments: tuple[Any, ...], grad_output: Tensor | None) -> Any:
    of_tensors, at = function_of_tensors(function, arguments)
    leaves = [arguments[index].detach().requires_grad_() for index in at]
    output = of_tensors(*leaves)
    gradients = torch.autograd.grad(output, leaves, output.detach() if grad_output is None else grad_output)
    return output.detach(), *gradients


def call(case: Conv | Parameters) -> Call:
    """The convolution, or the construction of the kernel."""
    if isinstance(case, Conv):
        return Call(case.op, reference.conv, tuple(case))
    return Call(torch.ops.dcls.construct_kernel.default, reference.construct_kernel, tuple(case))


def depthwise(
    input_shape: tuple[int, ...],
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    multiplier: int = 1,
    layout: Callable[[Tensor], Tensor] = lambda x: x,
) -> Call:
    channels = input_shape[1] * multiplier
    input, kernel = layout(torch.randn(input_shape)), torch.randn(channels, 1, *kernel_size)
    arguments = (input, kernel, torch.randn(channels), stride, padding)
    return Call(torch.ops.dcls.depthwise_conv2d.default, reference.depthwise_conv2d, arguments)


def larger_conv(axes: int, **options: Any) -> Conv:
    """A convolution that keeps a GPU busy for a while; options as for sized_conv."""
    spatial, kernel_size = ((1000,), (40, 44), (12, 14, 16))[axes - 1], ((25,), (9, 7), (5, 4, 3))[axes - 1]
    sizes = {"out_channels": 32, "groups": 2, "kernel_count": 5, "stride": (2, 1, 1)[:axes]}
    return sized_conv((8, 16, *spatial), kernel_size, version="gauss", padding="half", **{**sizes, **options})


# Every operator and method, as something that makes a call of it in float32 on the GPU.
EVERY_CALL: dict[str, Callable[[], Call]] = {
    **{
        f"conv{axes}d-{route}": lambda axes=axes, route=route: call(larger_conv(axes, **ROUTES[route]))
        for axes in AXES
        for route in ROUTES
    },
    "conv2d-depthwise": lambda: call(larger_conv(2, groups=16)),
    "conv2d-depthwise-channels_last": lambda: call(larger_conv(2, groups=16, layout=channels_last)),
    "construct_kernel": lambda: call(parameters("gauss", (17, 17), out_channels=96, in_channels=2, kernel_count=26)),
    "construct_kernel-shared": lambda: call(
        parameters("max", (5, 6, 7), out_channels=32, in_channels=8, kernel_count=9, shared=True)
    ),
    "depthwise_conv2d": lambda: depthwise((8, 16, 40, 44), (17, 13), padding=(8, 6)),
    "depthwise_conv2d-channels_last": lambda: depthwise(
        (8, 16, 40, 44), (17, 13), stride=(2, 1), padding=(8, 6), layout=channels_last
    ),
}


def make(name: str, input_dtype: torch.dtype = torch.float32) -> Call:
    """The call of that name on the GPU. Parameters of a convolution stay in float32."""
    made = EVERY_CALL[name]().to_gpu(torch.float32)
    if name.startswith("conv"):
        return made._replace(arguments=(made.arguments[0].to(input_dtype), *made.arguments[1:]))
    return made.map(lambda tensor: tensor.to(input_dtype))


def assert_agrees(on_gpu: Call, change_grad: Callable[[Tensor], Tensor] = lambda grad: grad) -> None:
    """Output and all gradients are those that the reference computes in float64 on the CPU from the same numbers.

    ``change_grad`` may lay out the gradient of the output in another way.
    """
    output = on_gpu.op(*on_gpu.arguments)
    # Drawn on the CPU, like all else here: the numbers are then the same for everybody, whatever the GPU.
    grad_output = change_grad(torch.empty_like(output).copy_(torch.randn(output.shape)))
    actual = on_gpu.results(grad_output)
    expected = on_gpu.map(lambda tensor: tensor.cpu().double()).expected(grad_output.cpu().double())
    tolerance = TOLERANCE_OF_GPU[on_gpu.tensors[0].dtype]
    names = ("output", *(f"gradient of tensor {number}" for number in range(len(on_gpu.tensors))))
    for name, a, e, like in zip(names, actual, expected, (on_gpu.tensors[0], *on_gpu.tensors), strict=True):
        assert (a.device, a.dtype) == (GPU, like.dtype), name
        assert_within(a, e, tolerance, name)


def opcheck_backward(op: Any, arguments: tuple[Any, ...]) -> None:
    """opcheck of a backward operator with and without gradients of its own."""
    opcheck(op, arguments)
    differentiable = tuple(a.detach().requires_grad_() if isinstance(a, Tensor) else a for a in arguments)
    # Not "test_aot_dispatch_dynamic", which torch 2.10 and 2.11 fail in derivatives of their own. tests/ops has it,
    # with the torch that the library is developed with.
    opcheck(op, differentiable, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def on_a_grid(case: Any) -> Any:
    """The case with positions at odd multiples of 1/32 tap and widths at multiples of 1/16, which every dtype holds.

    So an element reaches into the kernel by 1/32 tap at least, or not at all. One that reaches in by less than float32
    resolves has a normalisation, and thus gradients, without a correct digit.
    """
    return case._replace(
        positions=(case.positions * 16).floor() / 16 + 1 / 32,
        sigma=(case.sigma * 16).round() / 16 if case.sigma is not None else None,
    )
