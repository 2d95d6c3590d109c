"""Scores of one case's label map against its reference, with a policy for misses.

A structure's ``status`` in a case is ``ok`` (in both maps), ``missed`` (in the reference only), ``false`` (in the
prediction only) or ``empty`` (in neither); ``failed`` if there is no prediction. A miss can never raise a score:
missed, false and failed structures get 0 for every share, and the length of the image's diagonal for every distance;
empty ones are counted, and leave their scores blank. docs/concepts/metrics.md has each definition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.lesions import LesionRule, LesionScores, score_lesions
from neurobundle.measure.overlap import Overlap, joint_counts, overlap_of
from neurobundle.measure.regions import Structures, as_structures, by_eights, codes_of, values_of, whole_numbers
from neurobundle.measure.surface import SurfaceDistances, structure_distances

Array = npt.NDArray[Any]

#: Shares of 0 to 1, where more is better, and distances in mm, where less is.
SHARES = ("dice", "iou", "sensitivity", "precision", "nsd")
DISTANCES = ("hd95_mm", "hd_mm", "assd_mm")

#: Further columns with lesions.
LESION_COUNTS = ("n_lesions", "n_missed_lesions", "n_false_lesions")
LESION_COLUMNS = (*LESION_COUNTS, "lesion_dice", "lesion_hd95_mm")


@dataclass(frozen=True)
class Score:
    """How one structure of one case was found.

    Volumes are in millilitres, distances in millimetres; NaN stands for a blank. ``more`` has what was asked for
    besides: ``nsd_<t>mm`` at further tolerances, and the lesion columns.
    """

    case: str
    structure: str
    dice: float
    hd95_mm: float
    nsd: float
    iou: float
    sensitivity: float
    precision: float
    hd_mm: float
    assd_mm: float
    volume_ml: float
    reference_ml: float
    status: str
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def volume_error_ml(self) -> float:
        """Prediction minus reference."""
        return self.volume_ml - self.reference_ml

    def value(self, name: str) -> float:
        """A score by its column's name; NaN if it was not asked for."""
        return float(self.more[name] if name in self.more else getattr(self, name, math.nan))


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """The length of an image's diagonal: no two voxels of it are farther apart.

    >>> diagonal_mm((3, 4, 12), (1, 1, 1))
    13.0
    """
    return math.sqrt(sum((n * s) ** 2 for n, s in zip(shape, spacing_mm, strict=True)))


def tolerance_column(tolerance_mm: float) -> str:
    """The column of NSD at a further tolerance.

    >>> tolerance_column(2.0), tolerance_column(0.5)
    ('nsd_2mm', 'nsd_0.5mm')
    """
    return f"nsd_{tolerance_mm:g}mm"


def as_tolerances(given: float | Sequence[float]) -> tuple[float, ...]:
    """NSD's tolerances from one or several numbers, in mm.

    Raises:
        SettingError: if there is none, one is below 0 or not finite, or stands twice.

    >>> as_tolerances(1)
    (1.0,)
    """
    tolerances = tuple(float(t) for t in (given if isinstance(given, Sequence) else [given]))
    if not tolerances or not all(math.isfinite(t) and t >= 0 for t in tolerances):
        raise SettingError(f"the tolerances are {list(tolerances)} mm", "Give numbers of 0 or above.")
    if len(set(map(tolerance_column, tolerances))) < len(tolerances):
        raise SettingError(f"a tolerance stands twice in {list(tolerances)}", "Give each once.")
    return tolerances


def score_case(
    prediction: Array,
    reference: Array,
    structures: Mapping[Any, Any],
    spacing_mm: Sequence[float],
    tolerances_mm: float | Sequence[float] = 1.0,
    case: str = "",
    lesions: LesionRule | None = None,
) -> list[Score]:
    """Score all structures of one case.

    Args:
        prediction: label map ``(i, j, k)`` or ``(i, j)``, whole numbers of any type.
        reference: label map of the same shape.
        structures: ``{1: "front"}`` or ``{"WT": [1, 2, 3]}``; see :func:`neurobundle.measure.regions.as_structures`.
        spacing_mm: voxel sizes.
        tolerances_mm: how far a surface may be off and still count for NSD.
        case: the case's id.
        lesions: if given, lesions are scored as well.

    Returns:
        One score a structure, in their order.

    Raises:
        InputError: if the shapes differ, the spacing is not above 0, or values are not whole.
        SettingError: for structures and tolerances that mean nothing.

    >>> found, there = np.zeros((2, 8, 8), int), np.zeros((2, 8, 8), int)
    >>> found[:, 2:4, 2:4], there[:, 2:4, 3:5] = 1, 1
    >>> [(s.structure, s.status, s.dice, s.hd95_mm) for s in score_case(found, there, {1: "lesion"}, (3, 1, 1))]
    [('lesion', 'ok', 0.5, 1.0)]
    """
    named, tolerances = as_structures(structures), as_tolerances(tolerances_mm)
    prediction, reference = whole_numbers(prediction, "the prediction"), whole_numbers(reference, "the reference")
    require_same_shape(prediction, reference, case)
    values = values_of(named)
    counts = joint_counts(prediction, reference, values)
    overlaps = {name: overlap_of(counts, values, own) for name, own in named.items()}
    distances = _all_distances(prediction, reference, named, overlaps, spacing_mm)
    worst = diagonal_mm(reference.shape, spacing_mm)
    ml = float(np.prod(spacing_mm)) / 1000
    scores = []
    for name, own in named.items():
        more = {}
        if lesions is not None:
            found, there = (codes_of(labels, [own]).view(bool) for labels in (prediction, reference))
            more = _lesion_columns(score_lesions(found, there, spacing_mm, worst, lesions))
        scores.append(_score(case, name, overlaps[name], distances.get(name), worst, ml, tolerances, more))
    return scores


def failed_case(
    case: str,
    structures: Mapping[Any, Any],
    worst_mm: float,
    tolerances_mm: float | Sequence[float] = 1.0,
    lesions: LesionRule | None = None,
    reference: Array | None = None,
    spacing_mm: Sequence[float] = (),
) -> list[Score]:
    """The scores of a case that gave no prediction: it counts as missed, with status ``failed``.

    Args:
        case: the case's id.
        structures: as in :func:`score_case`.
        worst_mm: its distances: the diagonal of its image, or where that cannot be read, of the largest that could.
        tolerances_mm: as in :func:`score_case`.
        lesions: if given, the reference's lesions are counted as missed.
        reference: its label map, if that could be read; its volumes are then stated.
        spacing_mm: the reference's voxel sizes.
    """
    named, tolerances = as_structures(structures), as_tolerances(tolerances_mm)
    missed: list[Score] = []
    if reference is not None:
        nothing = np.zeros(reference.shape, np.uint8)
        missed = score_case(nothing, reference, named, spacing_mm, tolerances, case, lesions)
    scores = []
    for n, name in enumerate(named):
        more = {tolerance_column(t): 0.0 for t in tolerances[1:]}
        if lesions is not None:
            more |= dict.fromkeys(LESION_COUNTS, math.nan) | {"lesion_dice": 0.0, "lesion_hd95_mm": worst_mm}
            more |= {key: missed[n].more[key] for key in LESION_COUNTS if missed}
        reference_ml = missed[n].reference_ml if missed else math.nan
        shares, mm = dict.fromkeys(SHARES, 0.0), dict.fromkeys(DISTANCES, worst_mm)
        volumes = {"volume_ml": math.nan, "reference_ml": reference_ml}
        scores.append(Score(case, name, **shares, **mm, **volumes, status="failed", more=more))
    return scores


def require_same_shape(prediction: Array, reference: Array, case: str = "") -> None:
    """Refuse two label maps of different shapes.

    Raises:
        InputError: names both shapes.
    """
    if prediction.shape != reference.shape:
        raise InputError(
            f"the prediction has the shape {prediction.shape} and the reference {reference.shape}",
            "Resample the prediction onto its reference's grid, with the nearest neighbour.",
            case=case,
        )


def _all_distances(
    prediction: Array,
    reference: Array,
    structures: Structures,
    overlaps: Mapping[str, Overlap],
    spacing_mm: Sequence[float],
) -> dict[str, SurfaceDistances]:
    """The distances of all structures that both maps have."""
    both = {name: own for name, own in structures.items() if overlaps[name].predicted and overlaps[name].present}
    found: dict[str, SurfaceDistances] = {}
    for lot in by_eights(both):
        found.update(zip(lot, structure_distances(prediction, reference, list(lot.values()), spacing_mm), strict=True))
    return found


def _score(
    case: str,
    name: str,
    overlap: Overlap,
    distances: SurfaceDistances | None,
    worst_mm: float,
    ml: float,
    tolerances: Sequence[float],
    more: Mapping[str, float],
) -> Score:
    volumes = {"volume_ml": overlap.predicted * ml, "reference_ml": overlap.present * ml}
    if distances is not None:
        status, nsd = "ok", [distances.nsd(t) for t in tolerances]
        mm = {key: float(getattr(distances, key)) for key in DISTANCES}
    elif overlap.predicted or overlap.present:
        status, nsd = ("missed" if overlap.present else "false"), [0.0] * len(tolerances)
        mm = dict.fromkeys(DISTANCES, worst_mm)
    else:
        status, nsd, mm = "empty", [math.nan] * len(tolerances), dict.fromkeys(DISTANCES, math.nan)
    shares = {key: float(getattr(overlap, key)) for key in SHARES if key != "nsd"}
    further = {tolerance_column(t): value for t, value in zip(tolerances[1:], nsd[1:], strict=True)}
    return Score(case, name, **shares, **mm, nsd=nsd[0], **volumes, status=status, more={**further, **more})


def _lesion_columns(scores: LesionScores) -> dict[str, float]:
    counts = (float(scores.n_lesions), float(scores.n_missed), float(scores.n_false))
    return dict(zip(LESION_COLUMNS, (*counts, scores.dice, scores.hd95_mm), strict=True))
