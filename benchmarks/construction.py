"""Kernel construction, forward and backward: time and peak memory against the original package, in one run.

    python benchmarks/construction.py

Shapes are those of depthwise 17x17 layers (26 elements, "gauss"). Each measurement alternates the two implementations
and takes medians. Memory is the growth of the process's peak resident size, each in a process of its own. Writes
benchmarks/results/construction-cpu.json.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import dcls_ops

CHANNELS = (96, 192, 384, 768)
KERNEL_COUNT, EXTENT, VERSION = 26, 17, "gauss"
RESULTS = Path(__file__).resolve().parent / "results" / "construction-cpu.json"


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


def time_runs(run: Callable[[], None], repeats: int) -> list[float]:
    """Milliseconds of each run."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def process_memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def print_peak_growth(implementation: str, channels: int) -> None:
    """Prints by how many bytes one forward and backward raises the peak resident size."""
    IMPLEMENTATIONS[implementation](8)()  # loads code and starts threads
    run = IMPLEMENTATIONS[implementation](channels)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at the present size
    before = process_memory("VmRSS")
    run()
    print(process_memory("VmHWM") - before)


def peak_growth(implementation: str, channels: int) -> int:
    command = [sys.executable, __file__, "--peak", implementation, str(channels)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peak", nargs=2, metavar=("IMPLEMENTATION", "CHANNELS"), help="measure memory only")
    arguments = parser.parse_args()
    if arguments.peak:
        print_peak_growth(arguments.peak[0], int(arguments.peak[1]))
        return

    rows = []
    print(f"{'channels':>8}{'original ms':>13}{'ours ms':>9}{'ratio':>7}{'original MiB':>14}{'ours MiB':>10}", end="")
    print(f"{'ours / dense kernel':>21}")
    for channels in CHANNELS:
        runs = {name: make(channels) for name, make in IMPLEMENTATIONS.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for run in runs.values():
            run()
        for _ in range(5):
            times["original"] += time_runs(runs["original"], 1)
            times["ours"] += time_runs(runs["ours"], 10)
        median = {name: statistics.median(values) for name, values in times.items()}
        peak = {name: peak_growth(name, channels) for name in runs}
        dense = channels * EXTENT * EXTENT * 4
        ratio = median["original"] / median["ours"]
        print(
            f"{channels:>8}{median['original']:>13.1f}{median['ours']:>9.2f}{ratio:>6.0f}x"
            f"{peak['original'] / 2**20:>14.1f}{peak['ours'] / 2**20:>10.2f}{peak['ours'] / dense:>20.2f}x"
        )
        rows.append({"channels": channels, "milliseconds": median, "peak_bytes": peak, "dense_kernel_bytes": dense})
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {
        "processor": processor_name(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dcls_ops": dcls_ops.__version__,
        "original": "DCLS 0.1.1",
    }
    shape = {"kernel_count": KERNEL_COUNT, "kernel_size": [EXTENT, EXTENT], "version": VERSION}
    RESULTS.write_text(json.dumps({"machine": machine, "shape": shape, "rows": rows}, indent=2) + "\n")
    print(f"written to {RESULTS.relative_to(RESULTS.parents[2])}")


if __name__ == "__main__":
    main()
