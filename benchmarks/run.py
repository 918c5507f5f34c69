"""Measures the standard shapes and the whole models of bench/, and writes what docs/performance.md shows.

python benchmarks/run.py --case depthwise-96-56 --model snn-delays
"""

import argparse
import importlib
import itertools
import statistics
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from bench import report
from bench.cases import CASES, Case, select
from bench.implementations import (
    ATEN,
    AUTO,
    MEASURES,
    ORIGINAL,
    implementations,
    load_original,
    original_version,
)
from bench.measuring import ceilings, four_digits, machine, medians, milliseconds, peak_growth
from bench.models import MODELS, OURS, Model, inferences, trainings
from bench.targets import targets
from torch import Tensor, nn

#: How often a model's inference is timed.
INFERENCES = 5
#: Whose peak memory is measured, each time in a process of its own.
WITH_PEAK = (ORIGINAL, ATEN, AUTO)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for kind in ("case", "model"):
        parser.add_argument(f"--{kind}", action="append", default=[], metavar="NAME",
                            help=f"measure this {kind}; can be repeated, and leaves out what is not named")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the names of cases and models, and measure nothing")
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
        raise SystemExit(f"benchmarks need {error.name}: pip install {error.name}") from error


def measure_case(
    case: Case, original: ModuleType | None, folder: Path, seconds: float, progress: Any
) -> dict[str, Any]:
    """Every measure of every implementation; those of one measure take turns."""
    torch.manual_seed(0)
    torch.compiler.reset()  # it stops compiling a function after a few shapes
    tensors = case.draw()
    makers = implementations(case, original)
    made = {name: make(tensors) for name, make in makers.items()}
    taken: dict[str, dict[str, float]] = {name: {} for name in made}
    for measure in MEASURES:
        progress.set_postfix_str(f"{case.name}, {measure}")
        runs = {name: each.prepare(measure) for name, each in made.items() if measure in each.measures()}
        for name, value in medians(runs, seconds).items():
            taken[name][measure] = value
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
        "milliseconds": taken,
        "peak_bytes": peak,
        "construction_peak_bytes": constructing,
    }


def measure_model(model: Model, original: ModuleType | None, folder: Path, progress: Any) -> dict[str, Any]:
    """Training by whoever can, who take turns step by step."""
    made = trainings(model, original)
    taken: dict[str, list[float]] = {name: [] for name in made}  # medians, one an epoch
    step = 0
    for epoch in range(model.epochs):
        progress.set_postfix_str(f"{model.name}, epoch {epoch + 1}")
        times: dict[str, list[float]] = {name: [] for name in made}
        for training in made.values():
            training.begin_epoch(epoch)
        warm_up = 1 if epoch == 0 else 0
        for _ in range(warm_up + model.steps):
            batch = model.draw(step)
            for name, training in made.items():
                times[name].append(milliseconds(partial(training.step, *batch)))
                progress.update()
            step += 1
        for name, values in times.items():
            taken[name].append(four_digits(statistics.median(values[warm_up:])))
    difference = None
    if ORIGINAL in made:
        pairs = zip(*(made[name].losses for name in (OURS, ORIGINAL)), strict=True)
        difference = four_digits(max(abs(ours - theirs) / theirs for ours, theirs in pairs))
    parameters = sum(parameter.numel() for parameter in made[OURS].network.parameters())
    progress.set_postfix_str(f"{model.name}, inference")
    inference = measure_inference(inferences(made), model.draw(0)[0], progress)
    made.clear()

    peak: dict[str, dict[str, int | None]] = {name: {} for name in taken}
    for name, epoch in itertools.product(taken, model.measured_epochs):
        progress.set_postfix_str(f"{model.name}, peak memory")
        peak[name][str(epoch)] = peak_growth(model.name, name, str(epoch), folder)
        progress.update()
    return {
        "shape": {key: value for key, value in asdict(model).items() if key != "name"},
        "parameters": parameters,
        "milliseconds": taken,
        "inference_milliseconds": inference,
        "loss_difference": difference,
        "peak_bytes": peak,
    }


@torch.no_grad()
def measure_inference(networks: Mapping[str, nn.Module], input: Tensor, progress: Any) -> dict[str, float]:
    """Medians of networks that take turns."""
    times: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(1 + INFERENCES):
        for name, network in networks.items():
            times[name].append(milliseconds(partial(network, input)))
            progress.update()
    return {name: four_digits(statistics.median(values[1:])) for name, values in times.items()}


def count_steps(cases: list[Case], models: list[Model], original: ModuleType | None) -> int:
    """How often progress is made: once a measure of an implementation, once a model's step."""
    count = 0
    for case in cases:
        small = case.shrunk()
        for name, make in implementations(small, original).items():
            count += len(make(small.draw()).measures()) + (name in WITH_PEAK)
    trained = sum(model.step_count + len(model.measured_epochs) for model in models)
    packages = 1 if original is None else 2
    return count + trained * packages + len(models) * (1 + INFERENCES) * (packages + 2)


def main(arguments: argparse.Namespace) -> None:
    if arguments.list:
        print("\n".join(f"{name:<22}{report.describe(name)}" for name in CASES))
        print("\n".join(f"{name:<22}{model.describe()}" for name, model in MODELS.items()))
        return
    try:
        cases = select("case", CASES, arguments.case)
        models = select("model", MODELS, arguments.model)
        if not cases and not models:
            cases, models = [*CASES.values()], [*MODELS.values()]
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
        "models": {},
    }
    with tqdm(total=count_steps(cases, models, original), unit="measure", file=sys.stderr) as progress:
        measured: list[Case | Model] = [*cases, *models]
        for each in measured:
            # Once for each, and the best of them: other work on the machine only lowers it.
            for name, value in ceilings(arguments.seconds).items():
                result["ceilings"][name] = max(value, result["ceilings"].get(name, 0.0))
            if isinstance(each, Case):
                result["cases"][each.name] = measure_case(
                    each, original, arguments.original, arguments.seconds, progress
                )
                lines = report.case_lines(result, each.name)
            else:
                result["models"][each.name] = measure_model(each, original, arguments.original, progress)
                lines = report.model_lines({each.name: result["models"][each.name]})
            progress.write("\n".join(["", *lines]), file=sys.stdout)
    found = targets(result["cases"], result["ceilings"])
    result["targets"] = [{**target._asdict(), "verdict": target.verdict} for target in found]
    print("\n".join([*report.target_lines(found), "", report.machine_line(result)]))

    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "cpu.json").write_text(report.to_json(result) + "\n")
        report.draw(result, arguments.output / "cpu.png")
    if arguments.page:
        report.rewrite(arguments.page, report.full_lines(result))
    if arguments.summary:
        report.rewrite(arguments.summary, report.summary_lines(result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Standard shapes and whole models, beside what else computes them")
    add_arguments(parser)
    main(parser.parse_args())
