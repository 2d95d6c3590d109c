"""Slices that are pictures: one as a scan, and folders of them with their masks as pairs.

A *slice picture* is a PNG or JPEG of one slice. It has no affine, so its display counts as radiological: its columns
run to the patient's left and its rows to the back. A pixel counts as 1 mm, here as in every score, since nothing better
is known; :class:`neurobundle.prepare.slices.ToSlicesd` asks for the width of the field of view. Imports no torch.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.load.gate import STRICT, Policy, refuse
from neurobundle.load.names import is_image_name, safe_name, stem
from neurobundle.load.pairs import FoundPairs, Pair
from neurobundle.load.pictures import judge_picture
from neurobundle.load.scan import Scan

#: Voxel to millimetres of every slice picture: columns to the left, rows to the back.
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])

#: NIFTI_XFORM_ALIGNED_ANAT (nifti1.h): the code for results from files that state none.
ALIGNED_ANAT = 2

UNKNOWN_SIZE = "a picture does not say millimetres or directions: a pixel counts as 1 mm, its display as radiological"

#: What a table beside ``images/`` and ``masks/`` is called, and its columns for a slice and for its person.
TABLE, SLICE_COLUMN, PERSON_COLUMN = "index.csv", "id", "person"

#: What ends the name of a mask that stands beside its picture.
MASK_ENDING = "_mask"

#: What a mask that was saved to be looked at has in its region.
WHITE = 255


def read_slice(path: str | Path, policy: Policy = STRICT) -> Scan:
    """A slice picture as a scan of one slice.

    Args:
        path: a PNG or JPEG, grey; in colour where the policy asks for three channels. A mask of 0 and 255 is one of
            0 and 1.
        policy: what is allowed and expected.

    Returns:
        Data ``(column, row, 1)``, or ``(column, row, 1, channel)`` in colour.

    Raises:
        InputError: if it is missing or unreadable, the gate refuses it, or it has colours that nobody asked for.
    """
    path = Path(path)
    verdict, pixels, _ = judge_picture(path, policy)
    if pixels is not None and pixels.ndim == 3 and policy.channels != pixels.shape[2]:
        colour = refuse("type", "RGB images are not supported", "Export it as one number a voxel.", path)
        verdict.add(colour)
    verdict.require(path)
    assert pixels is not None
    if policy.kind == "label":
        pixels = without_white(pixels)
    data = np.ascontiguousarray(np.swapaxes(pixels, 0, 1)[:, :, None])
    return Scan(data, PICTURE_AFFINE.copy(), (*verdict.warnings, UNKNOWN_SIZE), ALIGNED_ANAT)


def without_white(mask: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A mask of black and white as one of 0 and 1; any other label map as it is.

    >>> without_white(np.array([0, 255], np.uint8)).tolist(), without_white(np.array([0, 2], np.uint8)).tolist()
    ([0, 1], [0, 2])
    """
    return (mask == WHITE).astype(np.uint8) if np.isin(mask, (0, WHITE)).all() else mask


def is_slice_folder(folder: Path) -> bool:
    """Whether a folder is of one of the two kinds that :func:`find_slices` knows."""
    if not (folder / TABLE).is_file():
        return False
    return ((folder / "images").is_dir() and (folder / "masks").is_dir()) or any(folder.glob(f"*/*{MASK_ENDING}.png"))


def find_slices(folder: Path) -> FoundPairs:
    """The pairs of a folder of slices and masks, each with its person as subject.

    Two kinds are known: ``images/`` and ``masks/`` beside a table ``index.csv`` with the columns ``id`` and ``person``
    (the form in which the contrast-enhanced set of Cheng 2015 is kept here); and one folder a person, in which a
    picture ``<name>.jpg`` stands beside its mask ``<name>_mask.png`` (Buda 2019).

    Args:
        folder: the data folder.

    Returns:
        The pairs sorted by case, and a problem for each picture or mask without the other, or without a person.

    Raises:
        InputError: if the table cannot be read, or lacks a column.
    """
    if (folder / "images").is_dir():
        return _by_table(folder)
    pairs: list[Pair] = []
    problems: list[InputError] = []
    for person in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = {stem(path.name): path for path in sorted(person.iterdir()) if is_image_name(path.name)}
        masks = {name.removesuffix(MASK_ENDING): path for name, path in names.items() if name.endswith(MASK_ENDING)}
        pictures = {name: path for name, path in names.items() if not name.endswith(MASK_ENDING)}
        _pair(pictures, masks, dict.fromkeys(pictures, person.name), pairs, problems)
    return FoundPairs("slices", pairs, problems)


def _by_table(folder: Path) -> FoundPairs:
    persons = _persons(folder / TABLE)
    pictures, masks = (
        {stem(path.name): path for path in sorted((folder / name).iterdir()) if is_image_name(path.name)}
        for name in ("images", "masks")
    )
    pairs: list[Pair] = []
    problems: list[InputError] = []
    known = {name: persons[_number(name)] for name in pictures if _number(name) in persons}
    _pair(pictures, masks, known, pairs, problems)
    return FoundPairs("slices", pairs, problems)


def _pair(
    pictures: dict[str, Path],
    masks: dict[str, Path],
    persons: dict[str, str],
    pairs: list[Pair],
    problems: list[InputError],
) -> None:
    """Pair by name; what is left over is a problem."""
    for name, path in pictures.items():
        cause = "it is an image without a mask" if name not in masks else "the table has no row for it"
        if name in masks and name in persons:
            pairs.append(Pair(safe_name(name), path, masks[name], persons[name]))
        else:
            problems.append(InputError(cause, "Add it, or take the image out.", case=safe_name(name), file=path))
    for name in sorted(set(masks) - set(pictures)):
        cause = "it is a mask without an image"
        problems.append(InputError(cause, "Add its image, or take it out.", case=safe_name(name), file=masks[name]))


def _persons(table: Path) -> dict[str, str]:
    """Slice number to person."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the table cannot be read ({error})", "Save it as CSV in UTF-8.", file=table) from error
    for column in (SLICE_COLUMN, PERSON_COLUMN):
        if rows and column not in rows[0]:
            raise InputError(f"the table has no column {column!r}", f"It has {', '.join(rows[0])}.", file=table)
    return {_number(row[SLICE_COLUMN]): row[PERSON_COLUMN] for row in rows if row[PERSON_COLUMN]}


def _number(name: str) -> str:
    """A slice's name without leading zeros: the table says 1 where the file is called 0001."""
    return name.lstrip("0") or name
