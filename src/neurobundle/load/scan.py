"""A scan: one 3D image with its affine, read whole through the gate. Imports neither torch nor MONAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.load.gate import STRICT, Policy
from neurobundle.load.names import is_nifti_name, is_picture_name


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
    """Read a NIfTI file, a PNG or JPEG of a slice, or a DICOM file or folder with exactly one volume, as a scan.

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
    if is_picture_name(path.name):
        from neurobundle.load.slice_folders import read_slice

        return read_slice(path, policy)
    from neurobundle.load.nifti import read_nifti

    return read_nifti(path, policy)


def is_dicom(path: Path) -> bool:
    """Whether a path is a folder, or a file that is DICOM by its prefix (PS3.10, 7.1) or its first element."""
    if path.is_dir():
        return True
    if not path.is_file():  # a pipe would never answer
        return False
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or (not is_nifti_name(path.name) and is_bare_dicom(head))


def is_bare_dicom(head: bytes) -> bool:
    r"""Whether bytes begin like a data set without preamble: group 0002 or 0008, a low element, a believable length.

    >>> is_bare_dicom(b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"), is_bare_dicom(b"\x00\x08\x00\x05CS\x00\x0aISO_IR 100")
    (True, True)
    >>> is_bare_dicom(b"\x08\x00\x00\x00\x04\x00\x00\x00"), is_bare_dicom(b"\x5c\x01\x00\x00\x00\x00\x00\x00")
    (True, False)
    """
    for order in _ORDERS:
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))
        if group in (0x0002, 0x0008) and element <= 0x0070 and len(head) >= 8:
            explicit = head[4:6].isalpha() and head[4:6].isupper()
            return explicit or int.from_bytes(head[4:8], "little") < 1024
    return False


_ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")
