"""What the card of the tumour types says, held against its results and its weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobundle.cli import main

from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "tumor_type_classification"
RESULTS = BUNDLE / "docs" / "results"
BOTH_WAYS = (("attention", "mean"), ("mean", "attention"))


def rows(name: str) -> list[dict[str, str]]:
    with (RESULTS / name).open() as file:
        return list(csv.DictReader(file))


def accuracy(table: list[dict[str, str]]) -> float:
    """Counted from the names: what failed is wrong."""
    return float(np.mean([row["prediction"] == row["truth"] for row in table]))


def test_the_floor_is_reached_out_of_fold() -> None:
    assert len(rows("per_case.csv")) == 2226
    assert accuracy(rows("per_case.csv")) >= 0.88


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="one network a fold gives .915: docs/training-queue.md, job 4"
)
def test_the_goal_is_reached_by_slices() -> None:
    assert accuracy(rows("per_case.csv")) >= 0.92


def test_the_goal_is_reached_by_persons() -> None:
    table = rows("per_subject.csv")
    assert len(table) == 164
    assert accuracy(table) >= 0.92


def test_the_goal_of_calibration_is_reached() -> None:
    temperature = json.loads((RESULTS / "summary.json").read_text())["temperature"]
    assert temperature["before"]["ece"]["mean"] <= 0.03
    assert temperature["after"]["ece"]["mean"] <= 0.03


def row(what: str, of: str, scores: dict[str, dict[str, Any]]) -> str:
    """As the card writes it."""
    cells = [scores[name] for name in ("accuracy", "macro_f1", "macro_auroc")]
    return f"| {what} | {of} | {' | '.join(interval(cell) for cell in cells)} |"


def interval(cell: dict[str, Any]) -> str:
    """A mean with its interval."""
    return f"{cell['mean']:.3f} ({cell['interval'][0]:.3f} to {cell['interval'][1]:.3f})"


def test_what_leaks_stands_beside_what_does_not() -> None:
    """Rows of the card from the files; the first one is marked, and counted again from its answers."""
    summary = json.loads((RESULTS / "summary.json").read_text())
    leaking = json.loads((RESULTS / "leaking.json").read_text())
    card = (BUNDLE / "docs" / "README.md").read_text()
    marked = "by slice, **which leaks**: of nearly every person other slices were learned"
    assert row(marked, "slices", leaking) in card
    assert row("by person", "slices", summary) in card
    assert row("by person", "persons", summary["subjects"]) in card
    table = rows("leaking_per_case.csv")
    assert {line["case"] for line in table} == {line["case"] for line in rows("per_case.csv")}
    assert accuracy(table) == pytest.approx(leaking["accuracy"]["mean"], abs=1e-6)
    assert accuracy(table) > 0.948  # Swati et al. 2019, whose split is not stated


def share(name: str, column: str) -> float:
    """Of the answers in a column those that are the truth."""
    return float(np.mean([row[column] == row["truth"] for row in rows(name)]))


def test_attention_stands_beside_the_mean() -> None:
    """The page's rows from the file, and its figures counted again from the answers."""
    study = json.loads((RESULTS / "persons.json").read_text())
    page = (ROOT / "docs" / "concepts" / "classification.md").read_text()
    assert study["persons"] == len(rows("persons.csv")) == 164
    for name, scores in study["rows"].items():
        assert row(name, "", scores).replace("|  |", "|") in page
        assert share("persons.csv", name) == pytest.approx(scores["accuracy"]["mean"], abs=1e-6)
    alone = [[line[one] == line["truth"] != line[other] for line in rows("persons.csv")] for one, other in BOTH_WAYS]
    assert [sum(each) for each in alone] == [2, 3]


def test_the_controls_stand_in_the_card_and_on_the_page() -> None:
    """Rows from the file; accuracies counted again from the answers; blanked far above the largest class, and said."""
    study = json.loads((RESULTS / "controls.json").read_text())
    card = (BUNDLE / "docs" / "README.md").read_text()
    page = (ROOT / "docs" / "concepts" / "leakage.md").read_text()
    scores = {**study["rows"], "outline": study["outline"]}
    for name, run in scores.items():
        cells = " | ".join(interval(run[metric]) for metric in ("accuracy", "macro_f1"))
        assert f"| {cells} |" in page
        assert name == "outline" or f"| {name} | {cells} |" in card
        assert share("controls.csv", name) == pytest.approx(run["accuracy"]["mean"], abs=1e-6)
        less = run.get("against_unchanged")
        if less:
            assert interval({"mean": less["difference"], "interval": less["interval"]}) in page
    assert scores["blanked"]["accuracy"]["interval"][0] > 0.8 > study["majority"]
    assert "no evidence that it knows these tumours by their tissue" in " ".join(card.split())


def test_networks_and_schedules_stand_on_the_page() -> None:
    """Rows from the file; accuracies counted again from the answers."""
    study = json.loads((RESULTS / "networks.json").read_text())
    page = (ROOT / "docs" / "concepts" / "fine-tuning.md").read_text()
    assert len(rows("networks.csv")) == study["cases"] == 447
    for name, run in study["rows"].items():
        assert f"| {interval(run['accuracy'])} | {interval(run['macro_f1'])} |" in page
        assert share("networks.csv", name) == pytest.approx(run["accuracy"]["mean"], abs=1e-6)
    for name, pair in study["pairs"].items():
        cell = interval({"mean": pair["difference"], "interval": pair["interval"]})
        assert f"| {name} | {cell} | {pair['p_holm']:.2g} |" in page


def test_the_folds_weights_give_the_published_answers(real_data: Path, tmp_path: Path) -> None:
    """Some slices of fold 0, by the weights that did not see them, at the temperature of the other folds."""
    items = json.loads((BUNDLE / "configs" / "datalist.json").read_text())["training"]
    cases = [item for item in items if item["fold"] == 0][::40]
    (tmp_path / "in").mkdir()
    for item in cases:
        shutil.copy(real_data / "ce_mri" / item["image"], tmp_path / "in")
    summary = json.loads((RESULTS / "summary.json").read_text())
    calibration = tmp_path / "calibration.json"
    temperature = summary["temperature"]["folds"]["0"]["temperature"]
    calibration.write_text(json.dumps({"temperature": temperature, "abstain_below": 0.0, "chosen_on": "", "n": 1}))
    words = ["run", BUNDLE.name, "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--no-pictures"]
    assert main([*words, "--device", "cpu", "--set", "fold=0", f"calibration={calibration}"]) == 0
    published = {row["case"]: row for row in rows("per_case.csv")}
    with (tmp_path / "out" / "predictions.csv").open() as file:
        found = {row["case"]: row for row in csv.DictReader(file)}
    assert set(found) == {item["case"] for item in cases}
    for case, row in found.items():
        assert row["prediction"] == published[case]["prediction"]
        for name in summary["classes"]:
            assert float(row[f"p_{name}"]) == pytest.approx(float(published[case][f"p_{name}"]), abs=0.002)
