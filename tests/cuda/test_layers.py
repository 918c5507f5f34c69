"""Every layer of both packages, beside itself on the CPU."""

import copy

import pytest
import torch
from gpu import GPU
from layers import EVERY_LAYER, input_of, name_of


def results(layer, input):
    output = layer(input)
    return output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))


@pytest.mark.parametrize(("cls", "arguments"), EVERY_LAYER, ids=name_of)
def test_as_on_the_cpu(cls, arguments):
    layer = cls(4, 6, **arguments, stride=2, groups=2).double()
    input = input_of(layer).double()
    on_gpu = results(copy.deepcopy(layer).to(GPU), input.to(GPU))
    for result, expected in zip(on_gpu, results(layer, input), strict=True):
        torch.testing.assert_close(result.cpu(), expected, rtol=1e-9, atol=1e-9)
