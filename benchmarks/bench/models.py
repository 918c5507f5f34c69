"""Whole models of the kinds that DCLS was published with, and how they are trained for a few steps.

Each is written once, and built from the layers of the original or from those of our package ``DCLS``. Inputs and labels
are random.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from DCLS.construct import modules as drop_in
from torch import Tensor, nn

from bench.implementations import ORIGINAL, silent
from dcls_ops.deploy import fold

OURS = "dcls"
FOLDED, FOLDED_FOR_SPEED = "dcls, folded", "dcls, folded, backend dcls"
LEARNING_RATE = 1e-3
#: The published factor for positions and widths, in vision.
POSITION_FACTOR = 5
#: SIG of a Gaussian half a tap wide, where the published schedule stops.
NARROWEST_SIG = 0.23
#: Of a spiking neuron.
THRESHOLD, DECAY = 1.0, 0.5


@dataclass(frozen=True)
class Model(ABC):
    """One kind of network at one size, and the steps it is trained for."""

    name: str
    batch: int
    input_shape: tuple[int, ...]  # channels, then space or frequencies and time
    classes: int
    widths: tuple[int, ...]
    extent: int
    kernel_count: int
    version: str
    epochs: int = 1
    steps: int = 3  # an epoch
    position_factor: float = POSITION_FACTOR  # of the learning rate

    @abstractmethod
    def build(self, layers: Any) -> nn.Module:
        """The network, from a module that has the layers."""

    def begin_epoch(self, network: nn.Module, epoch: int) -> None:  # noqa: B027, most have nothing to change
        """What changes between epochs: nothing."""

    @abstractmethod
    def shrunk(self) -> "Model":
        """A network of the same kind that takes little time."""

    @abstractmethod
    def describe(self) -> str:
        """Its shape in a line."""

    @property
    def measured_epochs(self) -> list[int]:
        """The epochs whose times and memory are shown."""
        return sorted({0, self.epochs - 1})

    @property
    def step_count(self) -> int:
        """The first one warms up."""
        return 1 + self.epochs * self.steps

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """Input and labels, the same ones for a step every time."""
        generator = torch.Generator().manual_seed(step)
        input = torch.randn(self.batch, *self.input_shape, generator=generator)
        return input, torch.randint(self.classes, (self.batch,), generator=generator)

    def _shape(self) -> str:
        channels, *spatial = self.input_shape
        return f"({self.batch}, {channels}, {'x'.join(map(str, spatial))}) to {self.classes} classes"

    def _elements(self) -> str:
        return f"{self.kernel_count} element{'s' if self.kernel_count > 1 else ''}, {self.version}"


class _ChannelNorm(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        channels_last = input.permute(0, 2, 3, 1)
        output = F.layer_norm(channels_last, self.normalized_shape, self.weight, self.bias, self.eps)
        return output.permute(0, 3, 1, 2)


class _Block(nn.Module):
    def __init__(self, width: int, depthwise: nn.Module) -> None:
        super().__init__()
        self.depthwise = depthwise
        self.norm = nn.LayerNorm(width)
        self.expand, self.reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))  # at the published 1e-6 the loss would depend on no block

    def forward(self, input: Tensor) -> Tensor:
        hidden = self.norm(self.depthwise(input).permute(0, 2, 3, 1))
        output: Tensor = self.scale * self.reduce(F.gelu(self.expand(hidden)))
        return input + output.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class ConvNeXt(Model):
    """Depthwise Dcls2d in every block; blocks of a stage share positions and widths."""

    depths: tuple[int, ...] = ()

    def build(self, layers: Any) -> nn.Module:
        parts: list[nn.Module] = []
        channels, size = self.input_shape[0], 4
        for width, depth in zip(self.widths, self.depths, strict=True):
            down = nn.Conv2d(channels, width, size, size)
            parts += [down, _ChannelNorm(width)] if not parts else [_ChannelNorm(channels), down]
            depthwise = [
                layers.Dcls2d(
                    width, width, kernel_count=self.kernel_count, padding=self.extent // 2,
                    dilated_kernel_size=self.extent, groups=width, version=self.version,
                )
                for _ in range(depth)
            ]  # fmt: skip
            for layer in depthwise[1:]:
                layer.P, layer.SIG = depthwise[0].P, depthwise[0].SIG
            parts += [_Block(width, layer) for layer in depthwise]
            channels, size = width, 2
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(channels), nn.Linear(channels, self.classes)]
        return nn.Sequential(*parts, *head)

    def shrunk(self) -> Model:
        return replace(self, input_shape=(self.input_shape[0], 16, 24), widths=(4, 8), depths=(2, 1))

    def describe(self) -> str:
        blocks = " + ".join(f"{depth} of {width}" for depth, width in zip(self.depths, self.widths, strict=True))
        kernel = f"Dcls2d {self.extent}x{self.extent}, {self._elements()}"
        return f"{self._shape()}, blocks: {blocks} channels, depthwise {kernel}"


class _Spike(torch.autograd.Function):
    """1 from the threshold on. Backward as if it were an arctangent."""

    @staticmethod
    def forward(ctx: Any, excess: Tensor) -> Tensor:
        ctx.save_for_backward(excess)
        return (excess >= 0).to(excess.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (excess,) = ctx.saved_tensors
        return grad_output / (1 + (math.pi * excess) ** 2)  # type: ignore[no-any-return]


class _LeakyIntegrateAndFire(nn.Module):
    """Currents to spikes, both (..., time). A neuron that has fired starts from 0."""

    def forward(self, current: Tensor) -> Tensor:
        potential, spikes = torch.zeros_like(current[..., 0]), []
        for arriving in current.unbind(-1):
            potential = DECAY * potential + arriving
            spikes.append(_Spike.apply(potential - THRESHOLD))  # type: ignore[no-untyped-call]
            potential = potential * (1 - spikes[-1].detach())
        return torch.stack(spikes, -1)


class _LeakyMean(nn.Module):
    """The mean potential of neurons that do not fire: (batch, neurons, time) to (batch, neurons)."""

    def forward(self, current: Tensor) -> Tensor:
        potentials = [torch.zeros_like(current[..., 0])]
        for arriving in current.unbind(-1):
            potentials.append(DECAY * potentials[-1] + arriving)
        return torch.stack(potentials[1:]).mean(0)


def _freeze_widths(layers: Iterable[Any], width: float) -> None:
    for layer in layers:
        layer.SIG.requires_grad_(False).fill_(width)


@dataclass(frozen=True)
class DelayNetwork(Model):
    """Synapses with learned delays, whose Gaussians become narrow in the first quarter of the epochs."""

    @property
    def widest_sig(self) -> int:
        return self.extent // 2

    def build(self, layers: Any) -> nn.Module:
        parts: list[nn.Module] = []
        sizes = (self.input_shape[0], *self.widths, self.classes)
        for inputs, outputs in pairwise(sizes):
            layer = layers.Dcls1d(
                inputs, outputs, kernel_count=self.kernel_count, dilated_kernel_size=self.extent, bias=False,
                version=self.version,
            )  # fmt: skip
            nn.init.uniform_(layer.P, -(self.extent // 2), self.extent // 2)
            _freeze_widths([layer], self.widest_sig)
            causal = nn.ConstantPad1d((self.extent - 1, (self.extent - 1) // 2), 0.0)
            parts += [causal, layer, nn.BatchNorm1d(outputs), _LeakyIntegrateAndFire()]
        return nn.Sequential(*parts[:-1], _LeakyMean())

    def begin_epoch(self, network: nn.Module, epoch: int) -> None:
        final = self.epochs // 4
        if 0 < epoch <= final:
            with torch.no_grad():
                for layer in dcls_layers(network):
                    layer.SIG *= (NARROWEST_SIG / self.widest_sig) ** (1 / final)

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        input, labels = super().draw(step)
        return (input > 1.5).float(), labels  # one step of time in 15

    def shrunk(self) -> Model:
        return replace(self, batch=4, input_shape=(6, 12), widths=(8,), classes=3, extent=7, epochs=4, steps=1)

    def describe(self) -> str:
        return f"{self._shape()}, hidden {self.widths}, Dcls1d of {self.extent} taps, {self._elements()}"


@dataclass(frozen=True)
class SpectrogramNetwork(Model):
    """Spiking, with Dcls2_1d: dense along frequencies, with delays along time; dense, depthwise twice, dense."""

    dense_kernel_size: int = 7

    def build(self, layers: Any) -> nn.Module:
        parts: list[nn.Module] = []
        first, second = self.widths
        for inputs, outputs, groups, stride in (
            (self.input_shape[0], first, 1, 2),
            (first, first, first, 1),
            (first, first, first, 2),
            (first, second, 1, 2),
        ):
            layer = layers.Dcls2_1d(
                inputs, outputs, kernel_count=self.kernel_count, stride=(stride, 1),
                padding=(self.dense_kernel_size // 2, self.extent // 2), dense_kernel_size=self.dense_kernel_size,
                dilated_kernel_size=self.extent, groups=groups, bias=False, version=self.version,
            )  # fmt: skip
            parts += [layer, *([nn.Conv2d(outputs, outputs, 1)] if groups > 1 else [])]
            parts += [nn.BatchNorm2d(outputs), _LeakyIntegrateAndFire()]
        network = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, self.classes))
        _freeze_widths(dcls_layers(network), self.extent // 4)
        return network

    def shrunk(self) -> Model:
        return replace(self, batch=2, input_shape=(1, 12, 10), widths=(4, 6))

    def describe(self) -> str:
        kernel = f"Dcls2_1d {self.dense_kernel_size}x{self.extent}, {self._elements()}"
        return f"{self._shape()}, widths {self.widths}, {kernel}"


_CONVNEXT = ConvNeXt("", 2, (3, 128, 128), 1000, (96, 192, 384, 768), 17, 34, "v0", depths=(3, 3, 9, 3))
_AUDIO = replace(_CONVNEXT, name="audio-convnext", input_shape=(1, 128, 200), classes=527, depths=(1, 1, 2, 1))

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        *(replace(_CONVNEXT, name=f"convnext-{version}", version=version) for version in ("v0", "v1")),
        replace(_AUDIO, extent=23, kernel_count=26, version="gauss"),
        DelayNetwork(
            "snn-delays", 32, (140, 100), 20, (256, 256), 25, 1, "gauss", epochs=20, steps=2, position_factor=100
        ),
        SpectrogramNetwork("csnn-1d", 8, (1, 82, 108), 35, (64, 128), 9, 1, "max", position_factor=100),
    )
}


def dcls_layers(network: nn.Module) -> list[Any]:
    """The layers of either package."""
    return [module for module in network.modules() if isinstance(getattr(module, "P", None), Tensor)]


class _Original2_1d(nn.Module):
    """Came after 0.1.1, as Dcls3_1d without an axis: so it is made here."""

    def __init__(
        self, module: ModuleType, *channels: int, stride: tuple[int, int], padding: tuple[int, int],
        dense_kernel_size: int, **arguments: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        dense = (1, dense_kernel_size)
        self.layer = module.Dcls3_1d(*channels, dense_kernel_size=dense, **arguments)
        self.stride, self.padding = stride, padding

    def forward(self, input: Tensor) -> Tensor:
        kernel = self.layer.DCK(self.layer.weight, self.layer.P, self.layer.SIG).squeeze(2)
        return F.conv2d(input, kernel, self.layer.bias, self.stride, self.padding, groups=self.layer.groups)


class Training:
    """A network, its optimiser, and the losses of the steps that it has taken."""

    def __init__(self, model: Model, layers: Any) -> None:
        torch.manual_seed(0)
        with silent():
            self.network = model.build(layers)
        self.model = model
        self.losses: list[float] = []
        placed = {id(tensor) for layer in dcls_layers(self.network) for tensor in (layer.P, layer.SIG)}
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        positions: dict[str, Any] = {
            "params": [parameter for parameter in learned if id(parameter) in placed],
            "lr": model.position_factor * LEARNING_RATE,
            "weight_decay": 0.0,
        }
        others = {"params": [parameter for parameter in learned if id(parameter) not in placed]}
        self.optimiser = torch.optim.AdamW([others, positions], LEARNING_RATE)

    def start_from(self, other: "Training") -> None:
        """Takes another's parameters, whose axes of extent 1 may differ."""
        pairs = zip(self.network.parameters(), other.network.parameters(), strict=True)
        with torch.no_grad():
            for mine, theirs in pairs:
                mine.copy_(theirs.view_as(mine))

    def begin_epoch(self, epoch: int) -> None:
        self.model.begin_epoch(self.network, epoch)

    def step(self, input: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(self.network(input), labels)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        for layer in dcls_layers(self.network):
            layer.clamp_parameters()
        self.losses.append(loss.item())


def inferences(made: Mapping[str, Training]) -> dict[str, nn.Module]:
    """What computes the same from inputs: trained networks, and ours folded."""
    networks = {name: training.network.eval() for name, training in made.items()}
    ours = networks[OURS]
    return {**networks, FOLDED: fold(ours), FOLDED_FOR_SPEED: fold(ours, backend="dcls")}


def trainings(model: Model, original: ModuleType | None) -> dict[str, Training]:
    """Who can train a model, from the same parameters."""
    ours = Training(model, drop_in)
    if original is None:
        return {OURS: ours}
    layers = SimpleNamespace(**vars(original), Dcls2_1d=partial(_Original2_1d, original))
    theirs = Training(model, layers)
    ours.start_from(theirs)
    return {ORIGINAL: theirs, OURS: ours}
