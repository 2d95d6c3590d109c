"""Losses on a handful of voxels whose sums a reader can do."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceLoss

from neurobundle.errors import SettingError
from neurobundle.train import RegionLoss


def test_four_voxels() -> None:
    """Logits of 0 are one half each: 2 * (.5 + .5) / (2 + 2) with one voxel of smoothing: (2 + 1) / (4 + 1)."""
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 4, 1, 1)
    logits = torch.zeros_like(target)
    assert RegionLoss(cross_entropy=0, smooth=1.0)(logits, target).item() == pytest.approx(1 - 3 / 5)
    assert RegionLoss(dice=0)(logits, target).item() == pytest.approx(math.log(2))
    assert RegionLoss(smooth=1.0)(logits, target).item() == pytest.approx(0.4 + math.log(2))


def test_what_nobody_knows_teaches_nothing() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    target = (torch.rand(2, 3, 4, 4, 4) > 0.5).float()
    target[:, 1] = -1
    loss = RegionLoss()(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, 1].any()
    assert logits.grad[:, 0].all()
    changed = logits.detach().clone()
    changed[:, 1] = 50.0
    assert RegionLoss()(changed, target).item() == pytest.approx(loss.item())


def test_dice_is_monais_over_the_batch() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 5, 4, 3), (torch.rand(3, 2, 5, 4, 3) > 0.7).float()
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=10.0, smooth_dr=10.0)(logits, target)
    assert RegionLoss(cross_entropy=0)(logits, target).item() == pytest.approx(monai.item(), abs=1e-6)


def test_it_is_float32_under_autocast() -> None:
    logits = torch.randn(1, 1, 8, 8, 8)
    target = (torch.rand(1, 1, 8, 8, 8) > 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = RegionLoss()(logits, target)
    assert loss.dtype == torch.float32
    assert loss.item() == RegionLoss()(logits, target).item()


@pytest.mark.parametrize("weights", [{"dice": -1}, {"dice": 0, "cross_entropy": 0}, {"smooth": 0}])
def test_weights_that_mean_nothing(weights: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="weights are"):
        RegionLoss(**weights)
