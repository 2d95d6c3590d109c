import pytest
import torch
from monai.data import MetaTensor

from neurobundle.errors import InputError
from neurobundle.prepare import NormalizeForegroundd
from neurobundle.prepare.intensity import clip_percentiles, foreground, z_score


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
