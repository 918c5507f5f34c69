"""Who is compared: the original package, PyTorch's convolutions on the folded kernel, and our operators."""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases import Case, Tensors
from dcls_ops import reference
from dcls_ops._original import in_input_order
from dcls_ops._versions import SMALLEST_SIGMA
from dcls_ops.nn import Dcls1d, Dcls2d, Dcls3d

ORIGINAL, COMPILED = "original", "original, compiled"
ATEN, AUTO, DEPTHWISE = "F.conv", "dcls, auto", "depthwise_conv2d"
EVAL = "layer.eval()"
CHANNELS_LAST = ", channels_last"
#: What is timed; construction only where there is something to construct.
MEASURES = ("forward", "grad_input", "grad_parameters", "construction", "step")


@dataclass(frozen=True)
class Implementation:
    """One way of computing a case, from leaves that require gradients."""

    input: Tensor
    parameters: tuple[Tensor, ...]
    run: Callable[[], Tensor]
    construct: Callable[[], Tensor] | None = None
    # (grad_output, of the input?, of the parameters?): instead of autograd, where only the operator is of interest.
    gradients: Callable[[Tensor, bool, bool], Any] | None = None
    is_compiled: bool = False
    is_inference: bool = False

    def measures(self) -> tuple[str, ...]:
        if self.is_compiled:
            return ("step",)  # each of the others is compiled by itself, for half a minute
        if self.is_inference:
            return ("forward",)
        return tuple(measure for measure in MEASURES if measure != "construction" or self.construct)

    def prepare(self, measure: str) -> Callable[[], Any]:
        """What is timed. A gradient alone is taken of a graph in which nothing else requires one."""
        if measure == "forward":
            return torch.no_grad()(self.run)
        if measure == "construction":
            assert self.construct is not None
            return self._backward(self.construct, self.parameters)
        if measure == "step":
            return self._backward(self.run, (self.input, *self.parameters))
        of_input = measure == "grad_input"
        if self.gradients is not None:
            return partial(self.gradients, torch.randn_like(self.run().detach()), of_input, not of_input)
        wanted = (self.input,) if of_input else self.parameters
        for leaf in (self.input, *self.parameters):
            leaf.requires_grad_(any(leaf is each for each in wanted))
        output = self.run()
        for leaf in (self.input, *self.parameters):
            leaf.requires_grad_()
        return partial(torch.autograd.grad, output, wanted, torch.randn_like(output), retain_graph=True)

    def _backward(self, forward: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> Callable[[], Any]:
        output = forward()
        grad = torch.randn_like(output)
        if self.is_compiled:  # which happens at the first call
            torch.autograd.grad(output, leaves, grad)

        def forward_and_backward() -> Any:
            output = forward()
            return output, torch.autograd.grad(output, leaves, grad)

        return forward_and_backward


def load_original(folder: Path) -> ModuleType | None:
    """The original's layers, without putting its folder on Python's path, which would hide our package of that name."""
    path = folder / "DCLS" / "construct" / "modules.py"
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("original_dcls", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original_version(folder: Path) -> str:
    return next((found.version for found in distributions(name="DCLS", path=[str(folder)])), "of unknown version")


@contextmanager
def silent() -> Iterator[None]:
    """Without the three warnings that the original logs for every layer it makes."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _leaf(tensor: Tensor, is_channels_last: bool = False) -> Tensor:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    memory_format = formats[tensor.dim()] if is_channels_last else torch.contiguous_format
    return tensor.detach().clone(memory_format=memory_format).requires_grad_()


def _original(
    case: Case, module: ModuleType, tensors: Tensors, is_channels_last: bool = False, is_compiled: bool = False
) -> Implementation:
    with silent():
        layer = getattr(module, f"Dcls{case.axes}d")(
            case.in_channels, case.out_channels, kernel_count=case.kernel_count, padding=tuple(case.padding),
            dilated_kernel_size=tuple(case.kernel_size), groups=case.groups, bias=False, version=case.version,
        )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(tensors.weight)
        layer.P.copy_(in_input_order(tensors.positions, case.axes, case.version))
        if tensors.sigma is not None:
            layer.SIG.copy_(in_input_order(tensors.sigma, case.axes, case.version) - SMALLEST_SIGMA[case.version])
    input = _leaf(tensors.input, is_channels_last)
    parameters = tuple(p for p in (layer.weight, layer.P, getattr(layer, "SIG", None)) if p is not None)
    run: Callable[[], Tensor] = partial(layer, input)
    if is_compiled:
        with torch.no_grad():
            layer(input[:1])  # it makes index tensors at the first call, which do not compile
        run = partial(torch.compile(layer, dynamic=False), input)
    construct = partial(layer.DCK, layer.weight, layer.P, getattr(layer, "SIG", None))
    return Implementation(input, parameters, run, construct, is_compiled=is_compiled)


def _folded(case: Case, tensors: Tensors) -> Tensor:
    with torch.no_grad():
        return reference.construct_kernel(*tensors[1:3], case.kernel_size, tensors.sigma, case.version)


def _aten(case: Case, tensors: Tensors, is_channels_last: bool = False) -> Implementation:
    input = _leaf(tensors.input, is_channels_last)
    kernel = _leaf(_folded(case, tensors), is_channels_last)
    convolution: Any = (F.conv1d, F.conv2d, F.conv3d)[case.axes - 1]
    return Implementation(
        input, (kernel,), partial(convolution, input, kernel, None, 1, case.padding, groups=case.groups)
    )


def _depthwise(case: Case, tensors: Tensors, is_channels_last: bool = False) -> Implementation:
    input, kernel = _leaf(tensors.input, is_channels_last), _leaf(_folded(case, tensors))
    stride, padding = [1] * case.axes, case.padding

    def gradients(grad: Tensor, of_input: bool, of_kernel: bool) -> Any:
        mask = [of_input, of_kernel, False]
        return torch.ops.dcls.depthwise_conv2d_backward(grad, input, kernel, stride, padding, mask)

    run = partial(torch.ops.dcls.depthwise_conv2d, input, kernel, None, stride, padding)
    return Implementation(input, (kernel,), run, gradients=gradients)


def _ours(case: Case, tensors: Tensors, method: str, is_channels_last: bool = False) -> Implementation:
    input = _leaf(tensors.input, is_channels_last)
    weight, positions, *rest = leaves = tuple(map(_leaf, tensors.parameters))
    sigma = rest[0] if rest else None
    run = partial(
        getattr(torch.ops.dcls, f"conv{case.axes}d"), input, weight, positions, case.kernel_size, sigma, None,
        [1] * case.axes, case.padding, case.groups, case.version, method,
    )  # fmt: skip
    construct = partial(torch.ops.dcls.construct_kernel, weight, positions, case.kernel_size, sigma, case.version)
    # Which method is named makes no difference to construction: measured once.
    return Implementation(input, leaves, run, construct if method == "auto" and not is_channels_last else None)


def _eval(case: Case, tensors: Tensors, is_channels_last: bool = False) -> Implementation:
    """A layer that does not train, which keeps its kernel."""
    make = (Dcls1d, Dcls2d, Dcls3d)[case.axes - 1]
    layer = make(
        case.in_channels, case.out_channels, case.kernel_count, padding=case.padding,
        dilated_kernel_size=case.kernel_size, groups=case.groups, bias=False, version=case.version,
    ).eval()  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(tensors.weight)
        layer.P.copy_(tensors.positions)
        if tensors.sigma is not None:
            assert layer.SIG is not None
            layer.SIG.copy_(tensors.sigma - SMALLEST_SIGMA[case.version])
    input = _leaf(tensors.input, is_channels_last)
    return Implementation(input, (), partial(layer, input), is_inference=True)


def implementations(case: Case, original: ModuleType | None) -> dict[str, Callable[[Tensors], Implementation]]:
    """Who can compute a case: makers by name."""
    makers: dict[str, Callable[[Tensors], Implementation]] = {}
    if original is not None:
        makers[ORIGINAL] = partial(_original, case, original)
        makers[COMPILED] = partial(_original, case, original, is_compiled=True)
        if case.is_depthwise:
            makers[COMPILED + CHANNELS_LAST] = partial(
                _original, case, original, is_channels_last=True, is_compiled=True
            )
    makers[ATEN] = partial(_aten, case)
    if case.axes > 1:
        makers[ATEN + CHANNELS_LAST] = partial(_aten, case, is_channels_last=True)
    if case.is_depthwise:
        makers[DEPTHWISE] = partial(_depthwise, case)
        makers[DEPTHWISE + CHANNELS_LAST] = partial(_depthwise, case, is_channels_last=True)
    for method in ("auto", "construct", "direct", *(["im2col"] if case.is_shared else [])):
        makers[f"dcls, {method}"] = partial(_ours, case, method=method)
    if case.is_depthwise:
        makers[AUTO + CHANNELS_LAST] = partial(_ours, case, method="auto", is_channels_last=True)
        makers[EVAL] = partial(_eval, case)
        makers[EVAL + CHANNELS_LAST] = partial(_eval, case, is_channels_last=True)
    return makers
