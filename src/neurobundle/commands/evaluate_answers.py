"""``neurobundle evaluate`` on tables of classes and on boxes: anybody's answers against their references."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from neurobundle.commands.evaluate_folders import FolderReport
from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.load.answers import ClassRow, read_class_table, read_table
from neurobundle.load.coco import read_coco
from neurobundle.load.pairs import Pair
from neurobundle.measure.calibration import SMALLEST_PROBABILITY
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.measure.detection_evaluation import DetectionEvaluation
from neurobundle.measure.temperature import Temperature, fit_temperature
from neurobundle.measure.threshold import Threshold, choose_threshold
from neurobundle.networks.manifest import sha256_of
from neurobundle.train.grouping import group_cases

logger = logging.getLogger(__name__)


def evaluate_classes(
    predictions: Path,
    references: Path,
    output: Path,
    classes: Sequence[str] | None = None,
    subjects: Path | None = None,
    tuning: tuple[Path, Path, str] | None = None,
) -> FolderReport:
    """Score a table of classes or probabilities against a table of true classes.

    Args:
        predictions: CSV or TSV with ``case`` and ``p_<class>`` columns, or ``case`` and ``prediction``; a run's
            ``predictions.csv`` too. A row without either counts as failed; where both are given, probabilities count,
            also those of a case of which no class was named.
        references: CSV or TSV with ``case`` and ``truth`` (or ``label``, ``class``), and ``subject`` if there are any.
        output: gets ``per_case.csv``, ``summary.json`` and ``report.html``.
        classes: their names in the order of their numbers; if None, those of the ``p_`` columns, or of the references.
        subjects: a table with columns ``case`` and ``subject``, instead of the references' own.
        tuning: predictions and references of validation cases, and a criterion: a temperature, and of two classes a
            threshold on the second by the criterion, are chosen there and applied here.

    Raises:
        InputError: for a table that cannot be used, if no case is in both, or if a subject is in the validation too.
        NoInputError: if the references name no case.
    """
    truth = read_class_table(references, classes, _truth_column(references))
    answers = read_class_table(predictions, classes, _answer_column(predictions), allow_blank=True)
    found = {row.case: row for row in answers}
    if not truth:
        raise NoInputError("the references name no case", "Add a line a case.", file=references)
    _require_common([row.case for row in truth], list(found), predictions)
    truth = _with_subjects(truth, references, subjects)
    names = classes or _classes_of(truth, list(found.values()))
    facts = _facts(predictions, references)
    threshold = None
    if tuning is not None:
        temperature, threshold = _tune(names, tuning, subjects, truth)
        facts["chosen on validation"] = {"temperature": asdict(temperature)}
        if threshold is not None:
            facts["chosen on validation"]["threshold"] = threshold.to_json()
        found = {case: _cooled(row, temperature) for case, row in found.items()}
    evaluation = ClassificationEvaluation(names, threshold)
    passed: dict[str, bool] = {}
    for row in truth:
        passed[row.case] = _add_class(evaluation, row, found.get(row.case), predictions)
    strangers = _strangers([row.case for row in truth], list(found), predictions)
    return FolderReport(evaluation.write(output, facts), passed | dict.fromkeys(strangers, False))


def evaluate_boxes(
    predictions: Path,
    references: Path,
    output: Path,
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
    subjects: Path | None = None,
) -> FolderReport:
    """Score COCO results against COCO annotations.

    Args:
        predictions: JSON list of ``{"image_id", "category_id", "bbox", "score"}``; an image without an entry has no
            predicted box.
        references: JSON with ``images``, ``annotations`` and ``categories``; an image may name its ``subject``.
        output: gets ``per_case.csv``, ``summary.json`` and ``report.html``.
        iou_threshold: overlap that counts as found, for precision, recall, F1 and FROC.
        score_threshold: least score that counts for precision, recall and F1.
        subjects: a table with columns ``case`` and ``subject``, instead of the references' own.

    Raises:
        InputError: for a file that cannot be used.
        NoInputError: if the references name no image.
    """
    truth = read_coco(references)
    if not truth.images:
        raise NoInputError("the references name no image", "Add images to it.", file=references)
    found = read_coco(predictions, "predictions", truth)
    whose = {image.case: image.subject for image in truth.images}
    if subjects is not None:
        whose = group_cases([Pair(image.case, references) for image in truth.images], "column:subject", subjects)
    evaluation = DetectionEvaluation(truth.classes, iou_threshold, score_threshold)
    for there, answer in zip(truth.images, found.images, strict=True):
        evaluation.add(
            there.case,
            there.boxes,
            there.classes,
            answer.boxes,
            answer.classes,
            answer.scores,
            whose[there.case],
            there.ignored,
        )
    silent = sum(not len(image.boxes) for image in found.images)
    notes = [f"{silent} of {len(found.images)} images have no predicted box"] if silent else []
    summary = evaluation.write(output, _facts(predictions, references))
    return FolderReport(summary, {image.case: True for image in truth.images}, notes)


def _with_subjects(rows: Sequence[ClassRow], file: Path, subjects: Path | None) -> list[ClassRow]:
    """Rows with the subjects of a table, if there is one; it must name every case."""
    if subjects is None:
        return list(rows)
    whose = group_cases([Pair(row.case, file) for row in rows], "column:subject", subjects)
    return [replace(row, subject=whose[row.case]) for row in rows]


def _tune(
    classes: Sequence[str], tuning: tuple[Path, Path, str], subjects: Path | None, reported: Sequence[ClassRow]
) -> tuple[Temperature, Threshold | None]:
    """A temperature, and a threshold for two classes, from validation cases of none of the reported subjects."""
    predictions, references, criterion = tuning
    truth = _with_subjects(read_class_table(references, classes, _truth_column(references)), references, subjects)
    rows = read_class_table(predictions, classes, _answer_column(predictions), allow_blank=True)
    found = {row.case: row for row in rows if row.probabilities is not None or row.label is not None}
    _require_common([row.case for row in truth], list(found), predictions)
    both = [row for row in truth if row.case in found]
    if len(both) < len(truth):
        logger.warning("WARNING %s: %d validation cases have no prediction", predictions, len(truth) - len(both))
    # By case as well: one of the two tables may name no subjects.
    leaked = sorted(
        {name for row in both for name in (row.subject, row.case)}
        & {name for row in reported for name in (row.subject, row.case)}
    )
    if leaked:
        cause = f"{len(leaked)} subjects or cases are in the validation and in what is reported, {leaked[0]} for one"
        raise InputError(cause, "Choose on other people than those that are reported.", file=references)
    logits = np.array([_logits(found[row.case], classes, predictions) for row in both])
    answers = np.array([list(classes).index(str(row.label)) for row in both])
    temperature = fit_temperature(logits, answers, class_axis=1)
    if len(classes) != 2:
        return temperature, None
    scores = softmax(temperature.apply(logits), axis=1)[:, 1]
    return temperature, choose_threshold(scores, answers == 1, criterion)


def _logits(row: ClassRow, classes: Sequence[str], file: Path) -> list[float]:
    if row.probabilities is None:
        cause = f"line {row.line} has a class and no probabilities"
        raise InputError(cause, "Give p_<class> columns: nothing can be tuned without.", case=row.case, file=file)
    return [math.log(max(row.probabilities[name], SMALLEST_PROBABILITY)) for name in classes]


def _cooled(row: ClassRow, temperature: Temperature) -> ClassRow:
    """The answer at another temperature."""
    if row.probabilities is None:
        return row
    values = np.array(list(row.probabilities.values()), float)
    cooled = softmax(temperature.apply(np.log(np.maximum(values, SMALLEST_PROBABILITY))))
    return replace(row, probabilities=dict(zip(row.probabilities, cooled.tolist(), strict=True)))


def _facts(predictions: Path, references: Path) -> dict[str, Any]:
    """What was compared, and the hashes of both files."""
    hashes = {name: sha256_of(path) for name, path in (("predictions", predictions), ("references", references))}
    return {"predictions": predictions.name, "references": references.name, "sha256": hashes}


def _truth_column(references: Path) -> str | None:
    """``truth``, where a table has it beside other answers, as our own per_case.csv does."""
    return "truth" if "truth" in read_table(references)[0] else None


def _answer_column(predictions: Path) -> str | None:
    """``prediction``, likewise."""
    return "prediction" if "prediction" in read_table(predictions)[0] else None


def _classes_of(truth: Sequence[ClassRow], found: Sequence[ClassRow]) -> list[str]:
    named = next((list(row.probabilities) for row in found if row.probabilities is not None), None)
    if named is not None:
        return named
    true, answered = ({row.label for row in rows if row.label is not None} for rows in (truth, found))
    if not true & answered:
        cause = f"the predictions say {', '.join(sorted(answered)[:3])}, the references {', '.join(sorted(true)[:3])}"
        raise SettingError(cause, "Name the classes in the order of their numbers: --classes glioma,meningioma.")
    labels = true | answered
    if len(labels) < 2:
        cause = f"only the class {', '.join(sorted(labels))} occurs"
        raise SettingError(cause, "Name all classes: --classes glioma,meningioma,pituitary.")
    return sorted(labels)


def _add_class(evaluation: ClassificationEvaluation, row: ClassRow, answer: ClassRow | None, file: Path) -> bool:
    if row.label is None:
        raise InputError(f"line {row.line} of the references has no class", "Give them a column truth.", case=row.case)
    if answer is None or (answer.probabilities is None and answer.label is None):
        cause = "the predictions have no line of it" if answer is None else f"line {answer.line} is blank"
        error = InputError(cause, "Add its answer.", case=row.case, file=file)
        logger.error("ERROR %s", error)
        evaluation.add_failed(row.case, row.label, row.subject, error.brief())
        return False
    if answer.probabilities is not None:
        values = [answer.probabilities[name] for name in evaluation.classes]
        evaluation.add(row.case, row.label, values, row.subject)
    elif answer.label is not None:
        evaluation.add_prediction(row.case, row.label, answer.label, row.subject)
    return True


def _require_common(truth: Sequence[str], found: Sequence[str], predictions: Path) -> None:
    if not set(truth) & set(found):
        cause = f"no case is in both tables: there are {', '.join([*found[:1], *truth[:1]])}, for example"
        raise InputError(cause, "Name the cases alike in both.", file=predictions)


def _strangers(truth: Sequence[str], found: Sequence[str], predictions: Path) -> list[str]:
    """Predictions of cases that the references do not have; each is named."""
    strangers = [case for case in found if case not in set(truth)]
    for case in strangers:
        error = InputError("the references have no line of it", "Add one, or take it out.", case=case, file=predictions)
        logger.error("ERROR %s", error)
    return strangers
