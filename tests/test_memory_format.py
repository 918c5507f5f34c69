"""model.to(memory_format=...): inputs and outputs take the format, the layers' parameters do not."""

import copy

import pytest
import torch
from layers import EVERY_LAYER, input_of, name_of
from torch import nn
from torch.nn.utils import parametrize

from dcls_ops.nn import Dcls2d

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.fixture(params=[False, True], ids=["", "swapping"])
def swaps(request):
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(request.param)
    yield request.param
    torch.__future__.set_swap_module_params_on_conversion(before)


def results(model, input):
    model.zero_grad()
    output = model(input)
    output.square().sum().backward()
    return output, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(("cls", "arguments"), EVERY_LAYER, ids=name_of)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=str)
def test_parameters_stay_as_they_are(cls, arguments, memory_format, swaps):
    model = nn.Sequential(cls(4, 6, **arguments))
    input = input_of(model[0])
    expected, expected_grads = results(copy.deepcopy(model), input)
    before = dict(model.named_parameters())
    strides = {name: parameter.stride() for name, parameter in before.items()}
    model.to(memory_format=memory_format)
    takes_format = FORMATS.get(model[0].spatial_axes) == memory_format
    input = input.to(memory_format=memory_format) if takes_format else input
    output, grads = results(model, input)
    assert output.is_contiguous(memory_format=memory_format if takes_format else torch.contiguous_format)
    torch.testing.assert_close(output, expected)
    for (name, parameter), grad, expected_grad in zip(model.named_parameters(), grads, expected_grads, strict=True):
        assert parameter is before[name]
        assert parameter.stride() == grad.stride() == strides[name]
        torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize(("cls", "arguments"), EVERY_LAYER, ids=name_of)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=str)
def test_permuted_parameters_do_as_well(cls, arguments, memory_format):
    """Parameters as a checkpoint may have them."""
    layer = cls(4, 6, **arguments)
    input = input_of(layer)
    expected, expected_grads = results(copy.deepcopy(layer), input)
    for parameter in layer.parameters():
        if parameter.dim() == 2 + {torch.channels_last: 2, torch.channels_last_3d: 3}[memory_format]:
            parameter.data = parameter.data.to(memory_format=memory_format)
    output, grads = results(layer, input)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(grads, expected_grads)


def test_axes_of_size_1_keep_their_strides():
    layer = Dcls2d(4, 4, kernel_count=1, dilated_kernel_size=5, groups=4).to(memory_format=torch.channels_last)
    assert layer.P.stride() == (4, 1, 1, 1)


def test_shared_positions_stay_shared(swaps):
    first, second = (Dcls2d(4, 4, 3, dilated_kernel_size=5) for _ in range(2))
    second.P = first.P
    model = nn.Sequential(first, second).to(torch.float64, memory_format=torch.channels_last)
    assert model[0].P is model[1].P
    assert model[0].P.is_contiguous()
    assert model[0].P.dtype == torch.float64


class Half(nn.Module):
    def forward(self, tensor):
        return tensor / 2


@pytest.mark.parametrize(("cls", "arguments"), EVERY_LAYER, ids=name_of)
@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=str)
def test_parametrized_parameters_stay_as_they_are(cls, arguments, memory_format):
    layer = cls(4, 6, **arguments)
    for name in [name for name, _ in layer.named_parameters()]:
        parametrize.register_parametrization(layer, name, Half())
    strides = {name: parameter.stride() for name, parameter in layer.named_parameters()}
    layer.to(memory_format=memory_format)
    assert {name: parameter.stride() for name, parameter in layer.named_parameters()} == strides


def test_modules_inside_a_layer_take_the_format():
    class Mixing(Dcls2d):
        def __init__(self):
            super().__init__(4, 4, 3, dilated_kernel_size=5)
            self.pointwise = nn.Conv2d(4, 4, 3)

    layer = Mixing().to(memory_format=torch.channels_last)
    assert layer.pointwise.weight.is_contiguous(memory_format=torch.channels_last)
    assert layer.P.is_contiguous()


@pytest.mark.parametrize(
    "move",
    [
        lambda layer: layer.half(),
        lambda layer: layer.to("meta"),
        lambda layer: layer.to_empty(device="meta"),
        lambda layer: layer.share_memory(),
    ],
    ids=["half", "to", "to_empty", "share_memory"],
)
def test_other_conversions(move):
    layer = Dcls2d(4, 4, 3, dilated_kernel_size=5)
    strides = {name: parameter.stride() for name, parameter in layer.named_parameters()}
    moved = move(layer)
    assert moved is layer
    assert {name: parameter.stride() for name, parameter in moved.named_parameters()} == strides
