"""Label maps as NIfTI files that lie exactly on the grid they came from. Imports neither torch nor MONAI."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip

from neurobundle.errors import EnvironmentFault, InputError
from neurobundle.files import write_atomic

#: ``xform`` code for "aligned with another image" would lose the scanner frame; 1 is NIFTI_XFORM_SCANNER_ANAT.
SCANNER_ANAT = 1
#: A qform that differs from the affine by more than its float32 quaternion's rounding is no copy of it.
QFORM_TOLERANCE_MM = 1e-3


def label_map_bytes(labels: np.ndarray, affine: np.ndarray, form_code: int = SCANNER_ANAT) -> bytes:
    """Encode a label map as the bytes of a ``.nii.gz``; the same map gives the same bytes.

    Args:
        labels: whole numbers ``(i, j, k)``.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system, written to both qform and sform.

    Raises:
        InputError: if a value is not a whole number, or outside int16.
    """
    image = nib.Nifti1Image(as_integers(labels), affine)
    image.set_qform(affine, code=form_code, strip_shears=True)
    if not np.allclose(image.get_qform(), affine, atol=QFORM_TOLERANCE_MM):
        # A qform cannot hold a shear: without a code nobody reads it, and only the sform speaks.
        image.set_qform(None)
    image.set_sform(affine, code=form_code)
    image.header.set_xyzt_units("mm", "sec")
    # igzip writes no time stamp here, so that equal maps are equal files.
    return igzip.compress(image.to_bytes(), compresslevel=1, mtime=0)


def as_integers(labels: np.ndarray) -> np.ndarray:
    """A label map in the smallest of uint8 and int16 that holds it.

    Raises:
        InputError: if a value is not a whole number, or outside int16.
    """
    low, high = (float(labels.min()), float(labels.max())) if labels.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all() or (labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels))):
        raise InputError("the label map holds values that are not whole numbers", "Report this with the config.")
    for dtype in (np.uint8, np.int16):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.ascontiguousarray(labels.astype(dtype))
    raise InputError(f"the label map holds values from {low:g} to {high:g}, outside int16", "Report this.")


def save_label_map(path: Path, labels: np.ndarray, affine: np.ndarray, form_code: int = SCANNER_ANAT) -> Path:
    """Write a label map atomically, and open it again before it gets its name.

    Args:
        path: ends in ``.nii.gz``.
        labels: whole numbers ``(i, j, k)``.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system.
    """

    def check(temporary: Path) -> None:
        written = nib.Nifti1Image.from_bytes(igzip.decompress(temporary.read_bytes()))
        if not np.array_equal(np.asarray(written.dataobj), labels):
            raise EnvironmentFault("what was written differs from the result", "Check the disk.", file=path)

    return write_atomic(path, label_map_bytes(labels, affine, form_code), check)
