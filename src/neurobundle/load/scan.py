"""A scan: one 3D image with its affine, read whole through the gate. Imports neither torch nor MONAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.load.gate import STRICT, Policy


class Scan(NamedTuple):
    """One 3D image.

    Attributes:
        data: ``(i, j, k)``, in the file's own type; ``(i, j, k, channel)`` where the policy asked for channels.
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


def read_scan(path: str | Path, policy: Policy = STRICT) -> Scan:
    """Read a NIfTI file, or a DICOM file or folder that holds exactly one volume, as a scan.

    Args:
        path: a file or a folder.
        policy: what is allowed and expected.

    Raises:
        InputError: if the gate refuses it, or a folder holds several volumes.
        NoInputError: if a folder holds no image series.
    """
    path = Path(path)
    if is_dicom(path):
        from neurobundle.load.dicom import read_volume

        return read_volume(path, policy)
    from neurobundle.load.nifti import read_nifti

    return read_nifti(path, policy)


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file that DICOM's prefix marks (PS3.10, 7.1)."""
    if path.is_dir():
        return True
    if not path.is_file():  # a pipe would never answer
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
