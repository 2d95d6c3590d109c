"""Heads that were published as pictures, one file a slice, stacked again. Imports neither torch nor MONAI.

A *stack* is a folder of pictures ``<name>_<number>.png`` or ``.jpg``, numbered from the feet up and shown in
radiological display order (the patient's right is on the left, the front is up). A picture's colours are *channels*: MR
sequences that were put into one file. A channel that is a *copy* of another one holds a place and says nothing. A mask
is ``<name>_<number>_mask.png``, bright where something was marked.

Pictures have no spacing. Where it was not published it is *estimated*, from a head of average size:

- in the plane: the largest slice of the head has the area of an ellipse of :data:`HEAD_LENGTH_MM` x
  :data:`HEAD_BREADTH_MM`, between the means of men and women in the survey of Gordon et al. 1989 (Natick TR-89/044);
- between slices: those that show the head cover :data:`HEIGHT_MM`, which whole-brain scans do: 22 slices of 5 mm with
  gaps of 1.5, for instance.

It is wrong by as much as this head differs from the average one, and by whatever was cut off. Who measures with it
shows how much the result depends on it (``scale``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.load.gate import Policy
from neurobundle.load.names import PICTURE_SUFFIXES
from neurobundle.load.pictures import judge_picture, same_channels

#: Means of men (197 and 152 mm) and women (187 and 144 mm), Gordon et al. 1989.
HEAD_LENGTH_MM, HEAD_BREADTH_MM = 192.0, 148.0
HEIGHT_MM = 140.0

#: A slice shows the head if it has this share of the largest slice's area.
LEAST_AREA = 0.1
#: The head is brighter than this share of Otsu's threshold, which fat and fluid draw up.
DARKER_THAN_OTSU = 0.5

MASK = "_mask"
#: A mask is saved as black and white; JPEG-like greys in between fall to their side.
MASK_LEVEL = 127

_NUMBERED = re.compile(r"(?P<name>.*?)_?(?P<number>\d+)$")
#: A slice above or below the head is black, and no fault.
_POLICY = Policy(allow_empty=True)


@dataclass(frozen=True)
class Stack:
    """One head.

    Attributes:
        case: the folder's name.
        channels: channel -> ``(i, j, k)`` uint8, RAS+, without those that are copies.
        mask: ``(i, j, k)`` uint8, 0 or 1; None if there are no masks.
        copies: channels that said what another one says, and were left out.
        spacing_mm: along R, A and S.
        estimated: whether the spacing is a guess.
    """

    case: str
    channels: dict[str, npt.NDArray[np.uint8]]
    mask: npt.NDArray[np.uint8] | None
    copies: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    estimated: bool

    @property
    def affine(self) -> npt.NDArray[np.float64]:
        """4 x 4, voxel index to RAS+ mm around the middle of the stack."""
        affine = np.diag([*self.spacing_mm, 1.0])
        shape = next(iter(self.channels.values())).shape
        affine[:3, 3] = -(np.array(shape) - 1) / 2 * self.spacing_mm
        return affine


def find_stacks(folder: str | Path) -> list[Path]:
    """The folders below one, or the folder itself, that hold numbered pictures.

    Raises:
        NoInputError: if there is none.
    """
    root = Path(folder)
    found = [path for path in sorted([root, *root.rglob("*")]) if path.is_dir() and _numbered(path)]
    if not found:
        raise NoInputError(
            "there are no folders of numbered pictures here",
            "Give a folder of folders with <name>_<number>.png or .jpg, one a case.",
            file=root,
        )
    return found


def read_stack(
    folder: Path,
    channels: Sequence[str],
    reference: str | None = None,
    spacing_mm: Sequence[float] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Stack:
    """Read and stack one folder.

    Args:
        folder: of pictures.
        channels: what the colours are, in the order of the file; one name for grey pictures.
        reference: the channel that others are copies of, and that the head is measured in; the first if None.
        spacing_mm: along R, A and S; estimated if None.
        scale: what the spacing is multiplied by, in the plane and between slices.

    Raises:
        SettingError: if the reference is no channel, or a spacing no length.
        InputError: for a folder without slices, a number that is there twice or not at all, a picture that cannot be
            read, has another size than the first or other colours, or a mask that is missing where others are there.
    """
    if reference is not None and reference not in channels:
        raise SettingError(f"the reference {reference!r} is none of {list(channels)}", "Name one of the channels.")
    if spacing_mm is not None and (len(spacing_mm) != 3 or min(spacing_mm) <= 0):
        raise SettingError(f"the spacing is {list(spacing_mm)}", "Give three lengths in mm: R, A and S.")
    if len(scale) != 2 or min(scale) <= 0:
        raise SettingError(f"the scale is {scale}", "Give two factors above 0: in the plane, between slices.")
    slices = _numbered(folder)
    _require_all(slices, folder)
    pictures = [_read(path) for path in slices.values()]
    _require_alike(pictures, list(slices.values()), len(channels))
    volume = _as_ras(np.stack([picture.reshape(*picture.shape[:2], -1)[..., : len(channels)] for picture in pictures]))
    by_name = {name: np.ascontiguousarray(volume[..., n]) for n, name in enumerate(channels)}
    main = reference or channels[0]
    copies = _copies(volume, list(channels), main) if len(channels) > 1 else ()
    kept = {name: data for name, data in by_name.items() if name not in copies}
    mask = _mask(list(slices.values()), pictures[0].shape[:2])
    i, j, k = spacing_mm if spacing_mm is not None else estimate_spacing(by_name[main], folder)
    spacing = (i * scale[0], j * scale[0], k * scale[1])
    return Stack(folder.name, kept, mask, copies, spacing, spacing_mm is None)


def estimate_spacing(head: npt.NDArray[Any], file: str | Path = "") -> tuple[float, float, float]:
    """The spacing that makes a head of average size of this one, mm along R, A and S.

    Args:
        head: ``(i, j, k)``, k along the body's axis; its pixels are square.
        file: for the message.

    Raises:
        InputError: if no head is seen.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    if not head.any() or head.min() == head.max():
        raise InputError("no head is seen, so its size cannot be estimated", "Give the spacing.", file=file)
    bright = head > DARKER_THAN_OTSU * float(threshold_otsu(head.ravel()))
    areas = np.zeros(head.shape[2])
    for k in range(head.shape[2]):
        pieces, count = ndimage.label(ndimage.binary_opening(bright[:, :, k], iterations=2))
        if count:
            largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
            areas[k] = ndimage.binary_fill_holes(pieces == largest).sum()
    if not areas.any():
        raise InputError("no head is seen, so its size cannot be estimated", "Give the spacing.", file=file)
    in_plane = float(np.sqrt(np.pi / 4 * HEAD_LENGTH_MM * HEAD_BREADTH_MM / areas.max()))
    between = HEIGHT_MM / int((areas > LEAST_AREA * areas.max()).sum())
    return round(in_plane, 4), round(in_plane, 4), round(between, 4)


def _numbered(folder: Path) -> dict[int, Path]:
    """The slices of a folder by number, masks left out."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        match = _NUMBERED.match(path.stem)
        if not name.endswith(PICTURE_SUFFIXES) or path.stem.endswith(MASK) or not match:
            continue
        number = int(match["number"])
        if number in found:
            cause = f"{found[number].name} and {path.name} have the same number"
            raise InputError(cause, "Keep one case a folder.", case=folder.name, file=folder)
        found[number] = path
    return dict(sorted(found.items()))


def _require_all(slices: dict[int, Path], folder: Path) -> None:
    """A gap in the numbers is a slice that is missing: the stack would be too short."""
    if not slices:
        raise InputError("it holds no numbered pictures", "They are <name>_<number>.png or .jpg.", file=folder)
    gaps = sorted(set(range(min(slices), max(slices) + 1)) - set(slices))
    if gaps:
        raise InputError(f"the slices {gaps[:5]} are missing", "Copy the folder again.", file=folder)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    verdict, data, _ = judge_picture(path, _POLICY)
    verdict.require(path)
    assert data is not None
    return np.asarray(data, np.uint8)


def _require_alike(pictures: Sequence[npt.NDArray[Any]], paths: Sequence[Path], channels: int) -> None:
    first = pictures[0]
    for picture, path in zip(pictures, paths, strict=True):
        if picture.shape != first.shape:
            cause = f"it has the shape {picture.shape} and {paths[0].name} has {first.shape}"
            raise InputError(cause, "All slices of a case have one size.", file=path)
    colours = 1 if first.ndim == 2 else first.shape[2]
    if colours < channels:
        raise InputError(
            f"it has {colours} colours, and {channels} channels were named", "Name one a colour.", file=paths[0]
        )


def _as_ras(slices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``(slice, row, column, ...)`` in radiological display order, from the feet up, as ``(i, j, k, ...)`` in RAS+."""
    return np.moveaxis(slices, 0, 2).swapaxes(0, 1)[::-1, ::-1]


def _copies(volume: npt.NDArray[Any], channels: Sequence[str], main: str) -> tuple[str, ...]:
    """The channels that say what the main one, or an earlier one, says."""
    dropped: list[str] = []
    ordered = sorted(range(len(channels)), key=lambda n: (channels[n] != main, n))
    flat = volume.reshape(volume.shape[0], -1, len(channels))
    for place, n in enumerate(ordered):
        for other in ordered[:place]:
            pair = np.stack([flat[..., other], flat[..., n], np.zeros_like(flat[..., n])], axis=-1)
            if channels[other] not in dropped and same_channels(pair) == "0 and 1":
                dropped.append(channels[n])
                break
    return tuple(name for name in channels if name in dropped)


def _mask(slices: Sequence[Path], shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    masks = [path.with_name(f"{path.stem}{MASK}.png") for path in slices]
    there = [path for path in masks if path.is_file()]
    if not there:
        return None
    absent = next((path for path in masks if path not in there), None)
    if absent is not None:
        raise InputError("this slice's mask is missing and others are there", "Copy the folder again.", file=absent)
    read = [_read(path) for path in masks]
    flat = [mask if mask.ndim == 2 else mask[..., 0] for mask in read]
    odd = next((path for path, mask in zip(masks, flat, strict=True) if mask.shape != shape), None)
    if odd is not None:
        raise InputError(f"the mask has another size than its slice, {shape}", "Draw it on its slice.", file=odd)
    return np.ascontiguousarray(_as_ras(np.stack(flat)) > MASK_LEVEL).astype(np.uint8)
