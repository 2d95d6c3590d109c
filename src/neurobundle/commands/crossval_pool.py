"""The folds of a cross-validation as one evaluation: every case by the network that never saw it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.commands.evaluate import add_failed
from neurobundle.commands.evaluate_folders import Files, score_files
from neurobundle.errors import InputError, NeurobundleError
from neurobundle.load.datalist import Item
from neurobundle.measure.calibration_summary import read_calibration
from neurobundle.measure.classification_evaluation import read_answers
from neurobundle.measure.evaluation import SegmentationEvaluation, evaluation_like
from neurobundle.measure.out_of_fold import OutOfFoldEvaluation
from neurobundle.measure.outputs import CALIBRATION, SUMMARY, TABLE
from neurobundle.measure.tables import read_scores

logger = logging.getLogger(__name__)


def pool_structures(
    folders: Mapping[int, Path], items: Sequence[Item], output: Path, facts: Mapping[str, Any], title: str
) -> dict[str, Any]:
    """Score all label maps together, from their files, as the folds were scored.

    Args:
        folders: each fold's evaluation.
        items: the datalist's, with a fold; a case that no fold predicted counts as missed.
        output: gets ``per_case.csv``, ``summary.json`` and ``report.html``.
        facts: for the summary.
        title: of the report.

    Returns:
        The summary.
    """
    summaries = read_summaries(folders)
    evaluation = evaluation_like(next(iter(summaries.values())))
    by_case = {str(item["case"]): item for item in items}
    fold_of: dict[str, str] = {}
    for fold, folder in folders.items():
        _, subjects = read_scores(folder / TABLE)
        for case, subject in subjects.items():
            fold_of[case] = str(fold)
            _add_label_map(evaluation, by_case[case], subject, folder, summaries[fold]["failed"].get(case))
        if (folder / CALIBRATION).exists():
            evaluation.calibrations += read_calibration(folder / CALIBRATION)[0]
    for case, item in by_case.items():
        if case not in fold_of:
            fold_of[case] = str(item["fold"])
            add_failed(evaluation, item, _nobody_predicted(case).brief())
    return evaluation.write(output, {**facts, "weights": _weights(summaries)}, title, fold_of)


def pool_classes(
    folders: Mapping[int, Path], items: Sequence[Item], output: Path, facts: Mapping[str, Any], title: str
) -> dict[str, Any]:
    """Pool the answers of all folds from their tables, calibrate each fold's by the others', and score them.

    Args:
        folders: each fold's evaluation.
        items: the datalist's, with a fold; a case that no fold answered counts as wrong.
        output: gets ``per_case.csv``, ``per_subject.csv``, ``calibration.json``, ``summary.json`` and ``report.html``.
        facts: for the summary.
        title: of the report.

    Returns:
        The summary.

    Raises:
        InputError: if a table is none, or too few cases were answered to fit a temperature.
    """
    summaries = read_summaries(folders)
    evaluation = OutOfFoldEvaluation(next(iter(summaries.values()))["classes"])
    for fold, folder in folders.items():
        evaluation.take(str(fold), read_answers(folder / TABLE), summaries[fold]["failed"])
    for item in items:
        case = str(item["case"])
        if case not in evaluation.answers:
            problem = _nobody_predicted(case).brief()
            evaluation.add_missing(str(item["fold"]), case, item["label"], str(item["subject"]), problem)
    return evaluation.write(output, {**facts, "weights": _weights(summaries)}, title)


def read_summaries(folders: Mapping[int, Path]) -> dict[int, dict[str, Any]]:
    """The summary of each fold's evaluation."""
    return {fold: json.loads((folder / SUMMARY).read_bytes()) for fold, folder in folders.items()}


def _weights(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, str]:
    return {f"fold {fold}": summary["weights"]["sha256"] for fold, summary in summaries.items()}


def _nobody_predicted(case: str) -> InputError:
    error = InputError("no fold predicted it", "Evaluate its fold without max_cases.", case=case)
    logger.error("ERROR %s", error)
    return error


def _add_label_map(
    evaluation: SegmentationEvaluation, item: Item, subject: str, folder: Path, problem: str | None
) -> None:
    if problem is not None:
        add_failed(evaluation, item, problem)
        return
    case = str(item["case"])
    images = item["image"] if isinstance(item["image"], list) else [item["image"]]
    prediction = folder / "predictions" / f"{case}_seg.nii.gz"
    files = Files(case, Path(str(item["label"])), prediction, Path(str(images[0])), subject)
    try:
        score_files(evaluation, files, None)
    except NeurobundleError as error:  # it was counted as failed
        logger.error("ERROR %s", error)
