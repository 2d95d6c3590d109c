"""An evaluation: cases go in one by one, and a table, a summary and a report come out.

It holds no label map longer than it needs to score and to draw it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, SettingError
from neurobundle.files import write_json
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.labels import content_hash
from neurobundle.measure.calibration import (
    DILATION_MM,
    CaseCalibration,
    binary_probabilities,
    case_calibration,
    dilated_region,
)
from neurobundle.measure.lesions import LesionRule
from neurobundle.measure.outputs import CALIBRATION, REPORT, SUMMARY, TABLE, fact_lines, hash_of_all, versions
from neurobundle.measure.overlap import joint_counts
from neurobundle.measure.regions import as_structures, codes_of, translate, values_of, whole_numbers
from neurobundle.measure.segmentation import (
    Score,
    as_tolerances,
    diagonal_mm,
    failed_case,
    require_same_shape,
    score_case,
)
from neurobundle.measure.summary import summarise
from neurobundle.measure.tables import write_scores

if TYPE_CHECKING:
    from neurobundle.export.comparison import CasePictures

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

#: The structure under which the calibration of a softmax over all classes stands.
ALL_CLASSES = "all"


class SegmentationEvaluation:
    """Scores label maps against references, case by case.

    Args:
        structures: ``{1: "front"}`` or ``{"WT": [1, 2, 3]}``.
        tolerances_mm: NSD's tolerances; the first is the column ``nsd``.
        lesions: if given, lesions are scored as well.
        pictures: draw each case for the report.
        probabilities: what :meth:`add` gets as such, if it gets any: ``classes``, a softmax over the background and all
            values of the structures in their order; or ``structures``, a sigmoid for each structure.
        region_mm: calibration is measured over the reference's foreground and what lies so near to it.
    """

    def __init__(
        self,
        structures: Mapping[Any, Any],
        tolerances_mm: float | Sequence[float] = 1.0,
        lesions: LesionRule | None = None,
        *,
        pictures: bool = True,
        probabilities: Literal["classes", "structures"] = "classes",
        region_mm: float = DILATION_MM,
    ) -> None:
        self.structures = as_structures(structures)
        self.values = values_of(self.structures)
        self.tolerances_mm = as_tolerances(tolerances_mm)
        self.lesions = lesions
        self.draws = pictures
        if probabilities not in ("classes", "structures"):
            raise SettingError(f"probabilities are {probabilities!r}", "Say classes or structures.")
        self.probabilities_are = probabilities
        self.region_mm = float(region_mm)
        self.clear()

    def clear(self) -> None:
        """Forget all cases."""
        self.subjects: dict[str, str] = {}
        self.problems: dict[str, str] = {}
        self.calibrations: list[CaseCalibration] = []
        self.pictures: dict[str, CasePictures] = {}
        self.counts = np.zeros((1 + len(self.values),) * 2, np.int64)
        self._scores: list[Score] = []
        self._largest_mm = math.nan
        self._hashes: dict[str, dict[str, str]] = {"predictions": {}, "references": {}}

    def add(
        self,
        case: str,
        prediction: Array,
        reference: Array,
        affine: Array | None = None,
        *,
        image: Array | None = None,
        probabilities: Array | None = None,
        subject: str = "",
    ) -> list[Score]:
        """Score one case.

        Args:
            case: its id.
            prediction: label map ``(i, j, k)`` or ``(i, j)``.
            reference: label map of the same shape.
            affine: ``(4, 4)``, voxel index to RAS+ millimetres; without it a voxel counts as 1 mm.
            image: of the same shape, to draw.
            probabilities: ``(class or structure, i, j[, k])``, to measure calibration.
            subject: whose case it is; its own if empty.

        Returns:
            Its scores.

        Raises:
            InputError: if a case of this id is there, shapes differ, or values are not whole.
        """
        self._require_new(case)
        prediction, reference = whole_numbers(prediction, "the prediction"), whole_numbers(reference, "the reference")
        require_same_shape(prediction, reference, case)
        spacing = _spacing(affine, reference.ndim)
        scores = score_case(
            prediction, reference, self.structures, spacing, self.tolerances_mm, case, lesions=self.lesions
        )
        measured = [] if probabilities is None else self._calibrate(case, reference, probabilities, spacing)
        if self.draws:
            from neurobundle.export.comparison import case_pictures

            same = {value: value for value in self.values}
            there, found = (translate(labels, same, np.int32) for labels in (reference, prediction))
            self.pictures[case] = case_pictures(image, there, found, affine)
        self._scores += scores
        self.calibrations += measured
        self.counts += joint_counts(prediction, reference, self.values)
        self.subjects[case] = subject or case
        self._saw(diagonal_mm(reference.shape, spacing))
        self._hashes["predictions"][case] = content_hash(prediction)
        self._hashes["references"][case] = content_hash(reference)
        return scores

    def add_failed(
        self,
        case: str,
        problem: str,
        *,
        reference: Array | None = None,
        affine: Array | None = None,
        subject: str = "",
    ) -> None:
        """Count a case without a prediction that can be scored: as missed, with status ``failed``.

        Args:
            case: its id.
            problem: why, in a sentence; the report shows it.
            reference: its label map, if that could be read.
            affine: the reference's.
            subject: whose case it is; its own if empty.
        """
        self._require_new(case)
        spacing = _spacing(affine, reference.ndim) if reference is not None else ()
        worst = diagonal_mm(reference.shape, spacing) if reference is not None else math.nan
        if reference is not None:
            reference = whole_numbers(reference, "the reference")
            self._hashes["references"][case] = content_hash(reference)
        self._scores += failed_case(case, self.structures, worst, self.tolerances_mm, self.lesions, reference, spacing)
        self.subjects[case] = subject or case
        self.problems[case] = problem
        self._saw(worst)

    @property
    def scores(self) -> list[Score]:
        """Of all cases so far; a failed one whose image is unknown has the diagonal of the largest of the others."""
        return [self._with_worst(score) if score.status == "failed" else score for score in self._scores]

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds, but for the facts that :meth:`write` adds."""
        names = [self._label_name(value) for value in self.values]
        result = {
            "task": "segmentation",
            **summarise(self.scores, self.subjects),
            "nsd_tolerances_mm": list(self.tolerances_mm),
            "labels": {name: list(values) for name, values in self.structures.items()},
            "confusion": {"labels": ["background", *names], "counts": self.counts.tolist()},
        }
        if self.lesions is not None:
            result["lesion_rule"] = asdict(self.lesions)
        if self.calibrations:
            result["calibration_region_mm"] = self.region_mm
            result["calibration"] = self._calibration()
        return result

    def by_fold(self, folds: Mapping[str, str]) -> dict[str, Any]:
        """A summary of each fold.

        Args:
            folds: the fold of each case.
        """
        return {
            fold: summarise([score for score in self.scores if folds[score.case] == fold], self.subjects)
            for fold in sorted(set(folds.values()))
        }

    def write(
        self,
        output_dir: str | Path,
        facts: Mapping[str, Any] | None = None,
        title: str = "Segmentation, evaluated",
        folds: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Write ``per_case.csv``, ``summary.json``, ``report.html``, and ``calibration.csv`` if there is any.

        Args:
            output_dir: where to.
            facts: added to the summary and shown in the report: where the data came from, which weights.
            title: of the report.
            folds: the fold of each case, to be summarised apart as well.

        Returns:
            The summary.
        """
        from neurobundle.measure.page import write_segmentation_page

        output_dir, given = Path(output_dir), dict(facts or {})
        summary = {
            **self.summary(),
            "failed": self.problems,
            **({"folds": self.by_fold(folds)} if folds else {}),
            **given,
            "sha256": {what: hash_of_all(hashes) for what, hashes in self._hashes.items()},
            "versions": versions(),
        }
        scores = self.scores
        write_scores(output_dir / TABLE, scores, self.subjects)
        if self.calibrations:
            from neurobundle.measure.calibration_summary import write_calibration

            write_calibration(output_dir / CALIBRATION, self.calibrations, self.subjects)
        else:
            (output_dir / CALIBRATION).unlink(missing_ok=True)
        write_json(output_dir / SUMMARY, summary)
        write_segmentation_page(
            output_dir / REPORT,
            title,
            summary,
            scores,
            self.pictures,
            self.problems,
            fact_lines({**given, "sha256": summary["sha256"], "versions": summary["versions"]}),
            subjects=self.subjects,
        )
        for name, values in summary["structures"].items():
            logger.info(
                "%s: Dice %s, NSD %s, HD95 %s mm", name, *(values[m]["mean"] for m in ("dice", "nsd", "hd95_mm"))
            )
        return summary

    def _require_new(self, case: str) -> None:
        if case in self.subjects:
            raise InputError("this case was scored before", "Give each case a name of its own.", case=case)

    def _calibrate(
        self, case: str, reference: Array, probabilities: Array, spacing: Sequence[float]
    ) -> list[CaseCalibration]:
        """Calibration near the reference; none where that is empty."""
        wanted = 1 + len(self.values) if self.probabilities_are == "classes" else len(self.structures)
        if len(probabilities) != wanted:
            raise InputError(
                f"there are probabilities of {len(probabilities)} {self.probabilities_are}, and {wanted} are scored",
                "Score all that the network tells apart, the background first where it is a softmax.",
                case=case,
            )
        if self.probabilities_are == "classes":
            classes = translate(reference, {v: n for n, v in enumerate(self.values, start=1)}, np.uint8)
            region = dilated_region(classes > 0, spacing, self.region_mm)
            return [case_calibration(probabilities, classes, region, case, ALL_CLASSES)] if region.any() else []
        found = []
        for n, (name, values) in enumerate(self.structures.items()):
            inside = codes_of(reference, [values])
            region = dilated_region(inside > 0, spacing, self.region_mm)
            if region.any():
                found.append(case_calibration(binary_probabilities(probabilities[n]), inside, region, case, name))
        return found

    def _calibration(self) -> dict[str, Any]:
        from neurobundle.measure.calibration_summary import summarise_calibration

        result: dict[str, Any] = {}
        for structure in dict.fromkeys(one.structure for one in self.calibrations):
            own = [one for one in self.calibrations if one.structure == structure]
            result |= summarise_calibration(own, self.subjects, self._mean_dice(structure))
        return result

    def _mean_dice(self, structure: str) -> dict[str, float]:
        lists: dict[str, list[float]] = {}
        for score in self.scores:
            if structure in (ALL_CLASSES, score.structure) and math.isfinite(score.dice):
                lists.setdefault(score.case, []).append(score.dice)
        return {case: sum(values) / len(values) for case, values in lists.items()}

    def _label_name(self, value: int) -> str:
        return next((name for name, values in self.structures.items() if values == (value,)), str(value))

    def _saw(self, diagonal: float) -> None:
        self._largest_mm = float(np.fmax(self._largest_mm, diagonal))

    def _with_worst(self, score: Score) -> Score:
        if math.isfinite(score.hd95_mm):
            return score
        mm = self._largest_mm
        more = {name: mm if name.endswith("hd95_mm") else value for name, value in score.more.items()}
        return replace(score, hd95_mm=mm, hd_mm=mm, assd_mm=mm, more=more)


def evaluation_like(summary: Mapping[str, Any]) -> SegmentationEvaluation:
    """An evaluation that scores what another one scored, still without a case.

    Args:
        summary: what the other one's ``summary.json`` holds.
    """
    rule = summary.get("lesion_rule")
    return SegmentationEvaluation(
        summary["labels"],
        summary["nsd_tolerances_mm"],
        LesionRule(**rule) if rule is not None else None,
        region_mm=summary.get("calibration_region_mm", DILATION_MM),
    )


def _spacing(affine: Array | None, ndim: int) -> list[float]:
    return [1.0] * ndim if affine is None else [float(size) for size in voxel_sizes_mm(affine)[:ndim]]
