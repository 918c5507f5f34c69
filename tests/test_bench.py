"""The benchmark suite: that it compares like with like, and writes what it says. Never times."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch

from dcls_ops import reference
from dcls_ops.bench import report, run
from dcls_ops.bench.cases import CASES, select
from dcls_ops.bench.implementations import AUTO, COMPILED, DEPTHWISE, implementations
from dcls_ops.bench.measuring import peak_growth
from dcls_ops.bench.targets import Target, targets

STAGES = ("96-56", "192-28", "384-14", "768-7")


def bench(*arguments: str) -> None:
    parser = ArgumentParser()
    run.add_arguments(parser)
    run.main(parser.parse_args(arguments))


def test_names_are_stable(capsys):
    names = [
        *(f"depthwise-{stage}" for stage in STAGES),
        *(f"depthwise-{stage}-v1" for stage in STAGES),
        "depthwise23-96-56",
        *("delays-gauss", "delays-v1", "delays-discrete"),
        *("shared-2", "shared-4", "shared-8", "shared-16"),
        *("filters-5", "filters-9", "filters-17", "filters-33"),
        "conv3d",
    ]
    bench("--list")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == names == list(CASES)
    assert set(report.SUMMARY) <= set(names)


def test_an_unknown_case_is_explained():
    with pytest.raises(SystemExit, match=r"no case conv4d; there are depthwise-96-56, .*, conv3d"):
        bench("--case", "conv3d", "--case", "conv4d")
    assert [case.name for case in select(["conv3d", "shared-2"])] == ["shared-2", "conv3d"]


@pytest.mark.parametrize("module", ["tqdm", "matplotlib"])
def test_what_is_missing_is_explained(monkeypatch, tmp_path, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"bench needs {module}: pip install dcls_ops\[bench\]"):
        bench("--case", "conv3d", "--output", str(tmp_path))


def test_a_page_without_markers_is_explained(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(report.START)
    with pytest.raises(SystemExit, match=r"page\.md has no lines <!-- bench:start --> and <!-- bench:end -->"):
        bench("--case", "conv3d", "--page", str(page))


def test_positions_are_where_the_page_says():
    for case in CASES.values():
        positions = case.draw().positions
        assert positions.abs().max() <= case.extent // 2
        assert positions.shape[1] == (1 if case.is_shared else case.out_channels)
        assert torch.equal(positions, positions.round()) == (case.placement == "integer")
    rows = CASES["shared-16"].draw().positions[0, 0, 0]
    assert rows.round().int().tolist() == pytest.approx([-16] * 3 + [0] * 3 + [16] * 3, abs=1)


@pytest.mark.parametrize("name", CASES)
def test_implementations_agree(original, name):
    case = CASES[name].shrunk()
    assert case.placement == CASES[name].placement
    assert case.is_depthwise == CASES[name].is_depthwise
    tensors = case.draw()
    input, weight, positions, sigma = (t.detach().double() if t is not None else None for t in tensors)
    input.requires_grad_()
    arguments = (case.kernel_size, sigma, None, 1, case.padding, case.groups, case.version)
    expected = reference.conv(input, weight, positions, *arguments)
    assert expected.shape == (case.batch, case.out_channels, *case.spatial)
    grad = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, input, grad)
    for implementation, make in implementations(case, original).items():
        if implementation.startswith(COMPILED):
            continue  # the original once more; takes long
        made = make(tensors)
        output = made.run()
        (grad_input,) = torch.autograd.grad(output, made.input, grad.float())
        for actual, wanted in ((output, expected), (grad_input, expected_grad)):
            torch.testing.assert_close(actual.double(), wanted, rtol=1e-4, atol=1e-4, msg=implementation)
        if made.construct is not None:
            assert list(made.construct().shape) == case.dense_kernel_shape
        for measure in made.measures():
            made.prepare(measure)()


def test_peak_memory_holds_the_tensors_of_a_step():
    case = CASES["depthwise-384-14"]
    growth = peak_growth(case.name, DEPTHWISE, "step", Path("nowhere"))
    at_least = 3 * 4 * case.batch * case.in_channels * 14**2  # the output and two gradients
    assert growth is None or at_least <= growth <= 4 * at_least


def test_writes_what_it_measures(monkeypatch, tmp_path, capsys):
    name = "depthwise-96-56"
    monkeypatch.setitem(CASES, name, CASES[name].shrunk())
    monkeypatch.setattr(run, "peak_growth", lambda *_: 2**20)
    pages = {option: tmp_path / f"{option}.md" for option in ("page", "summary")}
    for page in pages.values():
        page.write_text(f"before\n{report.START}\nof last time\n{report.END}\nafter\n")
    options = [part for option, page in pages.items() for part in (f"--{option}", str(page))]
    bench("--case", name, "--seconds", "0.001", "--original", "nowhere", "--output", str(tmp_path), *options)

    result = json.loads((tmp_path / "cpu.json").read_text())
    milliseconds = result["cases"][name]["milliseconds"]
    assert set(milliseconds) == set(implementations(CASES[name], None))
    assert set(milliseconds[AUTO]) == {"forward", "grad_input", "grad_parameters", "construction", "step"}
    assert result["ceilings"].keys() == {"flops_per_second", "bytes_per_second"}
    assert {target["case"] for target in result["targets"]} == {name}
    printed = capsys.readouterr().out
    assert "The original package is not in nowhere: its rows are left out." in printed
    table = report.case_lines(result, name)
    assert "\n".join(table) in printed
    assert [line.split("|")[1].strip() for line in table if line.startswith("|")][2:] == list(milliseconds)
    for page in pages.values():
        text = page.read_text()
        assert text.startswith(f"before\n{report.START}\n\n")
        assert text.endswith(f"\n\n{report.END}\nafter\n")
        assert "of last time" not in text
    assert "### Targets" in pages["page"].read_text()


def test_ratios_and_targets(tmp_path):
    case = CASES["shared-16"]
    milliseconds = {"original": 1000, COMPILED: 500, AUTO: 4, "dcls, construct": 400, "dcls, im2col": 3.2}
    results = {
        case.name: {
            "milliseconds": {name: {"step": value} for name, value in milliseconds.items()},
            "nominal_flops": case.nominal_flops,
            "dense_kernel_bytes": case.dense_kernel_bytes,
            "peak_bytes": {},
        }
    }
    ceilings = {"flops_per_second": 1e9, "bytes_per_second": 1e9}
    found = {target.claim: (target.figure, target.verdict) for target in targets(results, ceilings)}
    assert found == {
        'training step by "im2col", relative to dilation 2': (None, "not measured"),
        'training step, times the speed of "construct"': (100, "met"),
        "training step, times the original's speed": (250, "met"),
        'training step by "auto", relative to "im2col"': (1.25, "not met"),
    }
    assert Target("", "", 2, 1, is_upper=True).verdict == "not met"
    lines = report.case_lines({"cases": results, "ceilings": ceilings}, case.name)
    assert [cell.strip() for cell in lines[7].split("|")[6:9]] == ["500", "2.00x", "1.00x"]
    report.draw(
        {"cases": results, "machine": {"processor": "", "instruction_set": "", "threads": 1}}, tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").stat().st_size > 0
