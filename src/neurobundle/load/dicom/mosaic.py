"""Siemens mosaics: one classic file whose picture is a square of tiles, each a slice of one volume.

DICOM does not know mosaics: ImagePositionPatient is where the first pixel of one huge slice would lie, and the slices'
order and number stand in Siemens' private CSA header. The geometry is that of nibabel's documentation, "DICOM mosaic"
(nipy.org/nibabel/dicom/dicom_mosaic.html); the CSA header is read by nibabel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.load.dicom.elements import Elements
from neurobundle.load.dicom.frames import Array, Frame, Plane, make_frame
from neurobundle.load.dicom.instances import Instance
from neurobundle.load.gate import Finding, refuse

_CSA = 0x00291010
_NUMBER = 0x0019100A

#: The CSA normal and that of ImageOrientationPatient are parallel to this; the former has six to eight digits.
PARALLEL_TOLERANCE = 1e-4

_MEND = "Export the series with the scanner's private elements, or as classic or enhanced MR images without mosaics."


def is_mosaic(instance: Instance) -> bool:
    """Whether a classic file is a mosaic, by its ImageType."""
    return "MOSAIC" in instance.elements.words("ImageType")


def mosaic_frames(instance: Instance) -> list[Frame]:
    """The tiles of a mosaic, as frames in the scanner's order; one refused frame if its geometry is not known."""
    whole = make_frame(instance, instance.elements, 0, "mosaic")
    header, fault = _csa_header(instance.elements, instance.file)
    if fault is None:
        step, fault = _step(whole, header, instance)
    count = _count(instance.elements, header)
    side = math.isqrt(count - 1) + 1 if count > 0 else 0
    if fault is None and (side == 0 or whole.plane.rows % side or whole.plane.columns % side):
        cause = f"it is a mosaic of {count} slices in {whole.plane.rows} x {whole.plane.columns} pixels"
        fault = refuse("mosaic", cause, _MEND, instance.file)
    if fault is not None:
        return [replace(whole, position=None, faults=(*whole.faults, fault))]
    return _tiles(whole, count, side, step)


def _tiles(whole: Frame, count: int, side: int, step: Array) -> list[Frame]:
    plane, spacing, orientation = whole.plane, whole.spacing, whole.orientation
    assert spacing is not None
    assert orientation is not None
    assert whole.position is not None
    rows, columns = plane.rows // side, plane.columns // side
    # The huge slice and the first tile have one centre; so the tile's corner lies half the difference inwards.
    inwards = orientation[0] * spacing[1] * (plane.columns - columns) / 2
    inwards = inwards + orientation[1] * spacing[0] * (plane.rows - rows) / 2
    return [
        replace(
            whole,
            plane=Plane(plane.file, 0, n // side * rows, n % side * columns, rows, columns),
            position=whole.position + inwards + n * step,
        )
        for n in range(count)
    ]


def _csa_header(elements: Elements, file: Path) -> tuple[dict[str, Any], Finding | None]:
    """The tags of the CSA image header."""
    fault = refuse("mosaic", "it is a mosaic without a readable CSA header (0029,1010)", _MEND, file)
    if not elements.private(_CSA):
        return {}, fault
    from nibabel.nicom import csareader

    try:
        return csareader.read(elements.block(_CSA))["tags"], None
    # A damaged header may make the reader stumble anywhere.
    except Exception:
        return {}, fault


def _step(whole: Frame, header: dict[str, Any], instance: Instance) -> tuple[Array, Finding | None]:
    """From one tile's slice to the next, (3,) mm LPS: the CSA normal times SpacingBetweenSlices."""
    none = np.zeros(3)
    if not whole.has_place or whole.spacing is None:
        return none, refuse("mosaic", "it is a mosaic whose own geometry cannot be used", _MEND, instance.file)
    assert whole.orientation is not None
    distance = instance.elements.number("SpacingBetweenSlices") or instance.elements.number("SliceThickness")
    normal = np.array(header.get("SliceNormalVector", {}).get("items", [])[:3], dtype=object)
    try:
        normal = normal.astype(float)
    except ValueError:
        normal = none
    if normal.shape != (3,) or not np.isfinite(normal).all() or not distance or distance <= 0:
        cause = "it is a mosaic that does not say in which direction its slices follow each other, or how far apart"
        return none, refuse("mosaic", cause, _MEND, instance.file)
    across = np.cross(*whole.orientation)
    if abs(abs(across @ normal) - 1) > PARALLEL_TOLERANCE:
        cause = "it is a mosaic whose CSA header and ImageOrientationPatient disagree"
        return none, refuse("mosaic", cause, _MEND, instance.file)
    return across * np.sign(across @ normal) * distance, None


def _count(elements: Elements, header: dict[str, Any]) -> int:
    """How many slices a mosaic has: from its own private element, else from the CSA header; 0 if unsaid."""
    if elements.private(_NUMBER) and (stated := elements.whole(_NUMBER)):
        return stated
    items = header.get("NumberOfImagesInMosaic", {}).get("items", [])
    return int(items[0]) if items and str(items[0]).isdigit() else 0
