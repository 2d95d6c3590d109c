"""From the logits of slices to one answer a case.

An *answer* is the probability of each class. The slices of a case are *pooled*: the mean of their log-probabilities,
each counting by its weight. A *temperature* divides the pooled logits before softmax; where the *confidence*, the
largest probability, stays below ``abstain_below``, no class is named. Both were chosen on cases that trained nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys

from neurobundle.errors import InputError, SettingError
from neurobundle.postprocess.calibration import no_calibration, read_calibration_file, require_temperature

#: What is added to a key for the slices behind an answer.
SLICES = "_slices"

#: Slices of less than this share of the largest weight are no slices of the tumour, and do not count.
LEAST_SHARE = 0.1

_CALIBRATION_KEYS = {"temperature", "abstain_below", "chosen_on", "n"}
_COMMAND = "neurobundle crossval --publish"


@dataclass(frozen=True)
class AnswerCalibration:
    """What is done to pooled logits.

    Attributes:
        temperature: divides them.
        abstain_below: of the confidence; 0 never abstains.
    """

    temperature: float = 1.0
    abstain_below: float = 0.0

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        if not 0 <= self.abstain_below <= 1:
            raise SettingError(f"abstain_below is {self.abstain_below!r}", "Give a probability; 0 never abstains.")


def read_answer_calibration(path: str | Path | None) -> AnswerCalibration:
    """What ``crossval`` chose, from its ``calibration.json``; temperature 1 and no abstention where there is no file.

    Raises:
        SettingError: for a file that is no such table, or not the one that the manifest beside it lists; it names the
            file.
    """
    content = read_calibration_file(path, _CALIBRATION_KEYS, _COMMAND)
    if path is None or not content:
        return AnswerCalibration()
    try:
        return AnswerCalibration(float(content["temperature"]), float(content.get("abstain_below", 0.0)))
    except (ValueError, KeyError, TypeError) as error:
        raise no_calibration(path, error, _COMMAND) from error
    except SettingError as error:
        error.file = str(path)
        raise


def shares_of(weights: torch.Tensor) -> torch.Tensor:
    """What share each slice has in its case's answer.

    Args:
        weights: ``(slice,)``, not negative; slices below a tenth of the largest do not count, and all alike if none
            is above 0.

    Returns:
        ``(slice,)``, together 1.

    >>> shares_of(torch.tensor([3.0, 1.0, 0.2]))
    tensor([0.7500, 0.2500, 0.0000])
    """
    counting = torch.where(weights >= LEAST_SHARE * weights.max(), weights, 0.0)
    if not counting.sum() > 0:
        counting = torch.ones_like(weights)
    return counting / counting.sum()


def pool_slices(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """One row of logits for a case: the weighted mean of its slices' log-probabilities.

    Args:
        logits: ``(class, slice)``.
        weights: ``(slice,)``, as for :func:`shares_of`.

    Returns:
        ``(class,)`` log-probabilities up to a constant.

    Raises:
        InputError: if there is no slice, or a number is not finite.

    >>> pool_slices(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([1.0, 0.0])).softmax(0)
    tensor([0.8808, 0.1192])
    """
    if not logits.shape[-1] or not (logits.isfinite().all() and weights.isfinite().all()):
        raise InputError("the network gave no finite answer for a slice", "Check the weights and the image's values.")
    return logits.log_softmax(dim=0) @ shares_of(weights)


class PoolSlicesd(MapTransform):
    """Logits and weights of slices become one row of logits.

    The slices stay under ``<key>_slices``, ``(class + 1, slice)``: their logits, then their share in the answer.

    Args:
        keys: ``(class + 1, slice)`` as :class:`~neurobundle.infer.answers.SliceAnswersInferer` gives it.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The logits ``(class,)`` of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            slices = _plain(result[key]).float()
            result[key] = _like(pool_slices(slices[:-1], slices[-1]), result[key])
            result[f"{key}{SLICES}"] = torch.cat([slices[:-1], shares_of(slices[-1])[None]])
        return result


class LogitsToAnswerd(MapTransform):
    """Logits ``(class,)`` become probabilities, after the temperature.

    Args:
        keys: logits.
        calibration: a ``calibration.json``; none where it does not exist.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a calibration that is none.
    """

    def __init__(
        self, keys: KeysCollection, calibration: str | Path | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.calibration = read_answer_calibration(calibration)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The probabilities ``(class,)`` of one case."""
        result = dict(data)
        for key in self.key_iterator(result):
            logits = _plain(result[key]).double() / self.calibration.temperature
            result[key] = _like(logits.softmax(dim=0), result[key])
        return result


class ForgetGridd(MapTransform):
    """Takes an image's own shape out of its metadata, once the answer is there, which lies on no grid.

    MONAI Label resamples whatever it gets onto the grid that the image remembers, and fails with an answer.

    Args:
        keys: images.
        allow_missing_keys: as in MONAI.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same image; what was given keeps its metadata."""
        result = dict(data)
        for key in self.key_iterator(result):
            if isinstance(result[key], MetaTensor):
                image = MetaTensor(result[key].as_tensor()).copy_meta_from(result[key])
                image.meta.pop(MetaKeys.SPATIAL_SHAPE, None)
                result[key] = image
        return result


def _plain(value: Any) -> torch.Tensor:
    tensor = torch.as_tensor(value)
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def _like(value: torch.Tensor, source: Any) -> Any:
    """With the metadata of what it was made from, if that has any."""
    return MetaTensor(value).copy_meta_from(source) if isinstance(source, MetaTensor) else value
