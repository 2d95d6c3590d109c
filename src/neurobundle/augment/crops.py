"""Crops about foreground and background voxels, whose places are found once.

The *places* of a label map are the flat numbers of its foreground voxels (above 0 in any channel) and of its background
voxels. To find them is a pass over the whole head, to draw one of them is not; so :class:`FindForegroundIndicesd`
stands in the deterministic part of a preprocessing, which MONAI's datasets cache, and :class:`RandPosNegCropd` draws.
Given the same places and the same seed it draws the centres that MONAI's RandCropByPosNegLabeld draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, MultiSampleTrait, Randomizable

from neurobundle.errors import InputError, SettingError

#: Appended to a label's key; MONAI's FgBgToIndicesd writes the same names.
FOREGROUND, BACKGROUND = "_fg_indices", "_bg_indices"


class Places(NamedTuple):
    """Flat numbers of voxels, ``(n,)`` each."""

    foreground: torch.Tensor
    background: torch.Tensor


def find_places(label: torch.Tensor, image: torch.Tensor | None = None, threshold: float = 0.0) -> Places:
    """Where the foreground is, and the background.

    Args:
        label: ``(channel, i, j, k)`` or ``(channel, i, j)``; foreground is above 0 in any channel. (MONAI leaves the
            first of several channels out, as if they were one-hot, and so misses a region there.)
        image: if given, background is only where a channel of it is above the threshold.
        threshold: for ``image``.

    Returns:
        int32, or int64 for an image that needs it.

    >>> find_places(torch.tensor([[[0, 1], [2, 0]]]))
    Places(foreground=tensor([1, 2], dtype=torch.int32), background=tensor([0, 3], dtype=torch.int32))
    """
    label = _plain(label)
    inside = (label > 0).any(dim=0)
    outside = ~inside
    if image is not None:
        image = _plain(image)
        if image.shape[1:] != label.shape[1:]:
            raise InputError(
                f"the image is {tuple(image.shape[1:])} and the label map {tuple(label.shape[1:])} voxels",
                "Bring both to one grid before.",
            )
        outside &= (image > threshold).any(dim=0)
    whole = torch.int32 if inside.numel() < 2**31 else torch.int64
    return Places(*(where.flatten().nonzero()[:, 0].to(whole) for where in (inside, outside)))


class FindForegroundIndicesd(MapTransform):
    """Find the places of label maps, and keep them beside: under ``<key>_fg_indices`` and ``<key>_bg_indices``.

    Args:
        keys: label maps, channel first.
        image_key: if given, background is only where this image is above the threshold.
        threshold: for ``image_key``.
        allow_missing_keys: as in MONAI.
    """

    def __init__(
        self,
        keys: KeysCollection,
        image_key: str | None = None,
        threshold: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.threshold = image_key, threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The case with the places of its label maps."""
        result = dict(data)
        image = None if self.image_key is None else result[self.image_key]
        for key in self.key_iterator(dict(data)):
            places = find_places(result[key], image, self.threshold)
            result[f"{key}{FOREGROUND}"], result[f"{key}{BACKGROUND}"] = places
        return result


def places_of(data: Mapping[Hashable, Any], label_key: str, image_key: str | None, threshold: float) -> Places:
    """The places that a case carries, or else those that are found now."""
    foreground, background = (data.get(f"{label_key}{name}") for name in (FOREGROUND, BACKGROUND))
    if foreground is not None and background is not None:
        return Places(foreground, background)
    return find_places(data[label_key], None if image_key is None else data[image_key], threshold)


def draw_start(
    rng: np.random.RandomState, places: Places, positive: float, shape: Sequence[int], size: Sequence[int]
) -> tuple[int, ...]:
    """The first voxel of a crop about a voxel of the foreground, or of the background, moved inside the image.

    Args:
        rng: what is drawn from: first which of the two, then the voxel.
        places: of the label map; if one of both is empty, the other is taken.
        positive: probability of the foreground.
        shape: of the image.
        size: of the crop; an axis on which the image is smaller starts at 0.

    Raises:
        InputError: if there is neither foreground nor background.
    """
    if not len(places.foreground) and not len(places.background):
        raise InputError("there is no voxel to put a crop about", "Lower the threshold, or leave image_key out.")
    if not len(places.foreground) or not len(places.background):
        positive = float(len(places.foreground) > 0)
    chosen = places.foreground if rng.rand() < positive else places.background
    flat = int(chosen[rng.randint(len(chosen))])
    centre = [int(c) for c in np.unravel_index(flat, tuple(shape))]
    return tuple(min(max(c - n // 2, 0), max(whole - n, 0)) for c, n, whole in zip(centre, size, shape, strict=True))


class RandPosNegCropd(Randomizable, MapTransform, MultiSampleTrait):
    """Crops about voxels of the foreground and of the background.

    Where the case carries the places of its label map (:class:`FindForegroundIndicesd`) they are used, and are gone
    from the crops. Crops are views of the image, as MONAI's are; what is under other keys is shared by all of them.

    Args:
        keys: images and label maps, all on one grid, channel first.
        label_key: the label map whose places count.
        patch_size: voxels of a crop.
        pos: how often the foreground, in proportion to ``neg``.
        neg: how often the background.
        num_samples: crops a case.
        image_key: if given and the case carries no places: background is only where this image is above the threshold.
        threshold: for ``image_key``.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for proportions, sizes or numbers that mean nothing.
        InputError: for an image smaller than a crop, or without a place for one.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        patch_size: Sequence[int],
        pos: float = 1.0,
        neg: float = 1.0,
        num_samples: int = 1,
        image_key: str | None = None,
        threshold: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.positive = share_of_positive(pos, neg)
        if num_samples < 1:
            raise SettingError(f"num_samples is {num_samples}", "Give 1 or more.")
        self.label_key, self.image_key, self.threshold = label_key, image_key, threshold
        self.patch_size, self.num_samples = check_patch(patch_size), num_samples
        self.starts: list[tuple[int, ...]] = []

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw where each crop begins."""
        if self.label_key not in data:
            raise SettingError(
                f"there is no label map {self.label_key!r}", "Load it before, or name another label_key."
            )
        shape = tuple(data[self.label_key].shape[1:])
        if len(shape) != len(self.patch_size) or any(
            n > whole for n, whole in zip(self.patch_size, shape, strict=True)
        ):
            raise InputError(
                f"a crop of {self.patch_size} voxels does not fit into {shape}",
                "Make patch_size smaller, or pad before with SpatialPadd.",
            )
        places = places_of(data, self.label_key, self.image_key, self.threshold)
        self.starts = [
            draw_start(self.R, places, self.positive, shape, self.patch_size) for _ in range(self.num_samples)
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """So many crops of one case."""
        self.randomize(data)
        rest = {
            k: v for k, v in data.items() if k not in (f"{self.label_key}{FOREGROUND}", f"{self.label_key}{BACKGROUND}")
        }
        return [
            rest | {key: cropped(data[key], start, self.patch_size) for key in self.key_iterator(dict(data))}
            for start in self.starts
        ]


def cropped(image: torch.Tensor, start: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """A view of a box that lies inside; a MetaTensor's affine says where it is."""
    image = torch.as_tensor(image)
    view = _plain(image)[(slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))]
    return placed(image, view, np.eye(len(size)), np.asarray(start, float))


def placed(image: torch.Tensor, voxels: torch.Tensor, matrix: np.ndarray, origin: np.ndarray) -> torch.Tensor:
    """Voxels of a patch with the metadata of their image and an affine of their own.

    Args:
        image: where they come from; if it carries no metadata, the voxels are returned as they are.
        voxels: of the patch, channel first.
        matrix: a displacement in the patch to one in the image, voxels.
        origin: the place of the patch's first voxel in the image.
    """
    if not isinstance(image, MetaTensor):
        return voxels
    patch = MetaTensor(voxels).copy_meta_from(image)
    rank, ndim = len(image.affine) - 1, len(origin)
    inside = np.eye(rank + 1)
    n = min(rank, ndim)
    inside[:n, :n], inside[:n, -1] = matrix[:n, :n], origin[:n]
    patch.affine = image.affine @ torch.as_tensor(inside, dtype=image.affine.dtype)
    return patch


def share_of_positive(pos: float, neg: float) -> float:
    """The probability of the foreground: pos / (pos + neg).

    Raises:
        SettingError: if that is no share.
    """
    if not (pos >= 0 and neg >= 0 and pos + neg > 0):
        raise SettingError(f"pos is {pos} and neg {neg}", "Give two proportions of 0 or more, not both 0.")
    return pos / (pos + neg)


def check_patch(size: Sequence[int]) -> tuple[int, ...]:
    """The sizes as whole numbers.

    Raises:
        SettingError: for sizes below 1, or neither two nor three of them.
    """
    if len(size) not in (2, 3) or any(int(n) != n or n < 1 for n in size):
        raise SettingError(f"patch_size is {list(size)}", "Give two or three whole numbers of voxels, 1 or more.")
    return tuple(int(n) for n in size)


def _plain(image: Any) -> torch.Tensor:
    tensor = torch.as_tensor(image)
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
