"""Training as people write it around the original's layers: the same code on DCLS gives the same losses."""

import io

import pytest
import torch
import torch.nn.functional as F
from DCLS.construct import modules
from torch import nn

STEPS = 20


class Block(nn.Module):
    def __init__(self, layers, channels, version):
        super().__init__()
        self.depthwise = layers.Dcls2d(
            channels, channels, kernel_count=6, dilated_kernel_size=9, padding=4, groups=channels, version=version
        )
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, input):
        return input + self.pointwise(F.gelu(self.depthwise(input)))


def vision_network(layers, version):
    """Two stages of two blocks; the blocks of a stage share their positions."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 2, 2), Block(layers, 8, version), Block(layers, 8, version),
        nn.Conv2d(8, 12, 2, 2), Block(layers, 12, version), Block(layers, 12, version),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4),
    )  # fmt: skip
    for first, second in ((model[1], model[2]), (model[4], model[5])):
        second.depthwise.P = first.depthwise.P
        if version == "gauss":
            second.depthwise.SIG = first.depthwise.SIG
    return model


def repulsion(model):
    """Elements of a filter that are less than a tap apart cost something."""
    terms = []
    for name, positions in model.named_parameters():
        if name.endswith(".P"):
            distances = (positions.unsqueeze(-1) - positions.unsqueeze(-2)).abs().sum(0)
            terms.append(F.relu(1 - distances).triu(1).mean())
    return torch.stack(terms).mean() ** 2


def train_vision(model):
    named = list(model.named_parameters())
    positions = [p for name, p in named if name.endswith((".P", ".SIG"))]
    others = [p for name, p in named if not name.endswith((".P", ".SIG"))]
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.05}, {"params": positions, "weight_decay": 0.0, "lr": 5e-3}], lr=1e-3
    )
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(8, 1, 32, 32, generator=generator, dtype=torch.float64).to(named[0][1].dtype)
        labels = torch.randint(4, (8,), generator=generator)
        loss = F.cross_entropy(model(images), labels) + repulsion(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for module in model.modules():
            if hasattr(module, "clamp_parameters"):
                module.clamp_parameters()
        losses.append(loss.item())
    return losses


class SpikingLayer(nn.Module):
    """A delay for every synapse, causal: with max_delay - 1 steps of padding on the left."""

    def __init__(self, layers, n_in, n_out, max_delay):
        super().__init__()
        self.max_delay = max_delay
        self.delays = layers.Dcls1d(
            n_in, n_out, kernel_count=1, groups=1, dilated_kernel_size=max_delay, bias=False, version="gauss"
        )
        nn.init.uniform_(self.delays.P, -(max_delay // 2), max_delay // 2)
        self.delays.clamp_parameters()
        nn.init.constant_(self.delays.SIG, max_delay // 2)
        self.delays.SIG.requires_grad = False

    def forward(self, spikes):
        padded = F.pad(spikes, (self.max_delay - 1, (self.max_delay - 1) // 2))
        return torch.tanh(self.delays(padded))[..., : spikes.shape[-1]]


def spiking_network(layers):
    return nn.Sequential(SpikingLayer(layers, 6, 10, 15), SpikingLayer(layers, 10, 3, 15))


def train_spiking(model):
    positions = [p for name, p in model.named_parameters() if name.endswith(".P")]
    weights = [p for name, p in model.named_parameters() if name.endswith(".weight")]
    optimizers = [torch.optim.Adam(weights, lr=1e-3, weight_decay=1e-5), torch.optim.Adam(positions, lr=1e-1)]
    layers = [module.delays for module in model]
    dtype = weights[0].dtype
    generator = torch.Generator().manual_seed(1)
    losses = []
    for step in range(STEPS):
        spikes = torch.bernoulli(torch.full((16, 6, 40), 0.2), generator=generator).to(dtype)
        labels = torch.randint(3, (16,), generator=generator)
        loss = F.cross_entropy(model(spikes).mean(-1), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        for layer in layers:
            layer.clamp_parameters()
        losses.append(loss.item())
        if step % 5 == 4:  # the end of an epoch
            losses.append(evaluate_rounded(model, layers, spikes, labels))
            with torch.no_grad():
                for layer in layers:
                    layer.SIG *= 0.5
    return losses


def evaluate_rounded(model, layers, spikes, labels):
    """With integer delays, and back."""
    checkpoint = io.BytesIO()
    torch.save(model.state_dict(), checkpoint)
    with torch.no_grad():
        for layer in layers:
            layer.SIG *= 0
            layer.version = "max"
            layer.DCK.version = "max"
            layer.P.round_()
            layer.clamp_parameters()
        loss = F.cross_entropy(model(spikes).mean(-1), labels).item()
    for layer in layers:
        layer.version = "gauss"
        layer.DCK.version = "gauss"
    checkpoint.seek(0)
    model.load_state_dict(torch.load(checkpoint), strict=True)
    return loss


WORKFLOWS = {
    "vision_v0": (lambda layers: vision_network(layers, "v0"), train_vision),
    "vision_v1": (lambda layers: vision_network(layers, "v1"), train_vision),
    "vision_gauss": (lambda layers: vision_network(layers, "gauss"), train_vision),
    "spiking": (spiking_network, train_spiking),
}


@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
def test_same_losses(original, workflow, dtype, tolerance):
    make, train = WORKFLOWS[workflow]
    models = []
    for layers in (original, modules):
        torch.manual_seed(0)
        models.append(make(layers).to(dtype))
    theirs, ours = models
    for (name, expected), (same_name, actual) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        assert name == same_name
        assert torch.equal(actual, expected)
    expected, actual = train(theirs), train(ours)
    assert len(expected) >= STEPS
    assert max(expected) - min(expected) > 1e-3  # something was learned, or at least moved
    assert actual == pytest.approx(expected, rel=tolerance)
