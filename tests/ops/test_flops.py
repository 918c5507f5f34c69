"""FlopCounterMode counts a layer as the convolution that it folds into."""

import pytest
import torch
from layers import EVERY_LAYER, input_of, name_of
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dcls_ops import functional
from dcls_ops._info import OPERATORS
from dcls_ops._versions import METHODS
from dcls_ops.deploy import fold
from dcls_ops.nn import Dcls2d


def flops(function, *inputs):
    """Forward and backward."""
    with FlopCounterMode(display=False) as counter:
        function(*inputs).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("cls", "arguments"), EVERY_LAYER, ids=name_of)
@pytest.mark.parametrize(
    "settings", [{}, {"groups": 4}, {"groups": 2, "stride": 2, "padding": 1, "bias": False}], ids=str
)
def test_a_layer_counts_as_its_convolution(cls, arguments, settings):
    layer = cls(4, 8, **arguments, **settings)
    folded = fold(layer)
    batch = input_of(layer)
    for input in (batch.clone().requires_grad_(), batch, batch[0].clone().requires_grad_()):
        expected = flops(folded, input)
        assert expected > 0
        assert flops(layer, input) == expected


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("P", "SIG"), ("weight", "P", "SIG")], ids=str)
def test_whatever_the_method_and_what_is_frozen(method, frozen):
    layer = Dcls2d(4, 8, 3, dilated_kernel_size=5, shared_positions=True, method=method)
    for name in frozen:
        getattr(layer, name).requires_grad_(False)
    folded = fold(layer)
    folded.weight.requires_grad_(len(frozen) < 3)
    input = torch.randn(2, 4, 11, 11, requires_grad=True)
    assert flops(layer, input) == flops(folded, input)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("batch", [(2,), ()], ids=str)
def test_depthwise_conv(axes, batch):
    convolution = getattr(torch.nn, f"Conv{axes}d")(4, 8, 5, stride=2, groups=4)
    function = getattr(functional, f"depthwise_conv{axes}d")
    input = torch.randn(*batch, 4, *[11] * axes, requires_grad=True)
    ours = flops(lambda x: function(x, convolution.weight, convolution.bias, stride=2), input)
    assert ours == flops(convolution, input)


def test_making_the_kernel_counts_nothing():
    layer = Dcls2d(4, 8, 3, dilated_kernel_size=5)
    assert flops(layer.construct_kernel) == 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_a_formula(operator):
    assert getattr(torch.ops.dcls, operator) in flop_registry
