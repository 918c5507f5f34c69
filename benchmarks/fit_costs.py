"""Fits the constants of method "auto" on the CPU (csrc/cpu/cost_table.h) to times measured here.

    DCLS_CPU_CAPABILITY=avx512 python benchmarks/fit_costs.py

Measures every method on the standard shapes and on many drawn ones, forward and backward, on one thread, and fits the
constants of csrc/cpu/costs.cpp to them, so that the logarithms of the errors are small; shapes that no constants fit
count less (soft L1). Then it rewrites the table of the instruction set, and says how long what the new table chooses
takes, relative to the fastest method. Rebuild the library afterwards. Needs scipy.

PyTorch's own convolutions should use the same instructions. On a processor that has more:

    AVX2:         ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
    plain x86-64: ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2
"""

import argparse
import ctypes
import functools
import itertools
import json
import math
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench.cases import CASES
from tqdm import tqdm

from dcls_ops import _library
from dcls_ops._costs import case, touched_taps
from dcls_ops._versions import METHODS, VERSIONS

TABLE = Path(__file__).parents[1] / "csrc" / "cpu" / "cost_table.h"
PASSES = ("forward", "backward")
TERMS = 8
MULTIPLY_ADDS = 1  # the term of that number
ROUTES = re.findall(r"^    (\w+),", TABLE.read_text().split("enum class Route")[1].split("}")[0], re.MULTILINE)
LARGE = 1.15  # a shape is printed when what the table chooses takes so many times the fastest method
SECONDS = 0.05  # for each measure
MOST_MULTIPLY_ADDS = 1.5e9  # of a dense convolution, in drawn shapes
STANDARD_WEIGHT = 5  # how many times the standard shapes count

#: For every shape, (method, pass, nanoseconds).
Times = list[list[tuple[str, str, float]]]
#: By (route, pass), the constants of its terms.
Constants = dict[tuple[int, int], list[float]]


class Shape(NamedTuple):
    batch: int
    in_channels: int
    out_channels: int
    groups: int
    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    kernel_count: int
    version: str
    sigma: float | None
    stride: int
    padding: tuple[int, ...]
    is_shared: bool

    @property
    def output(self) -> list[int]:
        sizes = zip(self.spatial, self.kernel_size, self.padding, strict=True)
        return [(size + 2 * pad - extent) // self.stride + 1 for size, extent, pad in sizes]

    @property
    def touched_taps(self) -> int | None:
        """Touched taps, as layers say it."""
        if self.sigma is None:
            return None
        return touched_taps(torch.tensor(self.sigma), self.version, max(self.kernel_size))

    @property
    def inputs_by_pixels(self) -> int:
        """What a cost is for one of: in channels of a group and output pixels."""
        return self.in_channels * self.batch * math.prod(self.output)

    def dense_multiply_adds(self) -> float:
        return self.inputs_by_pixels * self.out_channels / self.groups * math.prod(self.kernel_size)


def standard() -> Iterator[Shape]:
    for each in CASES.values():
        yield Shape(
            each.batch, each.in_channels, each.out_channels, each.groups, each.spatial, tuple(each.kernel_size),
            each.kernel_count, each.version, 0.5 if each.version == "gauss" else None, 1, tuple(each.padding),
            each.is_shared,
        )  # fmt: skip


def wide() -> Iterator[Shape]:
    """Delays of a spiking network with several elements a synapse, padded by the layer or before it."""
    for batch, out_channels, (size, padding) in itertools.product((1, 16), (256, 20), ((100, 135), (235, 0))):
        for version, sigma in (("v1", None), ("gauss", 0.5), ("gauss", 34.0)):
            shape = (batch, 256, out_channels, 1, (size,), (136,), 25, version, sigma)
            yield Shape(*shape, stride=1, padding=(padding,), is_shared=False)


def drawn(count: int, seed: int) -> Iterator[Shape]:
    draw = random.Random(seed)
    while count > 0:
        axes = draw.choice((1, 1, 2, 2, 2, 3))
        longest = {1: (3, 5, 9, 17, 25, 41, 65), 2: (3, 5, 7, 9, 13, 17, 23), 3: (3, 5, 7)}[axes]
        sizes = {1: (50, 100, 200, 400, 1000), 2: (7, 14, 28, 56), 3: (6, 8, 12, 16)}[axes]
        kind = draw.choice(("depthwise", "dense", "dense", "grouped"))
        channels = draw.choice((16, 32, 64, 96, 192))
        in_channels, out_channels, groups = channels, channels, 1
        if kind == "depthwise":
            groups = channels
            longest = (3, 5, *longest)  # where PyTorch's own kernels are taken
        elif kind == "grouped":
            groups = draw.choice([g for g in (2, 4, 8) if channels % g == 0])
        else:
            in_channels = draw.choice((3, channels, channels))
            out_channels = draw.choice((8, 20, 64, 128, 256))
        extent, size = draw.choice(longest), draw.choice(sizes)
        version = draw.choice((*VERSIONS, "gauss"))
        sigma = {"max": (1.0, 2.0), "gauss": (0.4, 0.5, 1.0, extent / 4)}.get(version)
        padding = draw.choice((extent // 2, extent // 2, 0))
        shape = Shape(
            draw.choice((1, 2, 4, 8, 16, 32)), in_channels, out_channels, groups, (size,) * axes, (extent,) * axes,
            draw.choice((1, 1, 3, 9, 26)), version, draw.choice(sigma) if sigma else None,
            draw.choice((1, 1, 1, 1, 2)), (padding,) * axes, draw.random() < 0.25 and groups == 1,
        )  # fmt: skip
        if min(shape.output) >= 1 and 1e5 < shape.dense_multiply_adds() < MOST_MULTIPLY_ADDS:
            count -= 1
            yield shape


def work(shape: Shape, method: str, which: str = "forward") -> tuple[int, list[float]]:
    """The route that a method takes, and its terms for a pass."""
    axes = len(shape.spatial)
    weight = (shape.out_channels, shape.in_channels // shape.groups, shape.kernel_count)
    numbers = case(
        shape.batch, shape.spatial, weight, axes, shape.kernel_size, [shape.stride] * axes, shape.padding,
        shape.groups, shape.version, shape.touched_taps,
    )  # fmt: skip
    terms = (ctypes.c_double * TERMS)()
    write_terms = _library.function("dcls", "dcls_cpu_work", ctypes.c_int)
    route: int = write_terms(METHODS.index(method), PASSES.index(which), numbers, terms)
    return route, list(terms)


def shortest(run: Callable[[], Any]) -> float:
    """Nanoseconds of the processor."""
    run()
    times: list[float] = []
    while sum(times) < SECONDS or len(times) < 3:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times) * 1e9


def measure(shape: Shape) -> Iterator[tuple[str, str, float]]:
    """(method, pass, nanoseconds)."""
    axes = len(shape.spatial)
    generator = torch.Generator().manual_seed(0)
    channels = shape.in_channels // shape.groups
    of_positions = (axes, 1 if shape.is_shared else shape.out_channels, channels, shape.kernel_count)
    extents = torch.tensor(shape.kernel_size).view(-1, 1, 1, 1)
    positions = (torch.rand(of_positions, generator=generator) - 0.5) * (extents - 1)
    sigma = torch.full(of_positions, shape.sigma) if shape.sigma is not None else None
    weight = torch.randn(shape.out_channels, *of_positions[2:], generator=generator)
    input = torch.randn(shape.batch, shape.in_channels, *shape.spatial, generator=generator)
    grad = torch.randn(shape.batch, shape.out_channels, *shape.output, generator=generator)
    convolution = getattr(torch.ops.dcls, f"conv{axes}d")
    stride, padding = [shape.stride] * axes, list(shape.padding)
    settings = (stride, padding, shape.groups, shape.version)
    mask = [True, True, True, sigma is not None, False]
    operands = (input, weight, positions, shape.kernel_size, sigma)
    for method in ("construct", "direct", *(["im2col"] if shape.is_shared else [])):
        chosen = (*settings, method, shape.touched_taps)
        yield method, "forward", shortest(functools.partial(convolution, *operands, None, *chosen))
        backward = functools.partial(torch.ops.dcls.conv_backward, grad, *operands, *chosen, mask)
        yield method, "backward", shortest(backward)


def fit(rows: list[tuple[list[float], float]], fastest: float) -> list[float]:
    """Constants whose sums of terms are nearest to the times, relative to these.

    None is negative, and no multiply-add takes less than ``fastest``.
    """
    from scipy.optimize import least_squares, nnls

    relative = np.array([row for row, _ in rows]) / np.array([[nanoseconds] for _, nanoseconds in rows])
    scale = relative.max(0)
    scale[scale == 0] = 1
    relative /= scale
    start, _ = nnls(relative, np.ones(len(rows)), maxiter=1000)
    least = np.zeros(TERMS)
    least[MULTIPLY_ADDS] = fastest * scale[MULTIPLY_ADDS]
    found = least_squares(
        lambda constants: np.log(np.maximum(relative @ constants, 1e-9)),
        np.maximum(start, least + 1e-4),
        bounds=(least, np.inf),
        loss="soft_l1",
    )
    # What never makes a thousandth of a time is nothing.
    is_nothing = ((relative * found.x).max(0) <= 1e-3) & (least == 0)
    constants: list[float] = np.where(is_nothing, 0, found.x / scale).tolist()
    return constants


def write(name: str, constants: Constants) -> None:
    def row(values: list[float]) -> str:
        return "{" + ", ".join(f"{float(f'{value:.3g}'):g}" for value in values) + "}"

    text = TABLE.read_text()
    lines = [
        f"    {{{{{row(constants[route, 0])},  // {ROUTES[route]}\n      {row(constants[route, 1])}}}}},\n"
        for route in range(len(ROUTES))
    ]
    table = f"constexpr Costs {name}{{{{\n" + "".join(lines) + "}};"
    replaced, count = re.subn(rf"constexpr Costs {name}\{{.*?\}};", table, text, flags=re.DOTALL)
    assert count == 1, name
    TABLE.write_text(replaced)


def fit_all(shapes: list[Shape], times: Times) -> Constants:
    rows = defaultdict(list)
    standard_shapes = set(standard())
    for shape, measured in zip(shapes, times, strict=True):
        weight = STANDARD_WEIGHT if shape in standard_shapes else 1
        for method, which, nanoseconds in measured:
            route, terms = work(shape, method, which)
            rows[route, PASSES.index(which)] += [(terms, nanoseconds / shape.inputs_by_pixels)] * weight
    # Twice as fast as in any shape: what few shapes do not settle must not be free.
    fastest = [
        min(time / terms[MULTIPLY_ADDS] for route in range(len(ROUTES)) for terms, time in rows[route, at]) / 2
        for at in range(len(PASSES))
    ]
    every = itertools.product(range(len(ROUTES)), range(len(PASSES)))
    return {(route, at): fit(rows[route, at], fastest[at]) if rows[route, at] else [0.0] * TERMS for route, at in every}


def report(capability: str, shapes: list[Shape], times: Times, constants: Constants) -> None:
    for at, which in enumerate(PASSES):
        ratios = []
        for shape, measured in zip(shapes, times, strict=True):
            taken = {method: ns for method, what, ns in measured if what == which}
            expected = {}
            for method in taken:
                route, terms = work(shape, method, which)
                expected[method] = float(np.dot(constants[route, at], terms))
            chosen = min(expected, key=expected.__getitem__)
            ratios.append(taken[chosen] / min(taken.values()))
            if ratios[-1] > LARGE:
                others = ", ".join(
                    f"{method} {ns / 1e6:.2f} ms (expected {expected[method] * shape.inputs_by_pixels / 1e6:.2f})"
                    for method, ns in taken.items()
                )
                tqdm.write(f"{which}, {tuple(shape)}: {ratios[-1]:.2f}, {chosen} of {others}")
        print(f"{capability}, {which}: {len(ratios)} shapes, median {statistics.median(ratios):.2f}, "
              f"worst {max(ratios):.2f}, {sum(r > LARGE for r in ratios)} above {LARGE}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Fits csrc/cpu/cost_table.h for the instruction set in use")
    parser.add_argument("--shapes", type=int, default=320, help="how many are drawn (default: %(default)s)")
    parser.add_argument("--times", type=Path, help="read times from this file, or write them to it if there is none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shapes = [*standard(), *wide(), *drawn(arguments.shapes, 0)]
    if arguments.times and arguments.times.exists():
        times = json.loads(arguments.times.read_text())
    else:
        times = [list(measure(shape)) for shape in tqdm(shapes, unit="shape")]
        if arguments.times:
            arguments.times.write_text(json.dumps(times))
    capability = _library.cpu_capability()
    constants = fit_all(shapes, times)
    write(f"k{capability.capitalize()}Costs", constants)
    report(capability, shapes, times, constants)


if __name__ == "__main__":
    main()
