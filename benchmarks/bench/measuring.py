"""Times, peak memory, and the machine with its ceilings."""

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dcls_ops
from bench.cases import CASES
from bench.implementations import implementations, load_original
from bench.models import MODELS, trainings
from dcls_ops import _library

FEWEST_RUNS, ROUNDS = 3, 3
#: Milliseconds from which one run is enough, and needs no warm-up.
SLOW = 2000.0
CLEAR_PEAK = Path("/proc/self/clear_refs")


def four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def milliseconds(run: Callable[[], Any]) -> float:
    """How long one run takes; what it returns is freed within."""
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def medians(runs: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Median milliseconds of functions that take turns, after a warm-up, in about so many seconds each."""
    times: dict[str, list[float]] = {name: [milliseconds(run)] for name, run in runs.items()}
    warm_up = {name: first for name, (first,) in times.items() if first < SLOW}
    for name in warm_up:
        times[name].clear()
    for _ in range(ROUNDS):
        for name, estimate in warm_up.items():
            count = max(FEWEST_RUNS, int(seconds * 1e3 / estimate))
            times[name] += [milliseconds(runs[name]) for _ in range(-(-count // ROUNDS))]
    return {name: four_digits(statistics.median(values)) for name, values in times.items()}


def ceilings(seconds: float) -> dict[str, float]:
    """What the machine can do at most: FLOP/s of a matrix product, bytes/s of a copy, read and written."""
    size, matrix, source = 2048, torch.randn(2048, 2048), torch.randn(2**26)
    target = torch.empty_like(source)
    taken = medians({"product": lambda: matrix @ matrix, "copy": lambda: target.copy_(source)}, seconds)
    return {
        "flops_per_second": four_digits(2 * size**3 / taken["product"] * 1e3),
        "bytes_per_second": four_digits(2 * source.nbytes / taken["copy"] * 1e3),
    }


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "instruction_set": _library.cpu_capability(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "dcls_ops": dcls_ops.__version__,
        "libdcls": _library.build_info("dcls"),
    }


def peak_growth(name: str, implementation: str, measure: str, original: Path) -> int | None:
    """By how many bytes one run raises the peak resident size, in a process of its own; None outside of Linux.

    Of a case's "step" or "construction"; of a model's step in an epoch, which is the measure then.
    """
    if not CLEAR_PEAK.exists():
        return None
    command = [sys.executable, "-m", "bench.measuring", name, implementation, measure, str(original)]
    # What is freed goes back to the system at once, so that nothing is used again that an earlier peak has left.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])
    process = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(process.stdout.split()[-1])


def _resident(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _forward_and_backward(forward: Callable[[], Tensor], leaves: Sequence[Tensor], grad: Tensor | None) -> Any:
    output = forward()
    return output, torch.autograd.grad(output, leaves, torch.ones_like(output) if grad is None else grad)


def _runs_of_case(case: str, implementation: str, measure: str, original: Path) -> Iterator[Callable[[], Any]]:
    for shape in (CASES[case].shrunk(), CASES[case]):
        made = implementations(shape, load_original(original))[implementation](shape.draw())
        leaves, forward, grad = (made.input, *made.parameters), made.run, None
        if measure == "construction":
            assert made.construct is not None
            leaves, forward = made.parameters, made.construct
            grad = torch.ones(shape.dense_kernel_shape)
        yield partial(_forward_and_backward, forward, leaves, grad)


def _runs_of_model(model: str, implementation: str, epoch: int, original: Path) -> Iterator[Callable[[], Any]]:
    training = trainings(MODELS[model], load_original(original))[implementation]
    for each in range(epoch + 1):
        training.begin_epoch(each)
    for step in range(2):  # the first one makes the optimiser's state too
        yield partial(training.step, *MODELS[model].draw(step))


def _print_peak_growth(name: str, implementation: str, measure: str, original: str) -> None:
    if name in MODELS:
        runs = _runs_of_model(name, implementation, int(measure), Path(original))
    else:
        runs = _runs_of_case(name, implementation, measure, Path(original))
    for run in runs:  # all but the last one load code and start threads
        CLEAR_PEAK.write_text("5")  # the peak starts at the present size
        before = _resident("VmRSS")
        kept = run()
        growth = _resident("VmHWM") - before
        del kept
    print(growth)


if __name__ == "__main__":
    _print_peak_growth(*sys.argv[1:])
