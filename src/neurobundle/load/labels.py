"""The check of a training pair: does the gate pass both files, do they share a grid, are the labels known.

*Facts* are what the check learned on the way: values, and a content hash of each file's voxels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.load.gate import LABEL, STRICT, Policy
from neurobundle.load.grids import require_same_grid
from neurobundle.load.names import PICTURE_SUFFIXES, case_name
from neurobundle.load.nifti import read_header, read_nifti
from neurobundle.load.pictures import read_picture

#: Values that lie within this span are counted one by one.
_MOST_COUNTED = 1 << 16


@dataclass(frozen=True)
class Volume:
    """The voxels of a file with their grid.

    Attributes:
        path: the file.
        data: (i, j, k), scaled as the header says.
        affine: (4, 4), RAS+ mm; None in a picture.
    """

    path: Path
    data: npt.NDArray[Any]
    affine: npt.NDArray[np.floating] | None


@dataclass(frozen=True)
class PairFacts:
    """What :func:`check_pair` learned.

    Attributes:
        shape: of the image and the label.
        values: the label's values; none without a label map.
        image_hashes: the content hash of each image file.
        label_hash: the label's, or None if it is empty or not there: empty label maps of one shape are all the same.
    """

    shape: tuple[int, ...]
    values: frozenset[int]
    image_hashes: tuple[str, ...]
    label_hash: str | None


def check_pair(
    image_path: str | Path | Sequence[str | Path],
    label_path: str | Path | None,
    known_labels: Collection[int] | None = None,
    *,
    case: str = "",
    allow_empty: bool = False,
) -> PairFacts:
    """Read a pair whole and refuse what training would choke on, or learn wrongly from.

    Args:
        image_path: the image, or one file a channel.
        label_path: its label map; None where there is none to be read, since the case as a whole has a class.
        known_labels: the values that the label may have; any whole numbers if None.
        case: the case's name for the message; the image's own if empty.
        allow_empty: let channels without a signal pass, but not all of a case.

    Raises:
        InputError: names case, file, cause and way out: unreadable, truncated or damaged; not 2D or 3D; colour or
            complex; a singular affine; NaN or infinite voxels; an image of one value; channels or a label on another
            grid (shape, or corners more than 0.01 mm apart); label values that are unknown or not whole.
    """
    paths = [Path(image_path)] if isinstance(image_path, (str, Path)) else [Path(path) for path in image_path]
    try:
        images = [read_volume(path, replace(STRICT, allow_empty=allow_empty)) for path in paths]
        if all(image.data.min() == image.data.max() for image in images):
            raise InputError("there is no signal in any channel", "Take the case out of the datalist.", file=paths[0])
        for other in images[1:]:
            _require_same_grid(other, images[0], "the channel", "Resample the channels onto one grid.")
        values, label_hash = (
            (frozenset[int](), None) if label_path is None else _check_label(Path(label_path), images[0], known_labels)
        )
    except InputError as error:
        error.for_case(case or case_name(paths[0]))
        raise
    return PairFacts(images[0].data.shape, values, tuple(content_hash(image.data) for image in images), label_hash)


def _check_label(path: Path, image: Volume, known: Collection[int] | None) -> tuple[frozenset[int], str | None]:
    """The values of an image's label map, and its content hash unless it is empty."""
    label = read_volume(path, LABEL)
    _require_same_grid(label, image, "the label", "Draw or resample the label on its image's grid.")
    values = label_values(label.data, label.path, known)
    return values, content_hash(label.data) if label.data.any() else None


def label_values(data: npt.NDArray[Any], path: Path, known: Collection[int] | None = None) -> frozenset[int]:
    """The values of a label map.

    Args:
        data: its voxels.
        path: its file, for the message.
        known: the values that it may have; any whole numbers if None.

    Raises:
        InputError: if one is not whole, or not known.
    """
    values = _distinct(data)
    broken = [float(value) for value in values if value != round(float(value))]
    if broken:
        cause = f"labels must be whole numbers, it has {_few(broken)}"
        raise InputError(cause, "Resample label maps with the nearest neighbour, and do not smooth them.", file=path)
    whole = {int(value) for value in values}
    unknown = sorted(whole - set(known)) if known is not None else []
    if unknown:
        cause = f"labels {{{_few(unknown)}}} not in {_as_set(known or ())}"
        raise InputError(cause, "Correct the label map, or name its values with --label-values.", file=path)
    return frozenset(whole)


def _distinct(data: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The distinct values; counting is a tenth of the time of sorting where they are whole and few."""
    low, high = (data.min(), data.max()) if data.size else (0, 0)
    if data.dtype.kind == "f" and not np.array_equal(data, np.rint(data)):
        return np.unique(data)
    if float(high) - float(low) > _MOST_COUNTED:
        return np.unique(data)
    counts = np.bincount((data - low).ravel(order="K").astype(np.intp, copy=False))
    return np.flatnonzero(counts) + int(low)


def content_hash(data: npt.NDArray[Any]) -> str:
    """The sha256 of shape and voxels, the same whatever the compression, the data type on disk or the header.

    Voxels count as float32, which is how a network sees them.

    >>> content_hash(np.arange(3, dtype="uint8")) == content_hash(np.arange(3, dtype="float64"))
    True
    """
    digest = hashlib.sha256(repr(data.shape).encode())
    with np.errstate(over="ignore"):
        voxels = np.ascontiguousarray(data, dtype="<f4") + np.float32(0)  # -0.0 becomes 0.0
    digest.update(voxels.data)
    return digest.hexdigest()


def read_volume(path: Path, policy: Policy = STRICT) -> Volume:
    """A NIfTI file, 2D or 3D, or a picture, through the gate.

    Raises:
        InputError: if it is missing, damaged, not what its name says, or refused by the gate.
    """
    if path.name.lower().endswith(PICTURE_SUFFIXES):
        return Volume(path, read_picture(path, policy), None)
    flat = len(read_header(path).shape) == 2
    scan = read_nifti(path, replace(policy, spatial_dims=2) if flat else policy)
    return Volume(path, scan.data, scan.affine)


def _require_same_grid(volume: Volume, image: Volume, what: str, way_out: str) -> None:
    require_same_grid(
        volume.path,
        volume.data.shape,
        volume.affine,
        image.path,
        image.data.shape,
        image.affine,
        what=what,
        way_out=way_out,
    )


def _few(values: Iterable[float], most: int = 5) -> str:
    listed = [f"{value:g}" for value in values]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _as_set(values: Collection[int]) -> str:
    ordered = sorted(values)
    if len(ordered) > 1 and ordered[-1] - ordered[0] == len(ordered) - 1:
        return f"{{{ordered[0]}..{ordered[-1]}}}"
    return f"{{{', '.join(map(str, ordered))}}}"
