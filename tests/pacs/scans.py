"""DICOM series with what a network of hippocampi knows: the left one of the template that nilearn carries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR

from neurobundle.prepare.register import template_path

from ..load.dicom import make

SHAPE = (48, 64, 48)
#: Rows go to the back, columns to the feet.
SAGITTAL = np.array([[0.0, 1, 0], [0, 0, -1]])


def template_array(seed: int) -> np.ndarray:
    """A crop of 1 mm voxels with noise of its own, uint16, ``(i, j, k)`` on axes that go left, back and up."""
    template = nib.load(template_path())
    middle = nib.affines.apply_affine(np.linalg.inv(template.affine), (-26, -22, -15)).round().astype(int)
    low = middle - np.array(SHAPE) // 2
    crop = template.slicer[tuple(slice(a, a + n) for a, n in zip(low, SHAPE, strict=True))]
    array = np.asarray(crop.dataobj, np.float32)[::-1, ::-1] + np.random.default_rng(seed).normal(0, 2, SHAPE)
    return np.clip(4 * array, 0, None).astype(np.uint16)


def template_series(folder: Path, number: int, sagittal: bool = False, **elements: str) -> make.Made:
    """An MP-RAGE of a person of its own, in a study of its own.

    Args:
        folder: where to write it.
        number: from 0: of the person, the study, and the noise.
        sagittal: its slices go from left to right; from the feet upwards if not.
        **elements: of each file, by keyword, in place of what is made up: ``PatientName="DOE^JANE"``.
    """
    study = f"{make.STUDY}.{number + 1}"

    def edit(ds: Any, _: int) -> None:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.StudyID = study, f"{study}.9", str(number + 1)
        ds.PatientName, ds.PatientID, ds.StudyDescription = f"MADE^CASE {number}", f"made-{number}", "Template"
        ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName = "120000", "", ""
        ds.PatientSex, ds.SeriesDescription = "O", "t1_mprage"
        with pydicom.config.disable_value_validation():
            for keyword, value in elements.items():
                ds.add_new(keyword, dictionary_VR(keyword), value)

    array, orientation = template_array(number), make.AXIAL
    if sagittal:
        array, orientation = array[::-1, :, ::-1].transpose(1, 2, 0), SAGITTAL
    columns, rows, slices = array.shape
    size: dict[str, Any] = {"slices": slices, "rows": rows, "columns": columns, "data": array}
    return make.series(
        folder, edit=edit, uid=f"{study}.1", orientation=orientation, spacing=(1.0, 1.0), step=1.0, **size
    )
