"""The benchmark suite: that it compares like with like, and writes what it says. Never times."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
import run
import torch
from bench import report
from bench.cases import CASES, select
from bench.implementations import AUTO, COMPILED, DEPTHWISE, implementations
from bench.measuring import peak_growth
from bench.models import FOLDED, FOLDED_FOR_SPEED, MODELS, OURS, dcls_layers, trainings
from bench.targets import Target, targets

from dcls_ops import reference

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
    models = ["convnext-v0", "convnext-v1", "audio-convnext", "snn-delays", "csnn-1d"]
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [*names, *models] == [*CASES, *MODELS]
    assert set(report.SUMMARY) <= set(names)
    assert set(report.SUMMARY_MODELS) <= set(models)


def test_an_unknown_name_is_explained():
    with pytest.raises(SystemExit, match=r"no model resnet; there are convnext-v0, .*, csnn-1d"):
        bench("--case", "conv3d", "--model", "resnet")
    with pytest.raises(SystemExit, match=r"no case conv4d; there are depthwise-96-56, .*, conv3d"):
        bench("--case", "conv3d", "--case", "conv4d")
    assert [case.name for case in select("case", CASES, ["conv3d", "shared-2"])] == ["shared-2", "conv3d"]


@pytest.mark.parametrize("module", ["tqdm", "matplotlib"])
def test_what_is_missing_is_explained(monkeypatch, tmp_path, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=rf"benchmarks need {module}: pip install {module}"):
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


@pytest.mark.parametrize("name", MODELS)
def test_models_train_alike_with_either_package(original, name):
    model = MODELS[name].shrunk()
    assert (model.version, model.kernel_count) == (MODELS[name].version, MODELS[name].kernel_count)
    made = trainings(model, original)
    kinds = [type(layer).__module__ for each in made.values() for layer in dcls_layers(each.network)]
    assert set(kinds) == {"original_dcls", "DCLS.construct.modules"}
    for each in made.values():
        each.network.double()  # so that no neuron is within a rounding error of its threshold
    layers = dcls_layers(made[OURS].network)
    before = [layer.P.clone() for layer in layers]
    for step in range(3):
        input, labels = model.draw(step)
        for each in made.values():
            each.step(input.double(), labels)
        # The loss depends on every layer: positions, which do not decay, move from the first step on.
        assert not any(torch.equal(layer.P, position) for layer, position in zip(layers, before, strict=True))
    theirs, ours = (each.losses for each in made.values())
    assert ours == pytest.approx(theirs, rel=1e-7)
    assert len(set(ours)) == 3


def test_widths_follow_the_published_schedule(original):
    model = MODELS["snn-delays"]
    widths = []
    made = trainings(model, original)
    for epoch in range(model.epochs):
        for each in made.values():
            each.begin_epoch(epoch)
        present = {layer.SIG.unique().item() for each in made.values() for layer in dcls_layers(each.network)}
        assert len(present) == 1
        widths += present
    factor = (0.23 / 12) ** (1 / 5)
    assert widths == pytest.approx([12 * factor ** min(epoch, 5) for epoch in range(20)], rel=1e-5)
    assert widths[5] == pytest.approx(0.23)


def test_blocks_of_a_stage_share_positions():
    model = MODELS["audio-convnext"].shrunk()
    layers = dcls_layers(trainings(model, None)[OURS].network)
    assert [len({id(layer.P) for layer in layers}), len({id(layer.SIG) for layer in layers})] == [2, 2]
    assert len(layers) == 3


def test_peak_memory_of_a_model_holds_its_gradients():
    growth = peak_growth("snn-delays", OURS, "1", Path("nowhere"))
    gradients = 4 * 2 * 256 * (140 + 256 + 20)  # of weights and positions
    assert growth is None or growth >= gradients


def test_writes_the_table_of_models(monkeypatch, tmp_path, capsys):
    for name, model in MODELS.items():
        monkeypatch.setitem(MODELS, name, model.shrunk())
    monkeypatch.setattr(run, "peak_growth", lambda *_: 3 * 2**20)
    monkeypatch.setattr(run, "ceilings", lambda *_: {"flops_per_second": 1e9, "bytes_per_second": 1e9})
    page, summary = tmp_path / "page.md", tmp_path / "summary.md"
    for each in (page, summary):
        each.write_text(f"{report.START}\n{report.END}\n")
    oracle = str(Path(sys.prefix, "oracle"))
    bench(
        *(part for name in MODELS for part in ("--model", name)), "--original", oracle, "--seconds", "0.001",
        "--output", str(tmp_path), "--page", str(page), "--summary", str(summary),
    )  # fmt: skip

    result = json.loads((tmp_path / "cpu.json").read_text())
    assert result["cases"] == {}
    assert list(result["models"]) == list(MODELS)
    for name, model in MODELS.items():
        found = result["models"][name]
        assert {each: len(times) for each, times in found["milliseconds"].items()} == dict.fromkeys(
            ("original", OURS), model.epochs
        )
        assert found["loss_difference"] < 0.1
    tables = [table for table in page.read_text().split("\n\n") if table.startswith("|")]
    rows, inferences = ([line.split("|")[1:-1] for line in table.splitlines()] for table in tables)
    assert [cells[0].strip() for cells in inferences[2:]] == [*MODELS]
    assert [cells[0].strip() for cells in rows[2:]] == [
        *("convnext-v0", "convnext-v1", "audio-convnext"),
        *("snn-delays, epoch 1", "snn-delays, epoch 4", "snn-delays, all 4 epochs", "csnn-1d"),
    ]
    assert [cells[4].strip() for cells in rows[2:]] == ["3.00"] * 5 + ["", "3.00"]
    assert [bool(cells[6].strip()) for cells in rows[2:]] == [True] * 3 + [False] * 2 + [True] * 2
    assert "### Targets" not in page.read_text()
    assert [line.split("|")[1].strip() for line in summary.read_text().splitlines() if line.startswith("|")][2:] == [
        *report.SUMMARY_MODELS
    ]
    assert "### Whole models" in capsys.readouterr().out


def test_a_model_without_the_original():
    result = {
        "parameters": 1000000,
        "milliseconds": {OURS: [12.34]},
        "loss_difference": None,
        "peak_bytes": {OURS: {"0": None}},
        "inference_milliseconds": {OURS: 2.0, FOLDED: 8.0, FOLDED_FOR_SPEED: 1.5},
    }
    row = report.model_lines({"csnn-1d": result})[4]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["csnn-1d", "", "12.3", "", "", "", ""]
    row = report.inference_lines({"csnn-1d": result})[-1]
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["csnn-1d", "", "2.00", "8.00", "1.50", "0.75"]


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
    assert result["models"] == {}
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
