"""Trained models with plain convolutions in the place of the layers."""

import copy
import dis
import inspect
import itertools
from collections.abc import Iterable, Iterator
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dcls_ops._arguments import to_tuple
from dcls_ops._costs import is_dense_cheapest
from dcls_ops._dense import DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d
from dcls_ops._layer import LearnedSpacingLayer
from dcls_ops.nn import DclsLayer

__all__ = ["fold"]

# The packages whose layers do nothing but convolve.
_PACKAGES = ("dcls_ops", "DCLS")

# Any: nn.ConvNd is annotated for tuples of its own length.
_CONVOLUTIONS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DEPTHWISE_CONVOLUTIONS: tuple[Any, ...] = (DepthwiseConv1d, DepthwiseConv2d, DepthwiseConv3d)

# Inputs for which a dense kernel must be the cheapest: numbers of images, and how many times the kernel's extent.
_INPUTS = ((1, 1), (8, 3), (8, 8))

# What a layer does between forward and PyTorch's convolution. A class that changes it computes something else.
_INNER_METHODS = ("_conv_forward", "_construct", "_convolve", "construct_kernel")

# What a folded convolution has been made by, and does not look at again.
_SETTINGS = (
    "version", "stride", "padding", "padding_mode", "groups", "kernel_size", "dilated_kernel_size", "dense_kernel_size",
    "dilation", "flat_dim",
)  # fmt: skip
_EVERY_PARAMETER = ("parameters", "named_parameters", "state_dict")

_HOOKS = {
    "forward hooks": ("_forward_hooks", "_forward_pre_hooks"),
    "backward hooks": ("_backward_hooks", "_backward_pre_hooks"),
}
_STATE_HOOKS = (
    "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
)  # fmt: skip

_Entry = type | nn.Module | str


def fold(model: nn.Module, *, skip: _Entry | Iterable[_Entry] = (), backend: str = "torch") -> nn.Module:
    """A copy of the model in which every DCLS layer is a plain ``nn.Conv1d/2d/3d`` that computes the same.

    A layer that occurs in several places stays one layer. Parameters require gradients where the layer's weight and
    bias do. Weights of depthwise two-dimensional convolutions padded by more than 6 are channels_last, and so is then
    what they compute: PyTorch is many times as fast with them on the CPU. What wraps a layer stays: after
    ``torch.compile(layer)`` the convolution is compiled when it first runs.

    With ``backend="dcls"`` the model needs this package, and is about as fast on the CPU as its layers were: depthwise
    convolutions have the same parameters, contiguous, and call ``torch.ops.dcls.depthwise_conv*``; layers that compute
    faster without a dense kernel, such as sparse ones and delays, are left as they are.

    A class with a ``forward`` of its own stays too, and its ``super().forward(input)`` runs a plain convolution,
    ``layer.folded_convolution``, in place of the layer's parameters. Such a model needs this package to run.

    Args:
        model: a model, or a layer.
        skip: what to leave as it is, with all that is in it: classes, modules of the model, or their names in
            ``model.named_modules()``.
        backend: "torch", or "dcls" for the speed of the layers on the CPU.

    Raises:
        ValueError: if a layer has hooks, which would be lost; if its class has a ``forward`` that uses the parameters
            or sets what the convolution is made by, or changes how the kernel is made or convolved with; the message
            lists every such layer. If ``skip`` names what is not in the model, or ``backend`` is neither of the two.

    Example:
        >>> from dcls_ops.nn import Dcls2d
        >>> fold(nn.Sequential(Dcls2d(3, 8, kernel_count=4, dilated_kernel_size=7)))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(7, 7), stride=(1, 1))
        )
    """
    if backend not in ("torch", "dcls"):
        raise ValueError(f"backend must be 'torch' or 'dcls', got {backend!r}")
    skipped = _modules_in(model, skip)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LearnedSpacingLayer)
        and not isinstance(module, _Folded)
        and id(module) not in skipped
        and (backend == "torch" or _has_cheapest_dense_kernel(module))
    }
    refused = [
        f"\n  {name or 'the model itself'} ({_class_of(layer).__name__}): {reason}"
        for name, layer in layers.items()
        if (reason := _reason_not_to_fold(layer)) is not None
    ]
    if refused:
        raise ValueError(f"fold() cannot fold these layers; with skip= it leaves them as they are{''.join(refused)}")
    # What deepcopy finds in its memo it takes as the copy.
    memo: dict[int, Any] = {}
    around = []
    for layer in layers.values():
        convolution = _folded(layer, backend)
        if _has_forward_of_its_own(layer):
            folded_class = _folded_class(_class_of(layer))
            memo[id(layer)] = folded_class.__new__(folded_class)
            around.append((layer, convolution))
        else:
            memo[id(layer)] = convolution
    for layer, convolution in around:
        memo[id(layer)].__dict__.update(copy.deepcopy(_state_around(layer, convolution), memo))
    copied: nn.Module = copy.deepcopy(model, memo=memo)
    return copied


def _folded(layer: Any, backend: str) -> nn.Module:
    """The convolution alone."""
    # Parameters may have several dtypes; the layer computes in its weight's.
    dtype = layer.weight.dtype
    kernel = layer.construct_kernel().detach().to(dtype, copy=True)
    is_ours = backend == "dcls" and kernel.shape[0] == layer.groups == layer.in_channels
    convolution: nn.Module = (_DEPTHWISE_CONVOLUTIONS if is_ours else _CONVOLUTIONS)[kernel.dim() - 3](
        layer.in_channels,
        layer.out_channels,
        tuple(kernel.shape[2:]),
        layer.stride,
        layer.padding,
        groups=layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    if not is_ours and _is_slow_unless_channels_last(layer, kernel):
        # Not contiguous(), which sees no difference where there is one channel.
        kernel = kernel.to(memory_format=torch.channels_last)
    convolution.weight = nn.Parameter(kernel, requires_grad=layer.weight.requires_grad)
    if layer.bias is not None:
        bias = layer.bias.detach().to(dtype, copy=True)
        convolution.bias = nn.Parameter(bias, requires_grad=layer.bias.requires_grad)
    return convolution.train(layer.training)


def _has_cheapest_dense_kernel(layer: Any) -> bool:
    """By the rule of method "auto", for small inputs and for large ones."""
    if not isinstance(layer, DclsLayer) or not layer._has_operator():
        return True
    with torch.no_grad():
        weight, positions, _ = layer._operands()
    kernel_size = layer.kernel_size
    return all(
        is_dense_cheapest(
            images,
            tuple(times * extent for extent in kernel_size),
            weight.shape,
            positions.shape,
            kernel_size,
            to_tuple("stride", layer.stride, len(kernel_size)),
            tuple(extent // 2 for extent in kernel_size),
            layer.groups,
            layer.version,
            layer.method,
            layer.touched_taps,
        )
        for images, times in _INPUTS
    )


def _is_slow_unless_channels_last(layer: Any, kernel: Tensor) -> bool:
    """Whether PyTorch would write out columns of the image: beyond this padding, oneDNN has no kernel for it."""
    is_depthwise = kernel.dim() == 4 and kernel.shape[1] == 1 and layer.groups == layer.out_channels
    most = max(amount for side in layer._padding_per_side() for amount in side)
    return is_depthwise and layer.padding_mode == "zeros" and most > 6


class _Folded(LearnedSpacingLayer):
    """Comes after the class of a layer and before those of the package, so that ``super().forward`` is this one."""

    folded_convolution: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self.folded_convolution(input)
        return output

    def construct_kernel(self) -> Tensor:
        kernel: Any = self.folded_convolution.weight
        return kernel  # type: ignore[no-any-return]

    def clamp_parameters(self) -> None:
        """There are no positions."""

    def update_touched_taps(self) -> None:
        """There are no elements."""

    def reset_parameters(self) -> None:
        self.folded_convolution.reset_parameters()  # type: ignore[operator]

    def extra_repr(self) -> str:
        return ""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class is made by fold(), so pickle cannot find it by its name.
        return _new_folded, (type(self).__mro__[1],), self.__dict__


def _folded_class(cls: type) -> Any:
    package_class = next(base for base in cls.__mro__ if _is_ours(base))
    before_package = type("Folded", (_Folded, package_class), {"__module__": __name__})
    return type(cls.__name__, (cls, before_package), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _new_folded(cls: type) -> Any:
    folded_class = _folded_class(cls)
    return folded_class.__new__(folded_class)


def _state_around(layer: LearnedSpacingLayer, convolution: nn.Module) -> dict[str, Any]:
    """The attributes of a layer, with the convolution in place of all that it is made of."""
    made_of = (*layer.convolution_parameters, "DCK", "parametrizations")

    def rest(members: dict[str, Any]) -> dict[str, Any]:
        return {name: member for name, member in members.items() if name not in made_of}

    # Not by __getstate__, which parametrized modules refuse.
    state = {name: value for name, value in layer.__dict__.items() if name != "_compiled_call_impl"}
    for name in _STATE_HOOKS:
        hooks = state[name].items()
        state[name] = type(state[name])((key, hook) for key, hook in hooks if not _is_of_parametrizations(hook))
    modules = {**rest(state["_modules"]), "folded_convolution": convolution}
    return {**state, "_parameters": rest(state["_parameters"]), "_modules": modules}


def _modules_in(model: nn.Module, skip: _Entry | Iterable[_Entry]) -> set[int]:
    """The ids of the modules that ``skip`` names, and of those in them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    entries = (skip,) if isinstance(skip, _Entry) else tuple(skip)
    skipped: set[int] = set()
    for entry in entries:
        named = [
            module
            for name, module in modules.items()
            if name == entry or module is entry or (isinstance(entry, type) and isinstance(module, entry))
        ]
        if not named and not isinstance(entry, type):
            raise ValueError(f"skip must hold classes, modules of the model or their names, got {entry!r}")
        skipped.update(id(inner) for module in named for inner in module.modules())
    return skipped


def _class_of(layer: nn.Module) -> type:
    return parametrize.type_before_parametrizations(layer)


def _is_ours(cls: type) -> bool:
    return cls.__module__.split(".")[0] in _PACKAGES


def _own_classes(layer: nn.Module) -> list[type]:
    """The classes by which a layer differs from the package's."""
    classes = itertools.takewhile(lambda cls: not _is_ours(cls), _class_of(layer).__mro__)
    return [cls for cls in classes if cls.__module__.split(".")[0] != "torch"]  # FSDP's, for one


def _has_forward_of_its_own(layer: nn.Module) -> bool:
    return any(name in vars(cls) for cls in _own_classes(layer) for name in ("forward", "__call__"))


def _reason_not_to_fold(layer: LearnedSpacingLayer) -> str | None:
    for kind, names in _HOOKS.items():
        if any(getattr(layer, name) for name in names):
            return f"it has {kind}, which would be lost; remove them first"
    if not _has_forward_of_its_own(layer):
        state_hooks = (hook for name in _STATE_HOOKS for hook in getattr(layer, name).values())
        if not all(map(_is_of_parametrizations, state_hooks)):
            return "it has state_dict hooks, which would be lost; remove them first"
    for name in ("forward", *_INNER_METHODS):
        if name in vars(layer):
            return f"its {name} was replaced"
    for cls in _own_classes(layer):
        for name in _INNER_METHODS:
            if name in vars(cls):
                return f"{cls.__name__} has a {name} of its own"
    read, written = _used_by_forward(layer)
    unfoldable = {*layer.convolution_parameters, *_INNER_METHODS, *_EVERY_PARAMETER, "DCK", "positions", "sigma"}
    for used, what in (
        ((read | written) & (unfoldable - {"construct_kernel"}), "uses {}, not super().forward alone"),
        (written & set(_SETTINGS), "sets {}, which a folded convolution does not look at"),
    ):
        if used:
            return f"its forward {what.format(', '.join(f'self.{name}' for name in sorted(used)))}"
    if "clamp_parameters" in read and not _is_clamped(layer):
        return "its forward calls self.clamp_parameters, which moves positions: call it before fold()"
    return None


def _is_of_parametrizations(hook: Any) -> bool:
    """Whether a hook is one that torch.nn.utils.parametrizations adds; it goes with them."""
    return bool(getattr(hook, "__module__", "") == "torch.nn.utils.parametrizations")


def _is_clamped(layer: Any) -> bool:
    """Whether positions are where clamp_parameters would move them."""
    clamped = copy.deepcopy(layer)
    clamped.clamp_parameters()
    return all(map(torch.equal, layer.parameters(), clamped.parameters()))


def _used_by_forward(layer: nn.Module) -> tuple[set[str], set[str]]:
    """Attributes of self that a forward of a layer's own reads and sets, in the methods that it calls too."""
    read: set[str] = set()
    written: set[str] = set()
    pending = {"forward", "__call__"}
    while pending:
        read |= pending
        members = [vars(cls)[name] for cls in _own_classes(layer) for name in pending if name in vars(cls)]
        found = [use for member in members for use in _attributes_of_self(member)]
        written |= {name for name, is_set in found if is_set}
        pending = {name for name, is_set in found if not is_set} - read
    return read, written


def _attributes_of_self(member: Any) -> Iterator[tuple[str, bool]]:
    """(name, whether it is set)."""
    function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "func", None) or member)
    code = getattr(function, "__code__", None)
    if code is not None and code.co_argcount > 0:
        yield from _attributes_of(code.co_varnames[0], code)


def _attributes_of(variable: str, code: CodeType) -> Iterator[tuple[str, bool]]:
    before: Any = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR") and before is not None:
            # Some Pythons load two variables in one instruction.
            loaded = before.argval[-1] if isinstance(before.argval, tuple) else before.argval
            if ("LOAD_FAST" in before.opname or "LOAD_DEREF" in before.opname) and loaded == variable:
                yield instruction.argval, instruction.opname == "STORE_ATTR"
        before = instruction
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _attributes_of(variable, constant)
