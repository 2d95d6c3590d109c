"""Scores of one case's label map against its reference, with a policy for misses.

A *structure* is one value of a label map. Its ``status`` in a case is ``ok`` (in both maps), ``missed`` (in the
reference only), ``false`` (in the prediction only) or ``empty`` (in neither). A miss can never raise a score: missed
and false structures get Dice 0, NSD 0, and the length of the image's diagonal as their HD95; empty ones are
counted, and leave their scores blank.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

#: Voxels left around a cropped pair of masks, so that a surface never touches the border of the crop.
CROP_MARGIN = 1


@dataclass(frozen=True)
class Score:
    """How one structure of one case was found.

    Volumes are in millilitres, distances in millimetres; NaN stands for a blank.
    """

    case: str
    structure: str
    dice: float
    hd95_mm: float
    nsd: float
    volume_ml: float
    reference_ml: float
    status: str


def diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """The length of an image's diagonal, the worst distance that two voxels of it can have.

    >>> diagonal_mm((3, 4, 12), (1, 1, 1))
    13.0
    """
    return math.sqrt(sum((n * s) ** 2 for n, s in zip(shape, spacing_mm, strict=True)))


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Twice the overlap over the sum of two masks, not both empty.

    >>> dice(np.array([True, True, False]), np.array([False, True, False])) == 2 / 3
    True
    """
    return float(
        2 * np.count_nonzero(prediction & reference) / (np.count_nonzero(prediction) + np.count_nonzero(reference))
    )


def score_structure(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    case: str = "",
    structure: str = "",
) -> Score:
    """Score one structure of one case.

    Args:
        prediction: mask ``(i, j, k)``.
        reference: mask of the same shape.
        spacing_mm: voxel sizes.
        tolerance_mm: how far a surface may be off and still count for NSD.
        case: copied into the score.
        structure: copied into the score.

    Returns:
        Dice; HD95, the larger of both directed 95th percentiles; NSD (normalised surface Dice); both as MONAI
        defines them, on the 6-neighbour edges.
    """
    ml = float(np.prod(spacing_mm)) / 1000
    volumes = {"volume_ml": np.count_nonzero(prediction) * ml, "reference_ml": np.count_nonzero(reference) * ml}
    found, there = volumes["volume_ml"] > 0, volumes["reference_ml"] > 0
    if not (found and there):
        status = "empty" if not (found or there) else "missed" if there else "false"
        worst = diagonal_mm(prediction.shape, spacing_mm)
        values = (math.nan,) * 3 if status == "empty" else (0.0, worst, 0.0)
        return Score(case, structure, *values, **volumes, status=status)
    hd95_mm, nsd = _surface_scores(prediction, reference, spacing_mm, tolerance_mm)
    return Score(case, structure, dice(prediction, reference), hd95_mm, nsd, **volumes, status="ok")


def _surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    where = np.argwhere(prediction | reference)
    box = tuple(slice(low, high + 1) for low, high in zip(where.min(axis=0), where.max(axis=0), strict=True))
    first, second = (
        torch.from_numpy(np.pad(mask[box], CROP_MARGIN))[None, None].float() for mask in (prediction, reference)
    )
    spacing = [float(size) for size in spacing_mm]
    with warnings.catch_warnings():
        # MONAI 1.6.1 passes an argument of its own that it has deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=95, spacing=spacing)
        nsd = compute_surface_dice(
            first, second, class_thresholds=[tolerance_mm], include_background=True, spacing=spacing
        )
    return float(hd95), float(nsd)


def score_case(
    prediction: np.ndarray,
    reference: np.ndarray,
    structures: Mapping[int, str],
    spacing_mm: Sequence[float],
    tolerance_mm: float = 1.0,
    case: str = "",
) -> list[Score]:
    """Score all structures of one case.

    Args:
        prediction: label map ``(i, j, k)``.
        reference: label map of the same shape.
        structures: the name of each value to score.
        spacing_mm: voxel sizes.
        tolerance_mm: NSD's tolerance.
        case: the case's id.
    """
    return [
        score_structure(prediction == value, reference == value, spacing_mm, tolerance_mm, case, name)
        for value, name in structures.items()
    ]


def failed_case(case: str, structures: Mapping[int, str], worst_mm: float) -> list[Score]:
    """The scores of a case that gave no prediction: it counts as missed, with status ``failed``.

    Args:
        case: the case's id.
        structures: the name of each value to score.
        worst_mm: its HD95: the diagonal of its image, or where that cannot be read, of the largest that could.
    """
    return [Score(case, name, 0.0, worst_mm, 0.0, 0.0, math.nan, "failed") for name in structures.values()]
