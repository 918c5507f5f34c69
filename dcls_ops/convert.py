"""Turning models and checkpoints into those of this package."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dcls_ops._original import SMALLEST_SIGMA_2_1D, in_input_order, positions_of
from dcls_ops._versions import SMALLEST_SIGMA
from dcls_ops.nn import Dcls2_1d, DclsLayer

__all__ = ["load_original"]


def load_original(model: nn.Module, state_dict: Mapping[str, Any]) -> nn.Module:
    """Loads a checkpoint of the original package (DCLS 0.1.1) into a model with layers of :mod:`dcls_ops.nn`.

    The axes of ``P`` and ``SIG`` are put into the input's order, which the original's is or is not depending on the
    version, and the centres of kernels that are not square are moved, so that the model computes what the original did.
    All else is loaded as it is, layers of the package ``DCLS`` too, which have the original's conventions.

    Args:
        model: a model whose names and versions are those of the checkpoint's.
        state_dict: what the original's ``model.state_dict()`` gave.

    Returns:
        The model.

    Raises:
        ValueError: if a key or a shape of one has no match in the other; the message lists all. The model is then left
            as it was.

    Example:
        >>> import torch
        >>> from dcls_ops.nn import Dcls2d
        >>> checkpoint = {
        ...     "0.weight": torch.ones(1, 1, 1),
        ...     "0.P": torch.tensor([2.0, 1.0]).view(2, 1, 1, 1),  # (width, height) for "v1"
        ...     "0.bias": torch.zeros(1),
        ... }
        >>> model = nn.Sequential(Dcls2d(1, 1, kernel_count=1, dilated_kernel_size=5, version="v1"))
        >>> load_original(model, checkpoint)[0].P.flatten().tolist()
        [1.0, 2.0]
    """
    converted = OrderedDict(state_dict)
    if hasattr(state_dict, "_metadata"):
        converted._metadata = state_dict._metadata  # type: ignore[attr-defined]
    # A layer that occurs twice has two names in a state_dict.
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, DclsLayer):
            _convert_layer(layer, f"{name}." if name else "", converted)
    _check_shared_positions(model, converted)
    expected = model.state_dict()
    problems = {
        "missing in the checkpoint": sorted(expected.keys() - converted.keys()),
        "not in the model": sorted(converted.keys() - expected.keys()),
        "of another shape": [
            f"{key} {_shape(converted[key])} instead of {_shape(expected[key])}"
            for key in sorted(expected.keys() & converted.keys())
            if isinstance(expected[key], Tensor) and _shape(converted[key]) != _shape(expected[key])
        ],
    }
    if any(problems.values()):
        lines = [f"  {what}: {', '.join(keys)}" for what, keys in problems.items() if keys]
        raise ValueError("\n".join(["the checkpoint does not fit the model", *lines]))
    model.load_state_dict(converted)
    return model


def _convert_layer(layer: DclsLayer, prefix: str, state: dict[str, Any]) -> None:
    # Index tables, which some versions of the original kept as buffers.
    for name in ("DCK.IDX", "DCK.lim"):
        state.pop(prefix + name, None)
    if layer.has_original_conventions:
        return
    for name in ("P", "SIG"):
        if name not in layer._parameters:
            raise ValueError(f"{prefix}{name} must be a plain parameter, got a parametrized one: load first")
    P, SIG = state.get(f"{prefix}P"), state.get(f"{prefix}SIG")
    # A checkpoint of a layer with other axes is for the comparison of shapes to refuse.
    axes = len(layer.dilated_kernel_size)
    if isinstance(P, Tensor) and P.shape[:1] == (axes,):
        state[f"{prefix}P"] = positions_of(P, layer.dilated_kernel_size, layer.version)
    if isinstance(SIG, Tensor) and SIG.shape[:1] == (axes,):
        if isinstance(layer, Dcls2_1d) and layer.version == "gauss":
            state[f"{prefix}SIG"] = SIG.abs() + (SMALLEST_SIGMA_2_1D["gauss"] - SMALLEST_SIGMA["gauss"])
        else:
            state[f"{prefix}SIG"] = in_input_order(SIG, axes, layer.version)


def _check_shared_positions(model: nn.Module, converted: Mapping[str, Any]) -> None:
    """Layers that share a parameter must agree on what it is converted to."""
    first_names: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = first_names.setdefault(id(parameter), name)
        one, other = converted.get(first), converted.get(name)
        if isinstance(one, Tensor) and isinstance(other, Tensor) and not torch.equal(one, other):
            raise ValueError(f"{first} and {name} are one parameter of the model, but differ in the checkpoint's terms")


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
