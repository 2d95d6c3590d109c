"""Which files of a folder are DICOM images, by their headers alone.

An *instance* is one DICOM file that holds an image. Whatever else lies there is *set aside* under a reason, and
counted: junk, empty files, reports, segmentations, raw data, localizers. Pixels are never read, but the header's
promise is held against the file's size.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, NoInputError
from neurobundle.load.dicom import header
from neurobundle.load.dicom.elements import PRIVATE, Elements, tag_of
from neurobundle.load.dicom.syntax import DEFLATED, is_lossy
from neurobundle.load.dicom.values import lines_of
from neurobundle.load.gate import Finding, refuse
from neurobundle.load.scan import is_bare_dicom

#: Storage classes whose files hold slices of a volume (PS3.4 Annex B.5; their UIDs: PS3.6 Annex A).
VOLUME_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.4": "MR Image",
    "1.2.840.10008.5.1.4.1.1.4.1": "Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.4.3": "Enhanced MR Color Image",
    "1.2.840.10008.5.1.4.1.1.4.4": "Legacy Converted Enhanced MR Image",
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.128": "Positron Emission Tomography Image",
    "1.2.840.10008.5.1.4.1.1.130": "Enhanced PET Image",
    "1.2.840.10008.5.1.4.1.1.128.1": "Legacy Converted Enhanced PET Image",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.1": "Multi-frame Single Bit Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.2": "Multi-frame Grayscale Byte Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.3": "Multi-frame Grayscale Word Secondary Capture Image",
    "1.2.840.10008.5.1.4.1.1.7.4": "Multi-frame True Color Secondary Capture Image",
}
_DICOMDIR = "1.2.840.10008.1.3.10"
_RAW_DATA = "1.2.840.10008.5.1.4.1.1.66"
#: Newer than pydicom's dictionary (Supplement 243).
_NEWER = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation"}

#: What is read of a header besides what its pixels need. pydicom skips the rest.
_OUR_TAGS = (
    "ImageType SOPClassUID SOPInstanceUID AcquisitionTime AcquisitionDateTime Modality Manufacturer SeriesDescription "
    "PatientName PatientID PatientBirthDate ContrastBolusAgent ContrastBolusAgentSequence ScanningSequence "
    "SequenceVariant MRAcquisitionType SequenceName PulseSequenceName SliceThickness RepetitionTime EchoTime "
    "InversionTime EchoNumbers MagneticFieldStrength SpacingBetweenSlices EchoTrainLength ProtocolName TriggerTime "
    "FlipAngle EchoPulseSequence EchoPlanarPulseSequence SteadyStatePulseSequence Spoiling SegmentedKSpaceTraversal "
    "DiffusionBValue DiffusionGradientOrientation ComplexImageComponent StudyInstanceUID SeriesInstanceUID "
    "SeriesNumber AcquisitionNumber InstanceNumber ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID "
    "TemporalPositionIdentifier NumberOfTemporalPositions ImagesInAcquisition DimensionIndexSequence PixelSpacing "
    "BurnedInAnnotation LossyImageCompression SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
)


@dataclass(frozen=True)
class Instance:
    """One file that holds an image.

    Attributes:
        file: where it lies.
        sop_class: UID of its storage class; empty if it states none.
        elements: its header.
        frames: how many frames its header promises.
        faults: what is wrong with how its pixels are stored.
        lossy: whether its pixels are not the numbers that the scanner made.
    """

    file: Path
    sop_class: str
    elements: Elements = field(repr=False)
    frames: int
    faults: tuple[Finding, ...]
    lossy: bool = False


@dataclass
class Found:
    """What lies in a folder.

    Attributes:
        instances: the images, in the order of their paths.
        set_aside: reason -> number of files.
        damaged: files that begin like DICOM or are named so, and cannot be read; a slice may be lost with them.
        localizers: SeriesInstanceUID -> number of localizers that were set aside.
    """

    instances: list[Instance] = field(default_factory=list)
    set_aside: Counter[str] = field(default_factory=Counter)
    damaged: list[Path] = field(default_factory=list)
    localizers: Counter[str] = field(default_factory=Counter, repr=False)


class _SetAsideError(Exception):
    """A file is no image; the text is the reason."""

    def __init__(self, reason: str, *, damaged: bool = False, series: str = "") -> None:
        super().__init__(reason)
        self.reason, self.damaged, self.series = reason, damaged, series


def find_instances(path: Path) -> Found:
    """Read the headers of all files below a folder, or of one file.

    Raises:
        NoInputError: if there is no such file or folder.
        MissingPackageError: if pydicom is not installed.
    """
    if not path.exists():
        raise NoInputError("there is no such file or folder", "Check the path.", file=path)
    found, tags = Found(), _tags()
    with header.quiet_pydicom():
        for file in _files(path):
            try:
                found.instances.append(_instance(file, tags))
            except _SetAsideError as aside:
                found.set_aside[aside.reason] += 1
                if aside.damaged:
                    found.damaged.append(file)
                if aside.series:
                    found.localizers[aside.series] += 1
    return found


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, inner, names in os.walk(path):
        inner.sort()
        # A named pipe would never end.
        yield from (file for name in sorted(names) if (file := Path(folder, name)).is_file())


def _instance(file: Path, tags: Sequence[int]) -> Instance:
    """The instance that a file holds.

    Raises:
        _SetAsideError: if it holds none.
    """
    try:
        with file.open("rb") as raw:
            _require_dicom(raw, file)
            dataset, stream, syntax = header.parse(raw, tags)
            elements = Elements(dataset)
            sop_class = _require_image(elements, Elements(getattr(dataset, "file_meta", {})))
            faults, frames = _faults(file, dataset, stream, syntax)
    except _SetAsideError:
        raise
    except OSError:
        raise _SetAsideError("cannot be read", damaged=True) from None
    # Whatever pydicom trips over in a damaged file (struct.error, RecursionError, KeyError, zlib.error ...) is the same
    # to the user, and its words may quote the file.
    except Exception:
        raise _SetAsideError("damaged DICOM header", damaged=True) from None
    # What was cut off before its series was named belongs to none.
    if not elements.raw("SeriesInstanceUID") and not elements.raw("Rows"):
        raise _SetAsideError("damaged DICOM header", damaged=True)
    lossy = is_lossy(syntax, elements.text("LossyImageCompression"))
    return Instance(file, sop_class, elements, frames, faults, lossy)


def _require_dicom(raw: BufferedIOBase, file: Path) -> None:
    """Read a file only if it says or plausibly is DICOM: PS3.10 7.1's prefix, or a first element of an early group."""
    head = raw.read(132)
    if not head:
        raise _SetAsideError("empty file", damaged=file.suffix.lower() in (".dcm", ".ima"))
    if head[128:] != b"DICM" and not is_bare_dicom(head):
        raise _SetAsideError("not DICOM")
    raw.seek(0)


@lru_cache(maxsize=1)
def _tags() -> tuple[int, ...]:
    creators = {(tag & 0xFFFF0000) | (tag >> 8 & 0xFF) for tag in PRIVATE}
    return (*(tag_of(name) for name in [*_OUR_TAGS.split(), *header.TAGS]), *PRIVATE, *creators)


def _require_image(elements: Elements, meta: Elements) -> str:
    """The storage class of an image that may be part of a volume."""
    uid = elements.text("SOPClassUID") or meta.text("MediaStorageSOPClassUID")
    if uid in VOLUME_CLASSES:
        if "LOCALIZER" in elements.words("ImageType")[2:]:
            raise _SetAsideError("localizer", series=elements.text("SeriesInstanceUID"))
        return uid
    if uid == _DICOMDIR:
        raise _SetAsideError("DICOMDIR")
    if uid == _RAW_DATA:
        raise _SetAsideError("raw data: no image")
    if uid:
        raise _SetAsideError(f"no image: {_class_name(uid)}")
    # Old files state no class: rows with a modality are an image all the same.
    if elements.raw("Rows") and elements.text("Modality") in ("MR", "CT", "PT"):
        return ""
    if not elements.raw("Modality"):
        raise _SetAsideError("damaged DICOM header", damaged=True)
    raise _SetAsideError("no image: it states no kind")


def _class_name(uid: str) -> str:
    """What PS3.6 calls a storage class, without the word Storage; an unknown UID stays unsaid."""
    from pydicom.uid import UID_dictionary

    if uid in _NEWER:
        return _NEWER[uid]
    name = UID_dictionary[uid][0] if uid in UID_dictionary else "a private kind"
    return name.removesuffix(" Storage")


def _faults(file: Path, dataset: Any, stream: BufferedIOBase, syntax: str) -> tuple[tuple[Finding, ...], int]:
    """What the header says of the pixels that the file cannot hold or that nobody can use; and the number of frames."""
    try:
        layout = header.layout_of(file, dataset, stream, syntax)
        size = stream.seek(0, io.SEEK_END)
        if syntax != DEFLATED:
            header.require_room(header.Opened(layout, dataset, stream, size))
        lines_of(dataset, layout.frames, file)
    except InputError as error:
        return (refuse("pixels", error.cause, error.way_out, file),), 1
    return (), layout.frames
