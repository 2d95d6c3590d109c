"""An evaluation from its first case to its files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from neurobundle.errors import InputError, SettingError
from neurobundle.measure import LesionRule, SegmentationEvaluation
from neurobundle.measure.evaluation import evaluation_like
from neurobundle.measure.segmentation import diagonal_mm

SHAPE = (8, 9, 10)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def block(value: int, at: int = 2) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[at : at + 3, 2:6, 3:7] = value
    return labels


@pytest.fixture
def evaluation() -> SegmentationEvaluation:
    return SegmentationEvaluation({1: "front", 2: "back"}, (1, 2), pictures=False)


def test_from_cases_to_files(evaluation: SegmentationEvaluation, tmp_path: Path) -> None:
    evaluation.add("anna-1", block(1), block(1), AFFINE, subject="anna")
    evaluation.add("anna-2", block(1, at=3), block(1), AFFINE, subject="anna")
    evaluation.add("ben", block(2), block(1) * 0, AFFINE)
    evaluation.add_failed("carl", "carl carl.nii: it is damaged. Copy it again.", reference=block(2), affine=AFFINE)
    summary = evaluation.write(tmp_path, {"bundle": "none"})
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    counts = {
        name: [values[f"n_{s}"] for s in ("empty", "missed", "false", "failed")]
        for name, values in summary["structures"].items()
    }
    assert counts == {"front": [1, 0, 0, 1], "back": [2, 0, 1, 1]}
    assert summary["n_cases"] == 4
    assert summary["structures"]["front"]["dice"]["mean"] == pytest.approx((1 + 2 / 3 + 0) / 3, abs=1e-6)
    assert summary["structures"]["back"]["dice"]["mean"] == 0
    assert summary["failed"] == {"carl": "carl carl.nii: it is damaged. Copy it again."}
    assert summary["bundle"] == "none"
    assert summary["versions"]["neurobundle"]
    with (tmp_path / "per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["subject"]) for row in rows[::2]] == [
        ("anna-1", "anna"),
        ("anna-2", "anna"),
        ("ben", "ben"),
        ("carl", "carl"),
    ]
    assert "carl.nii" in (tmp_path / "report.html").read_text()


def test_the_mean_of_the_table_is_that_of_the_summary(evaluation: SegmentationEvaluation, tmp_path: Path) -> None:
    for n in range(3):
        evaluation.add(f"case{n}", block(1, at=2 + n), block(1), AFFINE)
    summary = evaluation.write(tmp_path)
    with (tmp_path / "per_case.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["structure"] == "front"]
    for metric in ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "nsd_2mm"):
        mean = np.mean([float(row[metric]) for row in rows])
        assert summary["structures"]["front"][metric]["mean"] == pytest.approx(mean, abs=2e-6)


def test_the_same_cases_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        one = SegmentationEvaluation({1: "front"})
        one.add("anna", block(1, at=3), block(1), AFFINE, image=np.arange(720.0).reshape(SHAPE))
        one.write(tmp_path / name)
    for file in ("per_case.csv", "summary.json", "report.html"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_a_hash_says_what_was_compared(tmp_path: Path) -> None:
    def hashes(prediction: np.ndarray) -> dict[str, str]:
        one = SegmentationEvaluation({1: "front"}, pictures=False)
        one.add("anna", prediction, block(1), AFFINE)
        found: dict[str, str] = one.write(tmp_path)["sha256"]
        return found

    first, same, other = hashes(block(1)), hashes(block(1).astype(np.float32)), hashes(block(1, at=3))
    assert first == same
    assert first["predictions"] != other["predictions"]
    assert first["references"] == other["references"]


def test_the_confusion_matrix_counts_all_voxels(evaluation: SegmentationEvaluation) -> None:
    evaluation.add("anna", block(2), block(1), AFFINE)
    confusion = evaluation.summary()["confusion"]
    assert confusion["labels"] == ["background", "front", "back"]
    assert confusion["counts"] == [[720 - 48, 0, 0], [0, 0, 48], [0, 0, 0]]


def test_a_failed_case_of_unknown_size_is_as_bad_as_the_largest(evaluation: SegmentationEvaluation) -> None:
    evaluation.add_failed("lost", "lost: there is nothing")
    evaluation.add("anna", block(1), block(1), AFFINE)
    worst = [score for score in evaluation.scores if score.case == "lost"]
    assert {score.hd95_mm for score in worst} == {diagonal_mm(SHAPE, (1, 1, 2))}
    assert {score.assd_mm for score in worst} == {diagonal_mm(SHAPE, (1, 1, 2))}


def test_lesions_are_scored_if_asked_for(tmp_path: Path) -> None:
    evaluation = SegmentationEvaluation({1: "lesion"}, lesions=LesionRule(ignored_ml=0.001), pictures=False)
    evaluation.add("anna", block(1), block(1) | block(1, at=7), AFFINE)
    evaluation.add_failed("ben", "ben: lost", reference=block(1), affine=AFFINE)
    evaluation.add_failed("carl", "carl: all lost")
    summary = evaluation.write(tmp_path)
    lesions = summary["structures"]["lesion"]["lesions"]
    assert (lesions["n_lesions"], lesions["n_missed_lesions"], lesions["n_false_lesions"]) == (3, 2, 0)
    assert lesions["lesion_dice"]["mean"] == pytest.approx((0.5 + 0 + 0) / 3, abs=1e-6)
    assert evaluation_like(summary).lesions == LesionRule(ignored_ml=0.001)


def test_calibration_of_a_softmax(evaluation: SegmentationEvaluation, tmp_path: Path) -> None:
    probabilities = np.zeros((3, *SHAPE), np.float32)
    np.put_along_axis(probabilities, block(1)[None].astype(np.int64), 1.0, axis=0)
    evaluation.add("anna", block(1), block(1), AFFINE, probabilities=probabilities)
    evaluation.add("ben", block(1), block(1) * 0, AFFINE, probabilities=probabilities)
    summary = evaluation.write(tmp_path)
    assert summary["calibration"]["all"]["ece"]["mean"] == 0
    assert summary["calibration"]["all"]["n_cases"] == 1, "an empty reference has no region"
    assert (tmp_path / "calibration.csv").exists()


def test_the_region_of_calibration_is_in_millimetres() -> None:
    """One voxel, 2.5 mm about it, voxels of 1 x 1 x 2 mm: 21 in its slice, 9 in each of both neighbours."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[4, 4, 5] = 1
    evaluation = SegmentationEvaluation({1: "lesion"}, pictures=False, region_mm=2.5)
    evaluation.add("anna", truth, truth, AFFINE, probabilities=np.stack([1.0 - truth, truth * 1.0]))
    summary = evaluation.summary()
    assert summary["calibration"]["all"]["n_voxels"] == 21 + 2 * 9
    assert summary["calibration_region_mm"] == 2.5


def test_calibration_of_regions_that_overlap() -> None:
    evaluation = SegmentationEvaluation({"WT": [1, 2], "core": 2}, pictures=False, probabilities="structures")
    truth = block(1)
    truth[3, 3, 4] = 2
    probabilities = np.stack([truth > 0, np.full(SHAPE, 0.5)])
    evaluation.add("anna", truth, truth, AFFINE, probabilities=probabilities)
    found = evaluation.summary()["calibration"]
    assert found["WT"]["ece"]["mean"] == 0
    assert found["core"]["ece"]["mean"] == pytest.approx(0.5, abs=0.01), "half sure, and right but for one voxel"


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_probabilities_of_other_classes_are_refused(evaluation: SegmentationEvaluation, channels: int) -> None:
    with pytest.raises(InputError, match=f"of {channels} classes, and 3 are scored"):
        evaluation.add("anna", block(1), block(1), AFFINE, probabilities=np.zeros((channels, *SHAPE)))
    assert evaluation.scores == []


def test_a_case_that_is_refused_leaves_nothing(evaluation: SegmentationEvaluation) -> None:
    evaluation.add("anna", block(1), block(1), AFFINE)
    with pytest.raises(InputError, match="scored before"):
        evaluation.add("anna", block(1), block(1), AFFINE)
    with pytest.raises(InputError, match="shape"):
        evaluation.add("ben", block(1)[1:], block(1), AFFINE)
    assert evaluation.summary()["n_cases"] == 1


def test_folds_are_summarised_apart(evaluation: SegmentationEvaluation, tmp_path: Path) -> None:
    evaluation.add("anna", block(1), block(1), AFFINE)
    evaluation.add_failed("ben", "ben: lost")
    folds = evaluation.write(tmp_path, folds={"anna": "0", "ben": "1"})["folds"]
    assert {fold: part["structures"]["front"]["dice"]["mean"] for fold, part in folds.items()} == {"0": 1, "1": 0}


def test_a_slice_without_an_affine_is_scored_in_pixels() -> None:
    evaluation = SegmentationEvaluation({1: "tumour"})
    found, there = np.zeros((2, 20, 30), np.uint8)
    found[5:9, 5:9] = there[5:9, 7:11] = 1
    (score,) = evaluation.add("anna", found, there)
    assert (score.hd_mm, score.dice) == (2, 0.5)


def test_one_subject_has_no_interval(evaluation: SegmentationEvaluation) -> None:
    evaluation.add("anna", block(1, at=3), block(1), AFFINE)
    dice = evaluation.summary()["structures"]["front"]["dice"]
    assert dice["interval"] == [None, None]
    assert math.isfinite(dice["mean"])


def test_probabilities_are_of_classes_or_structures() -> None:
    with pytest.raises(SettingError, match="'logits'"):
        SegmentationEvaluation({1: "a"}, probabilities="logits")  # type: ignore[arg-type]
