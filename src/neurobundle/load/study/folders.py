"""Studies of NIfTI files in folders.

| layout | how it is known | one grid promised |
|---|---|---|
| ``bids`` | ``sub-*`` folders; ``anat/*_T1w``, ``_T2w``, ``_FLAIR``; the entity ``ce-*`` with ``_T1w`` is T1c | no |
| ``nnunet`` | ``<case>_0000.nii.gz``, ``_0001`` ... one a channel | yes |
| ``brats`` | ``<case>/<case>_t1.nii.gz``, ``<case>/<case>-t1n.nii.gz``: the folder's name, then the sequence | yes |
| ``names`` | any other folder whose names say sequences | if all names but one say that they were registered |

Sources: Brain Imaging Data Structure 1.9; nnU-Net's ``documentation/dataset_format.md``; Baid 2021 (arXiv 2107.02314)
and the BraTS 2023 to 2025 challenges' naming. A header is opened only where two files fit one channel.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from neurobundle.errors import SettingError
from neurobundle.load.gate import Level
from neurobundle.load.layouts import bids_entities
from neurobundle.load.names import is_image_name, stem
from neurobundle.load.study.channels import ANY, channel_named
from neurobundle.load.study.choices import Candidate, Choice, Study
from neurobundle.load.study.filenames import VISIT, Recognised, prefix_of, recognise_name, says_moved
from neurobundle.load.study.sidecar import recognise_with_sidecar, traits_of_file
from neurobundle.types import NIFTI_SUFFIXES

#: Folders of labels and of results, whose files are no scans to choose from.
NOT_LOOKED_INTO = frozenset(("derivatives", "labels", "labelstr", "labelsts", "labelsval", "masks"))

#: Suffixes of BIDS that are channels (*Anatomy imaging data*).
BIDS_SUFFIXES = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR"}

#: A case of the BraTS challenges since 2023: collection, person, visit.
_BRATS_CASE = re.compile(r"^(?P<subject>BraTS-[A-Za-z]+-\d+)-\d{3}$")

_NNUNET = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")

#: More channels than this are no channels but cases with four digits.
_MOST_CHANNELS = 10


def nifti_files(folder: Path) -> list[Path]:
    """All NIfTI files at any depth, but hidden ones and those in folders of labels and results; sorted."""
    found = []
    for path in folder.rglob("*"):
        above = path.relative_to(folder).parts[:-1]
        skipped = any(part.startswith(".") or part.lower() in NOT_LOOKED_INTO for part in above)
        if not skipped and path.name.lower().endswith(NIFTI_SUFFIXES) and is_image_name(path.name) and path.is_file():
            found.append(path)
    return sorted(found)


def is_bids(folder: Path) -> bool:
    """Whether a folder holds subjects, or is a subject or a session of one."""
    inside = re.compile(r"^(sub|ses)-")
    return any(path.is_dir() for path in folder.glob("sub-*")) or (
        bool(inside.match(folder.name)) and any(folder.glob("**/anat"))
    )


def bids_studies(folder: Path, channels: tuple[str, ...]) -> list[Study]:
    """A study for each session, or each subject without sessions, that has an ``anat`` folder."""
    studies = []
    for anat in sorted(path for path in [folder, *folder.rglob("anat")] if path.name == "anat" and path.is_dir()):
        if NOT_LOOKED_INTO & {part.lower() for part in anat.relative_to(folder).parts}:
            continue
        place = anat.absolute().parent
        subject = place.parent.name if place.name.startswith("ses-") else place.name
        case = subject if subject == place.name else f"{subject}_{place.name}"
        study = Study(case, subject, anat.parent, "bids", channels)
        study.candidates = _candidates({path: _bids_file(path) for path in nifti_files(anat)})
        studies.append(study)
    return studies


def _bids_file(path: Path) -> Recognised:
    suffix = stem(path.name).rpartition("_")[2]
    entities = bids_entities(path.name)
    if suffix not in BIDS_SUFFIXES:
        return recognise_name(path.name)._replace(channel=None, reason="its suffix is none of _T1w, _T2w, _FLAIR")
    if entities.get("part", "mag") != "mag":
        return Recognised(None, "it is a phase, real or imaginary part")
    channel = BIDS_SUFFIXES[suffix]
    if channel == "T1" and "ce" in entities:
        return Recognised("T1c", "its suffix is _T1w and it has the entity ce")
    return recognise_with_sidecar(path, Recognised(channel, f"its suffix is _{suffix}"))


def folder_studies(folder: Path, channels: tuple[str, ...]) -> list[Study]:
    """The studies of a folder with nnU-Net's, BraTS's or other recognisable names, at any depth."""
    by_place: dict[Path, list[Path]] = defaultdict(list)
    for path in nifti_files(folder):
        by_place[path.parent].append(path)
    studies = []
    for place, files in by_place.items():
        studies += _nnunet_studies(place, files, channels) or _named_studies(place, files, channels)
    return studies


def file_study(path: Path, channels: tuple[str, ...]) -> Study:
    """A study of one file; where one channel is wanted, the file is that channel."""
    found = recognise_name(path.name)
    if len(channels) == 1:
        level = Level.OK if channels == (ANY,) or found.channel in (None, channels[0]) else Level.WARN
        said = f", although {found.reason}" if level is Level.WARN else ""
        found = Recognised(channels[0], f"it is the only file, and {channels[0]} the only channel{said}", level)
    study = Study(stem(path.name), stem(path.name), path.parent, "file", channels)
    study.candidates = _candidates({path: found})
    return study


def _nnunet_studies(place: Path, files: Sequence[Path], channels: tuple[str, ...]) -> list[Study]:
    """nnU-Net's cases, if all files of a folder end in channel numbers from 0 on."""
    matches = [_NNUNET.match(stem(path.name)) for path in files]
    if not all(matches) or any(recognise_name(path.name).channel for path in files):
        return []
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for path, match in zip(files, matches, strict=True):
        if match is not None:
            cases[match["case"]][int(match["channel"])] = path
    if max(max(numbers) for numbers in cases.values()) >= _MOST_CHANNELS or not all(0 in one for one in cases.values()):
        return []
    stated = _nnunet_names(place)
    return [_nnunet_study(place, case, numbers, channels, stated) for case, numbers in sorted(cases.items())]


def _nnunet_study(
    place: Path, case: str, numbers: dict[int, Path], channels: tuple[str, ...], stated: dict[int, str]
) -> Study:
    study = Study(case, case, place, "nnunet", channels, registered=True)
    found: dict[Path, Recognised] = {}
    for number, path in sorted(numbers.items()):
        if stated:
            name = stated.get(number, "")
            found[path] = Recognised(_channel_or_none(name), f"dataset.json's name of channel {number}")
        else:
            name = channels[number] if number < len(channels) else ""
            why = f"its number is {number:04d}, and no dataset.json names it: taken in the bundle's order"
            found[path] = Recognised(name or None, why, Level.WARN)
    study.candidates = _candidates(found)
    return study


def _nnunet_names(place: Path) -> dict[int, str]:
    for file in (place / "dataset.json", place.parent / "dataset.json"):
        try:
            settings = json.loads(file.read_text(encoding="utf-8"))
            stated = settings.get("channel_names") or settings.get("modality") or {}
            return {int(number): str(name) for number, name in stated.items()}
        except (OSError, ValueError, AttributeError):
            continue
    return {}


def _channel_or_none(name: str) -> str | None:
    try:
        return channel_named(name)
    except SettingError:
        return None


def _named_studies(place: Path, files: Sequence[Path], channels: tuple[str, ...]) -> list[Study]:
    """One study a prefix; files without a sequence go to the study whose prefix they share, else to all."""
    found = {path: recognise_with_sidecar(path, recognise_name(path.name)) for path in files}
    if not any(one.channel or one.silent for one in found.values()):
        return []
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if found[path].channel is not None:
            silent = recognise_name(path.name).silent
            groups["" if silent else prefix_of(path.name)].append(path)
    if place.name in groups and "" in groups:
        groups[""] += groups.pop(place.name)
    groups = _one_if_numbered(groups, found) or {"": []}
    for path in files:
        if found[path].channel is None:
            kin = [prefix for prefix in groups if prefix and stem(path.name).startswith(prefix)]
            for prefix in [max(kin, key=len)] if kin else groups:
                groups[prefix].append(path)
    studies = []
    for prefix, members in sorted(groups.items()):
        study = _named_study(place, prefix, channels)
        study.candidates = _candidates({path: found[path] for path in members})
        unmoved = [path for path in members if found[path].channel and not says_moved(path.name)]
        study.registered = study.layout == "brats" or len(unmoved) <= 1
        studies.append(study)
    return studies


def _one_if_numbered(groups: dict[str, list[Path]], found: dict[Path, Recognised]) -> dict[str, list[Path]]:
    """One group, if all prefixes are numbers and no channel comes twice: they are series numbers, not cases."""
    all_channels = [found[path].channel for paths in groups.values() for path in paths]
    numbered = len(groups) > 1 and all(prefix.isdigit() for prefix in groups)
    if numbered and len(set(all_channels)) == len(all_channels):
        return {"": [path for paths in groups.values() for path in paths]}
    return groups


def _named_study(place: Path, prefix: str, channels: tuple[str, ...]) -> Study:
    """A study with its case's and subject's names, by what stands in front of the sequences."""
    visit = VISIT.search(prefix)
    case = prefix or place.name
    subject = case
    if visit is not None:
        # "study1" in the folder patient01 is a visit of patient01; "anna_study1" one of anna.
        subject = prefix[: visit.start()].strip(" _-.") or place.name
        case = prefix if visit.start() else f"{place.name}-{prefix}"
    brats = _BRATS_CASE.match(prefix)
    layout = "brats" if prefix and prefix == place.name else "names"
    return Study(case, brats["subject"] if brats else subject, place, layout, channels)


def _candidates(found: Mapping[Path, Recognised]) -> list[Candidate]:
    """Candidates; where two fit one channel, with the traits that their headers state."""
    channels = [one.channel for one in found.values()]
    return [
        Candidate(
            Choice(one.channel, path, one.reason, one.level),
            traits_of_file(path, agrees=one.level is Level.OK, look=channels.count(one.channel) > 1),
        )
        for path, one in found.items()
    ]
