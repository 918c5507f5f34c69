"""Kernel construction, forward and backward: time and peak memory against the original package, in one run.

    python benchmarks/construction.py

Shapes are those of depthwise 17x17 layers (26 elements, "gauss"). Each measurement alternates the two implementations
and takes medians. Memory is the growth of the process's peak resident size, each in a process of its own; it is
compared with the dense kernel, and with all results that one run returns: the kernel and the gradients of weight, P and
sigma. Writes benchmarks/results/construction-cpu.json.
"""

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import machine, peak_growth, print_peak_growth, time_runs, write

CHANNELS = (96, 192, 384, 768)
KERNEL_COUNT, EXTENT, VERSION = 26, 17, "gauss"


def inputs(channels: int) -> tuple[torch.Tensor, ...]:
    """weight, P, sigma and the gradient of the dense kernel; positions are spread over the kernel."""
    shape = (channels, 1, KERNEL_COUNT)
    weight = torch.randn(shape, requires_grad=True)
    positions = ((torch.rand(2, *shape) - 0.5) * (EXTENT - 1)).requires_grad_()
    sigma = torch.full((2, *shape), 0.5, requires_grad=True)
    return weight, positions, sigma, torch.randn(channels, 1, EXTENT, EXTENT)


def ours(channels: int) -> Callable[[], None]:
    weight, positions, sigma, grad = inputs(channels)
    return lambda: torch.ops.dcls.construct_kernel(weight, positions, [EXTENT, EXTENT], sigma, VERSION).backward(grad)


def original(channels: int) -> Callable[[], None]:
    path = Path(sys.prefix, "oracle", "DCLS", "construct", "modules.py")
    if not path.exists():
        raise SystemExit(f"{path} is missing: `make bench-construction` installs it")
    spec = importlib.util.spec_from_file_location("original_dcls", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    construct = module.ConstructKernel2d(channels, channels, channels, KERNEL_COUNT, (EXTENT, EXTENT), VERSION)
    weight, positions, sigma, grad = inputs(channels)
    return lambda: construct(weight, positions, sigma - 0.27).backward(grad)  # which adds 0.27


IMPLEMENTATIONS = {"ours": ours, "original": original}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", nargs=2, metavar=("IMPLEMENTATION", "CHANNELS"), help="measure memory only")
    arguments = parser.parse_args()
    if arguments.peak:
        implementation, channels = arguments.peak[0], int(arguments.peak[1])
        IMPLEMENTATIONS[implementation](8)()  # loads code and starts threads
        print_peak_growth(IMPLEMENTATIONS[implementation](channels))
        return

    rows = []
    print(f"{'channels':>8}{'original ms':>13}{'ours ms':>9}{'ratio':>7}{'original MiB':>14}{'ours MiB':>10}", end="")
    print(f"{'/ dense kernel':>16}{'/ all results':>15}")
    for channels in CHANNELS:
        runs = {name: make(channels) for name, make in IMPLEMENTATIONS.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(5):
            times["original"] += time_runs(runs["original"], 1)
            times["ours"] += time_runs(runs["ours"], 10)
        median = {name: statistics.median(values) for name, values in times.items()}
        peak = {name: peak_growth(__file__, name, str(channels)) for name in runs}
        dense = channels * EXTENT * EXTENT * 4
        results = dense + channels * KERNEL_COUNT * 5 * 4
        ratio = median["original"] / median["ours"]
        print(
            f"{channels:>8}{median['original']:>13.1f}{median['ours']:>9.2f}{ratio:>6.0f}x"
            f"{peak['original'] / 2**20:>14.1f}{peak['ours'] / 2**20:>10.2f}{peak['ours'] / dense:>15.2f}x"
            f"{peak['ours'] / results:>14.2f}x"
        )
        sizes = {"dense_kernel_bytes": dense, "result_bytes": results}
        rows.append({"channels": channels, "milliseconds": median, "peak_bytes": peak, **sizes})
    shape = {"kernel_count": KERNEL_COUNT, "kernel_size": [EXTENT, EXTENT], "version": VERSION}
    original_too = {**machine(), "original": "DCLS 0.1.1"}
    write("construction-cpu.json", {"machine": original_too, "shape": shape, "rows": rows})


if __name__ == "__main__":
    main()
