"""FlopCounterMode counts a layer as the convolution that it folds into."""

import pytest
import torch
from cases import LAYERS
from DCLS.construct import modules
from DCLS.construct.modules.Dcls import Dcls1d as Dilated1d
from DCLS.construct.modules.Dcls import Dcls2d as Dilated2d
from DCLS.construct.modules.Dcls import Dcls3d as Dilated3d
from DCLS.modules.Dcls import Dcls2d as SharedDilated2d
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from dcls_ops import functional
from dcls_ops._info import OPERATORS
from dcls_ops.deploy import fold
from dcls_ops.nn import Dcls2d

DROP_IN = [(getattr(modules, name), {"dilated_kernel_size": 5}) for name in modules.__all__ if name.startswith("Dcls")]
DILATED = [(cls, {"dilation": 2}) for cls in (Dilated1d, Dilated2d, Dilated3d, SharedDilated2d)]
EVERY_LAYER = [
    *[(cls, {"kernel_count": 3, **arguments}) for cls, arguments, _ in LAYERS],
    *[(cls, {"kernel_count": 3, **arguments}) for cls, arguments in DROP_IN],
    *[(cls, {"kernel_size": 3, **arguments}) for cls, arguments in DILATED],
]


def flops(function, *inputs):
    """Forward and backward."""
    with FlopCounterMode(display=False) as counter:
        function(*inputs).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(("cls", "arguments"), EVERY_LAYER, ids=str)
@pytest.mark.parametrize(
    "settings", [{}, {"groups": 4}, {"groups": 2, "stride": 2, "padding": 1, "bias": False}], ids=str
)
def test_a_layer_counts_as_its_convolution(cls, arguments, settings):
    layer = cls(4, 8, **arguments, **settings)
    folded = fold(layer)
    shape = (4, *[11] * (folded.weight.dim() - 2))
    for batch, needs_grad in (((3,), True), ((3,), False), ((), True)):
        input = torch.randn(*batch, *shape, requires_grad=needs_grad)
        expected = flops(folded, input)
        assert expected > 0
        assert flops(layer, input) == expected


@pytest.mark.parametrize("method", ["construct", "direct", "im2col"])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("P", "SIG"), ("weight", "P", "SIG")], ids=str)
def test_whatever_the_method_and_what_is_frozen(method, frozen):
    layer = Dcls2d(4, 8, 3, dilated_kernel_size=5, shared_positions=True, method=method)
    for name in frozen:
        getattr(layer, name).requires_grad_(False)
    folded = fold(layer)
    folded.weight.requires_grad_(len(frozen) < 3)
    input = torch.randn(2, 4, 11, 11, requires_grad=True)
    assert flops(layer, input) == flops(folded, input)


@pytest.mark.parametrize("batch", [(2,), ()], ids=str)
def test_depthwise_conv2d(batch):
    convolution = torch.nn.Conv2d(4, 8, 5, stride=2, groups=4)
    input = torch.randn(*batch, 4, 11, 11, requires_grad=True)
    ours = flops(lambda x: functional.depthwise_conv2d(x, convolution.weight, convolution.bias, stride=2), input)
    assert ours == flops(convolution, input)


def test_making_the_kernel_counts_nothing():
    layer = Dcls2d(4, 8, 3, dilated_kernel_size=5)
    assert flops(layer.construct_kernel) == 0


@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_has_a_formula(operator):
    assert getattr(torch.ops.dcls, operator) in flop_registry
