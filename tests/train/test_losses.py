"""Losses on a handful of voxels whose sums a reader can do."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss, TverskyLoss

from neurobundle.errors import SettingError
from neurobundle.train import LabelLoss, RegionLoss
from neurobundle.train.losses import FocalTverskyLoss


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


def test_a_region_that_nobody_has_teaches_by_cross_entropy_alone() -> None:
    """One region with a voxel of one half: (2 * .5 + 1) / (.5 + 1 + 1); the other is absent and no part of the mean."""
    target = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
    logits = torch.zeros_like(target).requires_grad_()
    loss = RegionLoss(cross_entropy=0, smooth=1.0)(logits, target)
    assert loss.item() == pytest.approx(1 - 2 / 2.5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.flatten()[1] == 0
    absent = RegionLoss(smooth=1.0)(logits, torch.zeros_like(target))
    assert absent.item() == pytest.approx(math.log(2))


def test_dice_is_monais_over_the_batch() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 5, 4, 3), (torch.rand(3, 2, 5, 4, 3) > 0.7).float()
    monai = DiceLoss(sigmoid=True, batch=True, smooth_nr=1.0, smooth_dr=1.0)(logits, target)
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


def test_label_loss_of_four_voxels() -> None:
    """Logits of 0 for two classes: probabilities of one half; class 1 has 2 * (.5 + .5) + 1 over 2 + 2 + 1."""
    target = torch.tensor([1, 1, 0, 0]).reshape(1, 1, 4, 1, 1)
    logits = torch.zeros(1, 2, 4, 1, 1)
    assert LabelLoss(cross_entropy=0)(logits, target).item() == pytest.approx(1 - 3 / 5)
    assert LabelLoss(dice=0)(logits, target).item() == pytest.approx(math.log(2))


def test_label_loss_is_monais() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 5, 6, 5, 4), torch.randint(0, 5, (2, 1, 6, 5, 4))
    monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    assert LabelLoss(smooth=1e-5)(logits, target).item() == pytest.approx(monai(logits, target).item(), rel=1e-5)


def test_label_loss_learns_nothing_where_nobody_knows() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    target = torch.randint(0, 3, (1, 1, 4, 4, 4))
    target[:, :, 2:] = -1
    LabelLoss()(logits, target).backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 2:].any()
    assert logits.grad[:, :, :2].any()
    nobody = torch.full_like(target, -1)
    assert LabelLoss(dice=0)(logits, nobody).item() == 0.0


def test_every_second_voxel_teaches_from_any_first_one() -> None:
    """Of 4 x 4 x 4 voxels 8 teach, of one phase; all phases come; a grid that is the same everywhere says the same."""
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        logits = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
        LabelLoss(dice=0, every=2)(logits, torch.ones(1, 1, 4, 4, 4)).backward()
        assert logits.grad is not None
        taught = logits.grad[0, 0].nonzero()
        assert len(taught) == 8
        phase = taught.remainder(2)
        assert bool((phase == phase[0]).all())
        seen.add(tuple(phase[0].tolist()))
    assert len(seen) == 8
    same, target = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1).expand(1, 2, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)
    assert LabelLoss(dice=0, every=2)(same, target) == LabelLoss(dice=0)(same, target)
    flat = same[..., :1], target[..., :1]
    assert all(LabelLoss(dice=0, every=2)(*flat) == LabelLoss(dice=0)(*flat) for _ in range(8))


def test_label_loss_is_float32_under_autocast() -> None:
    logits, target = torch.randn(1, 3, 4, 4, 4), torch.randint(0, 3, (1, 1, 4, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert LabelLoss()(logits, target) == LabelLoss()(logits.float(), target)


@pytest.mark.parametrize("settings", [{"dice": -1}, {"dice": 0, "cross_entropy": 0}, {"smooth": 0}])
def test_label_loss_refuses_weights_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="above 0"):
        LabelLoss(**settings)
    with pytest.raises(SettingError, match="every is 0"):
        LabelLoss(every=0)


def test_tversky_of_four_voxels() -> None:
    """Two voxels of four are the region. Logits of 0 are one half each: 1 hit, 1 missed, 1 false.

    With a voxel of smoothing the index is (1 + 1) / (1 + .7 + .3 + 1) = 2/3; the loss is a third, to the power.
    """
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 4, 1, 1)
    logits = torch.zeros_like(target)
    assert FocalTverskyLoss(smooth=1.0, power=1.0)(logits, target).item() == pytest.approx(1 / 3)
    assert FocalTverskyLoss(smooth=1.0)(logits, target).item() == pytest.approx((1 / 3) ** 0.75)
    with_entropy = FocalTverskyLoss(smooth=1.0, power=1.0, cross_entropy=2.0)(logits, target)
    assert with_entropy.item() == pytest.approx(1 / 3 + 2 * math.log(2))


def test_a_missed_voxel_costs_more_than_a_false_one() -> None:
    """All of four voxels found or none of them, where two are the region: 2 / (2 + .6) and 0 / 1.4, smoothed by 1."""
    target = torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(1, 1, 4, 1, 1)
    loss = FocalTverskyLoss(smooth=1.0, power=1.0)
    assert loss(torch.full_like(target, 99.0), target).item() == pytest.approx(1 - 3 / 3.6)
    assert loss(torch.full_like(target, -99.0), target).item() == pytest.approx(1 - 1 / 2.4)


def test_tversky_with_equal_weights_is_dice() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 5, 4, 3), (torch.rand(3, 2, 5, 4, 3) > 0.7).float()
    ours = FocalTverskyLoss(missed=0.5, false=0.5, power=1.0, smooth=5.0)(logits, target)
    assert ours.item() == pytest.approx(RegionLoss(cross_entropy=0, smooth=10.0)(logits, target).item(), abs=1e-6)


def test_tversky_is_monais_over_the_batch() -> None:
    """MONAI weighs false positives by alpha and false negatives by beta."""
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 5, 4, 3), (torch.rand(3, 2, 5, 4, 3) > 0.7).float()
    monai = TverskyLoss(sigmoid=True, batch=True, alpha=0.3, beta=0.7, smooth_nr=10.0, smooth_dr=10.0)(logits, target)
    assert FocalTverskyLoss(power=1.0)(logits, target).item() == pytest.approx(monai.item(), abs=1e-6)


@pytest.mark.parametrize("power", [0.75, 1.0, 4 / 3])
def test_tversky_learns_nothing_of_what_nobody_knows(power: float) -> None:
    """A region of which nothing is known is exactly right: the power's slope there is no NaN."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    target = (torch.rand(2, 3, 4, 4, 4) > 0.5).float()
    target[:, 1] = -1
    target[0, 2, :2] = -1
    FocalTverskyLoss(power=power, cross_entropy=1.0)(logits, target).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad != 0, target >= 0)


def test_tversky_is_float32_under_autocast() -> None:
    logits, target = torch.randn(1, 1, 8, 8, 8), (torch.rand(1, 1, 8, 8, 8) > 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = FocalTverskyLoss(cross_entropy=1.0)(logits.bfloat16(), target)
    assert loss.dtype == torch.float32
    assert loss.item() == FocalTverskyLoss(cross_entropy=1.0)(logits.bfloat16().float(), target).item()


@pytest.mark.parametrize("weights", [{"missed": -1}, {"missed": 0, "false": 0}, {"power": 0}, {"smooth": 0}])
def test_tversky_weights_that_mean_nothing(weights: dict[str, float]) -> None:
    with pytest.raises(SettingError, match="weights are"):
        FocalTverskyLoss(**weights)
