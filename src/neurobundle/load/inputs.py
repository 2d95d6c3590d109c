"""What a user points at, as a list of cases.

An *input* is a NIfTI file or a folder that holds some, at any depth. Hidden files are nobody's scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from neurobundle.errors import NoInputError
from neurobundle.load.datalist import read_datalist
from neurobundle.load.names import unique_case_names
from neurobundle.types import NIFTI_SUFFIXES


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """All NIfTI files that the inputs name or hold, in the order of the inputs, each folder's sorted by name.

    Args:
        inputs: files and folders.

    Raises:
        NoInputError: if an input does not exist, or all of them together hold no NIfTI file.
    """
    found: list[Path] = []
    places = [Path(item) for item in inputs]
    for place in places:
        if not place.exists():
            raise NoInputError("there is no such file or folder", "Check the path.", file=place)
        found += sorted(_images_below(place)) if place.is_dir() else [place]
    if not found:
        names = ", ".join(map(str, places)) or "nothing"
        raise NoInputError(f"{names} holds no NIfTI file (.nii, .nii.gz)", "Point -i at a scan or a folder of scans.")
    return list(dict.fromkeys(found))


def _images_below(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.name.endswith(NIFTI_SUFFIXES)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def inference_items(
    dataset_dir: str | Path, datalist: str | Path | None = None, max_cases: int | None = None
) -> list[dict[str, str]]:
    """The cases of an inference config: a folder's NIfTI files, or those that a datalist names.

    Args:
        dataset_dir: the folder; with a datalist, what its paths are relative to.
        datalist: a datalist file; its ``test`` section if it has one, else ``training``.
        max_cases: only the first so many; all if None or 0.

    Returns:
        One ``{"image": path, "case": id}`` a case.
    """
    if datalist:
        items = _listed(datalist, dataset_dir)
    else:
        names = unique_case_names(find_images([dataset_dir]))
        items = [{"image": str(path), "case": case} for path, case in names.items()]
    return items[: max_cases or None]


def _listed(datalist: str | Path, dataset_dir: str | Path) -> list[dict[str, str]]:
    entries: Sequence[dict[str, object]] = []
    for section in ("test", "training"):
        entries = read_datalist(datalist, section=section, base_dir=dataset_dir, required=section == "training")
        if entries:
            break
    return [{"image": str(entry["image"]), "case": str(entry["case"])} for entry in entries]
