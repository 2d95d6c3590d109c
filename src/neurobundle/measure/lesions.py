"""Scores lesion by lesion: how many were found, and how well each.

A *component* is a set of voxels that hang together across faces, edges or corners. A *lesion* is a component of the
reference; with a dilation, components whose dilations hang together are one lesion. A component of the prediction
belongs to every lesion whose (dilated) voxels it overlaps, and is *false* if there is none. Definition after the BraTS
2023 challenge (github.com/rachitsaluja/BraTS-2023-Metrics); docs/concepts/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from neurobundle.errors import SettingError, closest
from neurobundle.measure.overlap import dice
from neurobundle.measure.regions import box_around, foreground_box
from neurobundle.measure.surface import surface_distances

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LesionRule:
    """What counts as one lesion.

    Attributes:
        dilation: steps across faces and edges by which lesions are grown before they are joined and matched; BraTS
            2023 has 3 for gliomas and 1 for metastases and meningiomas. 0 joins nothing.
        ignored_ml: lesions of this volume or less count neither as found nor as missed (BraTS 2023: .05 for gliomas).
    """

    dilation: int = 0
    ignored_ml: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.dilation, int) or self.dilation < 0 or not self.ignored_ml >= 0:
            raise SettingError(
                f"lesions cannot be dilated by {self.dilation} or ignored up to {self.ignored_ml} ml",
                "Give numbers of 0 or above; the dilation in whole steps.",
            )


def lesion_rule(given: Mapping[str, Any]) -> LesionRule:
    """A rule from a config's mapping.

    Raises:
        SettingError: for an unknown name, or a value that means nothing.
    """
    known = [field.name for field in fields(LesionRule)]
    for name in given:
        if name not in known:
            raise SettingError(f"lesions have no {name!r}{closest(str(name), known)}", f"They have {', '.join(known)}.")
    return LesionRule(**given)


class LesionScores(NamedTuple):
    """Counts, and means over all lesions and all false ones.

    Attributes:
        n_lesions: in the reference, without the ignored ones.
        n_missed: lesions to which nothing belongs.
        n_false: components of the prediction that belong to no lesion, whatever their size.
        dice: mean; 0 for missed and false ones. NaN if there are no lesions and no false ones.
        hd95_mm: mean; the worst for missed and false ones. NaN likewise.
    """

    n_lesions: int
    n_missed: int
    n_false: int
    dice: float
    hd95_mm: float


def score_lesions(
    prediction: Array, reference: Array, spacing_mm: Sequence[float], worst_mm: float, rule: LesionRule | None = None
) -> LesionScores:
    """Score one structure lesion by lesion.

    Args:
        prediction: mask ``(i, j, k)`` or ``(i, j)``.
        reference: mask of the same shape.
        spacing_mm: voxel sizes.
        worst_mm: HD95 of a lesion that is missed or false: the image's diagonal.
        rule: what counts as one lesion.
    """
    rule = rule or LesionRule()
    # Farther than the image is long nothing is reached.
    dilation = min(rule.dilation, sum(reference.shape))
    box = foreground_box(prediction.view(np.uint8), reference.view(np.uint8))
    if box is None:
        return LesionScores(0, 0, 0, math.nan, math.nan)
    found, there = (np.pad(mask[box], dilation) for mask in (prediction, reference))
    near = _dilated(there, dilation)
    lesions, found_parts = _components(near), _components(found)
    pairs = _overlaps(lesions, found_parts)
    lesions[~there] = 0
    ml = float(np.prod(spacing_mm)) / 1000
    sizes = np.bincount(lesions.ravel(order="K"))
    kept = [n for n in range(1, len(sizes)) if sizes[n] * ml > rule.ignored_ml]
    boxes, found_boxes = ndimage.find_objects(lesions), ndimage.find_objects(found_parts)
    dices, distances = [], []
    for lesion in kept:
        parts = pairs.get(lesion, [])
        if not parts:
            continue
        at = box_around([boxes[lesion - 1], *(found_boxes[part - 1] for part in parts)])
        pair = np.isin(found_parts[at], parts), lesions[at] == lesion
        dices.append(dice(*pair))
        distances.append(surface_distances(*pair, spacing_mm).hd95_mm)
    n_missed = len(kept) - len(dices)
    n_false = len(found_boxes) - len({part for parts in pairs.values() for part in parts})
    n = len(kept) + n_false
    if not n:
        return LesionScores(0, 0, 0, math.nan, math.nan)
    return LesionScores(
        len(kept), n_missed, n_false, sum(dices) / n, (sum(distances) + (n_missed + n_false) * worst_mm) / n
    )


def _components(mask: Array) -> Array:
    # cc3d 4.1.1 fails, or parts what hangs together, on volumes that are one voxel thin, and on slices (tests compare
    # it with scipy): so all are given a border, and a slice becomes the middle one of three.
    volume = np.pad(mask if mask.ndim == 3 else mask[None], 1)
    parts = np.asarray(cc3d.connected_components(volume, connectivity=26)).astype(np.int32)[1:-1, 1:-1, 1:-1]
    return np.ascontiguousarray(parts if mask.ndim == 3 else parts[0])


def _dilated(mask: Array, steps: int) -> Array:
    if not steps:
        return mask
    structure = ndimage.generate_binary_structure(mask.ndim, 2)
    return np.asarray(ndimage.binary_dilation(mask, structure, iterations=steps))


def _overlaps(lesions: Array, parts: Array) -> dict[int, list[int]]:
    """The components of the prediction that overlap each lesion."""
    both = (lesions > 0) & (parts > 0)
    pairs: dict[int, list[int]] = {}
    for lesion, part in np.unique(np.stack([lesions[both], parts[both]]), axis=1).T.tolist():
        pairs.setdefault(lesion, []).append(part)
    return pairs
