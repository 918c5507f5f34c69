"""Learned against fixed spacings on scikit-learn's digits, and every way of running the result.

Three networks with the same number of parameters differ only in their convolutions: three elements at learned
positions (DCLS), a 3x3 grid with dilation 2 (the same 5x5 extent), and an ordinary 3x3 grid. They are compiled and
trained over several seeds. The DCLS network is then exported, loaded back and folded into plain convolutions, and all
of these have to agree with the eager one.

Run it with ``python examples/demo.py``. It takes one to two minutes on two cores, leaves pictures and the exported
network in ``demo_output``, and ends with a table; the exit code is 0 if everything agreed.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from dcls_ops.deploy import fold
from dcls_ops.nn import Dcls2d, DclsLayer

matplotlib.use("Agg")  # draws into files: no display is needed
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

BATCH_SIZE = 32
LEARNING_RATE = 3e-3
POSITIONS_LEARNING_RATE = 5 * LEARNING_RATE
# Of logits, relative to the largest one: float32 sums in another order, through a dozen layers.
TOLERANCE = 1e-4

# 3 weights and 3 x 2 coordinates are as many parameters as the 9 weights of a 3x3 kernel. Padding keeps the image's size.
CONVOLUTIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "DCLS": partial(Dcls2d, kernel_count=3, dilated_kernel_size=5, padding=2, bias=False, version="v1"),
    "dilation 2": partial(nn.Conv2d, kernel_size=3, dilation=2, padding=2, bias=False),
    "dilation 1": partial(nn.Conv2d, kernel_size=3, padding=1, bias=False),
}
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"DCLS": "#D55E00", "dilation 2": "#0072B2", "dilation 1": "#009E73"}


@dataclass
class Data:
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass
class Trained:
    """A network as the last seed left it, and what was measured on the way."""

    network: nn.Module
    compiled: Callable[[Tensor], Tensor]
    start: list[Tensor] = field(default_factory=list)  # positions of every DCLS layer before training
    accuracy: list[list[float]] = field(default_factory=list)  # per seed and epoch, in percent
    compile_seconds: float = 0.0
    train_seconds: float = 0.0  # of all seeds

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def final_accuracy(self) -> list[float]:
        return [epochs[-1] for epochs in self.accuracy]


def load_data() -> Data:
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images / images.max(), labels, test_size=0.5, stratify=labels, random_state=0)
    train_images, test_images = (torch.tensor(part, dtype=torch.float32).view(-1, 1, 8, 8) for part in split[:2])
    train_labels, test_labels = (torch.tensor(part) for part in split[2:])
    return Data(train_images, train_labels, test_images, test_labels)


def make_network(convolution: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        *(convolution(1, 16), nn.BatchNorm2d(16), nn.ReLU()),
        *(convolution(16, 32), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(convolution(32, 32), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def dcls_layers(network: nn.Module) -> list[DclsLayer]:
    return [module for module in network.modules() if isinstance(module, DclsLayer)]


def reset(network: nn.Module, seed: int) -> None:
    """Draws all parameters anew in place, so that what was compiled stays valid."""
    torch.manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def make_optimiser(network: nn.Module) -> torch.optim.Optimizer:
    """Positions are in taps, not in weights' units: they learn faster, and decay would only pull them to the middle."""
    positions = [layer.P for layer in dcls_layers(network)]
    known = {id(parameter) for parameter in positions}
    groups = [{"params": [parameter for parameter in network.parameters() if id(parameter) not in known]}]
    if positions:
        groups.append({"params": positions, "lr": POSITIONS_LEARNING_RATE, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.01)


def train_step(trained: Trained, optimiser: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimiser.zero_grad()
    F.cross_entropy(trained.compiled(images), labels).backward()
    optimiser.step()
    for layer in dcls_layers(trained.network):
        layer.clamp_parameters()


def test_accuracy(trained: Trained, data: Data) -> float:
    trained.network.eval()
    with torch.no_grad():
        predictions = trained.compiled(data.test_images).argmax(dim=1)
    trained.network.train()
    return 100 * (predictions == data.test_labels).float().mean().item()


def compile_network(network: nn.Module, data: Data) -> Trained:
    """Runs one step and one test, which is when torch.compile does its work; the parameters are reset afterwards."""
    begin = time.perf_counter()
    trained = Trained(network, torch.compile(network, fullgraph=True, dynamic=False))
    train_step(trained, make_optimiser(network), data.train_images[:BATCH_SIZE], data.train_labels[:BATCH_SIZE])
    test_accuracy(trained, data)
    trained.compile_seconds = time.perf_counter() - begin
    return trained


def train(trained: Trained, data: Data, seed: int, epochs: int, progress: tqdm) -> None:
    reset(trained.network, seed)
    trained.start = [layer.P.detach().clone() for layer in dcls_layers(trained.network)]
    # The last, smaller batch of an epoch is left out: one shape, one compilation.
    steps = len(data.train_images) // BATCH_SIZE
    optimiser = make_optimiser(trained.network)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps)
    accuracy: list[float] = []
    begin = time.perf_counter()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_images))[: steps * BATCH_SIZE].view(steps, BATCH_SIZE):
            train_step(trained, optimiser, data.train_images[batch], data.train_labels[batch])
            schedule.step()
        accuracy.append(test_accuracy(trained, data))
        progress.set_postfix(seed=seed, accuracy=f"{accuracy[-1]:.1f}%")
        progress.update()
    trained.train_seconds += time.perf_counter() - begin
    trained.accuracy.append(accuracy)


def train_all(data: Data, seeds: int, epochs: int) -> dict[str, Trained]:
    results: dict[str, Trained] = {}
    with tqdm(total=len(CONVOLUTIONS) * seeds * epochs, unit="epoch", dynamic_ncols=True) as progress:
        for name, convolution in CONVOLUTIONS.items():
            progress.set_description(f"{name}, compiling")
            results[name] = compile_network(make_network(convolution), data)
            progress.set_description(name)
            with torch.compiler.set_stance("fail_on_recompile"):  # once per network, not once per seed
                for seed in range(seeds):
                    train(results[name], data, seed, epochs, progress)
    if len({trained.parameter_count for trained in results.values()}) != 1:
        raise AssertionError("the networks differ in their number of parameters")
    return results


def export(network: nn.Module, images: Tensor, path: Path) -> nn.Module:
    """Exports for any batch size, saves, and returns what was loaded back."""
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    loaded = torch.export.load(path)
    operators = [node.target for node in loaded.graph.nodes].count(torch.ops.dcls.conv2d.default)
    if operators != len(dcls_layers(network)):
        raise AssertionError(f"the exported graph has {operators} DCLS operators")
    return loaded.module()


def fold_network(network: nn.Module) -> nn.Module:
    folded = fold(network)
    if dcls_layers(folded):
        raise AssertionError("DCLS layers are left in the folded network")
    return folded


@torch.no_grad()
def compare(trained: Trained, images: Tensor, path: Path) -> dict[str, tuple[float, bool]]:
    """For every way of running the network: largest difference to eager, relative to the largest logit, and agreement."""
    network = trained.network.eval()
    expected = network(images)
    ways = {"compiled": trained.compiled, "exported": export(network, images, path), "folded": fold_network(network)}
    results: dict[str, tuple[float, bool]] = {}
    for name, way in ways.items():
        logits = way(images)
        difference = ((logits - expected).abs().max() / expected.abs().max()).item()
        same_predictions = torch.equal(logits.argmax(dim=1), expected.argmax(dim=1))
        results[name] = (difference, difference < TOLERANCE and same_predictions)
    return results


