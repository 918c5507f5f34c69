"""The command ``python -m dcls_ops bench``."""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dcls_ops.bench import report
from dcls_ops.bench.cases import CASES, Case, select
from dcls_ops.bench.implementations import (
    ATEN,
    AUTO,
    MEASURES,
    ORIGINAL,
    implementations,
    load_original,
    original_version,
)
from dcls_ops.bench.measuring import ceilings, machine, medians, peak_growth
from dcls_ops.bench.targets import targets

#: Whose peak memory is measured, each time in a process of its own.
WITH_PEAK = (ORIGINAL, ATEN, AUTO)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="measure this one; can be repeated")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, and measure nothing")
    parser.add_argument("--seconds", type=float, default=0.3, help="for a measure of an implementation (default: 0.3)")
    parser.add_argument("--original", type=Path, default=Path(sys.prefix, "oracle"), metavar="DIR",
                        help="where the original package DCLS is installed (default: %(default)s)")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR", help="write cpu.json and cpu.png there")
    parser.add_argument("--page", type=Path, help="rewrite all tables between the markers of this Markdown page")
    parser.add_argument("--summary", type=Path, help="the same with a short table")


def _require(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SystemExit(f"bench needs {error.name}: pip install dcls_ops[bench]") from error


def measure_case(
    case: Case, original: ModuleType | None, folder: Path, seconds: float, progress: Any
) -> dict[str, Any]:
    """Every measure of every implementation; those of one measure take turns."""
    torch.manual_seed(0)
    torch.compiler.reset()  # it stops compiling a function after a few shapes
    tensors = case.draw()
    makers = implementations(case, original)
    made = {name: make(tensors) for name, make in makers.items()}
    milliseconds: dict[str, dict[str, float]] = {name: {} for name in made}
    for measure in MEASURES:
        progress.set_postfix_str(f"{case.name}, {measure}")
        runs = {name: each.prepare(measure) for name, each in made.items() if measure in each.measures()}
        for name, value in medians(runs, seconds).items():
            milliseconds[name][measure] = value
            progress.update()
        del runs  # graphs with all that they saved

    peak = {}
    for name in made:
        if name in WITH_PEAK:
            progress.set_postfix_str(f"{case.name}, peak memory")
            peak[name] = peak_growth(case.name, name, "step", folder)
            progress.update()
    constructing = peak_growth(case.name, AUTO, "construction", folder)
    if constructing is not None:  # the dense kernel and what else there is for a while, less the gradients that stay
        constructing -= sum(parameter.nbytes for parameter in made[AUTO].parameters)
    return {
        "shape": {key: value for key, value in case._asdict().items() if key != "name"},
        "nominal_flops": case.nominal_flops,
        "dense_kernel_bytes": case.dense_kernel_bytes,
        "milliseconds": milliseconds,
        "peak_bytes": peak,
        "construction_peak_bytes": constructing,
    }


def count_steps(cases: list[Case], original: ModuleType | None) -> int:
    """How often progress is made: once a measure of an implementation."""
    count = 0
    for case in cases:
        small = case.shrunk()
        for name, make in implementations(small, original).items():
            count += len(make(small.draw()).measures()) + (name in WITH_PEAK)
    return count


def main(arguments: argparse.Namespace) -> None:
    if arguments.list:
        print("\n".join(f"{name:<22}{report.describe(name)}" for name in CASES))
        return
    try:
        cases = select(arguments.case)
        for page in (arguments.page, arguments.summary):
            if page:
                report.around_markers(page)  # now, not after half an hour
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from error
    tqdm = _require("tqdm").tqdm
    if arguments.output:
        _require("matplotlib")
    original = load_original(arguments.original)
    if original is None:
        print(f"The original package is not in {arguments.original}: its rows are left out.")

    result: dict[str, Any] = {
        "machine": machine(),
        "original": original_version(arguments.original) if original else None,
        "seconds": arguments.seconds,
        "ceilings": {},
        "cases": {},
    }
    with tqdm(total=count_steps(cases, original), unit="measure", file=sys.stderr) as progress:
        for case in cases:
            # Once a case, and the best of them: other work on the machine only lowers it.
            for name, value in ceilings(arguments.seconds).items():
                result["ceilings"][name] = max(value, result["ceilings"].get(name, 0.0))
            result["cases"][case.name] = measure_case(case, original, arguments.original, arguments.seconds, progress)
            progress.write("\n".join(["", *report.case_lines(result, case.name)]), file=sys.stdout)
    found = targets(result["cases"], result["ceilings"])
    result["targets"] = [{**target._asdict(), "verdict": target.verdict} for target in found]
    print("\n".join(["", *report.target_lines(found), "", report.machine_line(result)]))

    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "cpu.json").write_text(report.to_json(result) + "\n")
        report.draw(result, arguments.output / "cpu.png")
    if arguments.page:
        report.rewrite(arguments.page, report.full_lines(result))
    if arguments.summary:
        report.rewrite(arguments.summary, report.summary_lines(result))
