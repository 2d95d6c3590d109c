"""From a scan or a picture to slices of one size."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.classification import OutlinedClassd, classification_preprocessing


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


def outline(folder: Path, values: list[int]) -> dict[str, object]:
    """A scan, and a label map with a box of each value."""
    data = np.random.default_rng(0).random((20, 24, 7)).astype(np.float32)
    labels = np.zeros(data.shape, np.uint8)
    for n, value in enumerate(values):
        labels[2 + 6 * n : 6 + 6 * n, 8:12, 3] = value
    for name, array in (("a", data), ("outline", labels)):
        nib.save(nib.Nifti1Image(array, np.diag([2, 2, 6, 1])), folder / f"{name}.nii.gz")
    return {"image": str(folder / "a.nii.gz"), "label": str(folder / "outline.nii.gz")}


@pytest.mark.parametrize("value", [1, 3])
def test_an_outline_says_the_class(tmp_path: Path, value: int) -> None:
    """Value 1 is class 0; the outline is the mask as well, for a network with a mask head."""
    prepared = classification_preprocessing(["image"], ["mask"], spacing_mm=2.0, size=24, label_key="label")
    item = prepared(outline(tmp_path, [value]))
    assert item["label"] == value - 1
    assert (item["mask"] > 0).sum() == 4 * 4
    assert (item["mask"] > 0).sum(dim=(0, 1, 2)).nonzero().tolist() == [[3]]
    alone = classification_preprocessing(["image"], spacing_mm=2.0, size=24, label_key="label")
    assert "mask" not in alone(outline(tmp_path, [value]))


def test_a_class_that_is_a_number_stays(tmp_path: Path) -> None:
    item = outline(tmp_path, [2])
    mask = item.pop("label")
    prepared = classification_preprocessing(["image"], ["mask"], spacing_mm=2.0, size=24, label_key="label")
    assert prepared({**item, "label": 0, "mask": mask})["label"] == 0


@pytest.mark.parametrize(
    ("values", "saying"), [([], "nothing is outlined"), ([1, 3], r"segments \[1, 3\] are outlined")]
)
def test_an_outline_that_says_no_class(tmp_path: Path, values: list[int], saying: str) -> None:
    with pytest.raises(InputError, match=saying) as caught:
        OutlinedClassd("label")(outline(tmp_path, values))
    assert caught.value.file.endswith("outline.nii.gz")
