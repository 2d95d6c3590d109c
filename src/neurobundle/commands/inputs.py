"""From what a user points ``neurobundle run`` at to its cases.

A NIfTI file is a case. A DICOM file or folder, a BIDS folder, a mapping file, and any folder for a bundle of several
channels are studies. In another folder, the files whose names say a sequence are studies, each of the others is a case,
and label maps are set aside.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from neurobundle.commands.sources import Source, StudySource, Wanted
from neurobundle.errors import InputError, NeurobundleError, NoInputError
from neurobundle.load import salt
from neurobundle.load.inputs import dicom_folders, find_images, walk
from neurobundle.load.names import IMAGE_SUFFIXES, is_nifti_name, unique_case_names
from neurobundle.load.scan import is_dicom
from neurobundle.load.study import Study, find_studies
from neurobundle.load.study.channels import ANY
from neurobundle.load.study.filenames import recognise_name
from neurobundle.load.study.folders import is_bids
from neurobundle.load.study.mapping import SUFFIXES as MAPPING_SUFFIXES

logger = logging.getLogger(__name__)

#: What :func:`recognise_name` gives as its reason for a label map.
LABEL_MAP = "its name says label map"

_DIGITS = 8


def find_sources(
    inputs: Sequence[str | Path],
    without: Path | None = None,
    *,
    work: Path,
    wanted: Wanted | None = None,
    salted: bool = False,
) -> list[Source]:
    """The cases that the inputs hold, their names all different.

    Args:
        inputs: files and folders.
        without: a folder that is not looked into.
        work: a folder of the run's own.
        wanted: by the bundle and the user.
        salted: call them by hex digits.

    Raises:
        NoInputError: if there are none.
    """
    wanted = wanted or Wanted()
    if salted and salt.is_known():
        logger.warning("the names are salted with a salt that everybody knows; set %s to your own", salt.SALT_VARIABLE)
    try:
        studies, files = _divided([Path(item) for item in inputs], without, wanted)
    except NeurobundleError as error:
        if salted:
            raise type(error)("the inputs cannot be used, or hold no scan", "Check the paths after -i.") from None
        raise
    sources = [*_study_sources(studies, wanted, work, salted), *_file_sources(files, wanted, work, salted)]
    return _distinct(sources)


def one_of(sources: Sequence[Source], case: str) -> Source:
    """The source of one case: by its name, or by the one that it has where nothing lies beside it.

    Args:
        sources: what lies in a place.
        case: its name.

    Raises:
        InputError: if it is not among them.
    """
    for source in sources:
        if source.case == case or (len(sources) == 1 and _is_short_for(source, case)):
            return source
    raise InputError("it is not among what lies there", "Was it moved, or given another name?", case=case)


def _is_short_for(source: Source, case: str) -> bool:
    """Whether a case has a longer name only because another one of that name lay beside it."""
    if re.fullmatch(rf"study-[0-9a-f]{{{_DIGITS}}}", source.case):
        return case.startswith(source.case)
    before, same, _ = case.rpartition(f"-{source.case}")
    parents = "-".join(source.path.absolute().parts[:-1])
    return bool(same and before and parents.endswith(before)) or bool(
        re.fullmatch(rf"(.*-)?{re.escape(source.case)}-[0-9a-f]{{8}}", case)
    )


def _divided(places: list[Path], without: Path | None, wanted: Wanted) -> tuple[list[tuple[Path, Study]], list[Path]]:
    """The studies, each with the place it was found in, and the files that are cases of their own."""
    studies: list[tuple[Path, Study]] = []
    files: list[Path] = []
    missing: list[NoInputError] = []
    for place in places:
        try:
            if wanted.channels and _is_study_place(place, wanted):
                studies += [(place, study) for study in find_studies(place, wanted.channels, wanted.mapping)]
            elif place.is_dir() and wanted.channels:
                found, alone = _mixed(place, without, wanted)
                studies += [(place, study) for study in found]
                files += alone
            else:
                files += find_images([place], without, wanted.pictures) if place.is_dir() else [place]
        except NoInputError as error:
            missing.append(error)
    if not studies and not any(path.exists() for path in files):
        raise (
            missing[0]
            if missing
            else NoInputError("there is no such file or folder", "Check the path.", file=", ".join(map(str, places)))
        )
    for empty in missing:
        logger.warning("%s", empty)
    return _once(studies), list(dict.fromkeys(files))


def _is_study_place(place: Path, wanted: Wanted) -> bool:
    """Whether a place as a whole is studies, and no collection of files."""
    if wanted.mapping is not None or is_bids(place):
        return True
    if not place.is_dir():
        return is_dicom(place) or (place.is_file() and place.suffix.lower() in MAPPING_SUFFIXES)
    nifti = any(is_nifti_name(path.name) for _, files in walk(place) for path in files)
    roots = dicom_folders(place)
    if nifti and roots:
        logger.warning(
            "%s holds NIfTI files, so its %d DICOM folders are not looked at; give them with -i too", place, len(roots)
        )
    return bool(roots) if not nifti else len(wanted.channels) > 1


def _mixed(place: Path, without: Path | None, wanted: Wanted) -> tuple[list[Study], list[Path]]:
    """The studies of a folder for a bundle of one channel, and its files that say no sequence."""
    said = {path: recognise_name(path.name) for path in find_images([place], without, wanted.pictures)}
    alone = [path for path, found in said.items() if found.silent]
    studies: list[Study] = []
    if any(found.channel for found in said.values()):
        studies = [_without(study, alone) for study in find_studies(place, wanted.channels)]
        return [study for study in studies if study.candidates], alone
    labels = [path for path, found in said.items() if found.reason == LABEL_MAP]
    if labels:
        logger.warning("%s: %d label maps, by their names, are set aside", place, len(labels))
    return [], [path for path in said if path not in labels]


def _without(study: Study, files: Iterable[Path]) -> Study:
    """A study without files that are cases of their own."""
    own = set(files)
    study.candidates = [one for one in study.candidates if one.choice.source not in own]
    study.passed_over = [choice for choice in study.passed_over if choice.source not in own]
    return study


def _once(studies: list[tuple[Path, Study]]) -> list[tuple[Path, Study]]:
    """Each study once, though a mapping file was laid over several places."""
    known: dict[object, tuple[Path, Study]] = {}
    for place, study in studies:
        chosen = tuple((channel, str(choice.source)) for channel, choice in study.choices.items())
        known.setdefault((study.case, chosen or study.folder), (place, study))
    return list(known.values())


def _study_sources(studies: Iterable[tuple[Path, Study]], wanted: Wanted, work: Path, salted: bool) -> list[Source]:
    sources: list[Source] = []
    for place, study in studies:
        # A DICOM study's name is a salted digest already.
        if salted and study.layout != "dicom":
            (name,) = salted_names([study.folder / study.case]).values()
            study = replace(study, case=name, subject=name)
        sources.append(StudySource(study.case, study.folder, "" if salted else str(place), wanted, work, found=study))
    return sources


def _file_sources(paths: Sequence[Path], wanted: Wanted, work: Path, salted: bool) -> list[Source]:
    if not salted:
        names = unique_case_names(paths)
        return [Source(case, path, str(path), wanted, work, _says(path, wanted)) for path, case in names.items()]
    folder = work / "inputs"
    folder.mkdir()
    return [
        Source(case, _hidden(path, case, folder), "", wanted, work, _says(path, wanted))
        for path, case in salted_names(paths).items()
    ]


def _says(path: Path, wanted: Wanted) -> str:
    """What a file's name says that it is, if a bundle of one channel wants something else."""
    said = recognise_name(path.name)
    if len(wanted.channels) != 1 or said.silent or said.channel == wanted.channels[0]:
        return ""
    return "" if wanted.channels == (ANY,) and said.reason != LABEL_MAP else said.reason


def _distinct(sources: list[Source]) -> list[Source]:
    """The sources with names of their own: two places may hold cases of one name."""
    names = unique_case_names(source.path.parent / source.case for source in sources)
    for source in sources:
        source.case = names[source.path.parent / source.case]
    return sources


def salted_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Eight hex digits for each path, more where two would be alike; the same for the same path and salt.

    The whole path counts, so that one file name in two folders is two cases.
    """
    digests = {path: salt.digest(f"\0{path.absolute()}", 64) for path in paths}
    digits = _DIGITS
    while len({digest[:digits] for digest in digests.values()}) < len(digests):
        digits += 1
    return {path: f"case-{digest[:digits]}" for path, digest in digests.items()}


def _hidden(path: Path, case: str, folder: Path) -> Path:
    """A link to a file that does not tell its name."""
    logger.debug("%s is %s", case, path)
    ending = next((end for end in IMAGE_SUFFIXES if path.name.lower().endswith(end)), "")
    link = folder / f"{case}{ending}"
    try:
        link.symlink_to(path.absolute())
    except OSError:  # a file system without links
        if path.exists():
            shutil.copyfile(path, link)
    return link
