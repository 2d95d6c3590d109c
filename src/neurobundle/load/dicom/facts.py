"""What a scan's acquisition was: numbers and words of fixed tables, never a patient's data, a date, a UID or free text.

*Facts* are what rules choose a series by, and what a report may show. A fact that a header does not state is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.dicom.vocabulary import (
    IMAGE_TYPES,
    NO_AGENT,
    SCANNING_SEQUENCES,
    SEQUENCE_VARIANTS,
    known_words,
    maker,
)
from neurobundle.load.dicom.vocabulary import VOCABULARY as VOCABULARY

if TYPE_CHECKING:
    from neurobundle.load.dicom.elements import Elements

#: A plane is axial, coronal or sagittal if its normal lies within acos of this (37 degrees) of the body's axis; brains
#: are scanned along lines that tilt by up to 30 degrees (AC-PC, hippocampus).
PLANE_COSINE = 0.8

_PLANES = ("sagittal", "coronal", "axial")

#: ComplexImageComponent (PS3.3 C.8.13.3.1.3), and what makers write into ImageType's third value and behind it.
_COMPONENTS = {
    "M": "magnitude",
    "MAGNITUDE": "magnitude",
    "M_FFE": "magnitude",
    "M_SE": "magnitude",
    "M_IR": "magnitude",
    "P": "phase",
    "PHASE": "phase",
    "PHASE MAP": "phase",
    "R": "real",
    "REAL": "real",
    "I": "imaginary",
    "IMAGINARY": "imaginary",
}
#: GE's (0043,102F).
_GE_COMPONENTS = ("magnitude", "phase", "real", "imaginary")


@dataclass(frozen=True)
class Facts:
    """How one volume was acquired.

    Attributes:
        modality: ``MR``, ``CT`` or ``PT``.
        sequence: codes of ScanningSequence (SE IR GR EP RM), then of SequenceVariant (SK MTC SS TRSS SP MP OSP TOF).
        mr_acquisition_type: ``2D`` or ``3D``.
        repetition_time_ms: TR.
        echo_time_ms: TE; the effective one of an enhanced file.
        inversion_time_ms: TI.
        flip_angle_deg: of the excitation.
        echo_train_length: echoes read after one excitation.
        field_strength_t: of the magnet.
        slice_thickness_mm: as stated; voxels may be thinner or further apart.
        voxel_mm: a voxel's edges along i, j and k; None if the geometry is refused.
        plane: ``axial``, ``coronal``, ``sagittal`` or ``oblique``, from the affine.
        contrast_agent: whether a contrast agent was given; None if the header does not say.
        component: ``magnitude``, ``phase``, ``real`` or ``imaginary``.
        echo: its number, from 1.
        time_index: the volume's number in a time series, from 1.
        b_value: s/mm2.
        image_type: those of ImageType's values that DICOM or a maker defines.
        manufacturer: in one word of a table.
        words: those of SeriesDescription, ProtocolName and SequenceName that stand in :data:`VOCABULARY`.
    """

    modality: str = ""
    sequence: tuple[str, ...] = ()
    mr_acquisition_type: str | None = None
    repetition_time_ms: float | None = None
    echo_time_ms: float | None = None
    inversion_time_ms: float | None = None
    flip_angle_deg: float | None = None
    echo_train_length: int | None = None
    field_strength_t: float | None = None
    slice_thickness_mm: float | None = None
    voxel_mm: tuple[float, float, float] | None = None
    plane: str | None = None
    contrast_agent: bool | None = None
    component: str | None = None
    echo: int | None = None
    time_index: int | None = None
    b_value: float | None = None
    image_type: tuple[str, ...] = ()
    manufacturer: str | None = None
    words: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The facts that are known, as JSON has them: tuples are lists."""
        known = {name: value for name, value in asdict(self).items() if value not in (None, (), "")}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}


def facts_of(elements: Elements, time_index: int | None = None) -> Facts:
    """The facts of one volume, from the header of one of its slices, without those of the affine.

    Args:
        elements: a classic header, or a frame of an enhanced one.
        time_index: the volume's number in a time series.
    """
    train = elements.whole("EchoTrainLength")
    return Facts(
        modality=elements.text("Modality") if elements.text("Modality") in ("MR", "CT", "PT") else "",
        sequence=tuple(_sequence(elements)),
        mr_acquisition_type=_one_of(elements.text("MRAcquisitionType"), ("2D", "3D")),
        repetition_time_ms=_positive(elements.number("RepetitionTime")),
        echo_time_ms=echo_time_of(elements),
        inversion_time_ms=_inversion_time(elements),
        flip_angle_deg=_positive(elements.number("FlipAngle")),
        echo_train_length=train if train and train > 0 else None,
        field_strength_t=_tesla(elements.number("MagneticFieldStrength")),
        slice_thickness_mm=_positive(elements.number("SliceThickness")),
        contrast_agent=_contrast_agent(elements),
        component=component_of(elements),
        echo=echo_of(elements),
        time_index=time_index,
        b_value=b_value_of(elements),
        image_type=tuple(word for word in image_type_of(elements) if word.replace(" ", "_") in IMAGE_TYPES),
        manufacturer=maker(elements.text("Manufacturer")),
        words=known_words(*_texts(elements)),
    )


def voxel_of(affine: npt.ArrayLike) -> tuple[float, float, float] | None:
    """A voxel's edges, mm, rounded to the nanometre; None if the affine is not finite."""
    sizes = voxel_sizes_mm(affine)
    if not np.isfinite(sizes).all():
        return None
    i, j, k = (round(float(size), 6) for size in sizes)
    return i, j, k


def plane_of(affine: npt.ArrayLike) -> str | None:
    """The plane of a volume's slices.

    >>> plane_of(np.diag([1, 1, 5, 1])), plane_of([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    ('axial', 'sagittal')
    """
    linear = np.asarray(affine, float)[:3, :3]
    normal = np.cross(linear[:, 0], linear[:, 1])
    if not np.isfinite(linear).all() or not normal.any():
        return None
    cosines = np.abs(normal) / np.linalg.norm(normal)
    return _PLANES[int(cosines.argmax())] if cosines.max() >= PLANE_COSINE else "oblique"


def image_type_of(elements: Elements) -> tuple[str, ...]:
    """FrameType of an enhanced frame, else ImageType."""
    return elements.words("FrameType") or elements.words("ImageType")


def component_of(elements: Elements) -> str | None:
    """Which part of the complex signal an image shows, as far as its header says."""
    stated = _COMPONENTS.get(elements.text("ComplexImageComponent"))
    if stated is not None:
        return stated
    for word in image_type_of(elements)[2:]:
        if word in _COMPONENTS:
            return _COMPONENTS[word]
    if elements.private(0x20051011) and elements.text(0x20051011) in _COMPONENTS:
        return _COMPONENTS[elements.text(0x20051011)]
    number = elements.whole(0x0043102F) if elements.private(0x0043102F) else None
    return _GE_COMPONENTS[number] if number is not None and 0 <= number < len(_GE_COMPONENTS) else None


def echo_of(elements: Elements) -> int | None:
    """The echo's number; makers count from 1, and 0 stands for none."""
    number = elements.whole("EchoNumbers")
    return number if number and number > 0 else None


def echo_time_of(elements: Elements) -> float | None:
    """TE in ms; an enhanced frame's effective one."""
    return _positive(_first(elements.number("EffectiveEchoTime"), elements.number("EchoTime")))


def b_value_of(elements: Elements) -> float | None:
    """The b-value in s/mm2, from DICOM's element or a maker's; a maker's 0 says nothing by itself."""
    if (stated := elements.number("DiffusionBValue")) is not None:
        return stated
    for tag in (0x0019100C, 0x20011003):
        if elements.private(tag) and _positive(number := elements.number(tag)) is not None:
            return number
    # GE adds 1e9 to the b-value where it stands in the first value of its Slop_int (GE DICOM conformance statements).
    number = elements.number(0x00431039) if elements.private(0x00431039) else None
    return number % 1e9 if number is not None and 0 < number % 1e9 < 1e5 else None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _positive(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) and value > 0 else None


def _one_of(word: str, known: tuple[str, ...]) -> str | None:
    return word if word in known else None


def _tesla(value: float | None) -> float | None:
    """Field strength in tesla; old scanners wrote gauss."""
    value = _positive(value)
    return value / 1e4 if value is not None and value > 100 else value


def _inversion_time(elements: Elements) -> float | None:
    return _positive(_first(*elements.numbers("InversionTimes")[:1], elements.number("InversionTime")))


def _sequence(elements: Elements) -> Iterator[str]:
    """The codes of a classic header; an enhanced one says the same in other elements (PS3.3 C.8.13.4)."""
    scanning, variant = elements.words("ScanningSequence"), elements.words("SequenceVariant")
    if scanning or variant:
        yield from (code for code in SCANNING_SEQUENCES if code in scanning)
        yield from (code for code in SEQUENCE_VARIANTS if code in variant)
        return
    echo = elements.text("EchoPulseSequence")
    if echo in ("SPIN", "BOTH"):
        yield "SE"
    if elements.text("InversionRecovery") == "YES":
        yield "IR"
    if echo in ("GRADIENT", "BOTH"):
        yield "GR"
    if elements.text("EchoPlanarPulseSequence") == "YES":
        yield "EP"
    if elements.text("SegmentedKSpaceTraversal") not in ("", "SINGLE"):
        yield "SK"
    if elements.text("SteadyStatePulseSequence") not in ("", "NONE"):
        yield "SS"
    if elements.text("Spoiling") not in ("", "NONE"):
        yield "SP"
    if elements.text("MagnetizationTransfer") not in ("", "NONE"):
        yield "MTC"
    if elements.text("TimeOfFlightContrast") == "YES":
        yield "TOF"


def _contrast_agent(elements: Elements) -> bool | None:
    """Whether an agent was given: an enhanced frame says so, a classic header names it or leaves it out."""
    administered = {"YES": True, "NO": False}.get(elements.text("ContrastBolusAgentAdministered"))
    if administered is not None:
        return administered
    agent = elements.text("ContrastBolusAgent")
    if agent:
        return agent not in NO_AGENT and not agent.startswith(("NO ", "W/O", "WITHOUT", "NOT "))
    return True if elements.items("ContrastBolusAgentSequence") else None


def _texts(elements: Elements) -> Iterator[str]:
    for keyword in ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName"):
        yield " ".join(elements.words(keyword, upper=False))
