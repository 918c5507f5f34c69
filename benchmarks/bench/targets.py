"""What the operators are meant to reach, and the figures they do reach: derived from measured medians."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.cases import CASES
from bench.implementations import AUTO, CHANNELS_LAST, COMPILED, DEPTHWISE, EVAL, ORIGINAL

#: What was measured of a case, as in the JSON.
Result = dict[str, Any]


class Target(NamedTuple):
    """A bound for a figure; the figure is None where what it takes was not measured."""

    case: str
    claim: str
    figure: float | None
    bound: float
    is_upper: bool = False

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return "not measured"
        is_met = self.figure <= self.bound if self.is_upper else self.figure >= self.bound
        return "met" if is_met else "not met"


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def median(results: dict[str, Result], case: str, implementation: str, measure: str = "step") -> float | None:
    """Milliseconds; None where they were not measured."""
    milliseconds = results[case]["milliseconds"] if case in results else {}
    value: float | None = milliseconds.get(implementation, {}).get(measure)
    return value


def fastest(results: dict[str, Result], case: str, implementation: str, measure: str = "step") -> float | None:
    """Milliseconds in the better memory format."""
    both = (median(results, case, name, measure) for name in (implementation, implementation + CHANNELS_LAST))
    return min((value for value in both if value is not None), default=None)


def speedup(results: dict[str, Result], case: str) -> float | None:
    """How many times as fast as the original a training step is."""
    return ratio(median(results, case, ORIGINAL), median(results, case, AUTO))


def stock(results: dict[str, Result], case: str) -> float | None:
    """Milliseconds of a training step, by the best that PyTorch makes of the original: compiled or not."""
    both = (median(results, case, ORIGINAL), fastest(results, case, COMPILED))
    return min((value for value in both if value is not None), default=None)


def stock_speedup(results: dict[str, Result], case: str) -> float | None:
    """How many times as fast as the best stock PyTorch a training step is."""
    return ratio(stock(results, case), median(results, case, AUTO))


def best_method(results: dict[str, Result], case: str, measure: str = "step") -> tuple[str, float] | None:
    """The fastest of the methods that can be named, and how many times as long "auto" takes."""
    methods = {name: median(results, case, f"dcls, {name}", measure) for name in ("construct", "direct", "im2col")}
    known = {name: value for name, value in methods.items() if value is not None}
    auto = median(results, case, AUTO, measure)
    if not known or auto is None:
        return None
    name = min(known, key=known.__getitem__)
    return name, auto / known[name]


def ceiling_share(
    results: dict[str, Result], ceilings: dict[str, float], case: str, implementation: str, measure: str
) -> float | None:
    """Nominal FLOP/s of one pass over the dense kernel, relative to a matrix product's."""
    taken = median(results, case, implementation, measure)
    if taken is None:
        return None
    flops: float = results[case]["nominal_flops"]
    return flops / (taken / 1e3) / ceilings["flops_per_second"]


def targets(results: dict[str, Result], ceilings: dict[str, float]) -> list[Target]:
    """The targets of the cases that were measured."""
    everything = (*_depthwise(results, ceilings), *_shared(results), *_filters(results), *_others(results))
    return [target for target in (*everything, *_automatic(results)) if target.case in results]


def _depthwise(results: dict[str, Result], ceilings: dict[str, float]) -> Iterator[Target]:
    for case in (name for name, case in CASES.items() if case.is_depthwise and name in results):
        yield Target(case, "training step, times the original's speed", speedup(results, case), 30)
        yield Target(case, "training step, times the best stock PyTorch's speed", stock_speedup(results, case), 10)
        for measure, bound in (("forward", 0.6), ("grad_input", 0.6), ("grad_parameters", 0.4)):
            share = ceiling_share(results, ceilings, case, DEPTHWISE, measure)
            yield Target(case, f"{DEPTHWISE} {measure}, share of the FMA ceiling", share, bound)
        construction = [median(results, case, name, "construction") for name in (ORIGINAL, AUTO)]
        yield Target(case, "construction, times the original's speed", ratio(*construction), 100)
        memory = ratio(results[case].get("construction_peak_bytes"), results[case]["dense_kernel_bytes"])
        yield Target(case, "construction's peak memory, in dense kernels", memory, 1.2, is_upper=True)
        aten = fastest(results, case, "F.conv", "forward")
        for name, what in ((EVAL, "the layer"), (DEPTHWISE, "the folded kernel")):
            figure = ratio(aten, fastest(results, case, name, "forward"))
            yield Target(case, f"inference of {what}, times F.conv's speed on the folded kernel", figure, 1)


def _shared(results: dict[str, Result]) -> Iterator[Target]:
    growth = ratio(median(results, "shared-16", "dcls, im2col"), median(results, "shared-2", "dcls, im2col"))
    yield Target("shared-16", 'training step by "im2col", relative to dilation 2', growth, 1.15, is_upper=True)
    for case in ("shared-4", "shared-8", "shared-16"):
        figure = ratio(median(results, case, "dcls, construct"), median(results, case, AUTO))
        yield Target(case, 'training step, times the speed of "construct"', figure, 1)
    yield Target("shared-16", "training step, times the original's speed", speedup(results, "shared-16"), 200)


def _filters(results: dict[str, Result]) -> Iterator[Target]:
    # Kernels of 17 and more taps along an axis hold hardly more touched taps: four an element.
    growth = ratio(median(results, "filters-33", "dcls, direct"), median(results, "filters-17", "dcls, direct"))
    yield Target("filters-33", 'training step by "direct", relative to 17 x 17', growth, 1.15, is_upper=True)
    for case, bound in (("filters-17", 10), ("filters-33", 100)):
        yield Target(case, "training step, times the original's speed", speedup(results, case), bound)


def _others(results: dict[str, Result]) -> Iterator[Target]:
    for case, bound in (("delays-gauss", 1.5), ("delays-v1", 5), ("delays-discrete", 5), ("conv3d", 10)):
        yield Target(case, "training step, times the original's speed", speedup(results, case), bound)


def _automatic(results: dict[str, Result]) -> Iterator[Target]:
    for case in results:
        best = best_method(results, case)
        if best is not None:
            yield Target(case, f'training step by "auto", relative to "{best[0]}"', best[1], 1.15, is_upper=True)
