"""Label maps of heads, in FreeSurfer's numbers, as :mod:`neurobundle.augment.synthesis` wants them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from neurobundle.augment.tissues import tissues_of
from neurobundle.errors import InputError, NoInputError
from neurobundle.load.names import is_nifti_name
from neurobundle.load.scan import read_scan


def find_label_maps(label_maps: Sequence[str | Path] | str | Path) -> list[Path]:
    """NIfTI files, and those of folders, sorted, each once.

    Raises:
        NoInputError: if there are none, or a path is not there.
    """
    given = [label_maps] if isinstance(label_maps, str | Path) else list(label_maps)
    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            found += sorted(file for file in path.iterdir() if file.is_file() and is_nifti_name(file.name))
        elif path.is_file():
            found.append(path)
        else:
            raise NoInputError("there is no such file or folder", "Give label maps, or a folder of them.", file=path)
    if not found:
        where = given[0] if given else None
        raise NoInputError("there is no label map in it", "Label maps end in .nii or .nii.gz.", file=where)
    return list(dict.fromkeys(found))


@dataclass
class LabelMap:
    """A label map in RAS axes.

    Attributes:
        labels: ``(i, j, k)`` int16.
        spacing_mm: of its voxels.
        digest: of its content.
    """

    labels: np.ndarray
    spacing_mm: tuple[float, ...]
    digest: str


def read_label_map(path: Path) -> LabelMap:
    """A label map, turned to RAS axes and checked.

    Raises:
        InputError: if the gate refuses it, a value is no whole number, or a label has no tissue.
    """
    scan = read_scan(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(scan.data.astype(np.float32), scan.affine))
    try:
        labels = _whole(np.asarray(image.dataobj))
        tissues_of(torch.from_numpy(np.unique(labels)))
    except InputError as error:
        raise InputError(error.cause, error.way_out, file=path) from error
    spacing = tuple(float(step) for step in np.linalg.norm(image.affine[:3, :3], axis=0))
    digest = hashlib.sha256(np.ascontiguousarray(labels).tobytes() + repr(spacing).encode()).hexdigest()
    return LabelMap(np.ascontiguousarray(labels), spacing, digest)


def _whole(values: np.ndarray) -> np.ndarray:
    rounded = np.rint(values)
    if not np.array_equal(values, rounded):
        raise InputError("it has values that are not whole numbers", "Give a label map, not an image.")
    limits = np.iinfo(np.int16)
    low, high = float(rounded.min(initial=0)), float(rounded.max(initial=0))
    if low < limits.min or high > limits.max:
        raise InputError(f"it has values from {low:g} to {high:g}", "Give a label map in FreeSurfer's numbers.")
    return rounded.astype(np.int16)
