"""The parts of a classification's report that a cross-validation adds: subjects, folds, the temperature, and curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurobundle.export.page import count, figure, grid, many, number, said, section
from neurobundle.measure import charts
from neurobundle.measure.page_parts import chart, chart_row, mean

#: Scores of a summary, with their headings.
MEANS = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("macro_f1", "macro-F1"),
    ("mcc", "MCC"),
    ("macro_auroc", "macro-AUROC"),
)
_OF_FOLD = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc")


def subject_section(subjects: Mapping[str, Any] | None) -> str:
    """The scores of one answer a subject.

    Args:
        subjects: the part ``subjects`` of a summary.
    """
    if not subjects:
        return ""
    headings = [heading for _, heading in MEANS]
    table = grid("scores by subject", ["", *headings], [["all subjects", *(mean(subjects.get(k)) for k, _ in MEANS)]])
    title = "Confusion matrix, subjects"
    matrix = charts.confusion_matrix(subjects["confusion"]["labels"], subjects["confusion"]["counts"], title)
    text = (
        f"{many(subjects.get('n_cases'), 'subject')}, {count(subjects.get('n_failed'))} of them failed. A subject's "
        "cases are pooled by the mean of their log-probabilities; where one of them failed, the subject has."
    )
    return section("subjects", "One answer a subject", table, said(text), chart_row([chart(matrix, title)]))


def answer_fold_section(folds: Mapping[str, Mapping[str, Any]] | None) -> str:
    """The scores of each fold.

    Args:
        folds: the part ``folds`` of a summary.
    """
    if not folds:
        return ""
    words = dict(MEANS)
    rows = [[fold, count(own.get("n_cases")), *(mean(own.get(key)) for key in _OF_FOLD)] for fold, own in folds.items()]
    return section("folds", "By fold", grid("scores by fold", ["fold", "cases", *(words[k] for k in _OF_FOLD)], rows))


def temperature_section(temperature: Mapping[str, Any] | None) -> str:
    """Calibration before and after the temperature, and what abstaining costs.

    Args:
        temperature: the part ``temperature`` of a summary.
    """
    if not temperature:
        return ""
    rows = [
        [words, *(mean(temperature[key].get(name)) for name in ("ece", "nll"))]
        for key, words in (("before", "as the networks say it"), ("after", "at the other folds' temperature"))
    ]
    table = grid("calibration before and after", ["", "ECE", "NLL, nats"], rows)
    shipped, abstention = temperature["shipped"], temperature["abstention"]
    of_folds = [
        [f"fold {fold}", number(own["temperature"]), number(own["abstain_below"])]
        for fold, own in temperature["folds"].items()
    ]
    of_folds.append(["new cases", number(shipped["temperature"]), number(shipped["abstain_below"])])
    chosen = grid("temperature by fold", ["for", "temperature", "no answer below"], of_folds)
    text = (
        "Each fold's temperature, and the confidence below which nothing is answered, were chosen on the other folds, "
        f"the latter for an accuracy of {abstention['wanted_accuracy']:g}: {number(abstention['coverage'])} of the "
        f"cases are then answered, at an accuracy of {number(abstention['accuracy'])}."
    )
    return section("temperature", "Temperature and abstention", table, said(text), chosen)


def curve_section(picture: Path) -> str:
    """How the trainings went.

    Args:
        picture: a PNG file; nothing is shown if it is not there.
    """
    if not picture.is_file():
        return ""
    text = "Losses and metrics by epoch; a thin line is a training, a colour a scalar."
    return section("curves", "Training", figure(picture.read_bytes(), "curves of training and validation"), said(text))
