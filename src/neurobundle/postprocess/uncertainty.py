"""How sure a network is of a case, on the native grid and in numbers, before labels are made of its logits.

The *map* is the predictive entropy of each voxel, 0 to 1. The *numbers* are those of each structure and the *case
score*; a case is *flagged* if its score is above ``flag_above`` in the bundle's ``calibration.json``. The words are
those of :mod:`neurobundle.infer.uncertainty`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from neurobundle import geometry
from neurobundle.errors import InputError, SettingError
from neurobundle.infer.ensemble import MEMBER_VOXELS, SPREAD_CHANNELS
from neurobundle.infer.uncertainty import (
    Activation,
    checked_activation,
    expected_dice,
    predictive_entropy,
    probabilities_of,
    structure_masks,
)
from neurobundle.postprocess.calibration import SegmentationCalibration, read_segmentation_calibration
from neurobundle.postprocess.native_labels import grids_of, on_native
from neurobundle.prepare.grid import Grid
from neurobundle.prepare.space import sample

#: What is added to a key for the map, and for the numbers.
UNCERTAINTY, NUMBERS = "_uncertainty", "_uncertainty_numbers"

#: Decimals of the numbers: float32 sums of another order agree to these.
DIGITS = 5

#: Voxels of the native grid that are sampled at a time, 64 MiB of float32.
CHUNK_VOXELS = 2**24


class Uncertaintyd(MapTransform):
    """Takes the channels of an ensemble off the logits, and says how sure they are.

    It stands before whatever makes labels, and neither labels nor probabilities depend on it: the temperature is for
    what is written here. ``<key>_uncertainty`` becomes the map, ``(1, i, j, k)`` uint8 in steps of 1/255 on the native
    grid, 0 where the network did not see; ``<key>_uncertainty_numbers`` the numbers, as :func:`numbers_of` has them.
    :class:`neurobundle.export.uncertainty_transforms.SaveUncertaintyd` writes both.

    Args:
        keys: logits ``(channel, i, j, k)``, as :class:`neurobundle.infer.EnsembleInferer` or any network gives them.
        orig_keys: the image that went through :class:`neurobundle.prepare.ToNetworkGridd`, and perhaps a crop.
        channels: how many of the channels are logits; there may be two more.
        activation: ``softmax`` for classes, of which the first is background; ``sigmoid`` for regions that overlap.
        structures: their names, in the order of the channels, without background; numbers from 1 if None.
        calibration: a ``calibration.json``; without the file the temperature is 1, and nothing is flagged.
        enabled: false only takes the channels off.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for an unknown activation, other names than structures, or a calibration that is none.
        InputError: for another number of channels, logits that are not finite, or an image without a network grid.
    """

    def __init__(
        self,
        keys: KeysCollection,
        orig_keys: str,
        channels: int,
        activation: Activation = "softmax",
        structures: Sequence[str] | None = None,
        calibration: str | Path | None = None,
        enabled: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_key, self.channels, self.enabled = orig_keys, int(channels), enabled
        self.activation = checked_activation(activation)
        count = self.channels - (self.activation == "softmax")
        if count < 1:
            raise SettingError(f"channels is {channels!r}", "A softmax has two or more, a sigmoid one or more.")
        self.structures = [str(n + 1) for n in range(count)] if structures is None else [str(n) for n in structures]
        if len(set(self.structures)) != count or len(self.structures) != count:
            raise SettingError(f"structures are {self.structures}", f"Name {count}, each once, without background.")
        self.calibration = read_segmentation_calibration(calibration) if enabled else SegmentationCalibration()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The logits of one case alone, and if enabled its map and numbers."""
        result = dict(data)
        for key in self.key_iterator(result):
            given = result[key]
            more = len(given) - self.channels
            if more not in (0, SPREAD_CHANNELS):
                raise InputError(
                    f"the network gave {len(given)} channels, and {self.channels} classes are expected",
                    "Use weights of this bundle, and the inferer of its config.",
                )
            plain = given.as_tensor() if isinstance(given, MetaTensor) else torch.as_tensor(given)
            voxels = (getattr(given, "meta", None) or {}).get(MEMBER_VOXELS)
            if more:
                logits = plain[: self.channels].contiguous()
                result[key] = _like(logits, given)
            if self.enabled:
                image = result[self.orig_key]
                self._say(result, key, plain, voxels, image)
        return result

    def _say(self, result: dict[Hashable, Any], key: Hashable, given: torch.Tensor, voxels: Any, image: Any) -> None:
        logits, spread = given[: self.channels], given[self.channels :]
        if not bool(logits.isfinite().all()):
            raise InputError("the network gave logits that are not finite", "Check the weights and the image's values.")
        affine, native = grids_of(image)
        probabilities = probabilities_of(logits, self.activation, self.calibration.temperature)
        entropy = predictive_entropy(probabilities, self.activation)
        members = None if voxels is None else np.asarray(voxels)[:, -len(self.structures) :]
        result[f"{key}{NUMBERS}"] = numbers_of(
            logits,
            probabilities,
            self.structures,
            self.activation,
            ml=geometry.voxel_volume_mm3(affine) / 1000,
            entropy=entropy,
            spread=spread if len(spread) else None,
            member_voxels=members,
            flag_above=self.calibration.flag_above,
        )
        result[f"{key}{UNCERTAINTY}"] = on_native(native_steps(entropy, affine, native)[None], native, image)


def numbers_of(
    logits: torch.Tensor,
    probabilities: torch.Tensor,
    structures: Sequence[str],
    activation: Activation = "softmax",
    *,
    ml: float,
    entropy: torch.Tensor,
    spread: torch.Tensor | None = None,
    member_voxels: npt.NDArray[Any] | None = None,
    flag_above: float | None = None,
) -> dict[str, Any]:
    """The numbers of one case, as JSON can hold them.

    Args:
        logits: ``(class, i, j, k)`` on the network's grid.
        probabilities: of them, after the temperature.
        structures: names, without background.
        activation: ``softmax`` or ``sigmoid``.
        ml: of a voxel of that grid.
        entropy: ``(i, j, k)``.
        spread: mutual information and variance of members, ``(2, i, j, k)``.
        member_voxels: of each structure in each member, ``(member, structure)``.
        flag_above: of the case score; None flags nothing.

    Returns:
        ``case_score``, as :func:`neurobundle.infer.uncertainty.case_score` gives it; ``flag_above``; ``flagged``;
        ``members``, their number; and ``structures``: of each ``expected_dice``, the means over its predicted voxels
        of ``entropy`` and, of members, ``mutual_information`` and ``variance`` (None where nothing is predicted), and
        ``ml_of_members``, the smallest and the largest volume that a member gives it.
    """
    shares = probabilities if activation == "sigmoid" else probabilities[1:]
    maps = {"entropy": entropy}
    if spread is not None:
        maps |= {"mutual_information": spread[0], "variance": spread[1]}
    found: dict[str, dict[str, Any]] = {}
    dice = []
    for name, p, mask in zip(structures, shares, structure_masks(logits, activation), strict=True):
        dice.append(expected_dice(p, mask))
        means = {
            what: round(float(values[mask].double().mean()), DIGITS) for what, values in maps.items() if mask.any()
        }
        found[name] = {"expected_dice": round(dice[-1], DIGITS), **(means or dict.fromkeys(maps))}
    if member_voxels is not None and len(member_voxels) > 1:
        for name, counts in zip(structures, np.asarray(member_voxels).T * ml, strict=True):
            found[name]["ml_of_members"] = [round(float(counts.min()), DIGITS), round(float(counts.max()), DIGITS)]
    score = 1 - sum(dice) / len(dice)
    return {
        "case_score": round(score, DIGITS),
        "flag_above": flag_above,
        "flagged": flag_above is not None and score > flag_above,
        "members": 1 if member_voxels is None else len(member_voxels),
        "structures": found,
    }


def native_steps(values: torch.Tensor, affine: npt.NDArray[np.float64], native: Grid) -> torch.Tensor:
    """A map from 0 to 1 on the native grid, in steps of 1/255; linear, and some slices at a time.

    Args:
        values: ``(i, j, k)`` on the network's grid.
        affine: the network grid's.
        native: the native grid; where the network's does not reach, the value is 0.

    Returns:
        ``native.shape``, uint8.
    """
    steps = torch.zeros(native.shape, dtype=torch.uint8)
    i, j, depth = native.shape
    at_a_time = max(1, CHUNK_VOXELS // (i * j))
    for start in range(0, depth, at_a_time):
        count = min(at_a_time, depth - start)
        moved = native.affine.copy()
        moved[:3, 3] = geometry.apply(native.affine, [0, 0, start])
        part = sample(values[None], affine, Grid((i, j, count), moved))[0]
        steps[..., start : start + count] = part.mul_(255).round_().clamp_(0, 255).to("cpu", torch.uint8)
    return steps


def _like(logits: torch.Tensor, given: Any) -> Any:
    """With the metadata of what it was part of, if that has any."""
    if not isinstance(given, MetaTensor):
        return logits
    found = MetaTensor(logits).copy_meta_from(given)
    found.meta.pop(MEMBER_VOXELS, None)
    return found
