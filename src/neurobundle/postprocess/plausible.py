"""Whether a labelled crop of a head can be a hippocampus at all.

A network labels something in whatever it is shown: another sequence, or a box in the wrong place. What it found is
*implausible* if a part is missing or of an impossible size, if the anterior part does not lie in front of and below
the posterior part, or if the whole does not lie where the template has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurobundle import geometry

ANTERIOR, POSTERIOR = 1, 2

#: Millilitres of one part. The 202 references of the training set have 1.05 to 2.59; half and twice that.
PART_ML = (0.5, 5.2)
#: How far the middle of both parts may lie from where the template has it, mm. On 14 label maps the box's middle was
#: at most 6.1 mm away from the hippocampus's (docs/concepts/whole-heads.md); twice that.
MIDDLE_MM = 12.0


def why_implausible(labels: npt.NDArray[np.integer], affine: npt.ArrayLike) -> list[str]:
    """What speaks against a label map of one crop; empty if nothing does.

    Args:
        labels: ``(i, j, k)`` in the order right, anterior, superior, unmirrored: 0, anterior 1, posterior 2.
        affine: 4 x 4, the crop's voxel index to millimetres; the crop's middle is where the template has it.

    Returns:
        Causes, each a clause without a final full stop.
    """
    ml = geometry.voxel_volume_mm3(affine) / 1000
    causes = []
    for name, value in (("anterior", ANTERIOR), ("posterior", POSTERIOR)):
        volume = np.count_nonzero(labels == value) * ml
        if not PART_ML[0] <= volume <= PART_ML[1]:
            causes.append(f"its {name} part would have {volume:.2f} ml, outside {PART_ML[0]:g} to {PART_ML[1]:g}")
    if causes:
        return causes
    sizes_mm = geometry.voxel_sizes_mm(affine)
    front, back = (np.argwhere(labels == value).mean(axis=0) * sizes_mm for value in (ANTERIOR, POSTERIOR))
    if front[1] <= back[1] or front[2] >= back[2]:
        causes.append("its anterior part would not lie in front of and below its posterior part")
    middle = np.argwhere(labels > 0).mean(axis=0) - (np.asarray(labels.shape) - 1) / 2
    distance_mm = float(np.linalg.norm(middle * sizes_mm))
    if distance_mm > MIDDLE_MM:
        causes.append(f"it would lie {distance_mm:.0f} mm from where the template has it, beyond {MIDDLE_MM:g} mm")
    return causes
