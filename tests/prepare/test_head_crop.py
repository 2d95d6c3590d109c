"""The air around a head is cut away: counted by hand, and from the file to the native grid and back."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.data.utils import decollate_batch, list_data_collate
from monai.transforms import Activationsd, Compose, Invertd

from neurobundle.postprocess.native_labels import LogitsToNativeLabelsd, LogitsToNativeProbabilitiesd
from neurobundle.prepare import CropToHeadd, in_head, mri_preprocessing

SPACING_MM = (2.0, 2.0, 2.0)


def cube(start: int, stop: int, side: int = 12) -> torch.Tensor:
    """A cube of 1 in air of -1."""
    image = torch.full((1, side, side, side), -1.0)
    image[0, start:stop, start:stop, start:stop] = 1.0
    return image


def cropped(image: torch.Tensor, margin: int = 0) -> MetaTensor:
    data = {"image": MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0])))}
    return CropToHeadd("image", "image", margin)(data)["image"]


# ----- counted by hand


def test_a_bright_voxel_in_the_air_is_no_head() -> None:
    """A voxel has 14 of 27 bright neighbours or is no head; one on a cube's face has 18, on its edge 12, alone 1."""
    image = cube(3, 7)
    image[0, 10, 10, 10] = 5.0
    head = in_head(image)[0]
    assert bool(head[3, 4, 4])
    assert not bool(head[3, 3, 4])
    assert not bool(head[10, 10, 10])
    assert int(head.sum()) == 64 - 12 * 2 - 8


def test_the_box_is_the_heads_and_a_margin() -> None:
    """Voxels 3 to 6 and two more on each side: 1 to 8, whose first lies at 2 mm."""
    image = cube(3, 7)
    image += torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * (image > 0)
    part = cropped(image, 2)
    assert part.shape == (1, 8, 8, 8)
    assert torch.equal(part.as_tensor(), image[:, 1:9, 1:9, 1:9])
    assert part.affine.tolist() == [[2, 0, 0, 2], [0, 2, 0, 2], [0, 0, 2, 2], [0, 0, 0, 1]]


def test_a_head_at_the_border_is_not_padded() -> None:
    """Voxels 0 to 3 and two more where there are any."""
    part = cropped(cube(0, 4), 2)
    assert part.shape == (1, 6, 6, 6)
    assert part.affine[:3, 3].tolist() == [0, 0, 0]
    assert cropped(cube(0, 12), 2).shape == (1, 12, 12, 12)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_an_image_without_a_head_keeps_its_grid(value: float) -> None:
    part = cropped(torch.full((2, 5, 6, 7), value))
    assert part.shape == (2, 5, 6, 7)
    assert torch.equal(part.affine, torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=part.affine.dtype)))


def test_an_image_of_noise_alone_keeps_its_grid() -> None:
    """Bright voxels that have few neighbours are no head, and there is no other."""
    image = torch.zeros(1, 9, 9, 9)
    image[0, ::4, ::4, ::4] = 1.0
    assert cropped(image).shape == image.shape


def test_the_head_is_that_of_any_channel_and_an_absent_one_has_none() -> None:
    image = torch.cat([cube(3, 6), torch.zeros(1, 12, 12, 12), cube(5, 9)])
    assert cropped(image).shape == (3, 6, 6, 6)


def test_a_label_map_is_cropped_with_its_image() -> None:
    image = MetaTensor(cube(3, 7))
    label = MetaTensor(torch.arange(12**3).reshape(1, 12, 12, 12))
    found = CropToHeadd(["image", "label"], "image", 1)({"image": image, "label": label})
    assert set(found) == {"image", "label"}
    assert torch.equal(found["label"].as_tensor(), label.as_tensor()[:, 2:8, 2:8, 2:8])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(3, 9)), min_size=3, max_size=3), st.integers(0, 3), st.booleans()
)
def test_nothing_of_a_head_is_lost(sides: list[tuple[int, int]], margin: int, spikes: bool) -> None:
    """Whatever box is bright, all of it is in the crop, each voxel where its affine says."""
    image = torch.zeros(1, 14, 13, 12)
    box = tuple(slice(min(a, n - 3), a + m) for (a, m), n in zip(sides, image.shape[1:], strict=True))
    image[(0, *box)] = torch.arange(1.0, 1 + image[(0, *box)].numel()).reshape(image[(0, *box)].shape)
    if spikes:
        image[0, ::5, ::5, ::5] += 1
    part = cropped(image, margin)
    start = [int(n) // 2 for n in part.affine[:3, 3]]
    there = tuple(slice(a, a + n) for a, n in zip(start, part.shape[1:], strict=True))
    assert torch.equal(part.as_tensor(), image[(slice(None), *there)])
    for kept, bright, n in zip(there, box, image.shape[1:], strict=True):
        assert kept.start <= bright.start
        assert kept.stop >= min(bright.stop, n)


# ----- from the file to the network's grid and back


def oblique() -> np.ndarray:
    a, b = np.deg2rad(20), np.deg2rad(-12)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return np.vstack([np.c_[turn * [1.3, 1.1, 2.7], [-30, 12, 50]], [0, 0, 0, 1]])


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 2.0, 1.0]),
    "PIL": np.array([[0, 0, -2.0, 90], [-1.2, 0, 0, 60], [0, -0.9, 0, 10], [0, 0, 0, 1]]),
    "oblique": oblique(),
}
#: Where the ball of tissue lies in the 60 x 64 x 36 voxels: in much air, or cut off by two faces.
PLACES = {"in air": (28, 30, 16), "at the border": (6, 56, 16)}


def scan(folder: Path, affine: np.ndarray, place: tuple[int, ...]) -> Path:
    """A ball with a kernel, and noise in the air."""
    grid = np.indices((60, 64, 36))
    radius = np.sqrt(sum((axis - n) ** 2 * w for axis, n, w in zip(grid, place, (1, 1, 4), strict=True)))
    rng = np.random.default_rng(0)
    image = np.select([radius < 6, radius < 14], [300, 150], 0) + np.abs(rng.normal(0, 6, radius.shape))
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "scan.nii.gz")
    return folder / "scan.nii.gz"


def pointwise(image: torch.Tensor, channels: int) -> torch.Tensor:
    """Logits that depend on a voxel alone: three classes, or two regions, of air, ball and kernel."""
    air = float(image.min())
    if channels == 3:
        return torch.cat([6 * (2 * middle * image - middle**2) for middle in (air, 0.0, 2.5)])
    return torch.cat([8 * (image - 0.5 * air), 8 * (image - 1.2)])


def predicted(file: Path, steps: list, back: object, channels: int) -> dict:
    """A case through a chain, batched and decollated as an evaluator does."""
    batch = list_data_collate([Compose(steps)({"image": str(file)})])
    batch["pred"] = MetaTensor(pointwise(batch["image"].as_tensor()[0], channels)[None])
    (item,) = decollate_batch(batch)
    return back(item)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_labels_are_those_without_a_crop(affine: np.ndarray, place: tuple[int, ...], tmp_path: Path) -> None:
    """Of a network that looks at a voxel alone: equal everywhere, on the native grid."""
    file = scan(tmp_path, affine, place)
    whole = mri_preprocessing(["image"], spacing_mm=SPACING_MM, region="head").transforms
    back = LogitsToNativeLabelsd("pred", "image")
    without = predicted(file, list(whole), back, 3)
    found = predicted(file, [*whole, CropToHeadd("image", "image", 2)], back, 3)
    assert found["image"].numel() < 0.5 * without["image"].numel()
    assert torch.equal(found["pred"].as_tensor(), without["pred"].as_tensor())
    assert found["pred"].shape == (1, 60, 64, 36)
    assert np.allclose(found["pred"].affine, affine, atol=1e-4)
    assert set(found["pred"].unique().tolist()) == {0, 1, 2}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_probabilities_are_those_of_invertd_within_the_crop(
    affine: np.ndarray, place: tuple[int, ...], tmp_path: Path
) -> None:
    """And 0 beyond it, where a padded logit would say one half; so what is above one half is the same everywhere."""
    file = scan(tmp_path, affine, place)
    whole = mri_preprocessing(["image"], spacing_mm=SPACING_MM, region="head")
    stock = Compose(
        [Invertd("pred", whole, orig_keys="image", nearest_interp=False), Activationsd("pred", sigmoid=True)]
    )
    expected = predicted(file, list(whole.transforms), stock, 2)["pred"].as_tensor()
    back = LogitsToNativeProbabilitiesd("pred", "image")
    uncropped = predicted(file, list(whole.transforms), back, 2)["pred"]
    torch.testing.assert_close(uncropped.as_tensor(), expected, atol=1e-6, rtol=0)
    found = predicted(file, [*whole.transforms, CropToHeadd("image", "image", 2)], back, 2)["pred"]
    assert found.shape == (2, 60, 64, 36)
    assert np.allclose(found.affine, affine, atol=1e-4)
    apart = (found.as_tensor() - expected).abs() > 1e-5
    assert apart.any()
    assert not found.as_tensor()[apart].any()
    assert torch.equal(found.as_tensor() > 0.5, expected > 0.5)
    assert (found > 0.5).any(dim=(1, 2, 3)).all()
    assert float(found[:, -1, 0].max()) == 0.0
