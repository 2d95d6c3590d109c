import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare import NormalizeForegroundd
from neurobundle.prepare.channels import foreground
from neurobundle.prepare.intensity import (
    NormalizeIntensityd,
    clip_percentiles,
    normalize,
    percentiles,
    z_score,
)
from neurobundle.prepare.peaks import tissue_peak, white_stripe

METHODS = ("zscore", "minmax", "percentile", "tissue_peak")


def test_foreground_leaves_the_air_out() -> None:
    """Statistics are those of the voxels above zero."""
    image = torch.tensor([0.0, 0.0, 1.0, 3.0])
    assert z_score(image, foreground(image)).tolist() == [-2.0, -2.0, -1.0, 1.0]


def test_clip_cuts_a_hot_voxel() -> None:
    image = torch.ones(1000)
    image[0], image[1] = 1e6, 0.5
    clipped = clip_percentiles(image, 0.5, 99.5, foreground(image))
    assert clipped.max() == 1
    assert image[0] == 1e6, "the input must not be changed in place"


def test_channels_are_normalised_apart() -> None:
    image = torch.stack([torch.arange(1.0, 9.0).reshape(2, 2, 2), 100 * torch.arange(1.0, 9.0).reshape(2, 2, 2)])
    result = NormalizeForegroundd("image", lower=0, upper=100)({"image": image})["image"]
    torch.testing.assert_close(result[0], result[1])
    assert abs(float(result[0].mean())) < 1e-6


def test_metadata_survives() -> None:
    image = MetaTensor(torch.arange(8.0).reshape(1, 2, 2, 2), affine=2 * torch.eye(4))
    result = NormalizeForegroundd("image")({"image": image})["image"]
    assert torch.equal(result.affine, image.affine)


@pytest.mark.parametrize(
    ("value", "cause"), [(7.0, "no signal"), (0.0, "no signal"), (float("nan"), "1 of its 8 voxels are NaN")]
)
def test_a_volume_without_contrast_or_with_nan_is_refused_with_its_file(value: float, cause: str) -> None:
    image = MetaTensor(torch.full((1, 2, 2, 2), 7.0 if value != value else value))
    if value != value:
        image[0, 0, 0, 0] = value
    image.meta["filename_or_obj"] = "anna.nii.gz"
    with pytest.raises(InputError, match=cause) as caught:
        NormalizeForegroundd("image")({"image": image})
    assert caught.value.file == "anna.nii.gz"


#: Four voxels that a reader can work with: their mean is 15, their standard deviation the root of 125.
FOUR = torch.tensor([[0.0, 10.0, 20.0, 30.0]])


def everything(values: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(values, dtype=torch.bool)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("minmax", [[0, 1 / 3, 2 / 3, 1]]),
        ("zscore", [[-15 / 125**0.5, -5 / 125**0.5, 5 / 125**0.5, 15 / 125**0.5]]),
        # The percentiles 25 and 75 of 0, 10, 20, 30 are 7.5 and 22.5.
        ("percentile", [[0, 2.5 / 15, 12.5 / 15, 1]]),
    ],
)
def test_each_method_on_four_voxels(method: str, expected: list[list[float]]) -> None:
    before = FOUR.clone()
    found = normalize(FOUR, method, everything(FOUR), lower=25, upper=75)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert torch.equal(FOUR, before)


def test_a_region_is_measured_and_everything_is_scaled() -> None:
    """Foreground 10 to 30 becomes 0 to 1, so that the air at 0 becomes -.5."""
    data = {"image": FOUR[None], "brain": torch.tensor([[[0, 1, 1, 0]]])}
    over = NormalizeIntensityd("image", "minmax", "foreground")(data)["image"]
    assert over.flatten().tolist() == [-0.5, 0, 0.5, 1]
    masked = NormalizeIntensityd("image", "minmax", "mask", "brain")(data)["image"]
    assert masked.flatten().tolist() == [-1, 0, 1, 2]
    whole = NormalizeIntensityd("image", "minmax", "all")(data)["image"]
    torch.testing.assert_close(whole.flatten(), torch.tensor([0, 1 / 3, 2 / 3, 1]))
    assert data["image"].flatten().tolist() == [0, 10, 20, 30]


def test_percentiles_are_those_of_numpy() -> None:
    values = torch.randn(1001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = (0, 0.5, 33.3, 50, 99.5, 100)
    np.testing.assert_allclose(percentiles(values, at), np.percentile(values.numpy(), at), rtol=1e-12)


def test_integers_and_absent_channels() -> None:
    image = torch.stack([torch.arange(8).reshape(2, 2, 2), torch.zeros(2, 2, 2, dtype=torch.long)])
    result = NormalizeIntensityd("image", "minmax", allow_empty=True)({"image": image})["image"]
    assert result.dtype == torch.float32
    assert result[0].max() == 1
    assert not result[1].any()
    with pytest.raises(InputError, match="no signal"):
        NormalizeIntensityd("image", "minmax")({"image": image})


BRAIN = torch.randn(4096, generator=torch.Generator().manual_seed(0))


def brain(*tissues: tuple[float, float, int]) -> torch.Tensor:
    """Voxels of tissues with a mean, a spread and a number."""
    return torch.cat([mean + spread * BRAIN[:count] for mean, spread, count in tissues])


#: A T1 brain: fluid, grey, white; then a tail of vessels, brighter than white matter, but rare.
T1 = brain((200, 30, 800), (500, 40, 4000), (800, 30, 2600), (1200, 150, 150))
#: A FLAIR brain: fluid is dark, grey and white matter run together, lesions are bright and rare.
FLAIR = brain((100, 20, 700), (400, 30, 4000), (440, 30, 2500), (700, 40, 150))


@pytest.mark.parametrize(
    ("values", "sequence", "low", "high"), [(T1, "T1", 785, 815), (T1, "T1c", 785, 815), (FLAIR, "FLAIR", 395, 440)]
)
def test_the_peak_of_white_matter(values: torch.Tensor, sequence: str, low: float, high: float) -> None:
    assert low < tissue_peak(values, sequence) < high


def test_the_highest_peak_is_not_the_last() -> None:
    assert 480 < tissue_peak(T1, "T2") < 520


def test_the_white_stripe_is_a_tenth_of_the_voxels() -> None:
    """Of 0..100 and forty more voxels from 48 to 52, it is 7 on each side of the peak: all within 48 and 52."""
    values = torch.cat([torch.arange(101.0), torch.linspace(48, 52, 40)])
    mean, deviation = white_stripe(values, "T1")
    assert 49 < mean < 51
    assert 0.2 < deviation < 1


@given(scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
@settings(max_examples=20)
def test_white_stripe_forgets_the_units(scale: float, shift: float) -> None:
    """An image times a number, plus a number, is normalised to the same."""
    volume = T1.double().reshape(1, -1)
    first = normalize(volume, "tissue_peak", everything(volume))
    second = normalize(volume * scale + shift, "tissue_peak", everything(volume))
    # A bin of the histogram is 1/512 of its range; by rounding a voxel may change bins, and so the peak its place.
    torch.testing.assert_close(first, second, atol=0.05, rtol=0.01)


@given(image=arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1000, width=16)), method=st.sampled_from(METHODS))
def test_brighter_stays_brighter(image: np.ndarray, method: str) -> None:
    """Every method is monotone, finite, and leaves its input as it was."""
    volume = torch.from_numpy(image.copy())
    try:
        found = normalize(volume, method)
    except InputError:
        # The stripe of a few voxels may well have one grey value.
        assert len(np.unique(image[image > 0])) <= 1 or method == "tissue_peak"
        return
    assert bool(torch.isfinite(found).all())
    assert np.array_equal(volume.numpy(), image)
    order = np.argsort(image, axis=None, kind="stable")
    assert bool((torch.diff(found.flatten()[torch.from_numpy(order)]) >= 0).all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("value", "cause"), [(7.0, "no signal"), (-7.0, "no signal"), (float("nan"), "24 of its 24 voxels are NaN")]
)
def test_bad_images_are_refused_by_name(method: str, value: float, cause: str) -> None:
    image = MetaTensor(torch.full((1, 2, 3, 4), value), meta={"filename_or_obj": "anna.nii.gz"})
    with pytest.raises(InputError, match=cause) as caught:
        NormalizeIntensityd("image", method)({"image": image})
    assert caught.value.file == "anna.nii.gz"
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("mask", "cause"),
    [
        (torch.zeros(1, 2, 3, 4), "the mask is empty"),
        (torch.ones(1, 2, 3, 5), r"the mask is \(2, 3, 5\) and the image \(2, 3, 4\) voxels"),
        (torch.ones(3, 2, 3, 4), "the mask has 3 channels and the image 2"),
        (None, "there is no mask 'brain'"),
    ],
)
def test_bad_masks_are_refused(mask: torch.Tensor | None, cause: str) -> None:
    data = {"image": torch.arange(48.0).reshape(2, 2, 3, 4)} | ({} if mask is None else {"brain": mask})
    with pytest.raises(InputError, match=cause) as caught:
        NormalizeIntensityd("image", region="mask", mask_key="brain")(data)
    assert caught.value.way_out


@pytest.mark.parametrize(
    ("given_", "cause"),
    [
        ({"method": "z-score"}, "did you mean 'zscore'"),
        ({"region": "brain"}, "region is 'brain'"),
        ({"region": "mask"}, "region is 'mask' and mask_key None"),
        ({"mask_key": "brain"}, "region is 'foreground' and mask_key 'brain'"),
        ({"lower": 60, "upper": 40}, "lower is 60 and upper 40"),
        ({"sequence": "PD"}, "sequence is 'PD'"),
    ],
)
def test_settings_without_a_meaning_are_refused(given_: dict[str, object], cause: str) -> None:
    with pytest.raises(SettingError, match=cause):
        NormalizeIntensityd("image", **given_)


def test_each_channel_has_its_sequence() -> None:
    image = torch.stack([T1[:6400].reshape(1, -1), FLAIR[:6400].reshape(1, -1)])
    found = NormalizeIntensityd("image", "tissue_peak", sequence=("T1", "FLAIR"))({"image": image})["image"]
    torch.testing.assert_close(found[1], normalize(image[1], "tissue_peak", sequence="FLAIR"))
    with pytest.raises(InputError, match="more channels than the 1 sequences"):
        NormalizeIntensityd("image", "tissue_peak", sequence=("T1",))({"image": image})
