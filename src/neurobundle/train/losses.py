"""Losses in float32, whatever the precision of the network.

All take logits ``(batch, region, i, j, k)``, of regions that may overlap, and targets of the same shape: 0, 1, or below
0 where nobody knows, which teaches nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from neurobundle.errors import SettingError


class RegionLoss(nn.Module):
    """Soft Dice of each region over the whole batch, plus binary cross-entropy.

    Args:
        dice: weight of the Dice term.
        cross_entropy: weight of the cross-entropy.
        smooth: added to both sides of the Dice ratio, voxels: a region that nobody has is learned as well.

    Raises:
        SettingError: for weights below 0, or both 0.

    Source: region-based training with batch Dice as in nnU-Net (Isensee et al. 2021).
    """

    def __init__(self, dice: float = 1.0, cross_entropy: float = 1.0, smooth: float = 10.0) -> None:
        super().__init__()
        if min(dice, cross_entropy) < 0 or dice + cross_entropy <= 0 or smooth <= 0:
            raise SettingError(f"weights are {dice} and {cross_entropy}, smooth {smooth}", "Give them above 0.")
        self.dice, self.cross_entropy, self.smooth = dice, cross_entropy, smooth

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
            both = (share * target).sum(axes)
            either = (share + target).sum(axes)
            dice = 1 - (2 * both + self.smooth) / (either + self.smooth)
            return total + self.dice * dice.mean()
