"""Mixed-precision training of a small network."""

import pytest
import torch
import torch.nn.functional as F
from gpu import GPU
from torch import nn

from dcls_ops.nn import Dcls2d, DclsLayer

STEPS = 60


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": "v1", "method": "direct"},
        {"version": "max"},
        {"shared_positions": True, "method": "im2col"},
    ],
    ids=["auto", "direct", "max", "im2col"],
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast(dtype, memory_format, options):
    model = nn.Sequential(
        Dcls2d(3, 16, kernel_count=6, padding="same", dilated_kernel_size=9, **options),
        nn.ReLU(),
        Dcls2d(16, 16, kernel_count=6, padding="same", dilated_kernel_size=17, groups=16, **options),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, 10),
    ).to(GPU)
    dcls_layers = [layer for layer in model if isinstance(layer, DclsLayer)]
    first_positions = [layer.P.detach().clone() for layer in dcls_layers]
    input = torch.randn(32, 3, 16, 16, device=GPU).contiguous(memory_format=memory_format)
    labels = torch.arange(32, device=GPU) % 10
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(GPU.type, enabled=dtype == torch.float16)

    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast(GPU.type, dtype):
            features = model[:4](input)
            loss = F.cross_entropy(model[4:](features), labels)
        assert features.dtype == dtype
        assert features.is_contiguous(memory_format=memory_format)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        for layer in dcls_layers:
            layer.clamp_parameters()
        losses.append(loss.detach())

    losses = torch.stack(losses)
    assert losses.isfinite().all()
    assert losses[-1] < losses[0] / 2
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert parameter.isfinite().all()
    for layer, before in zip(dcls_layers, first_positions, strict=True):
        assert not torch.equal(layer.P, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_never_casts_parameters(dtype):
    layer = Dcls2d(4, 4, kernel_count=3, dilated_kernel_size=5).to(GPU)
    input = torch.randn(2, 4, 9, 9, device=GPU)
    with torch.autocast(GPU.type, dtype):
        output = layer(input)
        assert layer.construct_kernel().dtype == torch.float32
    assert output.dtype == dtype
    torch.testing.assert_close(output, layer(input.to(dtype)))
