"""A folder of DICOM files as studies and volumes, by headers alone.

A *key* names a study or a series without telling its UID: eight hex digits of the salted sha256 (:mod:`.salt`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from neurobundle.errors import InputError, NoInputError, require
from neurobundle.load.checks import check_affine
from neurobundle.load.dicom.enhanced import enhanced_frames, is_enhanced
from neurobundle.load.dicom.facts import facts_of, plane_of, voxel_of
from neurobundle.load.dicom.frames import Frame, classic_frames, patient_of
from neurobundle.load.dicom.grouping import Part, localizer_note, part_series
from neurobundle.load.dicom.header import quiet_pydicom
from neurobundle.load.dicom.instances import Found, Instance, find_instances
from neurobundle.load.dicom.mosaic import is_mosaic, mosaic_frames
from neurobundle.load.dicom.stacking import stack
from neurobundle.load.dicom.volumes import DicomVolume
from neurobundle.load.gate import STRICT, Finding, Level, Policy, Verdict, refuse, warn
from neurobundle.load.inputs import dicom_folders
from neurobundle.load.salt import digest
from neurobundle.load.scan import Scan


@dataclass(frozen=True)
class DicomStudy:
    """The volumes of one StudyInstanceUID.

    Attributes:
        key: ``study-`` and eight hex digits.
        volumes: all, also those that are refused, by series number.
        verdict: of the study as a whole: two patients in it.
    """

    key: str
    volumes: list[DicomVolume]
    verdict: Verdict


@dataclass(frozen=True)
class DicomFolder:
    """What lies in a folder.

    Attributes:
        studies: in the order of their keys.
        set_aside: reason -> number of files that are no image of a volume.
        verdict: of the folder as one input: two patients in it, damaged files.
    """

    studies: list[DicomStudy]
    set_aside: dict[str, int]
    verdict: Verdict = field(default_factory=Verdict)

    @property
    def volumes(self) -> list[DicomVolume]:
        """The volumes of all studies."""
        return [volume for study in self.studies for volume in study.volumes]


def find_dicom(path: str | Path) -> DicomFolder:
    """Find the volumes in a folder at any depth, or in one file; reads headers, never pixels.

    Args:
        path: a folder or a file, of any name.

    Raises:
        NoInputError: if there is no such file or folder.
        MissingPackageError: if pydicom is not installed.
    """
    require("pydicom", extra="dicom", feature="reading DICOM")
    found = find_instances(Path(path))
    by_study: dict[str, list[Instance]] = defaultdict(list)
    with quiet_pydicom():
        for instance in found.instances:
            by_study[instance.elements.text("StudyInstanceUID")].append(instance)
        studies = [_study(uid, instances, found) for uid, instances in by_study.items()]
        verdict = Verdict(_two_patients(found.instances, "folder"))
    verdict.add(*(_lost(file) for file in found.damaged))
    return DicomFolder(sorted(studies, key=lambda study: study.key), dict(sorted(found.set_aside.items())), verdict)


def mixed_studies(folder: DicomFolder, path: str | Path) -> dict[str, Finding]:
    """The studies that lie in one folder with another patient's files, each with what refuses it.

    Two patients in folders of their own are no fault; in one folder, files may have gone astray.

    Args:
        folder: what :func:`find_dicom` found.
        path: where.
    """
    if not folder.verdict.refusals:
        return {}
    roots = dicom_folders(Path(path)) if Path(path).is_dir() else [Path(path)]
    mixed: dict[str, Finding] = {}
    for found in (folder,) if len(roots) < 2 else map(find_dicom, roots):
        mixed |= {study.key: found.verdict.refusals[0] for study in found.studies if found.verdict.refusals}
    return mixed


def require_images(folder: DicomFolder, path: str | Path = "") -> None:
    """Raise unless a folder holds a volume, usable or not.

    Args:
        folder: what was found.
        path: where, for the message.

    Raises:
        NoInputError: if it holds none.
    """
    if folder.volumes:
        return
    aside = ", ".join(f"{count} x {reason}" for reason, count in folder.set_aside.items())
    cause = f"no image series{f' (set aside: {aside})' if aside else ': there are no files'}"
    way_out = "Point at a folder of DICOM images; a NIfTI file is named by its own path."
    raise NoInputError(cause, way_out, file=path or None)


def read_volume(path: str | Path, policy: Policy = STRICT) -> Scan:
    """Read a file or folder that holds exactly one volume.

    Args:
        path: a file or a folder.
        policy: what is allowed.

    Raises:
        InputError: if it is refused, or there are several volumes.
        NoInputError: if there is none.
    """
    folder = find_dicom(path)
    require_images(folder, path)
    folder.verdict.require(path)
    volumes = folder.volumes
    if len(volumes) > 1:
        names = ", ".join(volume.key for volume in volumes[:8])
        more = f" and {len(volumes) - 8} more" if len(volumes) > 8 else ""
        cause = f"it holds {len(volumes)} volumes, one is wanted: {names}{more}"
        raise InputError(cause, "Write each as a file of its own with neurobundle convert.", file=path)
    return volumes[0].read(policy)


def study_key(uid: str) -> str:
    """The key of a study, from its UID."""
    return f"study-{digest(uid)}"


def series_key(uid: str, number: int | None) -> str:
    """The key of a series, from its UID and its number."""
    return f"series-{number or 0:04d}-{digest(uid)}"


def _study(uid: str, instances: list[Instance], found: Found) -> DicomStudy:
    mixed = _two_patients(instances, "study")
    by_series: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        by_series[instance.elements.text("SeriesInstanceUID")].append(instance)
    volumes = []
    for series_uid, members in by_series.items():
        findings = [*mixed, *_series_findings(members, found)]
        parts = part_series([frame for instance in members for frame in _frames(instance)])
        if left_out := sum(part.left_out for part in parts):
            found.set_aside["localizer"] += left_out
        volumes += _volumes(series_uid, members, parts, findings)
    volumes.sort(key=lambda volume: (volume.series_number is None, volume.series_number or 0, volume.key))
    return DicomStudy(study_key(uid), volumes, Verdict(mixed))


def _series_findings(members: Sequence[Instance], found: Found) -> list[Finding]:
    """What holds for all volumes of a series: localizers that lay in it, files beside it that may have been slices."""
    uid = members[0].elements.text("SeriesInstanceUID")
    findings = [localizer_note(count)] if (count := found.localizers[uid]) else []
    folders = {instance.file.parent for instance in members}
    beside = sum(file.parent in folders for file in found.damaged)
    if beside:
        files = "1 damaged or empty file lies" if beside == 1 else f"{beside} damaged or empty files lie"
        findings.append(warn("lost_file", f"{files} beside it; slices may be missing", "Compare the number of slices."))
    stated = max((instance.elements.whole("ImagesInAcquisition") or 0 for instance in members), default=0)
    if (there := sum(instance.frames for instance in members)) < stated:
        cause = f"its header says that there are {stated} images, {there} were found"
        findings.append(warn("images_in_acquisition", cause, "Compare the number of slices with the scanner's."))
    frames = {instance.elements.text("FrameOfReferenceUID") for instance in members} - {""}
    if len(frames) > 1:
        cause = f"its slices have {len(frames)} frames of reference; that they lie together is not certain"
        findings.append(warn("frame_of_reference", cause, "Look at it in a viewer."))
    return findings


def _volumes(
    uid: str, members: Sequence[Instance], parts: Sequence[Part], findings: Sequence[Finding]
) -> list[DicomVolume]:
    number = next((n for instance in members if (n := instance.elements.whole("SeriesNumber")) is not None), None)
    base = series_key(uid, number)
    taken: Counter[str] = Counter()
    volumes = []
    for part in parts:
        key = "_".join([base, *part.labels.values()])
        taken[key] += 1
        key += f"_{taken[key]}" if taken[key] > 1 else ""
        volumes.append(_volume(part, key, base, number, findings))
    return volumes


def _frames(instance: Instance) -> list[Frame]:
    if is_enhanced(instance):
        return enhanced_frames(instance)
    return mosaic_frames(instance) if is_mosaic(instance) else classic_frames(instance)


def _volume(part: Part, key: str, base: str, number: int | None, findings: Sequence[Finding]) -> DicomVolume:
    stacked = stack(part.frames)
    verdict = Verdict([*findings, *part.findings, *stacked.findings])
    if not verdict.refusals:
        verdict.extend(check_affine(stacked.affine, file=part.frames[0].plane.file))
    verdict.findings.sort(key=lambda finding: finding.level is not Level.REFUSE)
    time = part.labels.get("time")
    facts = facts_of(part.frames[0].elements, int(time.removeprefix("t-")) if time else None)
    affine = stacked.affine
    facts = replace(facts, voxel_mm=voxel_of(affine), plane=plane_of(affine))
    stack_key = "_".join([base, *(text for name, text in part.labels.items() if name != "time")])
    files = tuple(dict.fromkeys(frame.plane.file for frame in part.frames))
    return DicomVolume(key, base, stack_key, number, facts, stacked.shape, affine, files, verdict, stacked.slots)


def _two_patients(instances: Sequence[Instance], where: str) -> list[Finding]:
    """Refuse files of different patients: IDs, names or birth dates that are there and differ."""
    patients = [patient_of(instance.elements) for instance in instances]
    for part, what in enumerate(("PatientID", "PatientName", "PatientBirthDate")):
        if len(different := {patient[part] for patient in patients} - {""}) > 1:
            cause = f"the {where} holds files of {len(different)} patients, by their {what}"
            return [refuse("two_patients", cause, "Give the files of one patient, in a folder of their own.")]
    return []


def _lost(file: Path) -> Finding:
    return warn("lost_file", "it cannot be read as DICOM; a slice may be lost with it", "Copy it again.", file)
