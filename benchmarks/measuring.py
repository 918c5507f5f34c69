"""What the benchmarks share: times, peak memory, and the machine they ran on."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dcls_ops

RESULTS = Path(__file__).resolve().parent / "results"


def time_runs(run: Callable[[], Any], repeats: int) -> list[float]:
    """Milliseconds of each run."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median milliseconds of functions that take turns, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            times[name] += time_runs(run, 1)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def process_memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def print_peak_growth(run: Callable[[], Any]) -> None:
    """Prints by how many bytes one run raises the peak resident size."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts at the present size
    before = process_memory("VmRSS")
    kept = run()
    print(process_memory("VmHWM") - before)
    del kept


def peak_growth(script: str, *arguments: str) -> int:
    """What a script that ends in print_peak_growth prints, in a process of its own."""
    command = [sys.executable, script, "--peak", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dcls_ops": dcls_ops.__version__,
    }


def _json(value: Any, indent: int = 0) -> str:
    """JSON with everything on one line that fits one."""
    line = json.dumps(value)
    if len(line) <= 160 or not isinstance(value, dict | list):
        return line
    space, inner = " " * indent, " " * (indent + 2)
    if isinstance(value, dict):
        entries = [f"{inner}{json.dumps(key)}: {_json(entry, indent + 2)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{space}}}"
    return "[\n" + ",\n".join(inner + _json(entry, indent + 2) for entry in value) + f"\n{space}]"


def write(name: str, content: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / name
    path.write_text(_json(content) + "\n")
    print(f"written to {path.relative_to(RESULTS.parents[1])}")
