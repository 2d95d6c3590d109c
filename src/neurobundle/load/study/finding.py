"""What a user points at, as studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from neurobundle.errors import NoInputError
from neurobundle.load.names import unique_case_names
from neurobundle.load.scan import is_dicom
from neurobundle.load.study.any_scan import choose_any
from neurobundle.load.study.channels import ANY, channels_named
from neurobundle.load.study.choices import Study, choose
from neurobundle.load.study.folders import bids_studies, file_study, folder_studies, is_bids, nifti_files
from neurobundle.load.study.mapping import SUFFIXES, apply_mapping, read_mapping


def find_studies(path: str | Path, channels: Sequence[str], mapping: str | Path | None = None) -> list[Study]:
    """Find the studies below a path and choose the scan of each channel, by stated rules (docs/concepts/studies.md).

    NIfTI files are looked for first, at any depth; a folder without any is looked through for DICOM. No voxel is read.

    Args:
        path: a folder, a NIfTI or DICOM file, or a mapping file that names the scans itself.
        channels: what the bundle's metadata names, in its order; aliases such as ``T1w`` or ``t1ce`` count. ``any``
            alone is one scan, the best of each study.
        mapping: a mapping file, which overrides every rule.

    Returns:
        The studies, sorted by case. One that lacks a channel is among them, and says so when it is read or judged.

    Raises:
        NoInputError: if the path is not there or holds no scan.
        SettingError: if a channel is unknown, or the mapping cannot be used.
        InputError: if the mapping names a file or a series that is not there.
    """
    wanted = channels_named(channels)
    place = Path(path) if Path(path).name not in ("", "..") else Path(path).resolve()
    if mapping is None and place.suffix.lower() in SUFFIXES:
        place, mapping = place.parent, place
        studies: list[Study] = []
    else:
        studies = _named(_found(place, wanted))
    if mapping is not None:
        studies = apply_mapping(studies, read_mapping(mapping), wanted)
    for study in studies:
        (choose_any if wanted == (ANY,) else choose)(study)
    return sorted(studies, key=lambda study: study.case)


def _found(place: Path, channels: tuple[str, ...]) -> list[Study]:
    if not place.exists():
        raise NoInputError("there is no such file or folder", "Check the path.", file=place)
    if place.is_dir():
        studies = bids_studies(place, channels) if is_bids(place) else []
        if studies or nifti_files(place):
            return studies or folder_studies(place, channels) or _nothing(place)
    elif not is_dicom(place):
        return [file_study(place, channels)]
    from neurobundle.load.study.series import dicom_studies

    return dicom_studies(place, channels)


def _nothing(place: Path) -> list[Study]:
    way_out = "Point at the folder of the scans."
    raise NoInputError("its NIfTI files are no scans by their names: label maps, or other series", way_out, file=place)


def _named(studies: list[Study]) -> list[Study]:
    """Studies with case names that no two share; a subject that was called as its case follows it."""
    # A case that is called after its folder stands for the folder, so that a collision puts the parent in front.
    own = [study.case.startswith(study.folder.name) for study in studies]
    places = [(s.folder.parent if called else s.folder) / s.case for s, called in zip(studies, own, strict=True)]
    names = unique_case_names(places)
    return [
        replace(study, case=names[place], subject=names[place] if study.subject == study.case else study.subject)
        for study, place in zip(studies, places, strict=True)
    ]
