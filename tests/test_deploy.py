import pytest
import torch
from cases import LAYERS
from DCLS.construct.modules.Dcls import Dcls2d as DilatedDcls2d
from DCLS.modules.Dcls import Dcls2d as SharedDcls2d
from torch import nn

from dcls_ops.deploy import fold
from dcls_ops.nn import Dcls2d, DclsLayer


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # PyTorch's, on its own layers
@pytest.mark.parametrize(("cls", "arguments", "kernel_size"), LAYERS, ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, {"padding": "same", "bias": False}, {"padding": 2, "padding_mode": "circular", "stride": 2}],
    ids=str,
)
def test_folded_layer_computes_the_same(cls, arguments, kernel_size, settings):
    layer = cls(4, 6, 3, groups=2, **arguments, **settings)
    folded = fold(layer)
    assert type(folded) is (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel_size) - 1]
    input = torch.randn(2, 4, *[8] * len(kernel_size))
    torch.testing.assert_close(folded(input), layer(input))


def test_folds_a_copy_of_the_whole_model():
    shared = Dcls2d(4, 4, kernel_count=3, padding=2, dilated_kernel_size=5)
    model = nn.ModuleDict({"a": shared, "block": nn.Sequential(nn.Conv2d(4, 4, 1), shared, nn.BatchNorm2d(4))}).eval()
    folded = fold(model)
    assert not any(isinstance(module, DclsLayer) for module in folded.modules())
    assert folded["a"] is folded["block"][1]
    assert model["a"] is shared
    assert not folded["a"].training
    input = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(folded["block"](input), model["block"](input))
    with torch.no_grad():
        folded["a"].bias.zero_()
    assert shared.bias.abs().sum() > 0


def test_frozen_layers_stay_frozen():
    layer = Dcls2d(4, 4, 2, dilated_kernel_size=5).requires_grad_(False)
    layer.bias.requires_grad_()
    folded = fold(layer)
    assert not folded.weight.requires_grad
    assert folded.bias.requires_grad


def test_refuses_what_a_convolution_would_not_do():
    class Doubled(Dcls2d):
        def forward(self, input):
            return 2 * super().forward(input)

    with pytest.raises(ValueError, match=r"^fold\(\) cannot fold Doubled, which has a forward of its own$"):
        fold(nn.Sequential(Doubled(4, 4, 2, dilated_kernel_size=5)))
    hooked = Dcls2d(4, 4, 2, dilated_kernel_size=5)
    hooked.register_forward_hook(lambda module, arguments, output: 2 * output)
    with pytest.raises(ValueError, match=r"^fold\(\) cannot fold a Dcls2d with forward hooks; remove them first$"):
        fold(hooked)


@pytest.mark.parametrize("cls", [DilatedDcls2d, SharedDcls2d])
@pytest.mark.parametrize("dilation", [1, 3])
def test_layers_of_2021(cls, dilation):
    layer = cls(4, 8, (3, 5), dilation=dilation, groups=2, padding=2, padding_mode="circular")
    folded = fold(torch.nn.Sequential(layer))
    assert type(folded[0]) is torch.nn.Conv2d
    input = torch.randn(2, 4, 20, 20)
    torch.testing.assert_close(folded(input), layer(input))
    assert folded[0].weight.data_ptr() != layer.weight.data_ptr()
