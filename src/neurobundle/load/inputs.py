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

from neurobundle.errors import NoInputError
from neurobundle.load.datalist import read_datalist
from neurobundle.load.names import is_nifti_name, unique_case_names
from neurobundle.load.scan import is_dicom

#: What a run puts between the case's name and ``.nii.gz``.
LABEL_MAP_SUFFIX = "_seg"

#: A label map, or what was kept of one that a person had edited.
_RESULT = re.compile(rf"{LABEL_MAP_SUFFIX}(\.edited-[0-9a-f]{{8}})?\.nii\.gz\Z")


def find_images(inputs: Iterable[str | Path], without: Path | None = None) -> list[Path]:
    """All NIfTI files that the inputs name or hold, in the order of the inputs, each folder's sorted by name.

    Args:
        inputs: files and folders.
        without: a folder that is not looked into: where the results of an earlier run lie.

    Returns:
        A file that does not exist is among them if it was named and another one does: its case fails, the others go on.

    Raises:
        NoInputError: if none of the inputs exists, or all of them together hold no NIfTI file.
    """
    found: list[Path] = []
    places = [Path(item) for item in inputs]
    for place in places:
        found += sorted(_images_below(place, without)) if place.is_dir() else [place]
    if not any(place.exists() for place in places):
        raise NoInputError("there is no such file or folder", "Check the path.", file=", ".join(map(str, places)))
    if not any(path.exists() for path in found):
        names = ", ".join(map(str, places)) or "nothing"
        raise NoInputError(f"{names} holds no NIfTI file (.nii, .nii.gz)", "Point -i at a scan or a folder of scans.")
    return list(dict.fromkeys(found))


def _images_below(folder: Path, without: Path | None) -> list[Path]:
    inside, output = folder.resolve(), without.resolve() if without is not None else None
    return [
        path
        for _, files in walk(folder)
        for path in files
        if is_nifti_name(path.name) and not (output is not None and _is_result(path, inside, output))
    ]


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
) -> list[dict[str, Any]]:
    """The cases of an inference config: a folder's NIfTI files, or its DICOM folders, or what a datalist names.

    Args:
        dataset_dir: the folder; with a datalist, what its paths are relative to.
        datalist: a datalist file; its ``test`` section if it has one, else ``training``.
        max_cases: only the first so many; all if None or 0.
        output_dir: where results go; those of an earlier run are no cases.

    Returns:
        One ``{"image": path, "case": id}`` a case.
    """
    if datalist:
        items = _listed(datalist, dataset_dir)
    else:
        items = _found(Path(dataset_dir), Path(output_dir) if output_dir else None)
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


def _found(folder: Path, without: Path | None) -> list[dict[str, Any]]:
    """A folder's NIfTI files; where it holds none, its DICOM folders, which are to be one volume each."""
    try:
        names = unique_case_names(find_images([folder], without))
    except NoInputError:
        roots = dicom_folders(folder) if folder.is_dir() else []
        if not roots:
            raise
        names = _dicom_cases(roots)
    return [{"image": str(path), "case": case} for path, case in names.items()]


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
