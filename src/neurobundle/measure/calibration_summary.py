"""Calibration over cases: means with intervals, a reliability diagram's bins, risk against coverage; and its table.

The means are over cases, with the interval of :mod:`neurobundle.measure.summary`. The *pooled bins* take the samples of
all cases together. In the *risk-coverage* curve a case is one step: its uncertainty is its mean normalised entropy, its
risk is 1 - Dice. A case that has a score and no calibration, because it failed or its region is empty, is in no mean
here; it is kept last in the curve, with its risk, so that the risk at full coverage is that of all cases.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import InputError, NoInputError
from neurobundle.export.tables import write_csv
from neurobundle.measure.calibration import CaseCalibration, case_calibration, normalised_entropy
from neurobundle.measure.resampling import draw_subjects, interval_of, number
from neurobundle.measure.selective import risk_coverage, spearman
from neurobundle.measure.summary import mean_with_interval

METRICS = ("ece", "ace", "mce", "brier", "nll", "error_auroc", "uncertainty")
BIN_COLUMNS = ("counts", "confidence", "accuracy")
COLUMNS = ("case", "subject", "structure", "n", *METRICS, *BIN_COLUMNS)

#: Bootstrap samples for the intervals of a classification's calibration, which is measured anew in each.
ANSWER_SAMPLES = 300

#: Points of a risk-coverage curve that a summary keeps.
MOST_POINTS = 51

#: A bin's blank, within a cell that holds all bins.
NO_VALUE = "-"


def summarise_calibration(
    cases: Sequence[CaseCalibration], subjects: Mapping[str, str], dice: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Summarise the calibration of many cases, by structure.

    Args:
        cases: of all cases and structures.
        subjects: the subject of each case; a case that is not in it is its own subject.
        dice: the score of each case, 0 to 1, whose complement is the risk; in classification 1 for a right answer and 0
            for a wrong one; NaN for a case that has none. Without it there is no risk-coverage curve.

    Returns:
        ``{structure: {...}}``, ready for JSON; what is not defined is null.

    Raises:
        InputError: if a structure's cases have different numbers of bins.
    """
    names = list(dict.fromkeys(case.structure for case in cases))
    return {name: _summarise_one([c for c in cases if c.structure == name], subjects, dice) for name in names}


def summarise_answers(
    probabilities: np.ndarray, truth: Sequence[int], subjects: Sequence[str], n_failed: int = 0
) -> dict[str, Any]:
    """Summarise the calibration of a classification: each case is one sample.

    Args:
        probabilities: ``(n, C)``.
        truth: ``(n,)`` the class of each case.
        subjects: ``(n,)`` whose case it is.
        n_failed: cases without an answer: they are kept last in the risk-coverage curve, as wrong; there is nothing of
            which to measure their calibration.

    Returns:
        As :func:`summarise_calibration`, under ``all``; the intervals are of the pooled figures over bootstrap samples
        of subjects, and in the risk-coverage curve the risk is the share of wrong answers.
    """
    columns, classes = np.asarray(probabilities, dtype=float).T, np.asarray(truth)
    once = case_calibration(columns, classes)
    drawn, index = draw_subjects(subjects, ANSWER_SAMPLES)
    again = []
    for counts in drawn:
        picked = np.repeat(np.arange(len(classes)), counts[index].astype(int))
        again.append(case_calibration(columns[:, picked], classes[picked]))
    result: dict[str, Any] = {"n_cases": len(classes), "n_voxels": None}
    for name in METRICS:
        interval = interval_of(np.array([getattr(one, name) for one in again]))
        result[name] = {"mean": number(getattr(once, name)), "interval": interval}
    result["bins"] = _pooled_bins([once])
    uncertainty = normalised_entropy(columns)
    wrong = columns.argmax(axis=0) != classes
    result["risk_coverage"] = {
        **_curve([*uncertainty, *[math.inf] * n_failed], [*wrong.astype(float), *[1.0] * n_failed]),
        "n_without_uncertainty": n_failed,
    }
    result["uncertainty_dice_spearman"] = None
    return {"all": result}


def _summarise_one(
    cases: Sequence[CaseCalibration], subjects: Mapping[str, str], dice: Mapping[str, float] | None
) -> dict[str, Any]:
    result: dict[str, Any] = {"n_cases": len(cases), "n_voxels": sum(case.n for case in cases)}
    who = [subjects.get(case.case, case.case) for case in cases]
    result |= {name: mean_with_interval([float(getattr(case, name)) for case in cases], who) for name in METRICS}
    result["bins"] = _pooled_bins(cases)
    result["risk_coverage"], result["uncertainty_dice_spearman"] = None, None
    if dice is not None:
        uncertainty = {case.case: case.uncertainty for case in cases}
        scores = {case: float(score) for case, score in dice.items() if math.isfinite(score)}
        both = [case for case in scores if case in uncertainty]
        if both:
            result["risk_coverage"] = _risk_coverage(uncertainty, scores)
        rank = spearman([uncertainty[case] for case in both], [scores[case] for case in both])
        result["uncertainty_dice_spearman"] = number(rank)
    return result


def _risk_coverage(uncertainty: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, Any]:
    order = [uncertainty.get(case, math.inf) for case in scores]
    found = _curve(order, [1 - score for score in scores.values()])
    return {**found, "n_without_uncertainty": sum(math.isinf(value) for value in order)}


def _curve(uncertainty: Sequence[float] | np.ndarray, risk: Sequence[float] | np.ndarray) -> dict[str, Any]:
    curve = risk_coverage(uncertainty, risk)
    # A curve is drawn, and read, from some of its points; the areas are over all.
    drawn = np.unique(np.linspace(0, len(curve.risk) - 1, MOST_POINTS).round().astype(int))
    return {
        "coverage": [number(curve.coverage[n]) for n in drawn],
        "risk": [number(curve.risk[n]) for n in drawn],
        "aurc": number(curve.aurc),
        "aurc_best": number(curve.aurc_best),
    }


def _pooled_bins(cases: Sequence[CaseCalibration]) -> list[dict[str, Any]]:
    bins = len(cases[0].counts)
    for case in cases:
        if len(case.counts) != bins:
            cause = f"it has {len(case.counts)} bins, and {cases[0].case} has {bins}"
            raise InputError(cause, "Evaluate all cases with the same number of bins.", case=case.case)
    counts = np.array([case.counts for case in cases])
    total = counts.sum(axis=0)
    means = []
    for column in ("confidence", "accuracy"):
        sums = np.nansum(counts * np.array([getattr(case, column) for case in cases]), axis=0)
        means.append(np.divide(sums, total, out=np.full(bins, np.nan), where=total > 0))
    return [
        {
            "low": number(n / bins),
            "high": number((n + 1) / bins),
            "count": int(total[n]),
            "confidence": number(means[0][n]),
            "accuracy": number(means[1][n]),
        }
        for n in range(bins)
    ]


def write_calibration(path: Path, cases: Sequence[CaseCalibration], subjects: Mapping[str, str]) -> Path:
    """Write ``calibration.csv``: one row a case and structure, every digit kept, so that folds can be joined.

    Args:
        path: the final name.
        cases: in the order of the rows.
        subjects: the subject of each case; a case that is not in it is its own subject.
    """
    return write_csv(path, COLUMNS, [_row(case, subjects) for case in cases])


def read_calibration(path: Path) -> tuple[list[CaseCalibration], dict[str, str]]:
    """Read what :func:`write_calibration` wrote.

    Args:
        path: the file.

    Returns:
        The cases in the order of the rows, equal to those written, and the subject of each.

    Raises:
        NoInputError: if the file is not there.
        InputError: if it is not such a table.
    """
    if not path.is_file():
        raise NoInputError("there is no such file", "Evaluate with calibration first.", file=path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        cases = [_case(row) for row in rows]
    except (KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        way_out = "Evaluate again; the file is written by `neurobundle evaluate`, and not meant to be edited."
        raise InputError(f"it is no calibration table ({error})", way_out, file=path) from error
    return cases, {row["case"]: row["subject"] for row in rows}


def _row(case: CaseCalibration, subjects: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {field.name: getattr(case, field.name) for field in fields(case)}
    row["subject"] = subjects.get(case.case, case.case)
    for metric in METRICS:
        row[metric] = _text(row[metric], blank="")
    row["counts"] = " ".join(str(int(count)) for count in case.counts)
    for column in ("confidence", "accuracy"):
        row[column] = " ".join(_text(value, blank=NO_VALUE) for value in row[column])
    return row


def _case(row: Mapping[str, str]) -> CaseCalibration:
    return CaseCalibration(
        case=row["case"],
        structure=row["structure"],
        n=int(row["n"]),
        **{metric: float(row[metric] or "nan") for metric in METRICS},
        counts=tuple(int(count) for count in row["counts"].split()),
        confidence=_floats(row["confidence"]),
        accuracy=_floats(row["accuracy"]),
    )


def _floats(cell: str) -> tuple[float, ...]:
    return tuple(math.nan if word == NO_VALUE else float(word) for word in cell.split())


def _text(value: float, blank: str) -> str:
    """The shortest text that reads back as the same number."""
    return blank if math.isnan(value) else repr(float(value))
