"""A card says what the files of its evaluation say."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.find import answers_of
from neurobundle.cli import main
from neurobundle.commands.card import draw_cases, draw_evaluated, score_tables
from neurobundle.errors import InputError
from neurobundle.measure import read_scores, summarise, write_scores
from neurobundle.measure.classification_evaluation import read_answers
from neurobundle.measure.segmentation import DISTANCES, SHARES, Score
from neurobundle.measure.subjects import pool_subjects

from ..conftest import BUNDLES
from ..helpers import Maker

WITH_RESULTS = [bundle for bundle in BUNDLES if (bundle / "docs" / "results" / "summary.json").exists()]
SEGMENTED = [bundle for bundle in WITH_RESULTS if answers_of(bundle) is None]
CLASSIFIED = [bundle for bundle in WITH_RESULTS if bundle not in SEGMENTED]


def test_there_are_results() -> None:
    assert SEGMENTED


@pytest.mark.parametrize("bundle", WITH_RESULTS, ids=lambda path: path.name)
def test_the_command_finds_nothing_to_change(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / bundle.name
    shutil.copytree(bundle, copy, ignore=shutil.ignore_patterns("*.pt"))
    assert main(["card", str(copy)]) == 0
    for name in ("docs/README.md", "configs/metadata.json"):
        assert (copy / name).read_text() == (bundle / name).read_text(), f"run `neurobundle card {bundle.name}`"


@pytest.mark.parametrize("bundle", SEGMENTED, ids=lambda path: path.name)
def test_the_summary_is_that_of_the_table(bundle: Path) -> None:
    results = bundle / "docs" / "results"
    said = json.loads((results / "summary.json").read_text())
    counted = summarise(*read_scores(results / "per_case.csv"))
    assert counted["n_cases"] == said["n_cases"]
    for name, values in counted["structures"].items():
        for metric in ("dice", "iou", "hd95_mm", "nsd", "assd_mm", "sensitivity", "precision"):
            assert values[metric]["mean"] == pytest.approx(said["structures"][name][metric]["mean"], abs=2e-6)
            assert values[metric]["interval"] == pytest.approx(said["structures"][name][metric]["interval"], abs=2e-6)


@pytest.mark.parametrize("bundle", CLASSIFIED, ids=lambda path: path.name)
def test_the_summary_of_answers_is_that_of_the_tables(bundle: Path) -> None:
    """Of cases, and of the subjects that the same table gives."""
    results = bundle / "docs" / "results"
    said = json.loads((results / "summary.json").read_text())
    answers = read_answers(results / "per_case.csv")
    parts = [(said, answers.score())]
    if "subjects" in said:
        parts.append((said["subjects"], pool_subjects(answers).score()))
    for part, counted in parts:
        assert part["n_cases"] == counted["n_cases"]
        assert part["confusion"] == counted["confusion"]
        for metric in ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc"):
            assert part[metric]["mean"] == pytest.approx(counted[metric]["mean"], abs=2e-6)
            assert part[metric]["interval"] == pytest.approx(counted[metric]["interval"], abs=2e-6)
        for name, own in counted["per_class"].items():
            assert part["per_class"][name] == pytest.approx(own, abs=2e-6)


def test_results_of_an_evaluation_are_copied(tmp_path: Path) -> None:
    copy = tmp_path / SEGMENTED[0].name
    shutil.copytree(SEGMENTED[0], copy, ignore=shutil.ignore_patterns("*.pt"))
    results = tmp_path / "results"
    shutil.copytree(copy / "docs" / "results", results)
    rewrite(results, lambda score: replace(score, dice=0.5))
    assert main(["card", str(copy), "--results", str(results)]) == 0
    assert "| 0.500 (" in (copy / "docs" / "README.md").read_text()
    metadata = json.loads((copy / "configs" / "metadata.json").read_text())
    assert 0.5 in metadata["eval_metrics"].values()


def rewrite(results: Path, change_one: Callable[[Score], Score]) -> None:
    """Change every row of a table, and make the summary's structures from it again."""
    scores, subjects = read_scores(results / "per_case.csv")
    changed = [change_one(score) for score in scores]
    write_scores(results / "per_case.csv", changed, subjects)
    change(results, "structures", summarise(changed, subjects)["structures"])


def test_a_mean_that_is_not_that_of_the_table_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = tmp_path / SEGMENTED[0].name
    shutil.copytree(SEGMENTED[0], copy, ignore=shutil.ignore_patterns("*.pt"))
    path = copy / "docs" / "results" / "summary.json"
    said = json.loads(path.read_text())
    name, scores = next(iter(said["structures"].items()))
    counted, scores["dice"]["mean"] = scores["dice"]["mean"], 0.999
    path.write_text(json.dumps(said))
    assert main(["card", str(copy)]) == 4
    assert f"it says Dice 0.999 of {name}, and the table beside it {counted:.3f}"[:-1] in caplog.text


def change(folder: Path, key: str, value: object) -> None:
    path = folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def test_the_table_counts_misses_and_failures_together(tmp_path: Path) -> None:
    """By hand: of four cases one is ok, one missed, one false, one failed."""
    shares, mm = dict.fromkeys(SHARES, 0.0), dict.fromkeys(DISTANCES, 9.0)
    volumes = {"ok": (2.0, 2.0), "missed": (0.0, 2.0), "false": (2.0, 0.0), "failed": (math.nan, 2.0)}
    scores = [
        Score(status, "front", **shares, **mm, volume_ml=found, reference_ml=there, status=status)
        for status, (found, there) in volumes.items()
    ]
    summary = {**summarise(scores, {}), "nsd_tolerances_mm": [1.0]}
    row = next(line for line in score_tables(summary).splitlines() if line.startswith("| front"))
    assert row.endswith("| 2 |")
    assert "-0.500 ml" in row, "two more, two less, and two that the failed case did not find, over four"
    assert "see its fold" not in score_tables(summary), "nobody said that there were folds"


def test_a_structure_that_no_case_has_is_blank(tmp_path: Path) -> None:
    copy = tmp_path / SEGMENTED[0].name
    shutil.copytree(SEGMENTED[0], copy, ignore=shutil.ignore_patterns("*.pt"))
    results = copy / "docs" / "results"
    first = next(iter(json.loads((results / "summary.json").read_text())["structures"]))
    blank = dict.fromkeys((*SHARES, *DISTANCES), math.nan)
    rewrite(results, lambda one: replace(one, **blank, status="empty") if one.structure == first else one)
    assert main(["card", str(copy)]) == 0
    assert json.loads((copy / "configs" / "metadata.json").read_text())["eval_metrics"][f"{first}_dice"] is None


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "summary.json").unlink(), "summary.json: it cannot be read"),
        (lambda folder: (folder / "summary.json").write_text("{"), "summary.json: it cannot be read"),
        (lambda folder: (folder / "summary.json").write_text('{"task": "detection"}'), "no summary of a segmentation"),
        (lambda folder: (folder / "per_case.csv").write_text("a,b\n"), "no table of scores"),
        (lambda folder: change(folder, "bundle", "spleen_segmentation"), "these are results of spleen_segmentation"),
        (lambda folder: change(folder, "structures", {"1": {}}), "it scores 1, and the bundle's structures are"),
    ],
    ids=["missing", "broken", "other", "table", "bundle", "structures"],
)
def test_other_files_change_nothing(spoil, says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    copy = tmp_path / SEGMENTED[0].name
    shutil.copytree(SEGMENTED[0], copy, ignore=shutil.ignore_patterns("*.pt"))
    before = (copy / "docs" / "README.md").read_bytes()
    results = tmp_path / "results"
    shutil.copytree(copy / "docs" / "results", results)
    spoil(results)
    assert main(["card", str(copy), "--results", str(results)]) == 4
    assert says in caplog.text
    assert (copy / "docs" / "README.md").read_bytes() == before
    assert (copy / "docs" / "results" / "summary.json").exists()


def test_the_worst_cases_are_drawn_whatever_their_images_hold(tmp_path: Path, make_pair: Maker) -> None:
    """An image of fractions is no label map, and is not read as one."""
    image, label = make_pair(tmp_path, "one")
    scan = nib.load(image)
    nib.save(nib.Nifti1Image(scan.get_fdata().astype(np.float32) + 0.25, scan.affine), image)
    blank = dict.fromkeys(("hd95_mm", "nsd", "iou", "sensitivity", "precision", "hd_mm", "assd_mm"), 0.0)
    score = Score("one", "blob", dice=0.5, volume_ml=1.0, reference_ml=1.0, status="ok", **blank)
    items = {"one": {"image": str(image), "label": str(label)}}
    (drawn,) = draw_cases(tmp_path / "pictures", [score], items, {"one": label})
    assert drawn.name == "worst-1.png"
    assert drawn.stat().st_size > 0


def test_an_evaluation_is_drawn_from_worst_to_best(tmp_path: Path, make_pair: Maker) -> None:
    """Dice of .1, .5 and .9: all of them are the worst three, and the second is the middle."""
    results = tmp_path / "results"
    (results / "predictions").mkdir(parents=True)
    pairs = {case: make_pair(tmp_path, case) for case in ("bad", "fair", "good")}
    for case, (_, label) in pairs.items():
        (results / "predictions" / f"{case}_seg.nii.gz").write_bytes(Path(label).read_bytes())
    blank = dict.fromkeys((*DISTANCES, *SHARES), 0.0) | {"volume_ml": 1.0, "reference_ml": 1.0, "status": "ok"}
    dices = {"good": 0.9, "bad": 0.1, "fair": 0.5}
    scores = [Score(case, "blob", **(blank | {"dice": dice})) for case, dice in dices.items()]
    write_scores(results / "per_case.csv", scores, {case: case for case in dices})
    training = [{"case": case, "subject": case, "image": str(i), "label": str(s)} for case, (i, s) in pairs.items()]
    datalist = tmp_path / "datalist.json"
    datalist.write_text(json.dumps({"training": training}))
    drawn = draw_evaluated(tmp_path / "bundle", results, datalist)
    assert [path.name for path in drawn] == ["worst-1.png", "worst-2.png", "worst-3.png", "middle.png", "best.png"]
    pixels = {path.stem: path.read_bytes() for path in drawn}
    assert pixels["middle"] == pixels["worst-2"]
    assert pixels["best"] == pixels["worst-3"] != pixels["worst-1"]
    datalist.write_text(json.dumps({"training": [{**training[0], "case": "other"}]}))
    with pytest.raises(InputError, match="no prediction of a case"):
        draw_evaluated(tmp_path / "bundle", results, datalist)
