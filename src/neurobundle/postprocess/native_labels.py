"""From logits on the network's grid to labels or probabilities on the native one, in little time and memory.

Both grids are read off the image: its affine says where the network's lies, also after a crop, and the record that
:class:`neurobundle.prepare.ToNetworkGridd` left says which the native one is. The *reach* of the network's grid is
where linear interpolation gives a value: up to half a voxel beyond its outermost centres. Beyond it all is background.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TraceKeys

from neurobundle import geometry
from neurobundle.errors import InputError
from neurobundle.postprocess.regions import region_labels, require_regions
from neurobundle.prepare.grid import Grid
from neurobundle.prepare.space import sample

#: A class is sampled where its probability is above this in some voxel nearby: elsewhere it is not the largest.
LEAST_PROBABILITY = 1e-3

_Box = tuple[slice, ...]


class _OnNativeGrid(MapTransform):
    """What both transforms below are made with: each key's logits become something on the native grid."""

    def __init__(self, keys: KeysCollection, orig_keys: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """What one case becomes."""
        result = dict(data)
        image = result[self.orig_key]
        for key in self.key_iterator(result):
            network, native = grids_of(image)
            result[key] = on_native(self.made(_plain(result[key]), network, native), native, image)
        return result

    def made(self, logits: torch.Tensor, network: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
        """``(channel, *native.shape)`` from logits on the network's grid, whose affine is given."""
        raise NotImplementedError


class LogitsToNativeLabelsd(_OnNativeGrid):
    """Logits on the network's grid become a label map ``(1, i, j, k)`` on the native one, uint8.

    As MONAI's ``Invertd`` followed by ``AsDiscreted(argmax=True)``: each class is interpolated linearly, and the
    largest wins. Here one class is sampled at a time, each only where it may be the largest, so that 33 classes at
    1 mm take the memory of a few. With ``labels`` channels are regions that overlap, a sigmoid each: where a region's
    probability is above the threshold it takes its label, and a later region wins, as
    :class:`neurobundle.postprocess.RegionsToLabelsd` has it.

    Args:
        keys: logits ``(class, i, j, k)``.
        orig_keys: the image that went through :class:`neurobundle.prepare.ToNetworkGridd`, and perhaps a crop.
        labels: region -> the label of a voxel that lies in it and in no later one, in the order of the channels; none
            for classes.
        threshold: a probability; of regions alone.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: if the image did not go through it, or there are more classes than uint8 can name.
        SettingError: for other regions than channels, or labels that are none.
    """

    #: Says to whoever estimates memory that the native grid's logits are never there all at once.
    class_by_class = True

    def __init__(
        self,
        keys: KeysCollection,
        orig_keys: str,
        labels: Mapping[str, int] | None = None,
        threshold: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, orig_keys, allow_missing_keys)
        self.labels = None if labels is None else region_labels(labels, threshold)
        self.threshold = threshold

    def made(self, logits: torch.Tensor, network: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
        """The label map of one case."""
        if self.labels is not None:
            require_regions(len(logits), self.labels)
            return native_regions(logits, network, native, list(self.labels.values()), self.threshold)[None]
        if len(logits) > np.iinfo(np.uint8).max + 1:
            raise InputError(f"{len(logits)} classes do not fit uint8", "Report this with the config.")
        return native_labels(logits, network, native)[None]


class LogitsToNativeProbabilitiesd(_OnNativeGrid):
    """Logits of regions become probabilities ``(region, i, j, k)`` on the native grid, each a sigmoid by itself.

    As MONAI's ``Invertd`` followed by ``Activationsd(sigmoid=True)``, but that what the network did not see has the
    probability 0, where a logit of 0 would say one half.

    Args:
        keys: logits ``(region, i, j, k)``.
        orig_keys: the image that went through :class:`neurobundle.prepare.ToNetworkGridd`, and perhaps a crop.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: if the image did not go through it.
    """

    def made(self, logits: torch.Tensor, network: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
        """The probabilities of one case."""
        return native_probabilities(logits, network, native)


def _plain(logits: Any) -> torch.Tensor:
    tensor = torch.as_tensor(logits)
    return (tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor).float()


def grids_of(image: Any) -> tuple[npt.NDArray[np.float64], Grid]:
    """The affine of the grid that the network saw, and the native grid.

    Args:
        image: what went through :class:`neurobundle.prepare.ToNetworkGridd`, and perhaps a crop.

    Raises:
        InputError: if it did not.
    """
    for applied in reversed(getattr(image, "applied_operations", [])):
        record = applied.get(TraceKeys.EXTRA_INFO) or {}
        if "native_affine" in record:
            i, j, k = (int(n) for n in applied[TraceKeys.ORIG_SIZE])
            return np.asarray(image.affine, float), Grid((i, j, k), np.asarray(record["native_affine"], float))
    raise InputError("the image did not go through ToNetworkGridd", "Use mri_preprocessing in the config.")


def on_native(values: torch.Tensor, native: Grid, image: MetaTensor) -> MetaTensor:
    """With the metadata of an image, but for where it lies and what was done to it."""
    found = MetaTensor(values).copy_meta_from(image)
    found.affine = torch.from_numpy(native.affine.copy())
    found.applied_operations = []
    return found


def native_labels(logits: torch.Tensor, affine: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
    """The class of each native voxel.

    Args:
        logits: ``(class, i, j, k)`` float32 on the network's grid.
        affine: the network grid's.
        native: the native grid; where the network's does not reach, the class is 0.

    Returns:
        ``native.shape``, uint8; the lower class of two alike.
    """
    labels = torch.zeros(native.shape, dtype=torch.uint8)
    everywhere = _native_box(tuple(slice(0, n) for n in logits.shape[1:]), affine, native)
    if everywhere is None:
        return labels
    # Beyond the reach every logit is 0: none is larger than another.
    best = sample(logits[:1], affine, _part(native, everywhere))[0]
    found = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    least = logits.logsumexp(dim=0) + float(np.log(LEAST_PROBABILITY))
    for value in range(1, len(logits)):
        box = _box_of((logits[value] > least).cpu().numpy())
        box = None if box is None else _native_box(box, affine, native)
        if box is None:
            continue
        within = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, everywhere, strict=True))
        here = sample(logits[value : value + 1], affine, _part(native, box))[0]
        found[within].masked_fill_(here > best[within], value)
        torch.maximum(best[within], here, out=best[within])
    labels[everywhere] = found.cpu()
    return labels


def native_regions(
    logits: torch.Tensor,
    affine: npt.NDArray[np.float64],
    native: Grid,
    labels: Sequence[int],
    threshold: float = 0.5,
) -> torch.Tensor:
    """The label of each native voxel, of regions that overlap.

    Args:
        logits: ``(region, i, j, k)`` float32 on the network's grid.
        affine: the network grid's.
        native: the native grid; where the network's does not reach, there is no region.
        labels: one a region; that of a later region wins.
        threshold: the probability above which a voxel is in a region.

    Returns:
        ``native.shape``, uint8.
    """
    found = torch.zeros(native.shape, dtype=torch.uint8)
    least = float(np.log(threshold / (1 - threshold)))
    for region, label in zip(logits, labels, strict=True):
        # Beyond the reach the difference is 0, which is not above it.
        above = region[None] - least
        box = _box_of((above[0] > 0).cpu().numpy())
        box = None if box is None else _native_box(box, affine, native)
        if box is not None:
            found[box].masked_fill_((sample(above, affine, _part(native, box))[0] > 0).cpu(), label)
    return found


def native_probabilities(logits: torch.Tensor, affine: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
    """The probabilities of each native voxel.

    Args:
        logits: ``(region, i, j, k)`` float32 on the network's grid.
        affine: the network grid's.
        native: the native grid; where the network's does not reach, the probability is 0.

    Returns:
        ``(region, *native.shape)``, float32.
    """
    probabilities = logits.new_zeros((len(logits), *native.shape))
    box = _native_box(tuple(slice(0, n) for n in logits.shape[1:]), affine, native)
    if box is None:
        return probabilities
    part = _part(native, box)
    reached = sample(torch.ones_like(logits[:1]), affine, part) > 0.5
    probabilities[(slice(None), *box)] = sample(logits, affine, part).sigmoid_() * reached
    return probabilities


def _box_of(mask: npt.NDArray[np.bool_]) -> _Box | None:
    """The smallest box that holds a mask; None if it is empty."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        # What is left after an axis was cut is all that the next one needs to look at.
        part = mask[tuple(box)]
        along = np.flatnonzero(part.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(along):
            return None
        box.append(slice(int(along[0]), int(along[-1]) + 1))
    return tuple(box)


def _native_box(box: _Box, affine: npt.NDArray[np.float64], native: Grid) -> _Box | None:
    """The native voxels that a box of the network's grid can reach by linear interpolation; None if there are none."""
    # A voxel's value reaches one network voxel far; at the grid's edge half a voxel of either grid beyond.
    ends = np.array([[side.start - 1.0, side.stop] for side in box])
    corners = np.array([[ends[axis, n >> axis & 1] for axis in range(3)] for n in range(8)])
    places = geometry.apply(np.linalg.inv(native.affine) @ affine, corners)
    low = np.clip(np.floor(places.min(axis=0)).astype(int) - 1, 0, native.shape)
    high = np.clip(np.ceil(places.max(axis=0)).astype(int) + 2, 0, native.shape)
    if (high <= low).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _part(native: Grid, box: _Box) -> Grid:
    """The grid of a box of native voxels."""
    moved = native.affine.copy()
    moved[:3, 3] = geometry.apply(native.affine, [side.start for side in box])
    i, j, k = (side.stop - side.start for side in box)
    return Grid((i, j, k), moved)
