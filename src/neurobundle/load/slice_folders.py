"""Slices that are pictures: one as a scan, and folders of them with their masks as pairs.

A *slice picture* is a PNG or JPEG of one slice. It has no affine, so its display counts as radiological: its columns
run to the patient's left and its rows to the back. A pixel counts as 1 mm, here as in every score, since nothing better
is known; :class:`neurobundle.prepare.slices.ToSlicesd` asks for the width of the field of view. Imports no torch.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from neurobundle.errors import InputError
from neurobundle.load.gate import STRICT, Policy
from neurobundle.load.names import is_image_name, safe_name, stem
from neurobundle.load.pairs import FoundPairs, Pair
from neurobundle.load.pictures import read_picture
from neurobundle.load.scan import Scan

#: Voxel to millimetres of every slice picture: columns to the left, rows to the back.
PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])

#: NIFTI_XFORM_ALIGNED_ANAT (nifti1.h): the code for results from files that state none.
ALIGNED_ANAT = 2

UNKNOWN_SIZE = "a picture does not say millimetres or directions: a pixel counts as 1 mm, its display as radiological"

#: What a table beside ``images/`` and ``masks/`` is called, and its columns for a slice and for its person.
TABLE, SLICE_COLUMN, PERSON_COLUMN = "index.csv", "id", "person"


def read_slice(path: str | Path, policy: Policy = STRICT) -> Scan:
    """A slice picture as a scan of one slice.

    Args:
        path: a grey PNG or JPEG; it may be stored in colour.
        policy: what is allowed and expected.

    Returns:
        Data ``(column, row, 1)``.

    Raises:
        InputError: if it is missing, unreadable, coloured, or refused by the gate.
    """
    pixels = read_picture(Path(path), policy)
    data = np.ascontiguousarray(pixels.T[:, :, None])
    return Scan(data, PICTURE_AFFINE.copy(), (UNKNOWN_SIZE,), ALIGNED_ANAT)


def is_slice_folder(folder: Path) -> bool:
    """Whether a folder holds what :func:`find_slices` looks for."""
    return (folder / TABLE).is_file() and (folder / "images").is_dir() and (folder / "masks").is_dir()


def find_slices(folder: Path) -> FoundPairs:
    """The pairs of ``images/`` and ``masks/`` beside a table ``index.csv``, each with its person as subject.

    The table has the columns ``id``, the name of a picture with or without leading zeros, and ``person``.

    Args:
        folder: the data folder.

    Returns:
        The pairs sorted by case, and a problem for each picture or mask without the other, or without a person.

    Raises:
        InputError: if the table cannot be read, or lacks a column.
    """
    persons = _persons(folder / TABLE)
    pictures, masks = (
        {stem(path.name): path for path in sorted((folder / name).iterdir()) if is_image_name(path.name)}
        for name in ("images", "masks")
    )
    found = FoundPairs("slices")
    for name, path in pictures.items():
        person, case = persons.get(_number(name)), safe_name(name)
        if name in masks and person:
            found.pairs.append(Pair(case, path, masks[name], person))
        else:
            cause = "it is an image without a mask" if name not in masks else "the table has no row for it"
            found.problems.append(InputError(cause, "Add it, or take the image out.", case=case, file=path))
    for name in sorted(set(masks) - set(pictures)):
        cause = "it is a mask without an image"
        found.problems.append(
            InputError(cause, "Add its image, or take it out.", case=safe_name(name), file=masks[name])
        )
    return found


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
