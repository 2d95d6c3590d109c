"""A bundle's numbers again: the commands, the comparison, and a whole way on made data."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from pathlib import Path

import pytest

from neurobundle.cli.console import Parser
from neurobundle.cli.reproduce import add_reproduce
from neurobundle.commands.record import RECORD, read_record, record_crossval, scores_of
from neurobundle.commands.reproduce import compare, few_cases, reproduce
from neurobundle.errors import ExitCode, InputError, NeurobundleError, SettingError
from neurobundle.load.datalist import load_json

from ..conftest import ROOT
from ..helpers import TINY, Maker, small_datalist

HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_segmentation"


def scores(mean: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"front": {"dice": {"mean": mean, "interval": [low, high]}}}


@pytest.mark.parametrize(
    ("published", "made", "inside", "difference"),
    [
        (scores(0.8, 0.7, 0.9), scores(0.75, 0.6, 0.8), True, -0.05),
        (scores(0.8, 0.7, 0.9), scores(0.7, 0.6, 0.8), True, -0.1),
        (scores(0.8, 0.7, 0.9), scores(0.65, 0.6, 0.8), False, -0.15),
        (scores(0.8, 0.7, 0.9), scores(0.95, 0.9, 1.0), False, 0.15),
        (scores(0.8, 0.7, 0.9), scores(None), False, None),
        (scores(0.8, 0.7, 0.9), {}, False, None),
        (scores(0.8), scores(0.8), True, 0.0),
        (scores(None), scores(None), True, None),
        (scores(None), scores(0.5), False, None),
    ],
)
def test_inside_the_published_interval(published: dict, made: dict, inside: bool, difference: float | None) -> None:
    """A better score is outside, too: it is not the published one. What is missing is never inside."""
    (one,) = compare("summary.json", published, made)
    assert (one.inside, one.difference) == (inside, difference)


def test_few_cases_of_each_of_two_folds() -> None:
    items = [{"case": str(n), "fold": n % 3} for n in range(30)]
    assert [item["case"] for item in few_cases({"training": items})["training"]] == ["0", "3", "1", "4"]


def test_few_cases_of_each_class() -> None:
    """Fold 0 begins with three of class 1: a fold of one class only would be refused."""
    labels = {0: [1, 1, 1, 0, 0, 0], 1: [0, 1, 1]}
    items = [
        {"case": f"{fold}{n}", "fold": fold, "label": c} for fold, own in labels.items() for n, c in enumerate(own)
    ]
    few = few_cases({"labels": {"0": "a", "1": "b"}, "training": items})
    assert [item["case"] for item in few["training"]] == ["00", "01", "03", "04", "10", "11", "12"]
    assert few["labels"] == {"0": "a", "1": "b"}, "which class is which"


def copy_of_summary(path: Path, better: float = 0.0) -> None:
    """The published summary, as if it had been made again; with another Dice."""
    summary = json.loads((HIPPOCAMPUS / "docs" / "results" / "summary.json").read_text())
    summary["structures"]["anterior"]["dice"]["mean"] += better
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize(("better", "code"), [(0.0, ExitCode.OK), (-0.05, ExitCode.AUDIT)])
def test_the_commands_and_the_comparison(better: float, code: ExitCode, tmp_path: Path) -> None:
    """Nothing is trained here: one that runs commands leaves a summary."""
    ran, out, data = [], tmp_path / "out", tmp_path / "data"
    data.mkdir()

    def run(words: list[str]) -> int:
        ran.append(words)
        copy_of_summary(out / "crossval" / "summary.json", better)
        return 0

    report = reproduce("hippocampus_segmentation", out, data, run=run)
    (words,) = ran
    assert words[:2] == ["crossval", str(HIPPOCAMPUS)]
    assert words[words.index("--data") + 1] == str(HIPPOCAMPUS / "configs" / "datalist.json")
    assert words[words.index("--dataset-dir") + 1] == str(data)
    assert report.exit_code == code
    written = json.loads((out / "comparison.json").read_text())
    assert written["all_inside"] == (code == ExitCode.OK)
    assert len(written["differences"]) == 2 * 3
    first = written["differences"][0]
    assert (first["structure"], first["metric"], first["difference"]) == ("anterior", "dice", pytest.approx(better))
    assert shlex.split(written["commands"][0])[:2] == ["neurobundle", "crossval"]
    assert ("no" in report.as_text().split()) == bool(better)


def test_other_versions_and_other_data_are_remarked(tmp_path: Path) -> None:
    bundle = tmp_path / "bundles" / HIPPOCAMPUS.name
    shutil.copytree(HIPPOCAMPUS, bundle, ignore=shutil.ignore_patterns("*.pt", "pictures"))
    content = json.loads((bundle / RECORD).read_text())
    content["versions"]["numpy"] = "1.0"
    (bundle / RECORD).write_text(json.dumps(content))
    (tmp_path / "data").mkdir()

    def run(words: list[str]) -> int:
        copy_of_summary(tmp_path / "out" / "crossval" / "summary.json")
        path = tmp_path / "out" / "crossval" / "summary.json"
        summary = json.loads(path.read_text())
        summary["sha256"]["references"] = "0" * 64
        path.write_text(json.dumps(summary))
        return 3

    report = reproduce(str(bundle), tmp_path / "out", tmp_path / "data", run=run)
    assert any("numpy" in remark and "was 1.0" in remark for remark in report.remarks)
    assert any("references are not those" in remark for remark in report.remarks)


def test_a_step_that_fails_ends_it_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(NeurobundleError, match=r"crossval .* ended with 5") as caught:
        reproduce("hippocampus_segmentation", tmp_path / "out", tmp_path, run=lambda words: 5)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    with pytest.raises(InputError, match="did not leave this summary"):
        reproduce("hippocampus_segmentation", tmp_path / "out", tmp_path, run=lambda words: 0)


def test_the_data_must_be_named_and_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--data: Medical Segmentation Decathlon"):
        reproduce("hippocampus_segmentation", tmp_path / "out")
    with pytest.raises(SettingError, match="are not here"):
        reproduce("hippocampus_segmentation", tmp_path / "out", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_a_record_that_does_not_agree_is_an_audits_finding(tmp_path: Path) -> None:
    bundle = tmp_path / HIPPOCAMPUS.name
    shutil.copytree(HIPPOCAMPUS, bundle, ignore=shutil.ignore_patterns("*.pt", "pictures"))
    (bundle / "configs" / "datalist.json").write_text('{"training": []}')
    with pytest.raises(InputError, match="not the one that was used") as caught:
        reproduce(str(bundle), tmp_path / "out", tmp_path)
    assert caught.value.exit_code == ExitCode.AUDIT


def parsed(*words: str) -> argparse.Namespace:
    parser = Parser(prog="neurobundle")
    add_reproduce(parser.add_subparsers(parser_class=Parser))
    return parser.parse_args(["reproduce", *words])


def test_print_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = parsed("hippocampus_segmentation", "-o", "again", "--data", str(tmp_path), "--print-command", "--smoke")
    assert options.function(options) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("neurobundle crossval ")
    assert "network_size=tiny" in shown


@pytest.fixture
def published(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> tuple[Path, Path]:
    """A bundle on made data with a record, as if it had been published; and the data."""
    bundle, data = tmp_path / "bundles" / "made_segmentation", tmp_path / "data"
    shutil.copytree(tiny_bundle, bundle)
    data.mkdir()
    shutil.copy(small_datalist(data, make_pair, cases=6), bundle / "configs" / "datalist.json")
    results = bundle / "docs" / "results"
    summary = json.loads((results / "summary.json").read_text())
    record_crossval(bundle, results, [], {**TINY, "device": "cpu", "seed": 1})
    assert read_record(bundle).results[0].scores == scores_of(summary)
    del summary["datalist"]  # it is the hippocampus's
    (results / "summary.json").write_text(json.dumps(summary))
    return bundle, data


@pytest.mark.slow
def test_the_whole_way_as_a_smoke_run(published: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Two folds of two cases each are trained, predicted and scored, by processes of their own; it ends with 0."""
    bundle, data = published
    out = data.parent / "again"
    options = parsed(str(bundle), "-o", str(out), "--data", str(data), "--smoke")
    assert options.function(options) == 0
    shown = capsys.readouterr().out
    assert "the numbers mean nothing" in shown
    assert len(load_json(out / "datalist.json")["training"]) == 4
    summary = json.loads((out / "crossval" / "summary.json").read_text())
    assert (summary["n_cases"], summary["n_failed"]) == (4, 0)
    written = json.loads((out / "comparison.json").read_text())
    assert written["smoke"] is True
    assert {one["structure"] for one in written["differences"]} == {"anterior", "posterior"}
    assert all(one["made"] is not None for one in written["differences"] if one["metric"] == "dice")


@pytest.mark.slow
def test_the_hippocampus_as_a_smoke_run(real_data: Path, tmp_path: Path) -> None:
    report = reproduce("hippocampus_segmentation", tmp_path / "out", real_data / "hippocampus", smoke=True)
    assert report.exit_code == 0
    assert len(report.differences) == 6


@pytest.mark.slow
def test_classes_as_a_smoke_run(real_data: Path, tmp_path: Path) -> None:
    """Two cases of each of three classes, of two folds."""
    report = reproduce("tumor_type_classification", tmp_path / "out", real_data / "ce_mri", smoke=True)
    assert report.exit_code == 0
    assert len(load_json(tmp_path / "out" / "datalist.json")["training"]) == 12
