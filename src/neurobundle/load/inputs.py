"""What a user points at, as a list of cases.

An *input* is a NIfTI file or a folder that holds some, at any depth. Hidden files are nobody's scan.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, NoInputError
from neurobundle.load.datalist import read_datalist
from neurobundle.load.names import is_nifti_name, is_picture_name, unique_case_names
from neurobundle.load.scan import is_dicom

#: What a run puts between the case's name and ``.nii.gz``.
LABEL_MAP_SUFFIX = "_seg"

#: A label map, or what was kept of one that a person had edited.
_RESULT = re.compile(rf"{LABEL_MAP_SUFFIX}(\.edited-[0-9a-f]{{8}})?\.nii\.gz\Z|{LABEL_MAP_SUFFIX}\.png\Z")


def find_images(inputs: Iterable[str | Path], without: Path | None = None, pictures: bool = False) -> list[Path]:
    """All NIfTI files that the inputs name or hold, in the order of the inputs, each folder's sorted by name.

    Args:
        inputs: files and folders.
        without: a folder that is not looked into: where the results of an earlier run lie.
        pictures: take the PNG and JPEG files of a folder that holds no NIfTI file: slices.

    Returns:
        A file that does not exist is among them if it was named and another one does: its case fails, the others go on.

    Raises:
        NoInputError: if none of the inputs exists, or all of them together hold no NIfTI file.
    """
    found: list[Path] = []
    places = [Path(item) for item in inputs]
    for place in places:
        found += sorted(_images_below(place, without, pictures)) if place.is_dir() else [place]
    if not any(place.exists() for place in places):
        raise NoInputError("there is no such file or folder", "Check the path.", file=", ".join(map(str, places)))
    if not any(path.exists() for path in found):
        names = ", ".join(map(str, places)) or "nothing"
        kinds = "NIfTI file (.nii, .nii.gz)" + (" and no picture (.png, .jpg)" if pictures else "")
        raise NoInputError(f"{names} holds no {kinds}", "Point -i at a scan or a folder of scans.")
    return list(dict.fromkeys(found))


def _images_below(folder: Path, without: Path | None, pictures: bool) -> list[Path]:
    inside, output = folder.resolve(), without.resolve() if without is not None else None
    files = [path for _, files in walk(folder) for path in files]
    files = [path for path in files if output is None or not _is_result(path, inside, output)]
    images = [path for path in files if is_nifti_name(path.name)]
    return images or [path for path in files if pictures and is_picture_name(path.name)]


def _is_result(path: Path, folder: Path, output: Path) -> bool:
    """Whether a file below a folder is what an earlier run wrote into its output folder.

    Where results go beside their images, only the label maps' own name tells them apart.
    """
    if output == folder or output in folder.parents:
        return bool(_RESULT.search(path.name))
    return output in path.resolve().parents


def inference_items(
    dataset_dir: str | Path,
    datalist: str | Path | None = None,
    max_cases: int | None = None,
    output_dir: str | Path | None = None,
    channels: Sequence[str] | None = None,
    pictures: bool = False,
) -> list[dict[str, Any]]:
    """The cases of an inference config: a folder's NIfTI files, or its DICOM folders, or what a datalist names.

    With ``channels`` they are studies, whose scans lie on one grid: what ``neurobundle convert --channels`` writes.

    Args:
        dataset_dir: the folder; with a datalist, what its paths are relative to.
        datalist: a datalist file; its ``test`` section if it has one, else ``training``.
        max_cases: only the first so many; all if None or 0.
        output_dir: where results go; those of an earlier run are no cases.
        channels: the sequences that the network wants, in its order, if they are more than one.
        pictures: the network takes slices: where a folder holds no NIfTI file, its PNG and JPEG files are cases.

    Returns:
        One ``{"image": path, "case": id}`` a case; with channels, the paths of all of them.

    Raises:
        NoInputError: if there is nothing.
        InputError: if a study is no NIfTI files, one a channel; it says how to make them.
    """
    if datalist:
        items = _listed(datalist, dataset_dir)
    elif channels is not None:
        items = _studies(Path(dataset_dir), channels)
    else:
        items = _found(Path(dataset_dir), Path(output_dir) if output_dir else None, pictures)
    return items[: max_cases or None]


def walk(place: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder at any depth with its regular files, both sorted, links to folders not followed, nothing hidden."""
    for folder, inner, files in os.walk(place):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        paths = [Path(folder) / name for name in sorted(files) if not name.startswith(".")]
        yield Path(folder), [path for path in paths if path.is_file()]


def dicom_folders(place: Path) -> list[Path]:
    """The topmost folders that hold DICOM files themselves: what lies deeper belongs to the same study."""
    roots: list[Path] = []
    for folder, files in walk(place):
        if not any(root in (folder, *folder.parents) for root in roots) and any(map(is_dicom, files)):
            roots.append(folder)
    return roots


def _found(folder: Path, without: Path | None, pictures: bool) -> list[dict[str, Any]]:
    """A folder's NIfTI files; where it holds none, its DICOM folders, one volume each; else its pictures, if wanted."""
    try:
        names = unique_case_names(find_images([folder], without))
    except NoInputError:
        roots = dicom_folders(folder) if folder.is_dir() else []
        if not roots and not pictures:
            raise
        names = _dicom_cases(roots) if roots else unique_case_names(find_images([folder], without, pictures))
    return [{"image": str(path), "case": case} for path, case in names.items()]


def _studies(folder: Path, channels: Sequence[str]) -> list[dict[str, Any]]:
    """The NIfTI file of each channel of each study."""
    from neurobundle.load.study import find_studies

    items = []
    for study in find_studies(folder, channels):
        files = [study.choices[name].source for name in study.channels if name in study.choices]
        if len(files) < len(study.channels) or not all(isinstance(file, Path) for file in files):
            cause = study.lacks(study.missing[0]) if study.missing else "its scans are DICOM"
            way_out = f"`neurobundle convert {folder} --channels {','.join(channels)} --missing fill -o OUT` makes one."
            raise InputError(f"this is no study of one NIfTI file a channel: {cause}", way_out, case=study.case)
        items.append({"image": [str(file) for file in files], "case": study.case})
    return items


def _dicom_cases(roots: Sequence[Path]) -> dict[Path, str]:
    """Names by keys, never by a folder's name, which may be a patient's."""
    from neurobundle.load.dicom import find_dicom

    volumes = {
        root: [(study.key, v.key) for study in find_dicom(root).studies for v in study.volumes] for root in roots
    }
    keys = {root: found[0] if found else (f"empty-{n}", "") for n, (root, found) in enumerate(volumes.items())}
    studies = Counter(study for study, _ in keys.values())
    return {root: study if studies[study] == 1 else f"{study}-{volume}" for root, (study, volume) in keys.items()}


def _listed(datalist: str | Path, dataset_dir: str | Path) -> list[dict[str, Any]]:
    entries: Sequence[dict[str, Any]] = []
    for section in ("test", "training"):
        entries = read_datalist(datalist, section=section, base_dir=dataset_dir, required=section == "training")
        if entries:
            break
    return [{"image": entry["image"], "case": str(entry["case"])} for entry in entries]
