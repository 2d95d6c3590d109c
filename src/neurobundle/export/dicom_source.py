"""What a DICOM result takes over from the images that it was made from.

A *source* is one volume of a DICOM series as a result refers to it: its patient, its study, its frame of reference, and
for each slice the *frame* that it came from. Only the elements that are listed here are read, so no private element and
no free text but the patient's and the study's own gets into a result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.export.dicom_uids import uid_of
from neurobundle.load.dicom.header import AGAIN, quiet_pydicom

if TYPE_CHECKING:
    from neurobundle.load.dicom import DicomVolume
    from neurobundle.load.dicom.frames import Plane

#: The Patient Module (PS3.3 C.7.1.1): of type 2, which every object has, and what else may be there.
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_PATIENT_MORE = (
    *(
        "IssuerOfPatientID",
        "PatientBirthTime",
        "OtherPatientIDs",
        "OtherPatientNames",
        "EthnicGroup",
        "PatientComments",
    ),
    *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("PatientSpeciesDescription", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization"),
)
#: The General Study Module (C.7.2.1), likewise.
STUDY = ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "ReferringPhysicianName")
#: Its optional elements, those of the Patient Study Module (C.7.2.2), and of the SOP Common Module (C.12.1).
_STUDY_MORE = (
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "LongitudinalTemporalInformationModified",
)
_CHARACTERS = ("SpecificCharacterSet", "TimezoneOffsetFromUTC")
COPIED = (*_CHARACTERS, *PATIENT, *_PATIENT_MORE, *STUDY, *_STUDY_MORE)

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
#: Dates of an image with their times, the nearest to its making first.
_DATES = (("AcquisitionDate", "AcquisitionTime"), ("SeriesDate", "SeriesTime"), ("StudyDate", "StudyTime"))
_READ = (
    *COPIED,
    *_UIDS,
    "FrameOfReferenceUID",
    "NumberOfFrames",
    "Modality",
    *(name for pair in _DATES for name in pair),
)

#: PS3.5 9.1.
_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
#: What an object says that has no date: both are no one's (PS3.5 6.2, DA and TM).
NO_DATE, NO_TIME = "19000101", "000000"


class SourceFrame(NamedTuple):
    """The frame that a slice came from.

    Attributes:
        sop_class: UID of its storage class.
        instance: its SOPInstanceUID.
        frame: its number in the file, from 1; None in a file of one frame.
        whole: whether the slice is the frame as it lies, and not a tile of it.
    """

    sop_class: str
    instance: str
    frame: int | None
    whole: bool = True


class SourceSeries(NamedTuple):
    """A series that something was made from.

    Attributes:
        uid: its SeriesInstanceUID.
        instances: storage class and SOPInstanceUID of each file.
    """

    uid: str
    instances: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class DicomSource:
    """What a result takes over.

    Attributes:
        shape: (i, j, k).
        affine: (4, 4), voxel index to RAS+ mm.
        frames: of each k, from 0; none where a missing slice was filled.
        series: the volume's own, then those of the other channels.
        study: its StudyInstanceUID.
        frame_of_reference: UID of its coordinate system.
        modality: of the images.
        date: of the images, with its time, as DICOM writes them.
        elements: pydicom's data set with :data:`COPIED`, as they are.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    frames: tuple[SourceFrame | None, ...]
    series: tuple[SourceSeries, ...]
    study: str
    frame_of_reference: str
    modality: str
    date: tuple[str, str]
    elements: Any = field(repr=False)


def read_source(volume: DicomVolume, others: Sequence[DicomVolume] = ()) -> DicomSource:
    """Read what results take over from a volume; headers only.

    Args:
        volume: the one whose grid the result lies on.
        others: further volumes that it was made from; only those of the same study are referred to.

    Raises:
        InputError: names the file: a UID is missing or malformed, so that nothing can refer to the image.
    """
    # pydicom converts a value when it is first looked at, and may say of a bad one what it is.
    with quiet_pydicom():
        return _source(volume, others)


def _source(volume: DicomVolume, others: Sequence[DicomVolume]) -> DicomSource:
    headers = {file: _header(file) for file in volume.files}
    first = headers[volume.files[0]]
    study = _uid(first, "StudyInstanceUID", volume.files[0])
    series = _uid(first, "SeriesInstanceUID", volume.files[0])
    planes = [slot[0] for slot in volume.slots if slot]
    tiles = len({(plane.file, plane.frame) for plane in planes}) < len(planes)
    frames = tuple(_frame(slot[0], headers[slot[0].file], not tiles) if slot else None for slot in volume.slots)
    known = [_series(headers)]
    for other in others:
        found = {file: _header(file) for file in other.files}
        if str(found[other.files[0]].get("StudyInstanceUID")) == study:
            known.append(_series(found))
    return DicomSource(
        volume.shape,
        volume.affine,
        frames,
        _once(known),
        study,
        str(first.get("FrameOfReferenceUID") or "") or uid_of("frame of reference", series),
        str(first.get("Modality") or "MR"),
        _date(first),
        _copied(first),
    )


def unnamed_header(source: DicomSource, series: str, sop_class: str, instance: str) -> Any:
    """A header of one of the source's files, of its study and of no patient: what highdicom is given in its place."""
    from pydicom import Dataset

    header = Dataset()
    for keyword in (*PATIENT, *STUDY):
        setattr(header, keyword, None if keyword.startswith("Study") else "")
    header.StudyInstanceUID, header.SeriesInstanceUID = source.study, series
    header.SOPClassUID, header.SOPInstanceUID = sop_class, instance
    return header


def _header(file: Path) -> Any:
    from pydicom import dcmread

    try:
        return dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_READ))
    # Whatever pydicom trips over in a damaged file is the same to the user, and its words may quote the file.
    except Exception as error:
        cause = f"its header cannot be read again ({type(error).__name__})"
        raise InputError(cause, AGAIN, file=file) from None


def _uid(header: Any, keyword: str, file: Path) -> str:
    value = str(header.get(keyword) or "")
    if not _UID.fullmatch(value):
        cause = f"its {keyword} is {'malformed' if value else 'missing'}, so no DICOM object can refer to it"
        raise InputError(cause, "Leave dicom-seg and dicom-sr out of --output, or export the series again.", file=file)
    return value


def _frame(plane: Plane, header: Any, whole: bool) -> SourceFrame:
    many = int(header.get("NumberOfFrames") or 1) > 1
    sop_class, instance = (_uid(header, keyword, plane.file) for keyword in ("SOPClassUID", "SOPInstanceUID"))
    return SourceFrame(sop_class, instance, plane.frame + 1 if many else None, whole)


def _series(headers: dict[Path, Any]) -> SourceSeries:
    uids = [[_uid(header, keyword, file) for keyword in _UIDS] for file, header in headers.items()]
    return SourceSeries(uids[0][1], tuple(dict.fromkeys((sop_class, instance) for _, _, instance, sop_class in uids)))


def _once(series: Sequence[SourceSeries]) -> tuple[SourceSeries, ...]:
    """Each series once: two volumes of one series are two parts of it."""
    merged: dict[str, dict[tuple[str, str], None]] = {}
    for one in series:
        merged.setdefault(one.uid, {}).update(dict.fromkeys(one.instances))
    return tuple(SourceSeries(uid, tuple(instances)) for uid, instances in merged.items())


def _date(header: Any) -> tuple[str, str]:
    for date, time in _DATES:
        day, hour = str(header.get(date) or ""), str(header.get(time) or "").partition(".")[0]
        if re.fullmatch(r"\d{8}", day):
            return day, hour if re.fullmatch(r"([01]\d|2[0-3])[0-5]\d[0-5]\d", hour) else NO_TIME
    return NO_DATE, NO_TIME


def _copied(header: Any) -> Any:
    from pydicom import Dataset

    elements = Dataset()
    for keyword in COPIED:
        if keyword in header:
            elements.add(deepcopy(header[keyword]))
        elif keyword in PATIENT or keyword in STUDY:
            setattr(elements, keyword, None)
    return elements
