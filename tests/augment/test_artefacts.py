"""One contract over all artefacts, and each on images that a reader can work with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from neurobundle.augment.artefacts import (
    RandArtefactd,
    RandBlurd,
    RandCutoutd,
    RandThickSlicesd,
    Slices,
    blurred,
    in_thick_slices,
)
from neurobundle.augment.contrast import (
    Bias,
    Gamma,
    RandBiasFieldFastd,
    RandGammad,
    RandInvertIntensityd,
    gamma_corrected,
    inverted,
    log_field,
)
from neurobundle.augment.kspace import (
    Motion,
    RandGibbsd,
    RandMotionGhostd,
    RandSpikesd,
    Spike,
    displaced,
    spiked,
    truncated,
)
from neurobundle.augment.noise import RandRicianNoised, mean_and_spread, rician, spread_of
from neurobundle.errors import SettingError

ALL = (
    RandBiasFieldFastd,
    RandBlurd,
    RandCutoutd,
    RandGammad,
    RandGibbsd,
    RandInvertIntensityd,
    RandMotionGhostd,
    RandRicianNoised,
    RandSpikesd,
    RandThickSlicesd,
)


def head(*shape: int, channels: int = 2) -> MetaTensor:
    """A box of tissue with a texture, in air, as it is after a z-score."""
    generator = torch.Generator().manual_seed(1)
    image = torch.zeros(channels, *shape)
    box = (slice(None), *(slice(n // 5, n - n // 5) for n in shape))
    image[box] = 3 + torch.rand(image[box].shape, generator=generator)
    return MetaTensor(image - 2, affine=torch.diag(torch.tensor([1.0, 2, 3, 1])), meta={"filename_or_obj": "anna.nii"})


SHAPES = [(15, 20), (11, 12, 14)]


def make(kind: type[RandArtefactd], prob: float, **settings: Any) -> RandArtefactd:
    """With boxes so large that they hit the head."""
    return kind("image", prob=prob, **({"side": (0.6, 0.6)} if kind is RandCutoutd else {}), **settings)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ALL)
class TestContract:
    def test_it_changes_a_copy_and_keeps_shape_and_metadata(self, kind: type[RandArtefactd], shape: Any) -> None:
        image = head(*shape)
        before = image.clone()
        label = torch.ones(1, *shape)
        result = make(kind, 1.0).set_random_state(0)({"image": image, "label": label})
        found = result["image"]
        assert found.shape == image.shape
        assert found.dtype == torch.float32
        assert bool(torch.isfinite(found).all())
        assert all(not torch.equal(a, b) for a, b in zip(found, image, strict=True))
        assert torch.equal(image.as_tensor(), before.as_tensor())
        assert isinstance(found, MetaTensor)
        assert torch.equal(found.affine, image.affine)
        assert found.meta["filename_or_obj"] == "anna.nii"
        assert result["label"] is label

    def test_one_seed_one_result(self, kind: type[RandArtefactd], shape: Any) -> None:
        transform = kind("image", prob=1.0)
        first, other, again = (transform.set_random_state(n)({"image": head(*shape)})["image"] for n in (5, 6, 5))
        assert torch.equal(first, again)
        if kind is not RandInvertIntensityd:
            assert not torch.equal(first, other)
            assert not torch.equal(first[0], first[1])

    def test_a_probability_of_0_is_identity(self, kind: type[RandArtefactd], shape: Any) -> None:
        image = head(*shape)
        assert kind("image", prob=0.0)({"image": image})["image"] is image

    def test_an_absent_channel_stays_absent(self, kind: type[RandArtefactd], shape: Any) -> None:
        image = head(*shape)
        image[1] = 0
        found = make(kind, 1.0)({"image": image})["image"]
        assert not found[1].any()
        assert not torch.equal(found[0], image[0])

    def test_air_that_was_cut_away_stays_away(self, kind: type[RandArtefactd], shape: Any) -> None:
        image = head(*shape)
        found = make(kind, 1.0, keep_background=True).set_random_state(0)({"image": image})["image"]
        assert bool((found[image == -2] == -2).all())
        assert not torch.equal(found, image)

    def test_before_or_after_a_shift_is_the_same(self, kind: type[RandArtefactd], shape: Any) -> None:
        """The floor is 0 of a magnitude, and the least voxel after a z-score."""
        image = head(*shape)
        transform = kind("image", prob=1.0)
        after = transform.set_random_state(2)({"image": image})["image"]
        before = transform.set_random_state(2)({"image": image + 2})["image"] - 2
        torch.testing.assert_close(before.as_tensor(), after.as_tensor(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_whole_numbers_become_floats_and_half_stays_half(kind: type[RandArtefactd]) -> None:
    image = (10 * head(8, 9, channels=1)).as_tensor()
    transform = kind("image", prob=1.0)
    assert transform({"image": image.short()})["image"].dtype == torch.float32
    assert transform({"image": image.half()})["image"].dtype == torch.float16


@pytest.mark.parametrize("kind", ALL)
def test_an_image_with_a_gradient(kind: type[RandArtefactd]) -> None:
    """Augmentation is no part of what is learned."""
    image = head(8, 9, channels=1).as_tensor().clone().requires_grad_()
    assert not kind("image", prob=1.0)({"image": image})["image"].requires_grad


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("prob", [-0.1, 1.1, float("nan")])
def test_a_probability_is_one(kind: type[RandArtefactd], prob: float) -> None:
    with pytest.raises(SettingError, match="prob is"):
        kind("image", prob=prob)


@pytest.mark.parametrize(
    ("kind", "given_"),
    [
        (RandBiasFieldFastd, {"amplitude": (0.5, 0.1)}),
        (RandBiasFieldFastd, {"control_points": 3}),
        (RandBlurd, {"sigma": (-1, 1)}),
        (RandBlurd, {"sigma": 1.0}),
        (RandCutoutd, {"side": (0.1, 1.5)}),
        (RandCutoutd, {"fill": "noise"}),
        (RandGammad, {"exponent": (0, 1)}),
        (RandGibbsd, {"kept": (0.5, 2)}),
        (RandMotionGhostd, {"amplitude": (0, float("inf"))}),
        (RandRicianNoised, {"sigma": (0.1,)}),
        (RandSpikesd, {"spikes": (0, 1)}),
        (RandThickSlicesd, {"step": (0.5, 2)}),
    ],
)
def test_ranges_without_a_meaning_are_refused(kind: type[RandArtefactd], given_: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(given_))) as caught:
        kind("image", **given_)
    assert caught.value.way_out


@pytest.mark.parametrize("kind", [RandMotionGhostd, RandThickSlicesd])
def test_an_axis_that_the_image_has_not_is_refused(kind: Any) -> None:
    with pytest.raises(SettingError, match=r"axes are \[2\]"):
        kind("image", prob=1.0, axes=(2,))({"image": torch.rand(1, 8, 8)})


def test_a_blur_spreads_one_voxel_and_keeps_its_sum() -> None:
    image = torch.zeros(1, 11)
    image[0, 5] = 1
    found = blurred(image, (0.0, 1.0))
    assert float(found.sum()) == pytest.approx(1, abs=1e-4)
    assert float(found[0, 4] / found[0, 5]) == pytest.approx(np.exp(-0.5), rel=1e-4)


def test_slices_of_two_voxels() -> None:
    """1 3 5 7 in slices of two are 2 and 6; between their middles it is linear, beyond them it stays."""
    line = torch.tensor([[1.0, 3.0, 5.0, 7.0]])
    assert in_thick_slices(line, Slices(1, 2.0, nearest=False)).tolist() == [[2, 3, 5, 6]]
    assert in_thick_slices(line, Slices(1, 2.0, nearest=True)).tolist() == [[2, 2, 6, 6]]
    assert torch.equal(in_thick_slices(line, Slices(1, 1.0, nearest=False)), line)
    assert torch.equal(in_thick_slices(line, Slices(0, 4.0, nearest=False)), line)


def test_boxes_are_cut_out() -> None:
    image = torch.ones(1, 10, 10)
    image[0, 0, 0] = 2
    transform = RandCutoutd("image", prob=1.0, boxes=(1, 1), side=(0.3, 0.3)).set_random_state(0)
    found = transform({"image": image})["image"]
    assert int((found == 0).sum()) == 9
    (box,) = transform.drawn["image"][0]
    assert not found[0][box].any()
    full = RandCutoutd("image", prob=1.0, boxes=(1, 1), side=(1, 1), fill="mean")({"image": image})["image"]
    assert full.unique().tolist() == pytest.approx([1.01])


def test_a_head_that_lay_elsewhere_is_seen_there() -> None:
    """A displacement that is the same for all lines rolls the image; none leaves it."""
    image = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(displaced(image, 1, np.full(8, 2.0)), image.roll(2, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(displaced(image, 0, np.zeros(6)), image, atol=1e-5, rtol=0)


def test_ghosts_are_as_far_away_as_the_cycles() -> None:
    """Four cycles in 64 lines put ghosts four voxels beside a bright voxel, on both sides: of its edges, so one off."""
    image = torch.zeros(64, 1)
    image[20] = 1
    found = displaced(image, 0, Motion(0, 0.2, 4.0, 0.0, 0.0, 0.9).displacement(64))[:, 0]
    assert int(found.argmax()) == 20
    assert set(found.argsort(descending=True)[1:5].tolist()) == {15, 17, 23, 25}


def test_the_middle_of_the_scan_says_where_the_head_is() -> None:
    moved = Motion(0, 0.0, 1.0, 0.0, 3.0, 0.3).displacement(100)
    assert moved[50] == 0
    assert moved[0] == -3


def test_a_spike_is_one_sample_of_k_space() -> None:
    """Where the signal is strong, the magnitude is the signal and the wave's real part: two samples, mirrored."""
    image = torch.full((16, 16), 1000.0)
    image[:, ::2] += 20
    found = spiked(image, [Spike((0.25, 0.125), 0.5, 0.0)])
    sampled = np.abs(np.fft.fft2((found - image).numpy()))
    strongest = sorted(map(tuple, np.argwhere(sampled > 0.2 * sampled.max()).tolist()))
    assert strongest == [(4, 2), (12, 14)]
    assert float((found - image).max()) == pytest.approx(0.5 * spread_of(image), rel=0.02)


def test_k_space_without_its_outer_lines() -> None:
    """A wave of the highest frequency is gone, a constant stays, and an edge overshoots by Gibbs's 9 %."""
    wave = torch.ones(8, 4)
    wave[::2] = 3
    torch.testing.assert_close(truncated(wave, (0.5, 1.0)), torch.full((8, 4), 2.0), atol=1e-5, rtol=0)
    torch.testing.assert_close(truncated(wave, (1.0, 1.0)), wave)
    edge = torch.ones(512, 1)
    edge[128:384] = 2
    assert float(truncated(edge, (0.25, 1.0)).max()) == pytest.approx(2.0895, abs=0.01)


def test_noise_is_rician() -> None:
    """In air the mean is sigma times the root of pi / 2; far above the noise it is Gaussian of sigma."""
    air = rician(torch.zeros(300_000), 2.0, 0)
    assert float(air.mean()) == pytest.approx(2 * (np.pi / 2) ** 0.5, rel=0.01)
    tissue = rician(torch.full((300_000,), 200.0), 2.0, 1)
    assert float(tissue.std()) == pytest.approx(2, rel=0.01)
    assert float(tissue.mean()) == pytest.approx(200 + 2 / 200, abs=0.02)


def test_noise_is_relative_to_the_signals_spread() -> None:
    image = head(40, 40, 40, channels=1)
    found = RandRicianNoised("image", 1.0, (0.5, 0.5)).set_random_state(0)({"image": image})["image"]
    tissue = image > 0
    assert float((found - image)[tissue].std() / image[tissue].std()) == pytest.approx(0.5, rel=0.05)


def test_mean_and_spread_are_of_what_has_a_signal() -> None:
    assert mean_and_spread(torch.tensor([0.0, -5.0, 2.0, 4.0])) == pytest.approx((3, 1))
    assert mean_and_spread(torch.zeros(3)) == (0, 0)


@pytest.mark.parametrize("points", [4, 6])
def test_a_field_reaches_its_amplitude_and_is_smooth(points: int) -> None:
    lattice = np.random.default_rng(0).standard_normal((points,) * 3)
    field = log_field((30, 24, 27), Bias(lattice, 0.3))
    assert (float(field.min()), float(field.max())) == pytest.approx((-0.3, 0.3), rel=0.02)
    assert max(float(field.diff(dim=axis).abs().max()) for axis in range(3)) < 0.1
    if points == 4:
        # A polynomial of degree three along each axis: its fourth differences are nothing.
        assert max(float(field.double().diff(n=4, dim=axis).abs().max()) for axis in range(3)) < 1e-5


def test_a_lattice_of_one_number_is_no_field() -> None:
    assert not log_field((5, 6), Bias(np.ones((4, 4)), 0.3)).any()


def test_the_field_multiplies_the_signal() -> None:
    image = head(12, 13, 14, channels=1)
    transform = RandBiasFieldFastd("image", 1.0).set_random_state(0)
    found = transform({"image": image})["image"]
    field = log_field((12, 13, 14), transform.drawn["image"][0])
    torch.testing.assert_close((found + 2).as_tensor()[0], (image + 2).as_tensor()[0] * field.exp())


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_gamma_keeps_mean_and_spread_of_tissue_and_air_dark(exponent: float) -> None:
    signal = torch.tensor([0.0, 0.1, 4.0, 5.0, 7.0, 8.0])
    found = gamma_corrected(signal, Gamma(exponent, 1.0))
    tissue = signal > 1
    assert mean_and_spread(found[tissue]) == pytest.approx(mean_and_spread(signal[tissue]), rel=1e-4)
    assert float(found[0]) == 0
    assert bool((found.diff() >= 0).all())
    wider = gamma_corrected(signal, Gamma(exponent, 1.2))
    assert spread_of(wider[tissue]) == pytest.approx(1.2 * spread_of(signal[tissue]), rel=1e-4)


def test_dark_and_bright_change_places() -> None:
    """Tissues 4, 6 and 8 become 8, 6 and 4 about their mean; air at 0 and .1 stays dark."""
    found = inverted(torch.tensor([0.0, 0.1, 4.0, 6.0, 8.0]))
    assert found[2:].tolist() == [8, 6, 4]
    assert float(found[0]) == 0
    assert float(found[1]) < 1
