"""An evaluation of a detection: images come in one by one, a table and a summary come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import InputError
from neurobundle.load.answers import require_class
from neurobundle.measure.detection import ImageBoxes, check_settings, count_boxes, score_detection
from neurobundle.measure.row_evaluation import RowEvaluation, Rows

_COLUMNS = ("case", "subject", "n_boxes", "n_found", "n_missed", "n_false", "status")

Boxes = Sequence[Sequence[float]] | np.ndarray
Classes = Sequence[int | str] | np.ndarray


class DetectionEvaluation(RowEvaluation):
    """Collects boxes, scores them, and writes ``per_case.csv`` and ``summary.json``.

    Args:
        classes: their names.
        iou_threshold: a box is found from this IoU on.
        score_threshold: boxes count from this score on, in the table, and for precision, recall and F1.

    Raises:
        SettingError: if there is no class, a name is blank or stands twice, or a threshold cannot be.
    """

    TITLE = "Detection, evaluated"
    HEADLINE = ("map50", "recall", "precision")

    def __init__(self, classes: Sequence[str], iou_threshold: float = 0.5, score_threshold: float = 0.5) -> None:
        super().__init__(classes)
        check_settings(iou_threshold, score_threshold)
        self.iou_threshold = iou_threshold
        self.score_threshold = score_threshold
        self.images: dict[str, ImageBoxes] = {}

    def add(
        self,
        case: str,
        truth_boxes: Boxes,
        truth_classes: Classes,
        boxes: Boxes,
        classes: Classes,
        scores: Sequence[float] | np.ndarray,
        subject: str = "",
        ignored: Sequence[bool] | np.ndarray | None = None,
    ) -> None:
        """Add an image.

        Args:
            case: its name.
            truth_boxes: (m, 4) or (m, 6) corners.
            truth_classes: (m,) numbers or names.
            boxes: (n, 4) or (n, 6) predicted corners.
            classes: (n,) numbers or names.
            scores: (n,) finite.
            subject: the person; the image is its own if blank.
            ignored: (m,) reference boxes that need not be found.

        Raises:
            InputError: if the case was added before, a class is unknown, or the boxes are none.
        """
        self._keep(case, subject, truth_boxes, truth_classes, boxes, classes, scores, ignored)

    def add_failed(
        self,
        case: str,
        truth_boxes: Boxes,
        truth_classes: Classes,
        subject: str = "",
        ignored: Sequence[bool] | np.ndarray | None = None,
        problem: str = "",
    ) -> None:
        """Add an image without a prediction; its boxes are missed.

        Args:
            case: its name.
            truth_boxes: as in :meth:`add`.
            truth_classes: as in :meth:`add`.
            subject: the person; the image is its own if blank.
            ignored: as in :meth:`add`.
            problem: why, in a sentence; the report shows it.

        Raises:
            InputError: if the case was added before, a class is unknown, or the boxes are none.
        """
        self._keep(case, subject, truth_boxes, truth_classes, [], [], [], ignored, failed=True)
        self.problems[case] = problem or f"{case}: there is no prediction."

    def score(self) -> dict[str, Any]:
        """What :func:`score_detection` says of the images so far."""
        images = list(self.images.values())
        return score_detection(images, self.classes, self.iou_threshold, self.score_threshold)

    def _table(self) -> tuple[list[str], Rows]:
        """With the boxes that count from the score threshold on."""
        images = list(self.images.values())
        counts = count_boxes(images, len(self.classes), self.iou_threshold, self.score_threshold)
        rows = [_row(image, *(int(n) for n in row)) for image, row in zip(images, counts, strict=True)]
        return list(_COLUMNS), rows

    def _page_writer(self) -> Callable[..., Path]:
        """That of a detection."""
        from neurobundle.measure.page import write_detection_page

        return write_detection_page

    def _keep(
        self,
        case: str,
        subject: str,
        truth_boxes: Any,
        truth_classes: Classes,
        boxes: Any,
        classes: Classes,
        scores: Any,
        ignored: Any,
        failed: bool = False,
    ) -> None:
        if not case:
            raise InputError("an image has no name", "Give each its own.")
        if case in self.images:
            raise InputError("the case was added twice", "Give each once, under a name of its own.", case=case)
        true = np.array([require_class(value, self.classes, case) for value in truth_classes], dtype=int)
        answered = np.array([require_class(value, self.classes, case) for value in classes], dtype=int)
        self.images[case] = ImageBoxes(
            case, truth_boxes, true, boxes, answered, scores, subject or case, failed, ignored
        )


def _row(image: ImageBoxes, n_boxes: int, n_found: int, n_false: int) -> dict[str, Any]:
    return {
        "case": image.image,
        "subject": image.subject,
        "n_boxes": n_boxes,
        "n_found": n_found,
        "n_missed": n_boxes - n_found,
        "n_false": n_false,
        "status": "failed" if image.failed else "ok",
    }
