"""The volumes of DICOM studies as candidates for channels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from neurobundle.load.gate import Level
from neurobundle.load.study.choices import Candidate, Choice, Study
from neurobundle.load.study.filenames import Recognised
from neurobundle.load.study.rules import FEWEST_SLICES, recognise, traits_of

if TYPE_CHECKING:
    from neurobundle.load.dicom import DicomStudy, DicomVolume


def dicom_studies(path: Path, channels: tuple[str, ...]) -> list[Study]:
    """The DICOM studies of a folder or file, with every volume as a candidate; headers only.

    Args:
        path: a DICOM file or a folder.
        channels: those that are looked for.

    Raises:
        NoInputError: if there is no image series.
    """
    from neurobundle.load.dicom import find_dicom, mixed_studies, require_images

    folder = find_dicom(path)
    require_images(folder, path)
    studies = [dicom_study(study, path, channels) for study in folder.studies]
    mixed = mixed_studies(folder, path)
    for study in studies:
        study.verdict.add(mixed.get(study.case))
        # What was lost from the folder may be of any of them.
        study.verdict.add(*(finding for finding in folder.verdict.findings if finding.level is Level.WARN))
    return studies


def dicom_study(found: DicomStudy, path: Path, channels: tuple[str, ...]) -> Study:
    """One DICOM study; what its own verdict refuses, the study refuses."""
    study = Study(found.key, found.key, path, "dicom", channels)
    study.verdict.extend(found.verdict.findings)
    study.candidates = [_candidate(volume) for volume in found.volumes]
    return study


def _candidate(volume: DicomVolume) -> Candidate:
    slices = volume.shape[2]
    found = recognise(volume.facts)
    if found.channel and slices < FEWEST_SLICES:
        found = Recognised(None, f"it has {slices} slices: no whole head")
    refused = volume.verdict.refusals
    usable = not refused
    reason = found.reason if usable else f"{found.reason}; refused: {refused[0].cause}"
    level = found.level if usable else Level.REFUSE
    traits = traits_of(volume.facts, found, slices, usable)
    return Candidate(Choice(found.channel, volume, reason, level), traits)
