"""A scan: one 3D image with its affine, read whole, its checksum verified. Imports neither torch nor MONAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.load.labels import read_volume, usable


class Scan(NamedTuple):
    """One 3D image.

    Attributes:
        data: ``(i, j, k)``, in the file's own type.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        warnings: what the gate said of it without refusing it.
        form_code: NIfTI code of its coordinate system; what is written from it gets the same.
        units: the unit of length of its file, ``mm``, ``um`` or ``m``; the affine is in millimetres whatever it is.
    """

    data: npt.NDArray[Any]
    affine: npt.NDArray[np.float64]
    warnings: tuple[str, ...] = ()
    form_code: int = 1
    units: str = "mm"


def read_scan(path: Path) -> Scan:
    """Read a NIfTI file as a scan.

    Args:
        path: the file.

    Raises:
        InputError: if it is missing, damaged, no 3D volume of real numbers, not finite, or without a usable affine.
    """
    volume = usable(read_volume(path))
    if volume.affine is None or volume.data.ndim != 3:
        raise InputError(
            f"it is not a 3D volume: its shape is {volume.data.shape}", "Give one 3D NIfTI file a scan.", file=path
        )
    return Scan(volume.data, np.asarray(volume.affine, dtype=np.float64))
