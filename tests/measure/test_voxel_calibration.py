import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import CalibrationErrorMetric

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.measure.logits import CaseLogits, read_logits, write_logits
from neurobundle.measure.temperature import fit_temperature
from neurobundle.measure.voxel_calibration import (
    MOST_LOGITS,
    Samples,
    Structures,
    calibrate_case,
    draw_samples,
    fit_pooled,
    marginal_errors,
    voxels_a_group,
)

CLASSES = Structures({"front": [1], "back": [2]}, "softmax", region_mm=1.0)
REGIONS = Structures({"whole": [1, 2], "core": [2]}, "sigmoid", region_mm=1.0)


def made(channels: int, seed: int = 0, scale: float = 3.0) -> CaseLogits:
    """A case of 8 x 8 x 8 voxels of 1 mm, 1 in the middle with a 2 inside; logits by chance."""
    reference = np.zeros((8, 8, 8), np.uint8)
    reference[2:6, 2:6, 2:6] = 1
    reference[3:5, 3:5, 3:5] = 2
    logits = np.random.default_rng(seed).normal(size=(channels, 8, 8, 8)) * scale
    return CaseLogits(logits.astype(np.float32), reference, (1.0, 1.0, 1.0))


def test_all_groups_weigh_alike() -> None:
    """Three of four right in one group, one of two in a group that is a thousand times as large: the mean is 5/8."""
    small = Samples(np.tile([[2.0], [0.0]], 4), np.array([0, 0, 0, 1]))
    large = Samples(np.tile([[2.0], [0.0]], 4000), np.tile([0, 1], 2000))
    assert fit_pooled([small, large]).value == pytest.approx(2 / math.log(5 / 3), rel=1e-3)
    assert fit_pooled([large, small, small]).value < fit_pooled([large, small]).value


def test_weights_are_copies() -> None:
    """A sample of weight 2 counts as two."""
    logits, truth = np.array([[2.0, 1.0, 3.0], [0.0, 0.0, 0.0]]), np.array([0, 1, 0])
    twice = fit_temperature(logits[:, [0, 0, 1, 2]], truth[[0, 0, 1, 2]])
    weighted = fit_temperature(logits, truth, weights=np.array([2, 1, 1]))
    assert weighted.value == pytest.approx(twice.value, rel=1e-6)
    assert weighted.nll_after == pytest.approx(twice.nll_after)


@pytest.mark.parametrize("weights", [[1, 1], [1, 1, -1], [0, 0, 0], [1, math.nan, 1]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(InputError, match="weights"):
        fit_temperature(np.array([[2.0, 1.0, 3.0], [0, 0, 0]]), np.array([0, 1, 0]), weights=np.array(weights))


def test_the_region_is_the_reference_and_a_millimetre() -> None:
    """4 x 4 x 4 voxels and a face on each of six sides; of two regions each has its own."""
    (one,) = draw_samples(made(3), CLASSES, "anna")
    assert one.truth.shape == (64 + 6 * 16,)
    assert np.bincount(one.truth).tolist() == [96, 56, 8]
    whole, core = draw_samples(made(2), REGIONS, "anna")
    assert (len(whole.truth), len(core.truth)) == (160, 8 + 6 * 4)
    assert (whole.truth.sum(), core.truth.sum()) == (64, 8)
    assert not whole.logits[0].any()


def test_what_is_drawn_is_drawn_again() -> None:
    """And hangs on the case's name alone."""
    case = made(3)
    first, again, other = (draw_samples(case, CLASSES, name, 20)[0] for name in ("anna", "anna", "bert"))
    assert first.logits.shape == (3, 20)
    assert np.array_equal(first.logits, again.logits)
    assert not np.array_equal(first.logits, other.logits)
    inside = draw_samples(case, CLASSES, "anna")[0]
    assert set(map(tuple, first.logits.T)) <= set(map(tuple, inside.logits.T))


def test_no_fit_holds_too_much() -> None:
    for groups in (1, 260, 5000, 10**7):
        assert voxels_a_group(groups, CLASSES) * groups * 3 <= MOST_LOGITS or voxels_a_group(groups, CLASSES) == 2


def test_a_factor_is_found_and_undone() -> None:
    """Classes drawn from the logits' own softmax, and the logits then multiplied: the fit divides by the factor."""
    cases = []
    for seed in range(4):
        case = made(3, seed, scale=1.5)
        p = np.exp(case.logits) / np.exp(case.logits).sum(axis=0)
        drawn = (np.random.default_rng(seed + 9).random(p.shape[1:]) > p.cumsum(axis=0)).sum(axis=0).clip(0, 2)
        cases.append(CaseLogits(case.logits * 3, drawn.astype(np.uint8), case.spacing_mm))
    found = fit_pooled([one for n, case in enumerate(cases) for one in draw_samples(case, CLASSES, str(n))]).value
    assert found == pytest.approx(3, rel=0.15)
    (before,), (after,) = (calibrate_case(cases[0], CLASSES, "anna", value) for value in (1.0, found))
    assert after.ece < 0.5 * before.ece
    assert after.nll < before.nll


@pytest.mark.parametrize(("structures", "channels"), [(CLASSES, 3), (REGIONS, 2)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_marginal_errors_are_monai_s(structures: Structures, channels: int, temperature: float) -> None:
    case = made(channels)
    logits = torch.from_numpy(case.logits)[None] / temperature
    if structures is CLASSES:
        p, y = logits.softmax(1), np.stack([case.reference == n for n in range(3)])
    else:
        p, y = logits.sigmoid(), np.stack([case.reference > 0, case.reference == 2])
    found = list(marginal_errors(case, structures, temperature).values())
    for place, reduction in enumerate(("expected", "average")):
        metric = CalibrationErrorMetric(
            num_bins=20,
            include_background=structures is REGIONS,
            calibration_reduction=reduction,
            metric_reduction="mean_batch",
        )
        metric(y_pred=p, y=torch.from_numpy(y)[None].float())
        assert [one[place] for one in found] == pytest.approx(metric.aggregate().tolist(), abs=1e-6)


def test_a_certain_network_by_hand() -> None:
    """Half of the image is called inside for certain, and a quarter of it is: gaps of 0 and of one half, two bins."""
    reference = np.zeros((4, 4), np.uint8)
    reference[0] = 1
    logits = np.full((1, 4, 4), -40.0, np.float32)
    logits[0, :2] = 40
    one = Structures({"part": [1]}, "sigmoid")
    assert marginal_errors(CaseLogits(logits, reference, (1, 1)), one, 1.0) == {"part": (0.25, 0.25)}


def test_other_outputs_than_structures() -> None:
    with pytest.raises(InputError, match="4 outputs, and 3"):
        draw_samples(made(4), CLASSES, "anna")
    with pytest.raises(SettingError, match="relu"):
        Structures({"a": [1]}, "relu")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no case has a voxel"):
        fit_pooled([])


def test_an_empty_reference_has_no_group() -> None:
    case = made(3)
    empty = CaseLogits(case.logits, np.zeros_like(case.reference), case.spacing_mm)
    assert draw_samples(empty, CLASSES, "anna") == []
    assert calibrate_case(empty, CLASSES, "anna", 1.0) == []


def test_logits_come_back(tmp_path: Path) -> None:
    """Within half precision, and clipped where that ends."""
    case = made(3)
    case.logits[0, 0, 0, 0] = 1e9
    back = read_logits(write_logits(tmp_path / "a" / "anna.npz", case))
    assert np.array_equal(back.reference, case.reference)
    assert back.spacing_mm == case.spacing_mm
    assert np.allclose(back.logits.ravel()[1:], case.logits.ravel()[1:], rtol=2**-11)
    assert back.logits[0, 0, 0, 0] == 65504


def test_files_that_hold_no_logits(tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        read_logits(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match="holds no logits"):
        read_logits(tmp_path / "bad.npz")
    broken = made(3)
    broken.logits[0, 0, 0, 0] = math.nan
    with pytest.raises(InputError, match="not a finite number"):
        write_logits(tmp_path / "anna.npz", broken)
    assert not (tmp_path / "anna.npz").exists()
