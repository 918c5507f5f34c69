"""What is written of the results: tables, JSON, a chart."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.cases import CASES
from bench.implementations import AUTO, DEPTHWISE, MEASURES, ORIGINAL
from bench.models import FOLDED, FOLDED_FOR_SPEED, MODELS, OURS
from bench.targets import (
    Result,
    Target,
    best_method,
    ceiling_share,
    median,
    ratio,
    speedup,
    stock,
    stock_speedup,
    targets,
)

START, END = "<!-- bench:start -->", "<!-- bench:end -->"
#: The cases of the README.
SUMMARY = ("depthwise-96-56", "depthwise-384-14", "depthwise-768-7", "delays-v1", "shared-16", "filters-33", "conv3d")
#: The models of the README.
SUMMARY_MODELS = ("convnext-v1", "audio-convnext", "snn-delays")
#: Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {"original": "#D55E00", "stock": "#0072B2"}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown, aligned so that it reads as text too: numbers to the right."""
    columns = list(zip(header, *rows, strict=True))
    padded = []
    for title, *cells in columns:
        width = max(3, *map(len, (title, *cells)))
        is_numeric = all(cell[:1].isdigit() or not cell for cell in cells)
        rule = "-" * (width - 1) + ":" if is_numeric else "-" * width
        padded.append([cell.rjust(width) if is_numeric else cell.ljust(width) for cell in (title, rule, *cells)])
    return [f"| {' | '.join(row)} |" for row in zip(*padded, strict=True)]


def _number(value: float | None, unit: str = "") -> str:
    """Three digits, without exponents."""
    if value is None:
        return ""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{unit}"


def _times(value: float | None) -> str:
    return _number(value, "x")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def describe(case: str) -> str:
    """Its shape in a line."""
    shape = CASES[case]
    size, extent = ("x".join(map(str, sizes)) for sizes in (shape.spatial, shape.kernel_size))
    placement = {"uniform": "", "integer": " at integer positions", "grid": " at positions that filters share"}
    return (
        f"({shape.batch}, {shape.in_channels}, {size}) to {shape.out_channels} channels, "
        f"{_count(shape.groups, 'group')}, kernel {extent}, "
        f"{_count(shape.kernel_count, 'element')}{placement[shape.placement]}, {shape.version}"
    )


def case_lines(report: dict[str, Any], case: str) -> list[str]:
    """The table of one case, and how "auto" fared."""
    results, result = report["cases"], report["cases"][case]
    best_stock = stock(results, case)

    def row(name: str) -> list[str]:
        step = median(results, case, name)
        peak = result["peak_bytes"].get(name)
        # A share of the dense kernel's work means little where taps are skipped.
        is_dense = CASES[case].is_depthwise and name.startswith(("F.conv", DEPTHWISE))
        shares = [
            ceiling_share(results, report["ceilings"], case, name, measure) if is_dense else None
            for measure in MEASURES[:3]
        ]
        return [
            name,
            *(_number(median(results, case, name, measure)) for measure in MEASURES),
            _times(ratio(median(results, case, ORIGINAL), step)),
            _times(ratio(best_stock, step)),
            " / ".join(f"{share:.0%}" for share in shares if share is not None),
            _number(peak / 2**20 if peak is not None else None),
        ]

    header = (
        "ms", *(measure.replace("_", " ") for measure in MEASURES), "to original", "to stock", "of ceiling", "peak MiB",
    )  # fmt: skip
    lines = [f"### {case}", "", f"{describe(case)}.", "", *table(header, map(row, result["milliseconds"]))]
    memory = ratio(result.get("construction_peak_bytes"), result["dense_kernel_bytes"])
    notes = [] if memory is None else [f"Construction takes {memory:.2f} dense kernels of memory."]
    for measure in ("forward", "step"):
        best = best_method(results, case, measure)
        if best:
            notes.append(f'{measure.capitalize()} by "auto" takes {best[1]:.2f} times as long as by "{best[0]}".')
    return [*lines, *(["", " ".join(notes)] if notes else [])]


def _mean_step(result: Result, implementation: str) -> float | None:
    """Milliseconds, over all epochs of a model."""
    return statistics.mean(result["milliseconds"][implementation]) if implementation in result["milliseconds"] else None


def model_lines(results: Mapping[str, Result]) -> list[str]:
    """The table of whole models: a row for each, or one for each measured epoch and one for all."""
    rows: list[list[str]] = []

    def add(label: str, steps: Sequence[float | None], peaks: Sequence[int | None], difference: float | None) -> None:
        mebibytes = (_number(peak / 2**20 if peak is not None else None) for peak in peaks)
        shown = "" if difference is None else f"{difference:.0e}"
        rows.append([label, *map(_number, steps), _times(ratio(*steps)), *mebibytes, shown])

    for name, result in results.items():
        model, milliseconds, difference = MODELS[name], result["milliseconds"], result["loss_difference"]
        both = (ORIGINAL, OURS)
        is_annealed = model.epochs > 1
        for epoch in model.measured_epochs:
            steps = [milliseconds[each][epoch] if each in milliseconds else None for each in both]
            peaks = [result["peak_bytes"].get(each, {}).get(str(epoch)) for each in both]
            label = f"{name}, epoch {epoch + 1}" if is_annealed else name
            add(label, steps, peaks, None if is_annealed else difference)
        if is_annealed:
            means = [_mean_step(result, each) for each in both]
            add(f"{name}, all {model.epochs} epochs", means, [None, None], difference)
    header = (
        "ms a step",
        "original",
        "ours",
        "to original",
        "original, peak MiB",
        "ours, peak MiB",
        "losses differ by",
    )
    notes = (
        f"- `{name}`: {MODELS[name].describe()}; {result['parameters'] / 1e6:.2f} million parameters."
        for name, result in results.items()
    )
    return ["### Whole models", "", *table(header, rows), "", *notes, "", *inference_lines(results)]


def inference_lines(results: Mapping[str, Result]) -> list[str]:
    """What is fastest where a model does not train."""
    rows = []
    for name, result in results.items():
        taken = result["inference_milliseconds"]
        shown = [_number(taken.get(each)) for each in (ORIGINAL, OURS, FOLDED, FOLDED_FOR_SPEED)]
        rows.append([name, *shown, f"{taken[FOLDED_FOR_SPEED] / taken[OURS]:.2f}"])
    header = ("ms an inference", "original", "ours", "`fold`", '`fold(backend="dcls")`', "that to ours")
    return ["Of the same models, trained:", "", *table(header, rows)]


def target_lines(found: Sequence[Target]) -> list[str]:
    if not found:
        return []
    rows = (
        (
            target.case,
            target.claim,
            f"{'at most' if target.is_upper else 'at least'} {target.bound:g}",
            _number(target.figure),
            target.verdict,
        )
        for target in found
    )
    return ["", "### Targets", "", *table(("case", "figure", "target", "reached", ""), rows)]


def machine_line(report: dict[str, Any]) -> str:
    machine, ceilings = report["machine"], report["ceilings"]
    original = f"; original {report['original']}" if report["original"] else "; the original is not installed"
    return (
        f"{machine['processor']}, {machine['instruction_set']}, {machine['threads']} threads, "
        f"torch {machine['torch']}, dcls_ops {machine['dcls_ops']}{original}. "
        f"Ceilings: {ceilings['flops_per_second'] / 1e9:.0f} GFLOP/s, {ceilings['bytes_per_second'] / 1e9:.1f} GB/s."
    )


def full_lines(report: dict[str, Any]) -> list[str]:
    lines = [machine_line(report)]
    if report["models"]:
        lines += ["", *model_lines(report["models"])]
    for case in report["cases"]:
        lines += ["", *case_lines(report, case)]
    return [*lines, *target_lines(targets(report["cases"], report["ceilings"]))]


def summary_lines(report: dict[str, Any]) -> list[str]:
    """A handful of rows for the README."""
    results = report["cases"]
    rows = [
        (
            case,
            _number(median(results, case, ORIGINAL)),
            _number(stock(results, case)),
            _number(median(results, case, AUTO)),
            _times(speedup(results, case)),
            _times(stock_speedup(results, case)),
        )
        for case in SUMMARY
        if case in results
    ]
    for name in SUMMARY_MODELS:
        if name in report["models"]:
            steps = [_mean_step(report["models"][name], each) for each in (ORIGINAL, OURS)]
            theirs, ours = map(_number, steps)
            rows.append((name, theirs, "", ours, _times(ratio(*steps)), ""))
    header = ("ms a training step", "original", "best stock PyTorch", "ours", "to original", "to stock")
    return [*table(header, rows), "", machine_line(report)]


def around_markers(page: Path) -> tuple[str, str]:
    """What stands before and after the generated lines of a page."""
    before, start, rest = page.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"{page} has no lines {START} and {END}")
    return before, after


def rewrite(page: Path, lines: Sequence[str]) -> None:
    """Puts lines between the markers of a page."""
    before, after = around_markers(page)
    page.write_text("\n".join([before + START, "", *lines, "", END + after]))


def to_json(value: Any, indent: int = 0) -> str:
    """JSON with everything on one line that fits one."""
    line = json.dumps(value)
    if len(line) <= 160 or not isinstance(value, dict | list):
        return line
    space, inner = " " * indent, " " * (indent + 2)
    if isinstance(value, dict):
        entries = [f"{inner}{json.dumps(key)}: {to_json(entry, indent + 2)}" for key, entry in value.items()]
        return "{\n" + ",\n".join(entries) + f"\n{space}}}"
    return "[\n" + ",\n".join(inner + to_json(entry, indent + 2) for entry in value) + f"\n{space}]"


def draw(report: dict[str, Any], path: Path) -> None:
    """The speed of a training step, relative to the original's and to the best stock PyTorch's."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    results: dict[str, Result] = report["cases"]
    names = [case for case in results if speedup(results, case) is not None]
    if not names:
        return
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    rows = range(len(names))
    stock_times = [stock_speedup(results, case) or 1 for case in names]
    over = {
        "original": ([speedup(results, case) or 1 for case in names], "o", "the original"),
        "stock": (stock_times, "D", "best stock PyTorch: that or, where faster, compiled"),
    }
    for peer, (values, marker, label) in over.items():
        axes.scatter(values, rows, marker=marker, color=COLOURS[peer], label=label, zorder=3)
    for row, pair in enumerate(zip(*(values for values, *_ in over.values()), strict=True)):
        axes.plot(pair, (row, row), color="0.8", linewidth=1.5, zorder=2)
        for value, shift, side in ((min(pair), -7, "right"), (max(pair), 7, "left")):
            axes.annotate(
                _times(value), (value, row), (shift, 0), textcoords="offset points", ha=side, va="center", fontsize=8,
                color="0.3",
            )  # fmt: skip
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12)
    axes.set_yticks(rows, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"times as fast, one training step (log scale)\n{report['machine']['processor']}, "
                    f"{report['machine']['instruction_set']}, {report['machine']['threads']} threads")  # fmt: skip
    figure.legend(loc="outside upper center", ncols=2, frameon=False, title="Training step of dcls_ops, relative to")
    figure.savefig(path, dpi=150)
