"""Losses in float32, whatever the precision of the network.

A target is below 0 where nobody knows, which teaches nothing. Losses of *regions*, which may overlap, take logits
``(batch, region, i, j, k)`` and targets of the same shape, 0 or 1; :class:`LabelLoss`, of classes that exclude each
other, takes a label map ``(batch, 1, i, j, k)``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from neurobundle.errors import SettingError

#: One minus a Tversky index under this has no slope.
NEARLY_RIGHT = 1e-6


def mean_where(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """The mean of those that are there; 0 if none is.

    >>> mean_where(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    tensor(1.5000)
    """
    return (values * there).sum() / there.sum().clamp_min(1)


class _DiceAndEntropy(nn.Module):
    """What both losses below are made with.

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy.
        smooth: added to both sides of the Dice ratio, voxels.

    Raises:
        SettingError: for weights below 0, or both 0.
    """

    def __init__(self, dice: float = 1.0, cross_entropy: float = 1.0, smooth: float = 1.0) -> None:
        super().__init__()
        if min(dice, cross_entropy) < 0 or dice + cross_entropy <= 0 or smooth <= 0:
            raise SettingError(f"weights are {dice} and {cross_entropy}, smooth {smooth}", "Give them above 0.")
        self.dice, self.cross_entropy, self.smooth = dice, cross_entropy, smooth


class RegionLoss(_DiceAndEntropy):
    """Soft Dice of each region over the whole batch, plus binary cross-entropy.

    A region that nobody in the batch has teaches by cross-entropy alone: its Dice would ask a sum over all voxels to be
    less than ``smooth``, and press on every voxel, the next head's tumour included, until nothing is found any more.

    Arguments: ``dice`` and ``cross_entropy``, the terms' weights; ``smooth``, added to both sides of the Dice ratio.

    Source: region-based training with batch Dice as in nnU-Net (Isensee et al. 2021).
    """

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, a number."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.float()
            known = (target >= 0).float()
            target = target.clamp_min(0)
            entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
            total = self.cross_entropy * entropy.sum() / known.sum().clamp_min(1)
            axes = [0, *range(2, logits.ndim)]
            share = torch.sigmoid(logits) * known
            both, there = (share * target).sum(axes), target.sum(axes)
            dice = 1 - (2 * both + self.smooth) / (share.sum(axes) + there + self.smooth)
            return total + self.dice * mean_where(dice, there > 0)


class LabelLoss(_DiceAndEntropy):
    """Soft Dice over the whole batch, without the background, plus cross-entropy, of classes that exclude each other.

    As MONAI's ``DiceCELoss(softmax=True, batch=True, include_background=False)``, at half its cost and memory for
    many classes, since the target is never one-hot; where the target is unknown, nothing is learned; and a class that
    nobody in the batch has teaches by cross-entropy alone.

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy.
        smooth: added to both sides of the Dice ratio, voxels.
        every: only every n-th voxel along each axis teaches, from a first one that is drawn each time. With 2, a step
            of a network of 33 classes costs a third less, and neighbours say nearly the same.

    Raises:
        SettingError: for weights below 0, or both 0, or ``every`` below 1.
    """

    def __init__(self, dice: float = 1.0, cross_entropy: float = 1.0, smooth: float = 1.0, every: int = 1) -> None:
        super().__init__(dice, cross_entropy, smooth)
        if every < 1:
            raise SettingError(f"every is {every}", "Give 1 for all voxels, 2 for every second one.")
        self.every = every

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, a number."""
        with torch.autocast(logits.device.type, enabled=False):
            if self.every > 1:
                first = torch.randint(self.every, (logits.ndim - 2,)).tolist()
                # An axis of fewer voxels has one that teaches, whatever was drawn.
                sizes = logits.shape[2:]
                some = tuple(slice(min(a, n - 1), None, self.every) for a, n in zip(first, sizes, strict=True))
                logits, target = logits[:, :, *some], target[:, :, *some]
            classes = logits.shape[1]
            logs = F.log_softmax(logits.float(), dim=1).movedim(1, 0).flatten(1)
            labels = target.flatten().long()
            known = labels >= 0
            labels = labels.clamp_min(0)
            of_truth = logs.gather(0, labels[None])[0]
            total = -self.cross_entropy * (of_truth * known).sum() / known.sum().clamp_min(1)
            both = logs.new_zeros(classes).index_add(0, labels, of_truth.exp() * known)
            there = torch.bincount(labels[known], minlength=classes)
            dice = 1 - (2 * both + self.smooth) / (logs.exp() @ known.float() + there + self.smooth)
            return total + self.dice * mean_where(dice[1:], there[1:] > 0)


class FocalTverskyLoss(nn.Module):
    """One minus the Tversky index of each region over the whole batch, to a power.

    The *Tversky index* is hits / (hits + ``missed`` x missed + ``false`` x false alarms), counted in probabilities;
    with one half each it is the Dice coefficient. A power below 1 keeps the slope steep where a region is nearly
    right, one above 1 teaches most where it is wrong.

    Args:
        missed: weight of voxels of the region that are not found; more than ``false`` asks for sensitivity.
        false: weight of voxels that are found beside it.
        power: of one minus the index; the inverse of Abraham and Khan's gamma.
        cross_entropy: weight of a binary cross-entropy that is added; 0 adds none.
        smooth: added to both sides of the ratio, voxels: a region that nobody has is learned as well.

    Raises:
        SettingError: for weights below 0, or a power, ``smooth``, or both weights of the index that are 0.

    Source: Abraham and Khan 2019, ISBI (10.1109/ISBI.2019.8759329), whose weights and gamma of 4/3 are the defaults;
    the index in a loss: Salehi et al. 2017, MLMI (10.1007/978-3-319-67389-9_44).
    """

    def __init__(
        self,
        missed: float = 0.7,
        false: float = 0.3,
        power: float = 0.75,
        cross_entropy: float = 0.0,
        smooth: float = 10.0,
    ) -> None:
        super().__init__()
        if min(missed, false, cross_entropy) < 0 or missed + false <= 0 or power <= 0 or smooth <= 0:
            raise SettingError(
                f"weights are {missed}, {false} and {cross_entropy}, power {power}, smooth {smooth}",
                "Give them above 0.",
            )
        self.missed, self.false, self.power = missed, false, power
        self.cross_entropy, self.smooth = cross_entropy, smooth

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, a number."""
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.float()
            known = (target >= 0).float()
            target = target.clamp_min(0)
            axes = [0, *range(2, logits.ndim)]
            share = torch.sigmoid(logits) * known
            hits = (share * target).sum(axes)
            missed, false = target.sum(axes) - hits, share.sum(axes) - hits
            index = (hits + self.smooth) / (hits + self.missed * missed + self.false * false + self.smooth)
            # A root has no slope at 0, where a region that nobody knows would stand.
            total = (1 - index).clamp_min(NEARLY_RIGHT).pow(self.power).mean()
            if not self.cross_entropy:
                return total
            entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * known
            return total + self.cross_entropy * entropy.sum() / known.sum().clamp_min(1)
