"""One slice each: where it lies, which file has its pixels, and what may tell it from its neighbours.

A *plane* is where pixels are: a file, a frame of it, and a tile of a mosaic. A *frame* is a plane with its geometry and
its *marks*: the values by which one series may be several volumes. Positions and directions are DICOM's: LPS,
millimetres (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.load.checks import FARTHEST_MM
from neurobundle.load.dicom.elements import Elements
from neurobundle.load.dicom.facts import b_value_of, component_of, echo_of, echo_time_of, image_type_of
from neurobundle.load.dicom.instances import Instance
from neurobundle.load.gate import Finding, refuse, warn

#: Direction cosines have length 1 and a right angle between them to this; highdicom.spatial has the same for right
#: angles. Six digits, as many scanners write, round to 1e-6.
ORTHOGONAL_TOLERANCE = 1e-4

#: A pixel's edge outside of this is damage: the finest microscopes and the coarsest scouts lie inside.
POSSIBLE_PIXEL_MM = (1e-3, 1e3)

_MEND = "Export the series again from the scanner or the archive."

Array = npt.NDArray[np.float64]


class Plane(NamedTuple):
    """Where the pixels of one slice are.

    Attributes:
        file: the file.
        frame: its number in the file, from 0.
        first_row: of its tile in that frame.
        first_column: the same.
        rows: of the slice.
        columns: of the slice.
    """

    file: Path
    frame: int
    first_row: int
    first_column: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice.

    Attributes:
        plane: where its pixels are.
        position: of the centre of its first pixel, (3,) mm LPS; None if it is not known.
        orientation: (2, 3): the direction in which the column index grows, and that of the row index.
        spacing: mm from row to row, and from column to column.
        kind: ``classic``, ``enhanced`` or ``mosaic``.
        marks: name -> value; None where the header does not say.
        faults: what is wrong with it.
        elements: its header.
    """

    plane: Plane
    position: Array | None
    orientation: Array | None
    spacing: tuple[float, float] | None
    kind: str
    marks: dict[str, Hashable] = field(repr=False)
    faults: tuple[Finding, ...]
    elements: Elements = field(repr=False)

    @property
    def has_place(self) -> bool:
        """Whether it is known where it lies."""
        return self.position is not None and self.orientation is not None


def classic_frames(instance: Instance) -> list[Frame]:
    """The frame of a classic file. Several frames without functional groups have no geometry, and are refused."""
    frame = make_frame(instance, instance.elements, 0, "classic")
    if instance.frames > 1:
        cause = f"it has {instance.frames} frames, and does not say where each lies"
        fault = refuse("geometry", cause, "Export it as classic or as enhanced MR images.", instance.file)
        frame = Frame(frame.plane, None, None, None, "classic", frame.marks, (fault, *instance.faults), frame.elements)
    return [frame]


def make_frame(instance: Instance, elements: Elements, index: int, kind: str) -> Frame:
    """A frame with all that its header says.

    Args:
        instance: the file.
        elements: the frame's view on the header.
        index: the frame's number in the file, from 0.
        kind: ``classic`` or ``enhanced``.
    """
    file = instance.file
    position, no_position = read_position(elements, file)
    orientation, no_orientation = read_orientation(elements, file)
    spacing, no_spacing = read_spacing(elements, file)
    faults = [*instance.faults, no_position, no_orientation, no_spacing]
    faults += [check_burned_in(instance, elements), check_lossy(instance)]
    return Frame(
        plane=Plane(file, index, 0, 0, elements.whole("Rows") or 0, elements.whole("Columns") or 0),
        position=position,
        orientation=orientation,
        spacing=spacing,
        kind=kind,
        marks=marks_of(elements, kind),
        faults=tuple(fault for fault in faults if fault is not None),
        elements=elements,
    )


def read_position(elements: Elements, file: Path) -> tuple[Array | None, Finding | None]:
    """ImagePositionPatient, (3,) mm LPS, or why it cannot be used."""
    numbers, fault = _numbers(elements, "ImagePositionPatient", 3, file)
    if numbers is not None and np.abs(numbers).max() > FARTHEST_MM:
        cause = f"its ImagePositionPatient (0020,0032) is {np.abs(numbers).max():.3g} mm away"
        return None, refuse("position", cause, _MEND, file)
    return numbers, fault


def read_orientation(elements: Elements, file: Path) -> tuple[Array | None, Finding | None]:
    """ImageOrientationPatient as two unit vectors at a right angle, (2, 3) LPS, or why it cannot be used."""
    numbers, fault = _numbers(elements, "ImageOrientationPatient", 6, file)
    if numbers is None:
        return None, fault
    pair = numbers.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    if np.abs(lengths - 1).max() > ORTHOGONAL_TOLERANCE or abs(pair[0] @ pair[1]) > ORTHOGONAL_TOLERANCE:
        cause = "its ImageOrientationPatient (0020,0037) is no pair of unit vectors at a right angle"
        return None, refuse("orientation", cause, _MEND, file)
    # The nearest pair that is one exactly: the polar factor, as geometry.rotation_of takes it.
    left, _, right = np.linalg.svd(pair, full_matrices=False)
    return left @ right, None


def read_spacing(elements: Elements, file: Path) -> tuple[tuple[float, float] | None, Finding | None]:
    """PixelSpacing: mm from row to row, and from column to column, or why it cannot be used."""
    numbers, fault = _numbers(elements, "PixelSpacing", 2, file)
    if numbers is None:
        return None, fault
    low, high = POSSIBLE_PIXEL_MM
    if numbers.min() < low or numbers.max() > high:
        cause = f"its PixelSpacing (0028,0030) is {numbers[0]:g} x {numbers[1]:g} mm"
        return None, refuse("spacing", cause, _MEND, file)
    return (float(numbers[0]), float(numbers[1])), None


def check_burned_in(instance: Instance, elements: Elements) -> Finding | None:
    """Warn of what may show text in its pixels: BurnedInAnnotation (0028,0301), and screenshots by their class."""
    burned = elements.text("BurnedInAnnotation") == "YES"
    if not burned and not instance.sop_class.startswith("1.2.840.10008.5.1.4.1.1.7"):
        return None
    cause = "its header says that text is burned into it" if burned else "it is a secondary capture"
    return warn("burned_in", f"{cause}; it may show a name", "Look at it before you pass it on.", instance.file)


def check_lossy(instance: Instance) -> Finding | None:
    """Warn of pixels that were compressed with losses, by LossyImageCompression (0028,2110) or the transfer syntax."""
    if not instance.lossy:
        return None
    return warn("lossy", "its pixels were compressed with losses", "Ask for the original.", instance.file)


def marks_of(elements: Elements, kind: str) -> dict[str, Hashable]:
    """What may tell a frame from its neighbours, by name."""
    image_type = image_type_of(elements)
    direction = elements.numbers("DiffusionGradientOrientation")
    return {
        "stack": elements.text("StackID") if kind == "enhanced" else "",
        "component": component_of(elements),
        "type": image_type,
        "echo": echo_of(elements),
        "echo_time": _rounded(echo_time_of(elements)),
        "b_value": _rounded(b_value_of(elements)),
        "direction": tuple(round(number, 4) for number in direction) or None,
        "inversion_time": _rounded(elements.number("InversionTime")),
        "flip_angle": _rounded(elements.number("FlipAngle")),
        "time": elements.whole("TemporalPositionIndex") or elements.whole("TemporalPositionIdentifier"),
        "acquisition": elements.whole("AcquisitionNumber"),
        "trigger_time": _rounded(_either(elements, "NominalCardiacTriggerDelayTime", "TriggerTime")),
        "clock": elements.text("FrameAcquisitionDateTime")
        or elements.text("AcquisitionDateTime")
        or elements.text("AcquisitionTime")
        or None,
        "instance": elements.whole("InstanceNumber"),
        "times": elements.whole("NumberOfTemporalPositions"),
        "uid": elements.text("SOPInstanceUID"),
    }


def patient_of(elements: Elements) -> tuple[str, str, str]:
    """PatientID, name and birth date as hashes: comparable, and nothing else. Empty where the header is."""
    parts = []
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        element = elements.raw(keyword)
        value = element.value if element is not None else b""
        plain = value if isinstance(value, bytes) else str(value).encode()
        # DOE^JANE, doe^jane^ and DOE^JANE^^ are one person.
        plain = plain.replace(b"^", b" ").upper().strip(b" \0")
        parts.append(hashlib.sha256(plain).hexdigest() if plain else "")
    return parts[0], parts[1], parts[2]


def patient_in(file: Path) -> str:
    """Whose a file is, as a hash: of the PatientID, or where there is none of name and birth date; empty if neither is.

    For comparing within one process only: whoever knows the IDs of a hospital can try them all, so it is never written.
    """
    import pydicom

    tags = ["PatientID", "PatientName", "PatientBirthDate"]
    with file.open("rb") as stream:
        dataset = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags, force=True)
    identity, *others = patient_of(Elements(dataset))
    return identity or "".join(others)


def _numbers(elements: Elements, keyword: str, count: int, file: Path) -> tuple[Array | None, Finding | None]:
    """So many finite numbers, or a finding that names the tag."""
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword) or 0
    name = f"{keyword} ({tag >> 16:04x},{tag & 0xFFFF:04x})"
    numbers = np.array(elements.numbers(keyword), float)
    check = {"ImagePositionPatient": "position", "ImageOrientationPatient": "orientation"}.get(keyword, "spacing")
    if not numbers.size:
        return None, refuse(check, f"it has no {name}", _MEND, file)
    if len(numbers) != count:
        return None, refuse(check, f"its {name} has {len(numbers)} numbers, not {count}", _MEND, file)
    if not np.isfinite(numbers).all():
        return None, refuse(check, f"its {name} has a value that is no finite number", _MEND, file)
    return numbers, None


def _either(elements: Elements, *names: str) -> float | None:
    return next((number for name in names if (number := elements.number(name)) is not None), None)


def _rounded(value: float | None) -> float | None:
    """Equal for numbers that differ only in how they were written."""
    return None if value is None else float(f"{value:.6g}")
