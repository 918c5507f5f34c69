"""What the costs of method "auto" are made of, as benchmarks/fit_costs.py reads it from the library."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

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
        ("construct", "small_depthwise", shape(96, 96, (56, 56), 5)),
        ("construct", "depthwise", shape(96, 96, (56,), 5)),
        ("construct", "aten", shape(64, 1, (56, 56), 5)),
        ("construct", "aten_by_columns", shape(64, 1, (56, 56), 17)),
        ("construct", "aten_of_long_rows", shape(64, 1, (56, 56), 17, padding=0)),
        ("construct", "aten_of_small_groups", shape(64, 32, (56, 56), 5)),
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


def test_touched_taps_are_counted_once_each():
    narrow = shape(64, 1, (56, 56), 9, version="gauss")
    _, terms = fit_costs.work(narrow, "direct")
    lanes = terms[3] / narrow.out_channels  # some of the last vector of a row may be spare
    assert terms[1] == pytest.approx(lanes * 64 * 9 * 9)  # a tap each: more elements than taps
    _, terms = fit_costs.work(narrow._replace(kernel_count=1), "direct")
    assert terms[1] == pytest.approx(lanes * 64 * narrow.touched_taps**2)


@pytest.mark.parametrize("version", ["max", "gauss"])
def test_layers_and_the_script_round_touched_taps_alike(version):
    from dcls_ops.nn import SMALLEST_SIGMA, Dcls1d

    for sigma in (1.0, 1.7, 3.0, 6.0):
        case = shape(4, 1, (50,), 25, version=version)._replace(sigma=sigma)
        layer = Dcls1d(4, 4, 9, dilated_kernel_size=25, version=version)
        with torch.no_grad():
            layer.SIG.fill_(sigma - SMALLEST_SIGMA[version])
        layer.update_touched_taps()
        assert layer.touched_taps == case.touched_taps
