"""The light check of a training pair: can both files be read whole, do they share a grid, are the labels known.

*Facts* are what the check learned on the way: values, and a content hash of each file's voxels. The check reads NIfTI
through isal's gzip, which verifies the checksum that nibabel never looks at, and believes no header that promises
more voxels than the file can hold.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError

from neurobundle.errors import InputError, require
from neurobundle.geometry import corners_mm
from neurobundle.load.names import PICTURE_SUFFIXES, case_name

#: An image and its label whose corners lie further apart than this are refused, as in faults.md ("1e-2 mm at corners").
SAME_CORNERS_MM = 0.01

#: A deflate stream expands at most 1032 times (zlib, "Maximum expansion factor", zlib.net/zlib_tech.html).
MOST_EXPANSION = 1032

#: Bytes that may follow the voxels of a NIfTI file.
_MOST_TRAILING = 1 << 20

#: A NIfTI-1 header and its four extension bytes (nifti1.h), and a NIfTI-2 header (nifti2.h).
_HEADER_BYTES = {348: 352, 540: 544}

#: isal's stub calls this class an instance.
_DAMAGED_STREAM: type[Exception] = isal_zlib.error  # type: ignore[assignment]

_AGAIN = "Copy or export the file again."


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
        values: the label's values.
        image_hashes: the content hash of each image file.
        label_hash: the label's, or None if it is empty: empty label maps of one shape are all the same.
    """

    shape: tuple[int, ...]
    values: frozenset[int]
    image_hashes: tuple[str, ...]
    label_hash: str | None


def check_pair(
    image_path: str | Path | Sequence[str | Path],
    label_path: str | Path,
    known_labels: Collection[int] | None = None,
    *,
    case: str = "",
) -> PairFacts:
    """Read a pair whole and refuse what training would choke on, or learn wrongly from.

    Args:
        image_path: the image, or one file a channel.
        label_path: its label map.
        known_labels: the values that the label may have; any whole numbers if None.
        case: the case's name for the message; the image's own if empty.

    Raises:
        InputError: names case, file, cause and way out: unreadable, truncated or damaged; not 2D or 3D; colour or
            complex; a singular affine; NaN or infinite voxels; an image of one value; channels or a label on another
            grid (shape, or corners more than 0.01 mm apart); label values that are unknown or not whole.
    """
    paths = [Path(image_path)] if isinstance(image_path, (str, Path)) else [Path(path) for path in image_path]
    try:
        images = [usable(read_volume(path)) for path in paths]
        label = usable(read_volume(Path(label_path)))
        for image in images:
            if image.data.min() == image.data.max():
                cause = f"it has no signal: all voxels are {image.data.flat[0]:g}"
                raise InputError(cause, "Leave the case out.", file=image.path)
        for other in images[1:]:
            _require_same_grid(other, images[0], "the channel", "Resample the channels onto one grid.")
        _require_same_grid(label, images[0], "the label", "Draw or resample the label on its image's grid.")
        values = label_values(label, known_labels)
    except InputError as error:
        error.for_case(case or case_name(paths[0]))
        raise
    hashes = tuple(content_hash(image.data) for image in images)
    return PairFacts(images[0].data.shape, values, hashes, content_hash(label.data) if label.data.any() else None)


def label_values(label: Volume, known: Collection[int] | None = None) -> frozenset[int]:
    """The values of a label map.

    Raises:
        InputError: if one is not whole, or not known.
    """
    values = np.unique(label.data)
    broken = [float(value) for value in values if value != round(float(value))]
    if broken:
        cause = f"labels must be whole numbers, it has {_few(broken)}"
        raise InputError(
            cause, "Resample label maps with the nearest neighbour, and do not smooth them.", file=label.path
        )
    whole = {int(value) for value in values}
    unknown = sorted(whole - set(known)) if known is not None else []
    if unknown:
        cause = f"labels {{{_few(unknown)}}} not in {_as_set(known or ())}"
        raise InputError(cause, "Correct the label map, or name its values with --label-values.", file=label.path)
    return frozenset(whole)


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


def read_volume(path: Path) -> Volume:
    """A NIfTI file or a picture, read whole, its checksum verified.

    Raises:
        InputError: if it is missing, damaged, or not what its name says.
    """
    if not path.is_file():
        raise InputError("there is no such file", "Check the path.", file=path)
    if path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes)", _AGAIN, file=path)
    if path.name.lower().endswith(PICTURE_SUFFIXES):
        return Volume(path, _read_picture(path), None)
    try:
        content = _unpacked(path)
        image = _nifti_class(content).from_bytes(content)
        data = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, _DAMAGED_STREAM, HeaderDataError) as error:
        raise InputError(f"it cannot be read ({error})", _AGAIN, file=path) from error
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    return Volume(path, data, np.asarray(image.affine, float))


def _unpacked(path: Path) -> bytes:
    """All bytes of a .nii or .nii.gz, after its header was found to be possible."""
    packed = path.name.lower().endswith(".gz")
    size = path.stat().st_size
    with igzip.open(path, "rb") if packed else path.open("rb") as file:
        head = file.read(max(_HEADER_BYTES.values()))
        needed = _bytes_needed(head)
        most = size * MOST_EXPANSION if packed else size
        if needed > most:
            raise ValueError(
                f"its header asks for {needed} bytes, and it can hold {most} at most: truncated or damaged"
            )
        rest: bytes = file.read(max(0, needed + _MOST_TRAILING - len(head)))
        if file.read(1):
            raise ValueError(f"it holds over {_MOST_TRAILING} bytes behind the {needed} that its header asks for")
    content = head + rest
    if len(content) < needed:
        raise ValueError(f"it is truncated: expected {needed} bytes, got {len(content)}")
    return content


def _nifti_class(head: bytes) -> Any:
    """Nifti1Image or Nifti2Image by the header's own size, the first four bytes in either byte order."""
    sizes = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
    if not sizes & set(_HEADER_BYTES):
        raise ValueError("it is not a NIfTI file: its header does not begin with 348 or 540")
    return nibabel.Nifti1Image if 348 in sizes else nibabel.Nifti2Image


def _bytes_needed(head: bytes) -> int:
    kind = _nifti_class(head)
    length = kind.header_class.template_dtype.itemsize
    if len(head) < length:
        raise ValueError(f"it is truncated: its header has {len(head)} of {length} bytes")
    header = kind.header_class(head[:length], check=False)
    dim = [int(number) for number in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise ValueError(f"its header is damaged: dim[0] = {dim[0]}, not 1 to 7")
    for axis in range(1, dim[0] + 1):
        if dim[axis] < 1:
            raise ValueError(f"its header is damaged: dim[{axis}] = {dim[axis]}")
    count = 1
    for number in dim[1 : dim[0] + 1]:
        count *= number
    offset = float(header["vox_offset"])
    if not 0 <= offset < 2**31:
        raise ValueError(f"its header is damaged: vox_offset = {offset}")
    return int(offset) + count * int(header.get_data_dtype().itemsize)


def _read_picture(path: Path) -> npt.NDArray[Any]:
    pillow: Any = require("PIL.Image", extra="demo", feature="reading PNG and JPEG")
    try:
        with pillow.open(path) as picture:
            return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise InputError(f"it cannot be read ({error})", _AGAIN, file=path) from error


def usable(volume: Volume) -> Volume:
    """The volume, if it is a real-valued 2D or 3D image with a usable grid."""
    data, path = volume.data, volume.path
    if data.dtype.kind not in "buif" or (volume.affine is None and data.ndim == 3):
        kind = "complex" if data.dtype.kind == "c" else "RGB"
        raise InputError(f"{kind} images are not supported", "Export it as one number a voxel.", file=path)
    if data.ndim not in (2, 3):
        raise InputError(f"it must be 2D or 3D, its shape is {data.shape}", "Save one volume a file.", file=path)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        nan, infinite = int(np.isnan(data).sum()), int(np.isinf(data).sum())
        raise InputError(
            f"it has {nan} NaN and {infinite} infinite voxels", "Export it again, or leave it out.", file=path
        )
    if volume.affine is not None:
        if not np.isfinite(volume.affine).all():
            raise InputError("its affine has numbers that are not finite", "Mend the header.", file=path)
        if abs(np.linalg.det(volume.affine[:3, :3])) < 1e-9:
            raise InputError("its affine is singular", "Mend the header.", file=path)
    return volume


def _require_same_grid(volume: Volume, image: Volume, what: str, way_out: str) -> None:
    if volume.data.shape != image.data.shape:
        cause = f"{what} has shape {volume.data.shape}, its image {image.path.name} {image.data.shape}"
        raise InputError(cause, way_out, file=volume.path)
    if volume.affine is None or image.affine is None:
        return
    shape = (*volume.data.shape, 1)[:3]
    apart = corners_mm(shape, volume.affine) - corners_mm(shape, image.affine)
    distance = float(np.sqrt((apart**2).sum(axis=1)).max())
    if distance > SAME_CORNERS_MM:
        cause = f"{what} lies elsewhere than its image {image.path.name}: corners are {distance:.2f} mm apart"
        raise InputError(cause, way_out, file=volume.path)


def _few(values: Iterable[float], most: int = 5) -> str:
    listed = [f"{value:g}" for value in values]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _as_set(values: Collection[int]) -> str:
    ordered = sorted(values)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{{{ordered[0]}..{ordered[-1]}}}"
    return f"{{{', '.join(map(str, ordered))}}}"
