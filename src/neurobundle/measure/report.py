"""A handler that scores each case of an evaluation and writes what it found."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from neurobundle.export.nifti import as_integers, save_label_map
from neurobundle.export.tables import write_csv
from neurobundle.files import write_json
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.gate import LABEL
from neurobundle.load.names import case_name
from neurobundle.load.scan import read_scan
from neurobundle.measure.segmentation import Score, score_case
from neurobundle.measure.summary import summarise

logger = logging.getLogger(__name__)

#: Decimals in ``per_case.csv``: enough that a mean over the table equals the summary's.
DIGITS = 6
TEXT_COLUMNS = ("case", "structure", "status")


class SegmentationReport:
    """Scores every case that an evaluator predicts; writes ``per_case.csv`` and ``summary.json`` at the end.

    The evaluator's output holds ``pred``, a label map ``(1, i, j, k)`` on the native grid, and ``label``, whose
    metadata names the reference's file; both are compared there, as a user would compare two files.

    Args:
        output_dir: where to write.
        structures: the name of each label value to score.
        tolerance_mm: NSD's tolerance.
        save_label_maps: also write ``predictions/<case>_seg.nii.gz``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        structures: Mapping[int, str],
        tolerance_mm: float = 1.0,
        save_label_maps: bool = False,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.structures = {int(value): name for value, name in structures.items()}
        self.tolerance_mm = tolerance_mm
        self.save_label_maps = save_label_maps
        self.scores: list[Score] = []
        self.subjects: dict[str, str] = {}

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        """Forget what an earlier evaluation saw."""
        self.scores.clear()
        self.subjects.clear()

    def collect(self, engine: Engine) -> None:
        """Score the cases of one batch."""
        batch: Any = engine.state.batch
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            file = Path(str(output["label"].meta["filename_or_obj"]))
            case = str(item.get("case") or case_name(file))
            self.subjects[case] = str(item.get("subject") or case)
            reference = read_scan(file, LABEL)
            prediction = as_integers(output["pred"][0].cpu().numpy())
            spacing_mm = voxel_sizes_mm(reference.affine).tolist()
            self.scores += score_case(
                prediction, np.asarray(reference.data), self.structures, spacing_mm, self.tolerance_mm, case
            )
            if self.save_label_maps:
                path = self.output_dir / "predictions" / f"{case}_seg.nii.gz"
                save_label_map(path, prediction, reference.affine, reference.form_code, reference.units)

    def write(self, engine: Engine) -> None:
        """Write the table and the summary."""
        write_scores(self.output_dir, self.scores, self.subjects, self.tolerance_mm)


def write_scores(
    output_dir: Path,
    scores: list[Score],
    subjects: Mapping[str, str],
    tolerance_mm: float = 1.0,
    by_fold: Mapping[int, list[Score]] | None = None,
) -> dict[str, Any]:
    """Write ``per_case.csv`` and ``summary.json``.

    Args:
        output_dir: where to write.
        scores: of all cases and structures.
        subjects: the subject of each case.
        tolerance_mm: NSD's tolerance, stated in the summary.
        by_fold: the same scores apart, to be summarised fold by fold as well.

    Returns:
        The summary.
    """
    write_csv(output_dir / "per_case.csv", [field.name for field in fields(Score)], map(asdict, scores), DIGITS)
    summary = {**summarise(scores, subjects), "nsd_tolerance_mm": tolerance_mm}
    if by_fold:
        summary["folds"] = {str(fold): summarise(part, subjects) for fold, part in by_fold.items()}
    write_json(output_dir / "summary.json", summary)
    for name, values in summary["structures"].items():
        logger.info("%s: Dice %s, NSD %s, HD95 %s mm", name, *(values[m]["mean"] for m in ("dice", "nsd", "hd95_mm")))
    return summary


def read_scores(path: Path) -> list[Score]:
    """Read a ``per_case.csv`` that :func:`write_scores` wrote.

    Args:
        path: the file; a blank score becomes NaN.
    """
    with path.open(newline="") as file:
        return [Score(**{name: _value(name, text) for name, text in row.items()}) for row in csv.DictReader(file)]


def _value(name: str, text: str) -> Any:
    return text if name in TEXT_COLUMNS else float(text or "nan")
