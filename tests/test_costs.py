"""What the costs of method "auto" are made of, as benchmarks/fit_costs.py reads it from the library."""

import importlib.util
import sys
from pathlib import Path

import pytest

path = Path(__file__).parents[1] / "benchmarks" / "fit_costs.py"
spec = importlib.util.spec_from_file_location("fit_costs", path)
fit_costs = sys.modules["fit_costs"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fit_costs)


def shape(channels, groups, spatial, extent, *, batch=4, version="v1", stride=1, padding=None, shared=False):
    axes = len(spatial)
    pads = (extent // 2 if padding is None else padding,) * axes
    sizes = ((extent,) * axes, 9, version, 0.5 if version == "gauss" else None, stride, pads, shared)
    return fit_costs.Shape(batch, channels, channels, groups, spatial, *sizes)


@pytest.mark.parametrize(
    ("method", "route", "case"),
    [
        ("construct", "depthwise", shape(96, 96, (56, 56), 17)),
        ("construct", "depthwise_in_aten", shape(96, 96, (56, 56), 5)),
        ("construct", "depthwise", shape(96, 96, (56,), 5)),
        ("construct", "aten", shape(64, 1, (56, 56), 5)),
        ("construct", "aten_by_columns", shape(64, 1, (56, 56), 17)),
        ("construct", "aten_of_long_rows", shape(64, 1, (56, 56), 17, padding=0)),
        ("construct", "aten_of_small_groups", shape(64, 32, (56, 56), 5)),
        ("construct", "aten_of_few_channels", shape(3, 1, (56, 56), 5)),
        ("direct", "direct", shape(64, 1, (56, 56), 17)),
        ("direct", "direct_interleaved", shape(64, 1, (7, 7), 5, batch=32)),
        ("direct", "direct_depthwise", shape(64, 64, (56, 56), 17)),
        ("direct", "direct_with_stride", shape(64, 64, (56, 56), 17, stride=2)),
        ("im2col", "im2col", shape(64, 1, (56, 56), 17, shared=True)),
    ],
)
def test_routes(method, route, case):
    number, terms = fit_costs.work(case, method)
    assert fit_costs.ROUTES[number] == route
    assert all(term >= 0 for term in terms)


@pytest.mark.parametrize(
    ("elements", "multiply_adds"),
    [(9, 64 * 9 * 9), (1, 64 * 6 * 6)],  # half a tap wide: 6 taps an axis, of 9, and each tap once for all elements
)
def test_touched_taps_are_counted_once_each(elements, multiply_adds):
    # Rows of 64 pixels have no lanes to spare in any instruction set.
    narrow = shape(64, 1, (64, 64), 9, version="gauss")._replace(kernel_count=elements)
    _, terms = fit_costs.work(narrow, "direct")
    assert terms[1] == multiply_adds
