"""From a scan or a picture to slices of one size."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from neurobundle.errors import SettingError
from neurobundle.prepare.classification import classification_preprocessing


def test_the_middle_of_a_picture_as_a_square(tmp_path: Path) -> None:
    """A picture of 100 x 50 pixels and 250 mm has pixels of 2.5 mm: its middle is 40 of its columns, all rows."""
    pixels = np.full((50, 100), 10, np.uint8)
    pixels[20:30, 45:55] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray((pixels > 100).astype(np.uint8)).save(tmp_path / "mask.png")
    prepared = classification_preprocessing(["image"], ["mask"], spacing_mm=2.5, size=40)
    item = prepared({"image": str(tmp_path / "a.png"), "mask": str(tmp_path / "mask.png")})
    assert item["image"].shape == item["mask"].shape == (1, 40, 40, 1)
    assert torch.equal(item["image"] > 0, item["mask"] > 0)
    assert item["mask"].sum() == 100
    assert item["mask"][0, 15:25, 15:25, 0].all()


def test_a_slice_that_is_too_small_is_continued(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(10, 30, dtype=np.uint8), (20, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    item = classification_preprocessing(["image"], spacing_mm=12.5, size=30)({"image": str(tmp_path / "a.png")})
    image = item["image"][0, ..., 0]
    assert image.shape == (30, 30)
    assert (image[:5] == image[5]).all()
    assert (image[25:] == image[24]).all()


def test_all_slices_of_a_head(tmp_path: Path) -> None:
    data = np.random.default_rng(0).random((20, 24, 7)).astype(np.float32)
    nib.save(nib.Nifti1Image(data, np.diag([2, 2, 6, 1])), tmp_path / "a.nii.gz")
    item = classification_preprocessing(["image"], spacing_mm=2.0, size=16)({"image": str(tmp_path / "a.nii.gz")})
    assert item["image"].shape == (1, 16, 16, 7)


def test_no_size() -> None:
    with pytest.raises(SettingError, match="size is 0"):
        classification_preprocessing(["image"], size=0)
