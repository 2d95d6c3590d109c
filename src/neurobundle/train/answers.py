"""Teaching a network that answers a class, with or without a mask head.

A *target* is the class of each case, or ``{"answer": classes, "mask": masks}`` where a mask head learns too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import CommonKeys
from torch import nn

from neurobundle.errors import InputError, SettingError
from neurobundle.train.losses import RegionLoss

#: Names of the two outputs, and of their targets.
ANSWER, MASK = "answer", "mask"


def prepare_answers(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, Any]:
    """Images and targets of a batch: a trainer's ``prepare_batch``.

    Args:
        batch: ``image`` ``(batch, channel, column, row)``, ``label`` a class number a case, and ``mask``
            ``(batch, 1, column, row)`` if there is one.
        device: where they go.
        non_blocking: as in torch.
        kwargs: for ``Tensor.to``.
    """

    def moved(value: Any) -> torch.Tensor:
        return torch.as_tensor(value).to(device=device, non_blocking=non_blocking, **kwargs)

    answer = moved(batch[CommonKeys.LABEL]).reshape(-1).long()
    if MASK not in batch:
        return moved(batch[CommonKeys.IMAGE]), answer
    return moved(batch[CommonKeys.IMAGE]), {ANSWER: answer, MASK: moved(batch[MASK])}


class AnswerLoss(nn.Module):
    """Cross-entropy of the answer, and of a mask head Dice and cross-entropy, in float32.

    Args:
        mask_weight: of the mask head's loss.
        label_smoothing: as in torch.
        class_weights: one a class, to make up for rare ones; all alike if None.

    Raises:
        SettingError: for a weight below 0, or a smoothing outside of [0, 1).
    """

    def __init__(
        self, mask_weight: float = 1.0, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if mask_weight < 0 or not 0 <= label_smoothing < 1:
            raise SettingError(
                f"mask_weight is {mask_weight!r}, label_smoothing {label_smoothing!r}",
                "Give 0 or more, and a share below 1.",
            )
        if class_weights is not None and min(class_weights) < 0:
            raise SettingError(f"class_weights are {list(class_weights)}", "Give 0 or more a class.")
        self.mask_weight, self.label_smoothing = mask_weight, label_smoothing
        self.register_buffer("class_weights", None if class_weights is None else torch.tensor(class_weights).float())
        self.mask_loss = RegionLoss()

    def forward(self, pred: Any, target: Any) -> torch.Tensor:
        """The loss of one batch, a number.

        Args:
            pred: logits ``(batch, class)``, or of a network with a mask head both, by name.
            target: class numbers ``(batch,)``, or both by name; a mask is above 0 where there is a tumour, of
                whatever kind, and below 0 where nobody knows.

        Raises:
            InputError: if the network outlines tumours and the batch has no masks.
        """
        both, known = isinstance(pred, Mapping), isinstance(target, Mapping)
        if both and not known:
            raise InputError(
                "the network has a mask head, and the cases have no 'mask'",
                "Name one for each case in the datalist, or train without: --set mask_head=false.",
            )
        logits, classes = pred[ANSWER] if both else pred, target[ANSWER] if known else target
        with torch.autocast(logits.device.type, enabled=False):
            weights: Any = self.class_weights
            total = F.cross_entropy(logits.float(), classes, weights, label_smoothing=self.label_smoothing)
        if both and self.mask_weight:
            total = total + self.mask_weight * self.mask_loss(pred[MASK], target[MASK].float().clamp_max(1))
        return total


class ChosenAnswersd(MapTransform):
    """Of outputs and targets by name the answers alone, for what scores them."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """One case's logits ``(class,)`` and class number."""
        result = dict(data)
        for key in self.key_iterator(result):
            value = result[key]
            result[key] = value[ANSWER] if isinstance(value, Mapping) else value
        return result
