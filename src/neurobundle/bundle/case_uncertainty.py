"""What a config wrote of a case's uncertainty, on its way from the run's own folder to the output folder.

``neurobundle run`` mirrors crops of a right side in and back, and cuts crops out of heads: the map is taken the same
way back as the labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.export.uncertainty import (
    MAP_ENDING,
    NUMBERS_ENDING,
    STEPS,
    CaseUncertainty,
    of_both_sides,
    read_uncertainty,
    save_map,
    save_numbers,
)
from neurobundle.load.scan import Scan
from neurobundle.prepare.locate import Place


class Kept(NamedTuple):
    """The uncertainty of one case.

    Attributes:
        numbers: of the case and its structures.
        steps: the map ``(i, j, k)`` uint8, in steps of 1/255, on the native grid.
    """

    numbers: CaseUncertainty
    steps: npt.NDArray[np.uint8]


def kept_of(folder: Path, case: str, names: Mapping[int, str]) -> Kept | None:
    """What a config wrote of a case; None if nothing, since it was not told to.

    Args:
        folder: where it writes.
        case: the case's name.
        names: of label values, for structures that the config left without a name.
    """
    numbers, image = folder / f"{case}{NUMBERS_ENDING}", folder / f"{case}{MAP_ENDING}"
    if not (numbers.exists() and image.exists()):
        return None
    volume: Any = nib.load(image)
    return Kept(read_uncertainty(numbers, names), np.asarray(volume.dataobj.get_unscaled(), np.uint8))


def kept_of_head(
    folder: Path,
    places: Sequence[Place],
    shape: Sequence[int],
    affine: npt.ArrayLike,
    names: Mapping[int, str],
) -> Kept | None:
    """What a config wrote of the crops of a head, as one on the head's grid.

    Args:
        folder: where it writes, under the names of the sides.
        places: where the crops were taken; where two reach a voxel, the larger value stays.
        shape: the head's voxels.
        affine: the head's, 4 x 4.
        names: of a crop's label values.
    """
    import torch

    from neurobundle.postprocess.uncertainty import native_steps
    from neurobundle.prepare.grid import Grid

    i, j, k = (int(n) for n in shape[:3])
    native = Grid((i, j, k), np.asarray(affine, float))
    steps = np.zeros(native.shape, np.uint8)
    sides: dict[str, CaseUncertainty] = {}
    for place in places:
        kept = kept_of(folder, place.side, names)
        if kept is None:
            return None
        values = kept.steps[::-1] if place.mirrored else kept.steps
        found = native_steps(torch.from_numpy(values / np.float32(STEPS)), np.asarray(place.affine, float), native)
        np.maximum(steps, found.numpy(), out=steps)
        sides[place.side] = kept.numbers
    return Kept(of_both_sides(sides), steps)


def save_kept(kept: Kept, output: Path, case: str, scan: Scan) -> list[Path]:
    """Write the map and the numbers of a case to the output folder, atomically.

    Args:
        kept: on the scan's grid.
        output: the folder.
        case: the case's name.
        scan: whose grid, form and unit the map gets.

    Returns:
        The files.
    """
    image = save_map(output / f"{case}{MAP_ENDING}", kept.steps, scan.affine, scan.form_code, scan.units)
    return [image, save_numbers(output / f"{case}{NUMBERS_ENDING}", case, kept.numbers.entry())]
