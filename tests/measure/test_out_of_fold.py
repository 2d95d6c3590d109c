from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from neurobundle.errors import InputError
from neurobundle.measure.classification_evaluation import ClassificationEvaluation, read_answers
from neurobundle.measure.out_of_fold import OutOfFoldEvaluation

CLASSES = ["a", "b"]


def fold_of(number: int, persons: int = 8, slices: int = 2, sure: float = 0.99) -> ClassificationEvaluation:
    """A fold's persons; the answer for each fourth one is wrong, and all are as sure."""
    evaluation = ClassificationEvaluation(CLASSES)
    for person in range(persons):
        truth = person % 2
        said = 1 - truth if person % 4 == 3 else truth
        for n in range(slices):
            values = np.roll([sure, 1 - sure], said)
            evaluation.add(f"f{number}p{person}s{n}", truth, values, f"f{number}p{person}")
    return evaluation


def both(**more: int) -> OutOfFoldEvaluation:
    evaluation = OutOfFoldEvaluation(CLASSES)
    for number in range(2):
        evaluation.take(str(number), fold_of(number, **more), {})
    return evaluation


def test_what_is_written(tmp_path: Path) -> None:
    """Three of four are right: the temperature brings .99 to .75, and no confidence reaches .95."""
    summary = both().write(tmp_path, {"bundle": "made"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "per_case.csv",
        "per_subject.csv",
        "summary.json",
        "report.html",
        "calibration.json",
    }
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert (summary["n_cases"], summary["accuracy"]["mean"]) == (32, 0.75)
    assert (summary["subjects"]["n_cases"], summary["subjects"]["accuracy"]["mean"]) == (16, 0.75)
    assert set(summary["folds"]) == {"0", "1"}
    assert summary["folds"]["0"]["n_cases"] == 16
    before, after = summary["temperature"]["before"], summary["temperature"]["after"]
    assert before["ece"]["mean"] == pytest.approx(0.24)
    assert after["ece"]["mean"] == pytest.approx(0, abs=1e-4)
    assert after["nll"]["mean"] < before["nll"]["mean"]
    assert summary["calibration"]["all"]["ece"]["mean"] == after["ece"]["mean"]
    shipped = json.loads((tmp_path / "calibration.json").read_text())
    assert shipped["abstain_below"] == 0
    assert "no confidence reaches" in shipped["chosen_on"]
    # logit(.99) / T = logit(.75)
    assert shipped["temperature"] == pytest.approx(np.log(99) / np.log(3), rel=1e-3)


def test_the_table_holds_the_calibrated_probabilities(tmp_path: Path) -> None:
    """And it can be read again; its columns are those of any classification."""
    both().write(tmp_path)
    header = (tmp_path / "per_case.csv").read_text().splitlines()[0]
    assert header == "case,subject,truth,prediction,correct,p_a,p_b,status"
    again = read_answers(tmp_path / "per_case.csv")
    assert again.answers["f0p0s0"].probabilities == pytest.approx((0.75, 0.25), abs=1e-4)


def test_writing_twice_gives_the_same(tmp_path: Path) -> None:
    """It is never calibrated twice."""
    evaluation = both()
    for name in ("a", "b"):
        evaluation.write(tmp_path / name)
    for name in ("per_case.csv", "per_subject.csv", "summary.json", "calibration.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_one_slice_a_person_is_not_pooled(tmp_path: Path) -> None:
    (tmp_path / "per_subject.csv").write_text("of an earlier run")
    assert "subjects" not in both(slices=1).write(tmp_path)
    assert not (tmp_path / "per_subject.csv").exists()


def test_a_person_of_two_classes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The slices are scored all the same."""
    evaluation = both()
    evaluation.add_missing("0", "odd", "b", "f0p0", "odd: lost.")
    with caplog.at_level(logging.WARNING):
        summary = evaluation.write(tmp_path)
    assert "subjects" not in summary
    assert (summary["n_cases"], summary["n_failed"]) == (33, 1)
    assert summary["failed"] == {"odd": "odd: lost."}
    assert "the subject 'f0p0' has cases of a and b" in caplog.text


def test_a_failed_case_is_wrong_and_in_no_calibration(tmp_path: Path) -> None:
    evaluation, fold = OutOfFoldEvaluation(CLASSES), fold_of(0)
    fold.add_failed("lost", "a", "f0p0")
    evaluation.take("0", fold, {"lost": "lost: the disk was full."})
    evaluation.take("1", fold_of(1), {})
    summary = evaluation.write(tmp_path)
    assert summary["accuracy"]["mean"] == pytest.approx(24 / 33, abs=1e-6)
    assert summary["subjects"]["n_failed"] == 1
    assert summary["failed"] == {"lost": "lost: the disk was full."}
    assert json.loads((tmp_path / "calibration.json").read_text())["n"] == 32


def test_a_case_in_two_folds_and_other_classes_are_refused() -> None:
    evaluation = both()
    with pytest.raises(InputError, match="it is in fold 2 and in fold 0") as caught:
        evaluation.take("2", fold_of(0), {})
    assert caught.value.case == "f0p0s0"
    with pytest.raises(InputError, match="fold 3 has the classes b, a, and not a, b"):
        evaluation.take("3", ClassificationEvaluation(["b", "a"]), {})


def test_the_report_has_a_section_for_each_part(tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    both().write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for name in ("scores", "confusion", "calibration", "temperature", "subjects", "folds", "curves", "cases"):
        assert f'<section id="{name}">' in page
    assert "0 of them failed" in page
    assert "data:image/png;base64" in page
