"""What a label map of a whole head says: the brain's mask, and whether its volumes can be.

Words: the *structures* are those of the bundle ``brain_anatomy_segmentation``, 32 of them, in its numbers; *tissue* is
all of them but the ventricles and CSF. A *pair* is a structure's left and right one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from neurobundle import geometry
from neurobundle.errors import SettingError

CSF = 16
VENTRICLES = (3, 4, 11, 12, 21, 22)
CEREBELLUM = {"left": (5, 6), "right": (23, 24)}
HIPPOCAMPI = {"left": 14, "right": 29}
WHITE_MATTER, CORTEX = (1, 19), (2, 20)

#: Left -> right. 11, 12, 13 and 16 have no side.
PAIRS = {**{left: left + 18 for left in range(1, 11)}, 14: 29, 15: 30, 17: 31, 18: 32}

#: Radius of the closing that fills sulci and cisterns: those up to twice as wide, mm.
CLOSING_MM = 3.0


def brain_mask(
    labels: npt.NDArray[np.integer], affine: npt.ArrayLike, margin_mm: float = 0.0, closing_mm: float = CLOSING_MM
) -> npt.NDArray[np.bool_]:
    """The brain as one solid piece: tissue and ventricles, sulci closed, the largest component, holes filled.

    Args:
        labels: ``(i, j, k)`` in the bundle's numbers; no brain gives an empty mask.
        affine: 4 x 4, mm.
        margin_mm: how far the mask reaches beyond the brain.
        closing_mm: sulci up to twice as wide are filled; 0 leaves them open.

    Raises:
        SettingError: for a margin or a closing below 0.
    """
    for name, value in (("margin_mm", margin_mm), ("closing_mm", closing_mm)):
        if not 0 <= value < np.inf:
            raise SettingError(f"{name} must be 0 or more, got {value!r}", "Give millimetres.")
    brain = (labels > 0) & (labels != CSF)
    box = box_of_mask(brain)
    if box is None:
        return brain
    sizes = geometry.voxel_sizes_mm(affine)
    # Room for the closing and the margin all around, so that the image's border does not hold them up.
    pad = [(int(np.ceil((margin_mm + closing_mm) / size)) + 1,) * 2 for size in sizes]
    part = np.pad(largest_piece(brain[box]), pad)
    if closing_mm:
        part = ~_within(~_within(part, closing_mm, sizes), closing_mm, sizes)
    part = ndimage.binary_fill_holes(largest_piece(part))
    if margin_mm:
        part = _within(part, margin_mm, sizes)
    return _pasted(part, [side.start - width for side, (width, _) in zip(box, pad, strict=True)], labels.shape)


def box_of_mask(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """The smallest box that holds a mask; None if it is empty."""
    found: list[tuple[slice, ...] | None] = ndimage.find_objects(mask.astype(np.uint8))
    return found[0] if found else None


def largest_piece(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest piece of voxels that share faces; the first of two alike."""
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    return np.asarray(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)


def _within(mask: npt.NDArray[np.bool_], radius_mm: float, sizes_mm: geometry.Array) -> npt.NDArray[np.bool_]:
    """The voxels whose centre is no farther than a radius from a mask's."""
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=sizes_mm) <= radius_mm)


def _pasted(part: npt.NDArray[np.bool_], start: Sequence[int], shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    """A part that begins at a voxel of a grid, perhaps before its first, as a mask of the grid."""
    out = np.zeros(shape, bool)
    low = [max(0, -n) for n in start]
    high = [min(size, n - first) for size, n, first in zip(part.shape, shape, start, strict=True)]
    here = tuple(slice(a + n, b + n) for a, b, n in zip(low, high, start, strict=True))
    out[here] = part[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return out


#: Millilitres of tissue. The 14 label maps of SynthSeg have 798 to 1413.
TISSUE_ML = (600.0, 1900.0)
#: The least millilitres of each structure (of a pair, of either side) in the 14 label maps. The inferior horns are left
#: out: they may be nearly closed.
LEAST_ML = {
    **{1: 153.0, 2: 152.0, 3: 3.75, 5: 11.5, 6: 42.0, 7: 5.5, 8: 2.4, 9: 3.3, 10: 0.99, 11: 0.48, 12: 0.78, 13: 15.5},
    **{14: 1.4, 15: 0.74, 17: 0.34, 18: 2.7},
}
#: A structure with less than this share of its least volume is missing.
MISSING_SHARE = 0.1
#: |left - right| over their mean. In the 14 label maps hemispheres have at most .07 and the cerebellum .08.
LARGE_ASYMMETRY = 0.2
#: The same of a small structure: at most .42 there, but for one hippocampus that is labelled in part.
SMALL_ASYMMETRY = 0.5
#: A brain that has more of its voxels than this on the image's faces is cut off by them.
BORDER_SHARE = 0.005

#: Names of the pairs that are compared, and their left labels. Ventricles may differ as they like.
_LARGE = {"white matter": (1,), "cortex": (2,), "cerebellum": CEREBELLUM["left"]}
_SMALL = {
    **{"thalamus": (7,), "caudate": (8,), "putamen": (9,), "pallidum": (10,), "hippocampus": (14,)},
    **{"amygdala": (15,), "accumbens": (17,), "ventral DC": (18,)},
}

#: So many structures that are missing are named.
_NAMED = 6

_LOOK = "look at the picture before you use these volumes"
_IS_IT_A_HEAD = "is this a scan of a whole head, with the right voxel sizes and orientation in its header?"


class VolumeCheck:
    """What the volumes of a head say against its labels. A bundle's ``inference.yaml`` names it as ``quality``.

    Args:
        tissue_ml: the least and the most of a brain without ventricles and CSF.
        large: the largest asymmetry of the hemispheres and the cerebellum.
        small: of a deep structure.
    """

    def __init__(
        self,
        tissue_ml: Sequence[float] = TISSUE_ML,
        large: float = LARGE_ASYMMETRY,
        small: float = SMALL_ASYMMETRY,
    ) -> None:
        self.least_ml, self.most_ml = tissue_ml
        self.large, self.small = large, small

    def warnings(
        self, labels: npt.NDArray[np.integer], affine: npt.ArrayLike, structures: Mapping[int, str]
    ) -> list[str]:
        """What is odd; empty if nothing is.

        Args:
            labels: ``(i, j, k)`` in the bundle's numbers.
            affine: 4 x 4, mm.
            structures: the name of each label value.

        Returns:
            Sentences without a full stop, each with a way out.
        """
        counts = np.bincount(labels.ravel().astype(np.int64), minlength=max(structures) + 1)
        ml = counts * geometry.voxel_volume_mm3(affine) / 1000
        tissue = sum(ml[value] for value in structures if value not in (CSF, *VENTRICLES))
        if not tissue:
            return [f"no brain was found: {_IS_IT_A_HEAD}"]
        found = []
        if (share := _on_border(labels)) > BORDER_SHARE:
            found.append(
                f"the brain reaches the border of the image ({share:.1%} of its voxels), and the volumes lack what "
                "lies beyond: scan or export the whole head"
            )
        if not self.least_ml <= tissue <= self.most_ml:
            # Nothing more is to be learned from the parts of what is no brain.
            limits = f"outside {self.least_ml:g} to {self.most_ml:g}"
            return [*found, f"the brain would have {tissue:.0f} ml, {limits}: {_LOOK}; {_IS_IT_A_HEAD}"]
        if lost := [name for value, name in sorted(structures.items()) if _is_missing(value, ml)]:
            more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
            found.append(f"not found, or hardly: {', '.join(lost[:_NAMED])}{more}: {_LOOK}; is the whole head in view?")
        if odd := self._asymmetries(ml):
            found.append(f"left and right differ by more than people's do: {', '.join(odd)}: {_LOOK}")
        return found

    def _asymmetries(self, ml: npt.NDArray[np.float64]) -> list[str]:
        found = []
        for pairs, limit in ((_LARGE, self.large), (_SMALL, self.small)):
            for name, values in pairs.items():
                left = float(sum(ml[value] for value in values))
                right = float(sum(ml[PAIRS[value]] for value in values))
                if min(left, right) > 0 and abs(left - right) > limit * (left + right) / 2:
                    found.append(f"{name} {left:.1f} and {right:.1f} ml")
        return found


_LEFT_OF = {right: left for left, right in PAIRS.items()}


def _is_missing(value: int, ml: npt.NDArray[np.float64]) -> bool:
    return bool(ml[value] < MISSING_SHARE * LEAST_ML.get(_LEFT_OF.get(value, value), 0.0))


def _on_border(labels: npt.NDArray[np.integer]) -> float:
    """The share of the brain's voxels that lie on the image's faces."""
    brain = (labels > 0) & (labels != CSF)
    inner = brain[tuple(slice(1, -1) for _ in range(3))]
    return 1.0 - int(np.count_nonzero(inner)) / max(1, int(np.count_nonzero(brain)))
