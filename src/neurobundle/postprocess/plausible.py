"""Whether a labelled crop of a head can be a hippocampus at all.

A network labels something in whatever it is shown: another sequence, or a box in the wrong place. What it found is
*implausible* if a part is missing or of an impossible size, if the anterior part does not lie in front of and below
the posterior part, or if the whole does not lie where the template has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from neurobundle import geometry

ANTERIOR, POSTERIOR = 1, 2

#: Millilitres of one part. The 202 references of the training set have 1.05 to 2.59; half and twice that.
PART_ML = (0.5, 5.2)
#: How far the middle of both parts may lie from where the template has it, mm. On 14 label maps the box's middle was
#: at most 6.1 mm away from the hippocampus's (docs/concepts/whole-heads.md); twice that.
MIDDLE_MM = 12.0


class HippocampusCheck:
    """What speaks against a labelled crop. A bundle's ``inference.yaml`` names it as ``plausible``.

    Args:
        part_ml: the least and the most of each part, millilitres.
        middle_mm: how far the whole may lie from the middle of a crop that was cut about it.
    """

    def __init__(self, part_ml: Sequence[float] = PART_ML, middle_mm: float = MIDDLE_MM) -> None:
        self.least_ml, self.most_ml = part_ml
        self.middle_mm = middle_mm

    def causes(self, labels: npt.NDArray[np.integer], affine: npt.ArrayLike, centred: bool = False) -> list[str]:
        """What speaks against a label map of one crop; empty if nothing does.

        Args:
            labels: ``(i, j, k)`` in the order right, anterior, superior, unmirrored: 0, anterior 1, posterior 2.
            affine: 4 x 4, the crop's voxel index to millimetres.
            centred: whether the crop was cut about where a hippocampus should be.

        Returns:
            Causes, each a clause without a final full stop.
        """
        ml = geometry.voxel_volume_mm3(affine) / 1000
        causes = []
        for name, value in (("anterior", ANTERIOR), ("posterior", POSTERIOR)):
            volume = np.count_nonzero(labels == value) * ml
            if not self.least_ml <= volume <= self.most_ml:
                causes.append(
                    f"its {name} part would have {volume:.2f} ml, outside {self.least_ml:g} to {self.most_ml:g}"
                )
        return causes or self._misplaced(labels, geometry.voxel_sizes_mm(affine), centred)

    def _misplaced(self, labels: npt.NDArray[np.integer], sizes_mm: geometry.Array, centred: bool) -> list[str]:
        causes = []
        front, back = (np.argwhere(labels == value).mean(axis=0) * sizes_mm for value in (ANTERIOR, POSTERIOR))
        if front[1] <= back[1] or front[2] >= back[2]:
            causes.append("its anterior part would not lie in front of and below its posterior part")
        middle = np.argwhere(labels > 0).mean(axis=0) - (np.asarray(labels.shape) - 1) / 2
        distance_mm = float(np.linalg.norm(middle * sizes_mm))
        if centred and distance_mm > self.middle_mm:
            causes.append(
                f"it would lie {distance_mm:.0f} mm from where the template has it, beyond {self.middle_mm:g} mm"
            )
        return causes
