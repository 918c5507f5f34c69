"""How method "auto" fares beside the methods that can be named, on many more shapes than `make bench` has.

    python benchmarks/auto_rule.py

Layers of one to three axes, kernels from 3 to 137 taps wide, dense, grouped and depthwise, "v1" and "gauss", with
shared positions and without. Prints the time of "auto" relative to the fastest method, and each shape where that is
more than LARGE. Times are the shortest ones of one thread, so that other work on the machine counts little. The
constants that it chooses by are fitted by fit_costs.py, to other shapes.
"""

import itertools
import statistics

import torch
from bench.cases import Case
from bench.implementations import implementations
from fit_costs import shortest
from tqdm import tqdm

LARGE = 1.2
MEASURES = ("forward", "step")
# batch, in channels, out channels, groups, spatial; extents of the kernel; elements
LAYERS = (
    *(((4, *layer, (28, 28)), (3, 5, 9, 17), 9) for layer in ((64, 64, 1), (64, 64, 4), (64, 8, 1), (3, 64, 1))),
    ((4, 64, 64, 64, (28, 28)), (3, 5, 9, 17), 9),
    ((1, 96, 96, 96, (14, 14)), (3, 5, 9, 17), 9),
    *(((16, 64, 64, groups, (400,)), (5, 25, 65), 3) for groups in (1, 64)),
    *(((16, 256, out_channels, 1, (100,)), (137,), 25) for out_channels in (256, 20)),
    ((2, 16, 16, 1, (16, 16, 16)), (3, 5, 7), 8),
)


def cases() -> list[Case]:
    return [
        Case(f"{layer} {extent} {version} {placement}", *layer, extent, kernel_count, version, placement)
        for layer, extents, kernel_count in LAYERS
        for extent, version, placement in itertools.product(extents, ("v1", "gauss"), ("grid", "uniform"))
    ]


def main() -> None:
    torch.set_num_threads(1)
    ratios: dict[str, list[float]] = {measure: [] for measure in MEASURES}
    for case in tqdm(cases(), unit="shape"):
        tensors = case.draw()
        makers = {name: make for name, make in implementations(case, None).items() if name.startswith("dcls, ")}
        methods = {name.removeprefix("dcls, "): make(tensors) for name, make in makers.items() if name.count(",") == 1}
        for measure in MEASURES:
            times = {name: shortest(method.prepare(measure)) / 1e6 for name, method in methods.items()}
            auto = times.pop("auto")
            ratios[measure].append(auto / min(times.values()))
            if ratios[measure][-1] > LARGE:
                others = ", ".join(f"{name} {value:.2f}" for name, value in times.items())
                tqdm.write(f"{case.name}, {measure}: auto {auto:.2f} ms, {others}")
    for measure, values in ratios.items():
        *_, ninth = statistics.quantiles(values, n=10)
        print(
            f"{measure}: {len(values)} shapes, median {statistics.median(values):.2f}, "
            f"9 of 10 within {ninth:.2f}, worst {max(values):.2f}"
        )


if __name__ == "__main__":
    main()
