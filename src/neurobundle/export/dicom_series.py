"""A volume as a classic MR series, one file a slice: for samples that are nobody's, where a program wants DICOM.

It is no way back from NIfTI to a patient's study: what a result must refer to are the files that the scanner made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.export.dicom_files import MANUFACTURER, RESEARCH_USE_ONLY, encode, quiet
from neurobundle.export.dicom_uids import uid_of
from neurobundle.files import write_atomic

#: MR Image Storage (PS3.4 B.5), and Explicit VR Little Endian (PS3.5 A.2).
_MR, _SYNTAX = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.1.2.1"

#: A day on which nothing was acquired: DICOM wants one, and a clock's would make other files each time.
_DATE, _TIME = "20000101", "000000"

#: Toward the left, the back and the head, as PS3.3 has its axes, and as viewers show slices upright.
_LPS = nib.orientations.axcodes2ornt(("L", "P", "S"))

LARGEST = 65535


def save_series(
    folder: Path, data: npt.ArrayLike, affine: npt.ArrayLike, study: str, attributes: Mapping[str, Any]
) -> list[Path]:
    """Write a volume as axial slices of nobody.

    Args:
        folder: gets ``0001.dcm`` and so on, from the feet up.
        data: ``(i, j, k)``, whole numbers from 0 to 65535.
        affine: ``(4, 4)``, voxel index to RAS+ mm, with axes at right angles.
        study: a text that names the study; series of one text are of one study, on one frame of reference.
        attributes: of the series, by DICOM keyword: ``SeriesNumber``, ``EchoTime`` ...

    Returns:
        The files. The same arguments give the same bytes.

    Raises:
        InputError: for values that 16 bits do not hold, or axes that are not at right angles.
        MissingPackageError: without highdicom's extra.
    """
    given, place = np.asarray(data), np.asarray(affine, float)
    turn = nib.orientations.ornt_transform(nib.io_orientation(place), _LPS)
    voxels = nib.orientations.apply_orientation(given, turn)
    lps = np.diag([-1.0, -1, 1, 1]) @ place @ nib.orientations.inv_ornt_aff(turn, given.shape)
    if not (voxels.min() >= 0 and voxels.max() <= LARGEST and np.array_equal(voxels, np.rint(voxels))):
        raise InputError("its values are no whole numbers from 0 to 65535", "Scale and round them.", file=folder)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = lps[:3, :3] / spacing
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise InputError("its axes are not at right angles, and a DICOM series has such", "Resample it.", file=folder)
    digest = hashlib.sha256(np.ascontiguousarray(voxels, "<u2").tobytes()).hexdigest()
    common = {**_of_nobody(study), **attributes, "SeriesInstanceUID": uid_of("series", study, repr(attributes), digest)}
    paths = []
    with quiet():
        for k in range(voxels.shape[2]):
            plane = _plane(voxels[:, :, k].T, lps[:3, 3] + k * spacing[2] * axes[:, 2], axes, spacing)
            slice_uid = uid_of("slice", common["SeriesInstanceUID"], str(k))
            path = folder / f"{k + 1:04d}.dcm"
            paths.append(write_atomic(path, _file({**common, **plane, "SOPInstanceUID": slice_uid}, k + 1)))
    return paths


def _of_nobody(study: str) -> dict[str, Any]:
    """What all series of a sample share."""
    return {
        "PatientName": "Nobody^Sample",
        "PatientID": "SAMPLE",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyInstanceUID": uid_of("study", study),
        "StudyID": "1",
        "StudyDate": _DATE,
        "StudyTime": _TIME,
        "StudyDescription": f"Sample of nobody. {RESEARCH_USE_ONLY}",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "FrameOfReferenceUID": uid_of("frame", study),
        "PositionReferenceIndicator": "",
        "Modality": "MR",
        "Manufacturer": MANUFACTURER,
        "PatientPosition": "HFS",
        "BodyPartExamined": "BRAIN",
        "ContentDate": _DATE,
        "ContentTime": _TIME,
        "ImageType": ["DERIVED", "PRIMARY", "OTHER"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SOPClassUID": _MR,
    }


def _plane(
    pixels: npt.NDArray[Any], position: npt.NDArray[Any], axes: npt.NDArray[Any], spacing: npt.NDArray[Any]
) -> dict[str, Any]:
    """The Image Plane and Image Pixel modules of one slice (PS3.3 C.7.6.2 and C.7.6.3)."""
    return {
        "ImagePositionPatient": _decimals(position),
        "ImageOrientationPatient": _decimals(axes[:, :2].T.ravel()),
        "PixelSpacing": _decimals(spacing[[1, 0]]),
        "SliceThickness": _decimals(spacing[2:])[0],
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "PixelData": np.ascontiguousarray(pixels, "<u2").tobytes(),
    }


def _decimals(numbers: npt.NDArray[Any]) -> list[str]:
    """Decimal strings, of 16 characters at most (PS3.5 6.2)."""
    return [f"{number + 0.0:.12f}"[:16].rstrip("0").rstrip(".") for number in numbers]


def _file(values: Mapping[str, Any], number: int) -> bytes:
    """The bytes of one slice's file."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID

    dataset = Dataset()
    for keyword, value in {**values, "InstanceNumber": number}.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = UID(_MR)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = UID(_SYNTAX)
    return encode(dataset)
