"""Logits of many classes back on the native grid, in the memory of a few."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TraceKeys
from scipy import ndimage

from neurobundle import geometry
from neurobundle.errors import InputError
from neurobundle.prepare.grid import Grid
from neurobundle.prepare.space import sample

#: A class is sampled where its probability is above this in some voxel nearby: elsewhere it is not the largest.
LEAST_PROBABILITY = 1e-3


class LogitsToNativeLabelsd(MapTransform):
    """Logits on the network's grid become a label map ``(1, i, j, k)`` on the native one, uint8.

    As MONAI's ``Invertd`` followed by ``AsDiscreted(argmax=True)``: each class is interpolated linearly, and the
    largest wins. Here one class is sampled at a time, each only where it may be the largest, so that 33 classes at
    1 mm take the memory of a few.

    Args:
        keys: logits ``(class, i, j, k)``.
        orig_keys: the image that went through :class:`neurobundle.prepare.ToNetworkGridd`, which knows both grids.
        allow_missing_keys: as in MONAI.

    Raises:
        InputError: if the image did not go through it, or there are more classes than uint8 can name.
    """

    #: Says to whoever estimates memory that the native grid's logits are never there all at once.
    class_by_class = True

    def __init__(self, keys: KeysCollection, orig_keys: str, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key = orig_keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The label map of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            image, logits = result[self.orig_key], torch.as_tensor(result[key])
            if len(logits) > np.iinfo(np.uint8).max + 1:
                raise InputError(f"{len(logits)} classes do not fit uint8", "Report this with the config.")
            network, native = _grids(image)
            plain = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
            labels = MetaTensor(native_labels(plain.float(), network, native)[None]).copy_meta_from(image)
            labels.affine = torch.from_numpy(native.affine.copy())
            labels.applied_operations = []
            result[key] = labels
        return result


def _grids(image: Any) -> tuple[npt.NDArray[np.float64], Grid]:
    """The network grid's affine, and the native grid, by the record that the preprocessing left."""
    for applied in reversed(getattr(image, "applied_operations", [])):
        record = applied.get(TraceKeys.EXTRA_INFO) or {}
        if "network_affine" in record:
            i, j, k = (int(n) for n in applied[TraceKeys.ORIG_SIZE])
            return np.asarray(record["network_affine"], float), Grid((i, j, k), np.asarray(record["native_affine"]))
    raise InputError("the image did not go through ToNetworkGridd", "Use mri_preprocessing in the config.")


def native_labels(logits: torch.Tensor, affine: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
    """The class of each native voxel.

    Args:
        logits: ``(class, i, j, k)`` float32 on the network's grid.
        affine: the network grid's.
        native: the native grid; where the network's does not reach, the class is 0.

    Returns:
        ``native.shape``, uint8; the lower class of two alike.
    """
    best = sample(logits[:1], affine, native)[0]
    labels = torch.zeros(native.shape, dtype=torch.uint8)
    log_sum = logits.logsumexp(dim=0)
    threshold = float(np.log(LEAST_PROBABILITY))
    # Beyond the network's grid every logit is 0: none is larger than another.
    for value in range(1, len(logits)):
        box = _native_box((logits[value] - log_sum > threshold).cpu().numpy(), affine, native)
        if box is None:
            continue
        moved = native.affine.copy()
        moved[:3, 3] = geometry.apply(native.affine, [side.start for side in box])
        i, j, k = (side.stop - side.start for side in box)
        here = sample(logits[value : value + 1], affine, Grid((i, j, k), moved))[0]
        larger = here > best[box]
        best[box] = torch.where(larger, here, best[box])
        labels[box][larger.cpu()] = value
    return labels


def _native_box(mask: npt.NDArray[np.bool_], affine: npt.NDArray[np.float64], native: Grid) -> tuple[slice, ...] | None:
    """The native voxels that a mask of the network's grid can reach by linear interpolation; None if there are none."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    box = found[0]
    # A voxel's value reaches one network voxel far; at the grid's edge half a voxel of either grid beyond.
    ends = np.array([[side.start - 1.0, side.stop] for side in box])
    corners = np.array([[ends[axis, n >> axis & 1] for axis in range(3)] for n in range(8)])
    places = geometry.apply(np.linalg.inv(native.affine) @ affine, corners)
    low = np.clip(np.floor(places.min(axis=0)).astype(int) - 1, 0, native.shape)
    high = np.clip(np.ceil(places.max(axis=0)).astype(int) + 2, 0, native.shape)
    if (high <= low).any():
        return None
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
