"""Learned against fixed spacings on scikit-learn's digits, and every way of running the result.

Three networks with the same number of parameters differ only in their convolutions: three elements at learned
positions (DCLS), a 3x3 grid with dilation 2 (the same 5x5 extent), and an ordinary 3x3 grid. They are compiled and
trained over several seeds. The DCLS network is then exported, loaded back and folded into plain convolutions, and all
of these have to agree with the eager one.

Run it with ``python examples/demo.py``. It takes one to two minutes on two cores, leaves a picture and the exported
network in ``demo_output``, and ends with a table; the exit code is 0 if everything agreed.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from tqdm import tqdm

from dcls_ops.deploy import fold
from dcls_ops.nn import Dcls2d, DclsLayer

BATCH_SIZE = 32
LEARNING_RATE = 3e-3
# Positions are in taps, not in weights' units, and have further to go.
POSITIONS_LEARNING_RATE = 5e-2
# Of logits, relative to the largest one: float32 sums in another order, three convolutions deep.
TOLERANCE = 1e-5

# 3 weights and 3 x 2 coordinates are as many parameters as the 9 weights of a 3x3 kernel.
CONVOLUTIONS: dict[str, Callable[[int, int], nn.Module]] = {
    "DCLS": partial(Dcls2d, kernel_count=3, dilated_kernel_size=5, padding=2, bias=False, version="v1"),
    "Conv2d dilation 2": partial(nn.Conv2d, kernel_size=3, dilation=2, padding=2, bias=False),
    "Conv2d dilation 1": partial(nn.Conv2d, kernel_size=3, padding=1, bias=False),
}
MARKERS: dict[str, dict[str, Any]] = {
    "start": {"marker": "o", "markersize": 7, "color": "white", "markeredgecolor": "black", "clip_on": False},
    "learned": {"marker": "o", "markersize": 8, "color": "black", "markeredgecolor": "white", "clip_on": False},
}
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"DCLS": "#D55E00", "Conv2d dilation 2": "#0072B2", "Conv2d dilation 1": "#009E73"}


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


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def dcls_layers(network: nn.Module) -> list[DclsLayer]:
    return [module for module in network.modules() if isinstance(module, DclsLayer)]


def reset(network: nn.Module, seed: int) -> None:
    """Draws all parameters anew in place, so that what was compiled stays valid."""
    torch.manual_seed(seed)
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()


def make_optimiser(network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, with a group of their own for positions: weight decay would only pull them to the middle."""
    positions = [layer.P for layer in dcls_layers(network)]
    others = [parameter for name, parameter in network.named_parameters() if not name.endswith(".P")]
    groups: list[dict[str, Any]] = [
        {"params": others},
        {"params": positions, "lr": POSITIONS_LEARNING_RATE, "weight_decay": 0.0},
    ]
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
    # dynamic=False: batches come in two sizes, and are compiled for each rather than for any.
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
    networks = {name: make_network(convolution) for name, convolution in CONVOLUTIONS.items()}
    assert len({count_parameters(network) for network in networks.values()}) == 1, "networks differ in size"
    results: dict[str, Trained] = {}
    with tqdm(total=len(networks) * seeds * epochs, unit="epoch", dynamic_ncols=True) as progress:
        for name, network in networks.items():
            progress.set_description(f"{name}, compiling")
            results[name] = compile_network(network, data)
            progress.set_description(name)
            with torch.compiler.set_stance("fail_on_recompile"):  # once per network, not once per seed
                for seed in range(seeds):
                    train(results[name], data, seed, epochs, progress)
    return results


def export(network: nn.Module, images: Tensor, path: Path) -> nn.Module:
    """Exports for any batch size, saves, and returns what was loaded back."""
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, path)
    loaded = torch.export.load(path)
    operators = [node.target for node in loaded.graph.nodes].count(torch.ops.dcls.conv2d.default)
    assert operators == len(dcls_layers(network)), f"the exported graph has {operators} DCLS operators"
    return loaded.module()


@torch.no_grad()
def compare(trained: Trained, images: Tensor, path: Path) -> dict[str, tuple[float, bool]]:
    """Largest difference to eager, relative to the largest logit, and agreement, of every way to run the network."""
    network = trained.network.eval()
    expected = network(images)
    folded = fold(network)
    assert not dcls_layers(folded), "DCLS layers are left in the folded network"
    ways = {"compiled": trained.compiled, "exported": export(network, images[:2], path), "folded": folded}
    results: dict[str, tuple[float, bool]] = {}
    for name, way in ways.items():
        logits = way(images)
        difference = ((logits - expected).abs().max() / expected.abs().max()).item()
        same_predictions = torch.equal(logits.argmax(dim=1), expected.argmax(dim=1))
        results[name] = (difference, difference < TOLERANCE and same_predictions)
    return results


def draw_filter(axes: Axes, kernel: Tensor, start: Tensor, learned: Tensor) -> None:
    """Draws a dense kernel (height, width) and its elements' positions (2, K) in taps, before and after training."""
    height, width = kernel.shape
    axes.imshow(kernel / kernel.abs().max(), cmap="PuOr", vmin=-1, vmax=1)
    axes.set(xticks=[x - 0.5 for x in range(width + 1)], yticks=[y - 0.5 for y in range(height + 1)])
    axes.tick_params(length=0, labelbottom=False, labelleft=False)
    axes.grid(color="0.85", linewidth=0.6)
    for (y0, x0), (y1, x1) in zip(start.T.tolist(), learned.T.tolist(), strict=True):
        ys, xs = [height // 2 + y for y in (y0, y1)], [width // 2 + x for x in (x0, x1)]
        axes.plot(xs, ys, color="white", linewidth=3.5, clip_on=False)
        axes.plot(xs, ys, color="black", linewidth=1.5, clip_on=False)
        axes.plot(xs[0], ys[0], **MARKERS["start"])
        axes.plot(xs[1], ys[1], **MARKERS["learned"])


def draw_filters(figure: SubFigure, layer: DclsLayer, start: Tensor) -> None:
    """Draws the filters whose elements moved furthest, for a layer with one input channel."""
    kernels, learned, start = layer.construct_kernel().detach()[:, 0], layer.P.detach()[:, :, 0], start[:, :, 0]
    grid = figure.subplots(2, 3)
    furthest = (learned - start).norm(dim=0).sum(dim=-1).topk(grid.size).indices
    for axes, index in zip(grid.flat, furthest.tolist(), strict=True):
        draw_filter(axes, kernels[index], start[:, index], learned[:, index])
    image, label = grid[0, 0].images[0], "weight / largest weight of the filter"
    figure.colorbar(image, ax=grid, ticks=[-1, 0, 1], aspect=35, label=label)
    handles = [Line2D([], [], linestyle="", label=f"{name} position", **style) for name, style in MARKERS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle("Filters of the first DCLS layer: the six that moved furthest")


def draw_accuracy(figure: SubFigure, results: dict[str, Trained]) -> None:
    axes = figure.subplots()
    for name, trained in results.items():
        accuracy, colour = torch.tensor(trained.accuracy), COLOURS[name]
        epochs = range(1, accuracy.shape[1] + 1)
        axes.plot(epochs, accuracy.mean(dim=0), color=colour, linewidth=2, label=name)
        axes.fill_between(epochs, accuracy.amin(dim=0), accuracy.amax(dim=0), color=colour, alpha=0.2, linewidth=0)
    worst = min(min(trained.final_accuracy) for trained in results.values())
    # Leaves out the steep beginning.
    axes.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(max(0, 3 * worst - 200), 100))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.suptitle(f"Same parameter count: mean and range of {len(trained.accuracy)} seeds")


def draw(results: dict[str, Trained], path: Path) -> None:
    with rc_context({"font.size": 11.5, "figure.titlesize": 13}):
        figure = Figure(figsize=(12, 5), dpi=100, layout="constrained")
        filters, accuracy = figure.subfigures(1, 2, width_ratios=(1.25, 1), wspace=0.03)
        draw_filters(filters, dcls_layers(results["DCLS"].network)[0], results["DCLS"].start[0])
        draw_accuracy(accuracy, results)
        figure.savefig(path)


def verdict(learned: list[float], fixed: list[float]) -> str:
    """Calls it a tie unless the means differ by more than both ranges together."""
    difference = sum(learned) / len(learned) - sum(fixed) / len(fixed)
    if abs(difference) <= max(learned) - min(learned) + max(fixed) - min(fixed):
        return "ties with"
    return "beats" if difference > 0 else "loses to"


def print_report(results: dict[str, Trained], agreement: dict[str, tuple[float, bool]], output: Path) -> None:
    print(f"{'network':<18}   parameters   test accuracy (range of seeds)   training, all seeds")
    for name, trained in results.items():
        accuracy = trained.final_accuracy
        mean = f"{sum(accuracy) / len(accuracy):.2f}% ({min(accuracy):.2f} to {max(accuracy):.2f})"
        print(f"{name:<18}   {count_parameters(trained.network):>10}   {mean:<30}   {trained.train_seconds:>17.1f} s")
    print(f"\n{'DCLS, run':<18}   largest difference to eager   same predictions, difference < {TOLERANCE}")
    for name, (difference, agrees) in agreement.items():
        print(f"{name:<18}   {difference:>27.1e}   {'yes' if agrees else 'no'}")
    print(f"\nCompilation took {sum(trained.compile_seconds for trained in results.values()):.1f} s.")
    print(f"Picture: {output / 'positions.png'}; exported network: {output / 'model.pt2'}")
    learned = results["DCLS"].final_accuracy
    outcomes = [f"{verdict(learned, other.final_accuracy)} {name}" for name, other in results.items() if name != "DCLS"]
    print(f"With as many parameters, and judged by the seeds' ranges, DCLS {' and '.join(outcomes)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains, compiles, exports and folds a small DCLS network.")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder for the picture and the model")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2, for a range")
    arguments = parser.parse_args()
    if arguments.epochs < 1 or arguments.seeds < 2:
        parser.error("at least 1 epoch and 2 seeds are needed")
    arguments.output.mkdir(parents=True, exist_ok=True)
    # Steps of a millisecond gain nothing from threads, and lose a lot where other programs keep the cores busy.
    torch.set_num_threads(1)
    data = load_data()
    results = train_all(data, arguments.seeds, arguments.epochs)
    draw(results, arguments.output / "positions.png")
    agreement = compare(results["DCLS"], data.test_images, arguments.output / "model.pt2")
    print_report(results, agreement, arguments.output)
    if not all(agrees for _, agrees in agreement.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
