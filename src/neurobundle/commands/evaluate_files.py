"""``neurobundle evaluate --pred ... --truth ...``: which kind of answers the files hold, and who scores them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurobundle.commands.evaluate_answers import evaluate_boxes, evaluate_classes
from neurobundle.commands.evaluate_folders import FolderReport, evaluate_folders
from neurobundle.errors import SettingError
from neurobundle.measure.evaluation import SegmentationEvaluation
from neurobundle.measure.lesions import LesionRule
from neurobundle.measure.outputs import SUMMARY, TABLE
from neurobundle.measure.regions import parse_structures


@dataclass(frozen=True)
class FileOptions:
    """What may be asked for besides the files, under the names of ``neurobundle evaluate --help``."""

    labels: str | None = None
    images: Path | None = None
    subjects: Path | None = None
    tolerance: Sequence[float] = (1.0,)
    lesions: bool = False
    lesion_dilation: int = 0
    ignore_lesions: float = 0.0
    other_labels: str = "refuse"
    classes: str | None = None
    tune_pred: Path | None = None
    tune_truth: Path | None = None
    criterion: str = "youden"
    iou: float = 0.5
    score: float = 0.5
    no_pictures: bool = False


def evaluate_files(
    predictions: Path,
    references: Path,
    output: Path,
    options: FileOptions,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = lambda items: items,
) -> FolderReport:
    """Score predictions against references, whatever they are.

    Args:
        predictions: a folder of label maps; or a CSV or TSV of classes; or a JSON of boxes (COCO's results).
        references: of the same kind.
        output: gets ``per_case.csv``, ``summary.json`` and ``report.html``.
        options: what to score and how.
        progress: wraps the list of cases.

    Raises:
        SettingError: if the files are of different kinds, or an option is missing.
    """
    for path in (predictions, references, options.subjects, options.tune_pred, options.tune_truth):
        if path is not None and path.resolve().parent == output.resolve() and path.name in (TABLE, SUMMARY):
            raise SettingError("it would be overwritten by what is written here", "Choose another -o.", file=path)
    kinds = [kind_of(path) for path in (predictions, references)]
    if kinds[0] != kinds[1]:
        raise SettingError(
            f"--pred is a {kinds[0]} and --truth a {kinds[1]}", "Give two folders, two tables or two JSON files."
        )
    if kinds[0] == "table":
        classes = options.classes.split(",") if options.classes else None
        tuning = None
        if options.tune_pred or options.tune_truth:
            if not (options.tune_pred and options.tune_truth):
                raise SettingError("--tune-pred and --tune-truth go together", "Give both, of validation cases.")
            tuning = (options.tune_pred, options.tune_truth, options.criterion)
        return evaluate_classes(predictions, references, output, classes, options.subjects, tuning)
    if kinds[0] == "JSON file":
        return evaluate_boxes(predictions, references, output, options.iou, options.score, options.subjects)
    if options.labels is None:
        raise SettingError("--labels is missing", 'Say what to score: --labels 1,2 or a JSON file {"WT": [1, 2, 3]}.')
    lesions = options.lesions or options.lesion_dilation or options.ignore_lesions
    evaluation = SegmentationEvaluation(
        parse_structures(options.labels),
        options.tolerance,
        LesionRule(options.lesion_dilation, options.ignore_lesions) if lesions else None,
        pictures=not options.no_pictures,
    )
    return evaluate_folders(
        predictions,
        references,
        output,
        evaluation,
        images=options.images,
        subjects=options.subjects,
        other_labels=options.other_labels,
        progress=progress,
    )


def kind_of(path: Path) -> str:
    """``folder``, ``table`` or ``JSON file``, by the name of what is there."""
    if path.suffix.lower() in (".csv", ".tsv"):
        return "table"
    return "JSON file" if path.suffix.lower() == ".json" else "folder"
