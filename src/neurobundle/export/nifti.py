"""Label maps and volumes as NIfTI files that lie exactly on the grid they came from. Imports neither torch nor MONAI.

A value that the file's type cannot hold is an error, never another value. A file gets its name when it has been read
back and found to be what was meant.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from neurobundle.errors import EnvironmentFault, InputError
from neurobundle.files import write_atomic

#: NIFTI_XFORM_SCANNER_ANAT (nifti1.h).
SCANNER_ANAT = 1

#: A qform that differs from the affine by more than its float32 quaternion's rounding is no copy of it.
QFORM_TOLERANCE_MM = 1e-3

#: Codes of ``xyzt_units`` (nifti1.h), and how many of the unit are a millimetre.
_UNITS = {"m": (1, 0.001), "mm": (2, 1.0), "um": (3, 1000.0)}

#: What a case's name is followed by in the file of its probabilities.
PROBABILITIES_ENDING = "_prob.nii.gz"

#: NIFTI_UNITS_SEC, for the fourth axis.
_SECONDS = 8

#: isal's fastest level: a tenth of the time of gzip's default, and the file is no larger.
_LEVEL = 1

#: zlib's word for "with gzip's header and checksum". isal writes no time into the header: equal maps are equal files.
_GZIP = 31


def save_label_map(
    path: Path,
    labels: npt.NDArray[Any],
    affine: npt.ArrayLike,
    form_code: int = SCANNER_ANAT,
    units: str = "mm",
    dtype: npt.DTypeLike | None = None,
) -> Path:
    """Write a label map atomically, and read it back before it gets its name.

    Args:
        path: ends in ``.nii.gz`` or ``.nii``.
        labels: whole numbers ``(i, j, k)``.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system, for both forms.
        units: the file's unit of length: ``mm``, ``m`` or ``um``.
        dtype: of the file; the smallest of uint8 and int16 that holds the labels if None.

    Raises:
        InputError: if a value is not a whole number, or outside the type.
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    return write_checked(path, encode(as_integers(labels, dtype), affine, form_code, units))


def save_volume(
    path: Path, data: npt.NDArray[Any], affine: npt.ArrayLike, *, form_code: int = SCANNER_ANAT, units: str = "mm"
) -> Path:
    """Write an image as it is, atomically, and read it back before it gets its name.

    Args:
        path: ends in ``.nii.gz`` or ``.nii``.
        data: ``(i, j, k)`` or ``(i, j, k, t)``, real numbers, in the type that the file shall have.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system, for both forms.
        units: the file's unit of length: ``mm``, ``m`` or ``um``.

    Raises:
        InputError: if the type is none of NIfTI's for real numbers.
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    return write_checked(path, encode(data, affine, form_code, units))


def save_probabilities(
    path: Path, shares: npt.NDArray[Any], affine: npt.ArrayLike, form_code: int = SCANNER_ANAT, units: str = "mm"
) -> Path:
    """Write probabilities atomically, in steps of 1/255: a byte a voxel and channel, and a scale in the header.

    Args:
        path: ends in ``.nii.gz`` or ``.nii``.
        shares: ``(channel, i, j, k)`` from 0 to 1; channels become the file's fourth axis.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system, for both forms.
        units: the file's unit of length: ``mm``, ``m`` or ``um``.

    Raises:
        InputError: if a value is no probability.
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    if not (np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1):
        raise InputError("there are probabilities outside 0 to 1", "Report this with the config.")
    steps = np.rint(np.moveaxis(shares, 0, -1) * 255).astype(np.uint8)
    return write_checked(path, encode(steps, affine, form_code, units, slope=1 / 255))


def label_map_bytes(labels: npt.NDArray[Any], affine: npt.ArrayLike, form_code: int = SCANNER_ANAT) -> bytes:
    """Encode a label map as the bytes of a ``.nii.gz``; the same map gives the same bytes.

    Args:
        labels: whole numbers ``(i, j, k)``.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system, written to both qform and sform.

    Raises:
        InputError: if a value is not a whole number, or outside int16.
    """
    return compress(encode(as_integers(labels), affine, form_code))


def encode(
    data: npt.NDArray[Any],
    affine: npt.ArrayLike,
    form_code: int = SCANNER_ANAT,
    units: str = "mm",
    slope: float = 1.0,
) -> bytes:
    """An image as the bytes of a ``.nii``: both forms say the affine, and no text is in it.

    Args:
        data: real numbers, any number of axes up to 7.
        affine: 4 x 4, voxel index to RAS+ millimetres.
        form_code: NIfTI code of the coordinate system.
        units: the file's unit of length.
        slope: what a reader multiplies the numbers with.
    """
    code, per_mm = _UNITS[units]
    matrix = np.diag([per_mm, per_mm, per_mm, 1.0]) @ np.asarray(affine, float)
    header = nib.Nifti1Header()
    try:
        header.set_data_dtype(data.dtype)
    except nib.spatialimages.HeaderDataError as error:
        raise InputError(f"NIfTI has no voxels of the type {data.dtype}", "Convert it to float32 first.") from error
    header.set_data_shape(data.shape)
    header.set_qform(matrix, code=form_code, strip_shears=True)
    if not np.allclose(header.get_qform(), matrix, atol=QFORM_TOLERANCE_MM * per_mm):
        # A qform cannot hold a shear: without a code nobody reads it, and only the sform speaks.
        header.set_qform(None)
    header.set_sform(matrix, code=form_code)
    header["xyzt_units"] = code | _SECONDS
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["magic"], header["vox_offset"] = header.single_magic, header.single_vox_offset
    return bytes(header.binaryblock) + bytes(4) + _fortran_bytes(data)


def compress(content: bytes) -> bytes:
    """Gzip bytes, quickly, and the same for the same bytes."""
    return bytes(isal_zlib.compress(content, _LEVEL, _GZIP))


def as_integers(labels: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """A label map in a type that holds it, every value unchanged.

    Args:
        labels: whole numbers of any type.
        dtype: the type; the smaller of uint8 and int16 that holds them if None.

    Raises:
        InputError: if a value is not a whole number, or outside the type.
    """
    low, high = (float(labels.min()), float(labels.max())) if labels.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all() or (labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels))):
        raise InputError("the label map holds values that are not whole numbers", "Report this with the config.")
    candidates = [np.uint8, np.int16] if dtype is None else [np.dtype(dtype)]
    for candidate in map(np.dtype, candidates):
        limits = np.iinfo(candidate)
        if limits.min <= low and high <= limits.max:
            return labels.astype(candidate, copy=False)
    raise InputError(
        f"the label map holds values from {low:g} to {high:g}, outside {np.dtype(candidates[-1])}",
        "Report this with the config.",
    )


def _fortran_bytes(data: npt.NDArray[Any]) -> bytes:
    """The voxels with the first axis fastest, as NIfTI wants them."""
    if data.ndim != 3 or data.flags.f_contiguous:
        return data.tobytes(order="F")
    out = np.empty(data.shape, data.dtype, order="F")
    for j in range(data.shape[1]):  # plane by plane stays in the cache: half the time of one copy
        out[:, j] = data[:, j]
    return out.tobytes(order="F")


def write_checked(path: Path, content: bytes) -> Path:
    """Write what :func:`encode` gives atomically, packed if the name ends so, and read it back first.

    Raises:
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    packed = path.name.lower().endswith(".gz")

    def check(temporary: Path) -> None:
        written = temporary.read_bytes()
        if packed:
            stream = isal_zlib.decompressobj(_GZIP)
            written = stream.decompress(written, len(content) + 1)
        if written != content:
            raise EnvironmentFault("what was written differs from the result", "Check the disk.", file=path)

    return write_atomic(path, compress(content) if packed else content, check)
