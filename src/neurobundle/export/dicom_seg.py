"""Label maps and probabilities as DICOM segmentation objects (PS3.3 A.51; label maps: PS3.3 A.51 of 2024 on).

A *segment* is a structure or a region (:mod:`neurobundle.export.dicom_codes`). A *binary* object has a mask a segment,
so segments may overlap; a *labelmap* has one number a voxel; a *fractional* one has the probability of each segment in
steps of 1/255. The pixels lie on the grid of the source, slice for slice; slices that hold nothing are left out, unless
all do: an object in which nothing was found has all its slices, and is as valid as any.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, SettingError
from neurobundle.export.dicom_codes import Algorithm, Code, Segment, overlap
from neurobundle.export.dicom_deidentify import finish
from neurobundle.export.dicom_files import (
    MANUFACTURER,
    RESEARCH_USE_ONLY,
    SERIAL_NUMBER,
    UNNAMED,
    encode,
    quiet,
    write_dicom,
)
from neurobundle.export.dicom_source import DicomSource, SourceFrame, unnamed_header
from neurobundle.export.dicom_uids import uid_of

SegKind = Literal["binary", "labelmap", "fractional"]
SEG_KINDS: tuple[str, ...] = get_args(SegKind)
#: Segment Algorithm Type (PS3.3 C.8.20.4): by the algorithm alone, by a person with its help, by a person.
AlgorithmType = Literal["AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"]

SEG_ENDING = "_seg.dcm"
#: Above the numbers that scanners give, and a constant, so that a second run makes the same object.
SERIES_NUMBER = 9100
#: Steps of a probability from 0 to 1.
STEPS = 255

#: DICOM's x grows to the left and its y to the back (PS3.3 C.7.6.2.1.1).
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
#: Decimals of a decimal string that is full of them (PS3.5, DS: 16 characters).
_DECIMALS = 12
#: Stands for the slice k while highdicom builds the object.
_SLICE = "2.25.1."
_MR = "1.2.840.10008.5.1.4.1.1.4"
#: CID 7202 and CID 7203.
_SOURCE_IMAGE = Code("121322", "DCM", "Source Image for Image Processing Operation")
_DERIVED_BY_SEGMENTATION = Code("113076", "DCM", "Segmentation")


def make_seg(
    source: DicomSource,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    *,
    labels: npt.NDArray[Any],
    shares: npt.NDArray[np.uint8] | None = None,
    kind: SegKind = "binary",
    deidentified: bool = False,
    algorithm_type: AlgorithmType = "AUTOMATIC",
) -> Any:
    """A segmentation object; :func:`save_seg` writes it.

    Args:
        source: the images.
        segments: at least one.
        algorithm: what made the result; where a person did alone, the program they drew with.
        labels: ``(i, j, k)`` on the source's grid.
        shares: of ``fractional``: the probability of each segment, ``(segment, i, j, k)`` in steps of 1/255.
        kind: how the result is stored.
        deidentified: without the patient, after PS3.15's basic profile, else with the patient of the source.
        algorithm_type: what a person did.

    Returns:
        A ``highdicom.seg.Segmentation``, with all its UIDs.

    Raises:
        SettingError: for an unknown kind, or segments that overlap in a label map.
        InputError: if labels or probabilities do not lie on the source's grid.
        MissingPackageError: if highdicom is not installed.
    """
    if kind not in SEG_KINDS:
        raise SettingError(f"a segmentation is one of {', '.join(SEG_KINDS)}, got {kind!r}", "Leave it out for binary.")
    if kind == "labelmap" and overlap(segments):
        raise SettingError("a label map cannot hold regions that overlap", "Give its structures, or use binary.")
    pixels = _pixels(source, segments, labels, shares, kind)
    with quiet() as hd:
        seg = hd.seg.Segmentation(
            source_images=_slices(source),
            pixel_array=pixels,
            segmentation_type=kind.upper(),
            segment_descriptions=[_described(hd, source, one, algorithm, algorithm_type) for one in segments],
            series_instance_uid=UNNAMED,
            series_number=SERIES_NUMBER,
            sop_instance_uid=UNNAMED,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=algorithm.version,
            device_serial_number=SERIAL_NUMBER,
            max_fractional_value=STEPS,
            omit_empty_frames=bool(pixels.any()),
            content_description=RESEARCH_USE_ONLY,
            content_label="SEGMENTATION",
            series_description=f"{algorithm.name[:20]} {RESEARCH_USE_ONLY}",
        )
        _refer(seg, source)
        finish(seg, source, deidentified)
    return seg


def save_seg(path: Path, seg: Any) -> Path:
    """Write a segmentation object atomically, and read it back before it gets its name.

    Args:
        path: ends in ``.dcm``.
        seg: what :func:`make_seg` gave.

    Raises:
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    expected = voxels_of(seg)
    return write_dicom(path, encode(seg), lambda read: voxels_of(read) == expected)


def voxels_of(seg: Any) -> dict[int, int]:
    """How many voxels of each segment are not 0; segments without any are left out.

    Args:
        seg: a segmentation object of any kind.
    """
    frames = np.asarray(seg.pixel_array).reshape(int(seg.NumberOfFrames), -1)
    if seg.SegmentationType == "LABELMAP":
        numbers, counts = np.unique(frames[frames > 0], return_counts=True)
        return {int(number): int(count) for number, count in zip(numbers, counts, strict=True)}
    found: dict[int, int] = {}
    for frame, count in zip(seg.PerFrameFunctionalGroupsSequence, np.count_nonzero(frames, axis=1), strict=True):
        groups = frame if "SegmentIdentificationSequence" in frame else seg.SharedFunctionalGroupsSequence[0]
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        found[number] = found.get(number, 0) + int(count)
    return {number: count for number, count in found.items() if count}


def _pixels(
    source: DicomSource,
    segments: Sequence[Segment],
    labels: npt.NDArray[Any],
    shares: npt.NDArray[np.uint8] | None,
    kind: SegKind,
) -> npt.NDArray[Any]:
    """Frames as highdicom wants them: (k, j, i) of segment numbers, or (k, j, i, segment) of masks or probabilities."""
    given = labels.shape if kind != "fractional" or shares is None else shares.shape[1:]
    if tuple(given) != tuple(source.shape):
        cause = f"the result has {given} voxels, and the source {source.shape}"
        raise InputError(cause, "Report this.")
    if kind == "fractional":
        if shares is None or len(shares) != len(segments):
            there = "none" if shares is None else len(shares)
            raise InputError(f"probabilities of {len(segments)} segments are wanted, there are {there}", "Report this.")
        return np.ascontiguousarray(shares.transpose(3, 2, 1, 0)) / np.float32(STEPS)
    planes = labels.transpose(2, 1, 0)
    if overlap(segments):
        masks = [np.isin(planes, segment.values) for segment in segments]
        return np.stack(masks, axis=-1).astype(np.uint8)
    numbers = np.zeros(planes.shape, np.uint8 if len(segments) < 256 else np.uint16)
    for segment in segments:
        numbers[np.isin(planes, segment.values)] = segment.number
    return numbers


def _slices(source: DicomSource) -> list[Any]:
    """A header for each slice of the source, by its place in the affine; none of them has a patient."""
    from pydicom.valuerep import format_number_as_ds

    lps = _RAS_TO_LPS @ source.affine[:3]
    steps = np.linalg.norm(lps[:, :3], axis=0)
    cosines = np.round(lps[:, :2] / steps[:2], _DECIMALS) + 0.0
    orientation = [format_number_as_ds(float(value)) for value in cosines.T.ravel()]
    slices = []
    for k in range(source.shape[2]):
        header = unnamed_header(source, source.series[0].uid, _MR, f"{_SLICE}{k}")
        header.FrameOfReferenceUID, header.Modality = source.frame_of_reference, source.modality
        header.Columns, header.Rows = source.shape[:2]
        header.ImageOrientationPatient = orientation
        header.ImagePositionPatient = [
            format_number_as_ds(float(value)) for value in np.round(lps @ [0, 0, k, 1], _DECIMALS)
        ]
        header.PixelSpacing = [format_number_as_ds(float(value)) for value in (steps[1], steps[0])]
        header.SliceThickness = header.SpacingBetweenSlices = format_number_as_ds(float(steps[2]))
        slices.append(header)
    return slices


def _described(
    hd: Any, source: DicomSource, segment: Segment, algorithm: Algorithm, algorithm_type: AlgorithmType
) -> Any:
    codes = segment.codes
    described = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name[:64],
        segmented_property_category=concept(codes.category),
        segmented_property_type=concept(codes.type),
        algorithm_type=algorithm_type,
        algorithm_identification=None if algorithm_type == "MANUAL" else identification(algorithm),
        tracking_uid=tracking_uid(source, segment, algorithm),
        tracking_id=segment.name[:64],
        anatomic_regions=[concept(codes.region)] if codes.region else None,
    )
    if codes.modifiers:
        kind = described.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(code) for code in codes.modifiers]
    return described


def identification(algorithm: Algorithm) -> Any:
    """The algorithm as DICOM identifies it (PS3.3 10.16)."""
    from highdicom import AlgorithmIdentificationSequence

    return AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=concept(algorithm.family),
        version=algorithm.version,
        source=algorithm.source,
        parameters={"weights_sha256": algorithm.weights} if algorithm.weights else None,
    )


def concept(code: Code) -> Any:
    """A code as highdicom has it."""
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def tracking_uid(source: DicomSource, segment: Segment, algorithm: Algorithm) -> str:
    """The UID under which a segmentation and its report speak of the same structure of the same images."""
    return uid_of("tracking", source.series[0].uid, algorithm.name, algorithm.version, segment.name)


def _refer(seg: Any, source: DicomSource) -> None:
    """Refer to the images themselves, in the place of the headers that highdicom was given."""
    from pydicom import Dataset

    images, listed = [], []
    for series in source.series:
        item = Dataset()
        item.SeriesInstanceUID = series.uid
        item.ReferencedInstanceSequence = [_instance(*instance) for instance in series.instances]
        images += [_instance(*instance) for instance in series.instances]
        listed.append(item)
    seg.SourceImageSequence, seg.ReferencedSeriesSequence = images, listed
    for groups in seg.PerFrameFunctionalGroupsSequence:
        derived = groups.DerivationImageSequence[0]
        stands_for = str(derived.SourceImageSequence[0].ReferencedSOPInstanceUID)
        frame = source.frames[int(stands_for.removeprefix(_SLICE))]
        groups.DerivationImageSequence = [] if frame is None else [_derivation(frame)]


def _derivation(frame: SourceFrame) -> Any:
    """The Derivation Image Functional Group of a slice (PS3.3 C.7.6.16.2.6)."""
    from pydicom import Dataset

    image = _instance(frame.sop_class, frame.instance)
    if frame.frame is not None:
        image.ReferencedFrameNumber = frame.frame
    image.SpatialLocationsPreserved = "YES" if frame.whole else "NO"
    image.PurposeOfReferenceCodeSequence = [concept(_SOURCE_IMAGE)]
    derivation = Dataset()
    derivation.DerivationCodeSequence = [concept(_DERIVED_BY_SEGMENTATION)]
    derivation.SourceImageSequence = [image]
    return derivation


def _instance(sop_class: str, instance: str) -> Any:
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item
