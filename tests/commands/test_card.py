"""A card says what the files of its evaluation say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neurobundle.cli import main
from neurobundle.measure import read_scores, summarise

from ..conftest import BUNDLES

WITH_RESULTS = [bundle for bundle in BUNDLES if (bundle / "docs" / "results" / "summary.json").exists()]


def test_there_are_results() -> None:
    assert WITH_RESULTS


@pytest.mark.parametrize("bundle", WITH_RESULTS, ids=lambda path: path.name)
def test_the_command_finds_nothing_to_change(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("*.pt"))
    assert main(["card", str(copy)]) == 0
    for name in ("docs/README.md", "configs/metadata.json"):
        assert (copy / name).read_text() == (bundle / name).read_text(), f"run `neurobundle card {bundle.name}`"


@pytest.mark.parametrize("bundle", WITH_RESULTS, ids=lambda path: path.name)
def test_the_summary_is_that_of_the_table(bundle: Path) -> None:
    results = bundle / "docs" / "results"
    said = json.loads((results / "summary.json").read_text())
    counted = summarise(*read_scores(results / "per_case.csv"))
    assert counted["n_cases"] == said["n_cases"]
    for name, values in counted["structures"].items():
        for metric in ("dice", "iou", "hd95_mm", "nsd", "assd_mm", "sensitivity", "precision"):
            assert values[metric]["mean"] == pytest.approx(said["structures"][name][metric]["mean"], abs=2e-6)
            assert values[metric]["interval"] == pytest.approx(said["structures"][name][metric]["interval"], abs=2e-6)


def test_results_of_an_evaluation_are_copied(tmp_path: Path) -> None:
    copy = tmp_path / WITH_RESULTS[0].name
    shutil.copytree(WITH_RESULTS[0], copy, ignore=shutil.ignore_patterns("*.pt"))
    results = tmp_path / "results"
    shutil.copytree(copy / "docs" / "results", results)
    changed = json.loads((results / "summary.json").read_text())
    next(iter(changed["structures"].values()))["dice"]["mean"] = 0.5
    (results / "summary.json").write_text(json.dumps(changed))
    assert main(["card", str(copy), "--results", str(results)]) == 0
    assert "| 0.500 (" in (copy / "docs" / "README.md").read_text()
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    assert 0.5 in metadata["eval_metrics"].values()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "summary.json").unlink(), "summary.json: it cannot be read"),
        (lambda folder: (folder / "summary.json").write_text("{"), "summary.json: it cannot be read"),
        (lambda folder: (folder / "summary.json").write_text('{"task": "detection"}'), "no summary of a segmentation"),
        (lambda folder: (folder / "per_case.csv").write_text("a,b\n"), "no table of scores"),
    ],
    ids=["missing", "broken", "other", "table"],
)
def test_other_files_change_nothing(spoil, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / WITH_RESULTS[0].name
    shutil.copytree(WITH_RESULTS[0], copy, ignore=shutil.ignore_patterns("*.pt"))
    before = (copy / "docs" / "README.md").read_bytes()
    results = tmp_path / "results"
    shutil.copytree(copy / "docs" / "results", results)
    spoil(results)
    assert main(["card", str(copy), "--results", str(results)]) == 4
    assert says in caplog.text
    assert (copy / "docs" / "README.md").read_bytes() == before
    assert (copy / "docs" / "results" / "summary.json").exists()
