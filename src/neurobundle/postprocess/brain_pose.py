"""How a head lies, and where its hippocampi are, by a label map of the bundle ``brain_anatomy_segmentation``.

Words: the *reference places* are where the structures' middles lie in the template of
:mod:`neurobundle.prepare.register`; a head's *pose* is the similarity transform that takes them to the middles that
were found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from neurobundle import geometry
from neurobundle.postprocess.brain import HIPPOCAMPI, PAIRS, largest_piece

#: The reference places, mm in the template: medians over the 14 label maps of SynthSeg (Billot 2023, Apache-2.0), each
#: registered as :func:`neurobundle.prepare.register.register_head` does, both sides together; the right one's x is
#: positive.
REFERENCE_MM: dict[int, tuple[float, float, float]] = {
    1: (-28.1, -18.2, 18.8),
    2: (-32.2, -17.6, 16.1),
    3: (-14.8, -13.0, 14.8),
    5: (-17.5, -52.7, -32.5),
    6: (-23.6, -62.4, -36.3),
    7: (-12.7, -17.7, 6.4),
    8: (-15.7, 9.3, 9.3),
    9: (-26.7, 0.5, -0.7),
    10: (-21.0, -3.2, -2.3),
    11: (0.0, -8.9, -3.3),
    12: (0.0, -45.2, -31.7),
    13: (0.0, -30.6, -31.1),
    15: (-24.4, -3.8, -20.4),
    17: (-9.4, 11.4, -8.3),
    18: (-11.2, -15.0, -9.3),
}
#: The same of a hippocampus, which takes no part in the fit: what the pose says of its place is compared with it.
HIPPOCAMPUS_MM = (-26.2, -20.9, -14.5)

#: So many structures make a pose, of 27.
LEAST_STRUCTURES = 20
#: Root mean square of the distances of a fit, mm. In the 14 label maps 1.8 to 3.2.
POSE_RMS_MM = 5.0
#: Of a hippocampus from where the pose has it, mm: at most 3.8 there, but for one that is labelled in part.
HIPPOCAMPUS_OFF_MM = 8.0
#: Between the middles of both: 44 to 55 there.
APART_MM = (35.0, 65.0)
#: Millilitres of one: 1.4 to 5.3 there.
HIPPOCAMPUS_ML = (1.0, 8.0)
#: So many voxels one must have at least.
HIPPOCAMPUS_VOXELS = 30


class Pose(NamedTuple):
    """How a head lies: ``scale * rotation @ template mm + shift = head mm``.

    Attributes:
        rotation: (3, 3).
        scale: the head's size relative to the template's.
        shift: (3,), mm.
        rms_mm: of the distances that the fit leaves.
        structures: how many were fitted.
    """

    rotation: geometry.Array
    scale: float
    shift: geometry.Array
    rms_mm: float
    structures: int

    def apply(self, point_mm: npt.ArrayLike) -> geometry.Array:
        """A point of the template in the head's mm."""
        return self.scale * self.rotation @ np.asarray(point_mm, float) + self.shift


class Hippocampi(NamedTuple):
    """Both hippocampi of a label map.

    Attributes:
        middles_mm: of the left and of the right one, RAS+ mm; empty if one has too few voxels.
        pose: the head's; None if too few structures were found.
        causes: why they are not to be believed, clauses without a full stop; empty if they are.
    """

    middles_mm: dict[str, geometry.Array]
    pose: Pose | None
    causes: list[str]


def pose_of(labels: npt.NDArray[np.integer], affine: npt.ArrayLike) -> Pose | None:
    """The pose by the middles of all structures but the hippocampi, the inferior horns and CSF; least squares.

    Args:
        labels: ``(i, j, k)`` in the bundle's numbers.
        affine: 4 x 4, voxel index to RAS+ mm.

    Returns:
        None if fewer than :data:`LEAST_STRUCTURES` have voxels.

    Source: Umeyama 1991, IEEE PAMI 13:376.
    """
    places = dict(REFERENCE_MM)
    places |= {PAIRS[value]: (-x, y, z) for value, (x, y, z) in REFERENCE_MM.items() if value in PAIRS}
    present = np.bincount(labels.ravel().astype(np.int64), minlength=max(places) + 1)
    values = [value for value in sorted(places) if present[value]]
    if len(values) < LEAST_STRUCTURES:
        return None
    middles = ndimage.center_of_mass(np.ones(labels.shape, np.uint8), labels, values)
    there = geometry.apply(affine, np.asarray(middles))
    here = np.array([places[value] for value in values])
    a, b = here - here.mean(axis=0), there - there.mean(axis=0)
    left, strengths, right = np.linalg.svd(b.T @ a)
    upright = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left * upright @ right
    scale = float((strengths * upright).sum() / (a**2).sum())
    rms = float(np.sqrt(((b - scale * a @ rotation.T) ** 2).sum(axis=1).mean()))
    return Pose(rotation, scale, there.mean(axis=0) - scale * rotation @ here.mean(axis=0), rms, len(values))


def hippocampi_of(labels: npt.NDArray[np.integer], affine: npt.ArrayLike) -> Hippocampi:
    """Where both hippocampi are, and whether that can be.

    Args:
        labels: ``(i, j, k)`` in the bundle's numbers.
        affine: 4 x 4, voxel index to RAS+ mm.
    """
    ml = geometry.voxel_volume_mm3(affine) / 1000
    pose, middles, causes = pose_of(labels, affine), {}, []
    for side, value in HIPPOCAMPI.items():
        where = np.argwhere(largest_piece(labels == value))
        if len(where) < HIPPOCAMPUS_VOXELS:
            causes.append(f"the {side} hippocampus would have {len(where)} voxels, fewer than {HIPPOCAMPUS_VOXELS}")
            continue
        middles[side] = geometry.apply(affine, where.mean(axis=0))
        if not HIPPOCAMPUS_ML[0] <= (volume := len(where) * ml) <= HIPPOCAMPUS_ML[1]:
            low, high = HIPPOCAMPUS_ML
            causes.append(f"the {side} hippocampus would have {volume:.1f} ml, outside {low:g} to {high:g}")
    if pose is None:
        return Hippocampi({}, None, [*causes, f"fewer than {LEAST_STRUCTURES} structures were found"])
    if len(middles) < len(HIPPOCAMPI):
        return Hippocampi({}, pose, causes)
    return Hippocampi(middles, pose, [*causes, *_misplaced(middles, pose)])


def _misplaced(middles: Mapping[str, geometry.Array], pose: Pose) -> list[str]:
    causes = []
    if pose.rms_mm > POSE_RMS_MM:
        causes.append(f"the structures do not lie as in a brain ({pose.rms_mm:.1f} mm off, beyond {POSE_RMS_MM:g})")
    apart = float(np.linalg.norm(middles["left"] - middles["right"]))
    if not APART_MM[0] <= apart <= APART_MM[1]:
        causes.append(f"the hippocampi would lie {apart:.0f} mm apart, outside {APART_MM[0]:g} to {APART_MM[1]:g}")
    for side, sign in (("left", 1.0), ("right", -1.0)):
        expected = pose.apply(np.array(HIPPOCAMPUS_MM) * (sign, 1.0, 1.0))
        off = float(np.linalg.norm(middles[side] - expected))
        if off > HIPPOCAMPUS_OFF_MM:
            causes.append(f"the {side} hippocampus would lie {off:.0f} mm from where the other structures have it")
    return causes
