"""From the native grid to the network's and back: positions, voxels, all orientations."""

from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.data.utils import decollate_batch, list_data_collate
from monai.transforms import (
    Compose,
    CropForegroundd,
    DivisiblePadd,
    Invertd,
    LoadImaged,
    Orientationd,
    Spacingd,
    allow_missing_keys_mode,
)

from neurobundle.errors import InputError, SettingError
from neurobundle.geometry import apply, same_grid
from neurobundle.prepare.grid import Grid, box_of, network_grid, target_spacing
from neurobundle.prepare.intensity import NormalizeForegroundd
from neurobundle.prepare.space import ToNetworkGridd, sample

LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
ORIENTATIONS = [(p, s) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]


def affine_of(
    orientation: int = 0, sizes: tuple[float, ...] = (1, 1, 1), turn_deg: float = 0, seed: int = 0
) -> np.ndarray:
    """One of 48 orientations, with voxel sizes, turned about a random axis, and moved."""
    order, signs = ORIENTATIONS[orientation]
    rng = np.random.default_rng(seed)
    linear = np.zeros((3, 3))
    linear[list(order), range(3)] = signs
    axis = rng.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(turn_deg)
    rotation = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation @ linear * np.array(sizes)
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    return affine


def volume(array: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(np.array(array))[None], affine=torch.from_numpy(np.array(affine)))


def head(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise within an ellipsoid, 0 around it."""
    grid = np.indices(shape)
    inside = sum(((grid[n] - s / 2 + 0.5) / (0.33 * s)) ** 2 for n, s in enumerate(shape)) < 1
    return np.where(inside, np.random.default_rng(seed).uniform(50, 100, shape), 0).astype(np.float32)


def test_a_row_of_four_at_half_the_spacing() -> None:
    """0 2 4 6 at 2 mm is 0 1 2 3 4 5 6 at 1 mm."""
    image = volume(np.array([0.0, 2, 4, 6], np.float32).reshape(4, 1, 1), np.diag([2.0, 1, 1, 1]))
    result = ToNetworkGridd("image", (1, 1, 1))({"image": image})["image"]
    assert result.flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert result.affine.tolist() == np.eye(4).tolist()


def test_voxels_are_copied_where_they_fall_on_voxels() -> None:
    """LPS+ to RAS+ at the same spacing is two flips: values are the same, and the corner is another."""
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = volume(array, np.diag([-1.0, -1, 1, 1]))
    result = ToNetworkGridd("image")({"image": image})["image"]
    assert result.dtype == torch.float32
    assert np.array_equal(result[0].numpy(), array[::-1, ::-1])
    assert result.affine[:3, 3].tolist() == [-1, -2, 0]


def test_nothing_is_changed_in_place() -> None:
    array = head((6, 7, 8))
    image = volume(array, np.eye(4))
    result = ToNetworkGridd("image")({"image": image})["image"]
    result += 1
    assert np.array_equal(image[0].numpy(), array)
    assert not image.applied_operations


@pytest.mark.parametrize("crop", ["none", "foreground"])
def test_a_result_shares_no_memory_with_its_input(crop: str) -> None:
    array = np.zeros((6, 7, 8), np.float32)
    array[2:5] = 1
    image = volume(array, np.eye(4))
    for mode in ("bilinear", "nearest"):
        ToNetworkGridd("image", mode=mode, crop=crop)({"image": image})["image"].add_(1)
    assert np.array_equal(image[0].numpy(), array)


def test_crop_and_multiple() -> None:
    """Voxels 3 to 5 of 10, to a multiple of 4: one more is taken from the scan, not padded."""
    array = np.ones((10, 10, 10), np.float32)
    mask = np.zeros_like(array)
    mask[3:6, 3:6, 3:6] = 1
    step = ToNetworkGridd("image", crop="mask", crop_key="mask", multiple_of=4)
    result = step({"image": volume(array, np.eye(4)), "mask": volume(mask, np.eye(4))})["image"]
    assert tuple(result.shape) == (1, 4, 4, 4)
    assert result.affine[:3, 3].tolist() == [3, 3, 3]
    assert result.min() == 1


def test_margin_in_millimetres() -> None:
    """Voxel 5 of 2 mm with 4 mm around it: voxels 3 to 7."""
    array = np.zeros((11, 11, 11), np.float32)
    array[5, 5, 5] = 1
    result = ToNetworkGridd("image", (2, 2, 2), crop="foreground", margin_mm=4)(
        {"image": volume(array, np.diag([2.0, 2, 2, 1]))}
    )["image"]
    assert tuple(result.shape[1:]) == (5, 5, 5)
    assert result.affine[:3, 3].tolist() == [6, 6, 6]
    assert result[0, 2, 2, 2] == 1


def test_padding_beyond_the_scan_is_zero() -> None:
    result = ToNetworkGridd("image", multiple_of=8)({"image": volume(np.ones((6, 8, 7), np.float32), np.eye(4))})
    image = result["image"]
    assert tuple(image.shape[1:]) == (8, 8, 8)
    assert image.sum() == 6 * 8 * 7
    assert image.affine[:3, 3].tolist() == [-1, 0, 0]


def chain(spacing: tuple[float, ...], keys: tuple[str, ...], modes: tuple[str, ...]) -> Compose:
    """MONAI's way."""
    return Compose(
        [
            Orientationd(keys, axcodes="RAS", labels=LABELS),
            Spacingd(keys, pixdim=spacing, mode=modes, padding_mode="border"),
            CropForegroundd(keys, source_key="image", allow_smaller=True),
            DivisiblePadd(keys, k=1),
        ]
    )


@pytest.mark.parametrize("orientation", range(0, 48, 5))
@pytest.mark.parametrize(("turn", "spacing"), [(0, (1.0, 1.0, 1.0)), (0, (1.3, 0.8, 2.1)), (20, (1.1, 1.2, 0.9))])
def test_as_monai(orientation: int, turn: float, spacing: tuple[float, ...]) -> None:
    """Orientation, Spacing and CropForeground one after the other give the same voxels in the same places."""
    affine = affine_of(orientation, (0.9371, 1.0173, 1.3719), turn)
    array = head((22, 27, 25))
    labels = (array > 70).astype(np.float32)
    case = {"image": volume(array, affine), "label": volume(labels, affine)}
    theirs = chain(spacing, ("image", "label"), ("bilinear", "nearest"))(case)
    ours = ToNetworkGridd(("image", "label"), spacing, ("bilinear", "nearest"), crop="foreground")(case)
    image, label = (within(ours[key], theirs[key]) for key in ("image", "label"))
    assert torch.allclose(image, theirs["image"].as_tensor(), atol=1e-4)
    # The nearest of two voxels that are as near is a matter of rounding.
    assert (label != theirs["label"].as_tensor()).float().mean() < 1e-3


def within(ours: MetaTensor, theirs: MetaTensor) -> torch.Tensor:
    """The part of ours that lies on MONAI's grid. Ours may have a voxel more on each side, for the way back."""
    first = np.linalg.inv(ours.affine.numpy()) @ theirs.affine.numpy()[:, 3]
    start = np.round(first[:3]).astype(int)
    assert np.allclose(first[:3], start, atol=1e-3)
    more = np.array(ours.shape[1:]) - np.array(theirs.shape[1:])
    assert (start >= 0).all()
    assert (more >= start).all()
    assert (more <= 2).all()
    part = tuple(slice(a, a + n) for a, n in zip(start, theirs.shape[1:], strict=True))
    return ours.as_tensor()[(slice(None), *part)]


def test_as_monai_padded() -> None:
    affine = affine_of(7, (1.1, 1.0, 2.0))
    image = volume(head((21, 22, 13)) + 1, affine)
    theirs = Compose(
        [
            Orientationd("image", axcodes="RAS", labels=LABELS),
            Spacingd("image", pixdim=(1.0, 1.0, 1.0), padding_mode="border"),
            DivisiblePadd("image", k=16),
        ]
    )({"image": image})["image"]
    ours = ToNetworkGridd("image", multiple_of=16)({"image": image})["image"]
    assert same_grid(ours.shape[1:], ours.affine, theirs.shape[1:], theirs.affine)
    assert torch.allclose(ours.as_tensor(), theirs.as_tensor(), atol=2e-3)


@settings(max_examples=60)
@given(
    orientation=st.integers(0, 47),
    sizes=st.tuples(*[st.floats(0.4, 4)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 4)] * 3),
    turn=st.floats(0, 40),
    seed=st.integers(0, 99),
)
def test_a_voxel_lies_where_the_affine_says(
    orientation: int, sizes: tuple[float, ...], spacing: tuple[float, ...], turn: float, seed: int
) -> None:
    """A linear function of the place in mm, sampled, is the function at the new voxels' places."""
    shape = (7, 6, 9)
    affine = affine_of(orientation, sizes, turn, seed)
    slope = np.random.default_rng(seed).uniform(-1, 1, 3)
    index = np.moveaxis(np.indices(shape), 0, -1)
    array = apply(affine, index) @ slope
    # About its middle: far from the origin, float32 rounds the function itself by more than is allowed here.
    middle = array.mean()
    image = volume(array - middle, affine)
    result = ToNetworkGridd("image", spacing)({"image": image})["image"]
    places = apply(result.affine.numpy(), np.moveaxis(np.indices(result.shape[1:]), 0, -1))
    native = apply(np.linalg.inv(affine), places)
    inside = ((native >= -1e-6) & (native <= np.array(shape) - 1 + 1e-6)).all(axis=-1)
    assert inside.any()
    assert np.abs(result[0].numpy() - (places @ slope - middle))[inside].max() < 1e-4
    assert np.allclose(np.linalg.norm(result.affine.numpy()[:3, :3], axis=0), spacing)


@settings(max_examples=80)
@given(
    orientation=st.integers(0, 47),
    sizes=st.tuples(*[st.floats(0.4, 4)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 4)] * 3),
    turn=st.floats(0, 40),
    crop=st.sampled_from(["none", "foreground"]),
    multiple=st.sampled_from([None, 4, 7]),
    seed=st.integers(0, 99),
)
def test_the_way_back_lands_on_the_native_grid(
    orientation: int,
    sizes: tuple[float, ...],
    spacing: tuple[float, ...],
    turn: float,
    crop: str,
    multiple: int | None,
    seed: int,
) -> None:
    """Shape and affine are those of the file; a constant volume is constant again wherever the box was."""
    affine = affine_of(orientation, sizes, turn, seed)
    image = volume(np.full((9, 8, 10), 3, np.float32), affine)
    step = ToNetworkGridd("image", spacing, crop=crop, multiple_of=multiple)
    back = step.inverse(step({"image": image}))["image"]
    assert tuple(back.shape) == tuple(image.shape)
    assert np.array_equal(back.affine.numpy(), affine)
    assert back.applied_operations == []
    if multiple is None:
        assert torch.allclose(back.as_tensor(), image.as_tensor())


@settings(max_examples=48)
@given(
    orientation=st.integers(0, 47), turn=st.floats(0, 40), seed=st.integers(0, 99), multiple=st.sampled_from([None, 8])
)
def test_a_label_map_comes_back_unchanged(orientation: int, turn: float, seed: int, multiple: int | None) -> None:
    """Without another spacing voxels are only put elsewhere, so a label map is the same to the last voxel."""
    affine = affine_of(orientation, (0.9375, 0.9375, 3), turn, seed).astype(np.float32).astype(float)
    labels = np.random.default_rng(seed).integers(0, 4, (9, 8, 7)).astype(np.uint8)
    order = ORIENTATIONS[orientation][0]
    spacing = tuple(np.array((0.9375, 0.9375, 3))[list(np.argsort(order))])
    upright = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    if list(upright) != list(order):  # turned so far that another axis is the nearest
        spacing = tuple(np.array((0.9375, 0.9375, 3))[np.argsort(upright)])
    step = ToNetworkGridd("label", spacing, "nearest", crop="foreground", multiple_of=multiple)
    there = step({"label": volume(labels, affine)})
    assert there["label"].dtype == torch.uint8
    back = step.inverse(there)["label"]
    assert np.array_equal(back[0].numpy(), labels)


def test_outside_the_box_the_way_back_gives_zero() -> None:
    array = np.zeros((20, 20, 20), np.float32)
    array[8:12, 8:12, 8:12] = 5
    step = ToNetworkGridd("image", crop="foreground")
    there = step({"image": volume(array, np.eye(4))})
    there["image"] = there["image"] + 1
    back = step.inverse(there)["image"][0].numpy()
    assert np.array_equal(back, np.where(array > 0, 6, 0))


def test_grids_that_are_turned_against_each_other() -> None:
    """As after a registration: point by point, and a linear function shows the places."""
    source, target = affine_of(3, (1, 1.2, 1.1), 10, 1), affine_of(0, (1, 1, 1), 0, 1)
    target[:3, 3] = apply(source, (6, 6, 6)) - 2
    shape, slope = (14, 13, 12), np.array([0.3, -0.5, 0.8])
    array = apply(source, np.moveaxis(np.indices(shape), 0, -1)) @ slope
    result = sample(torch.from_numpy(array)[None], source, Grid((4, 5, 4), target))
    places = apply(target, np.moveaxis(np.indices((4, 5, 4)), 0, -1))
    assert np.abs(result[0].numpy() - places @ slope).max() < 1e-4
    far = target.copy()
    far[:3, 3] += 500
    assert not sample(torch.from_numpy(array)[None], source, Grid((4, 5, 4), far)).any()


def test_a_sheared_scan_is_put_upright() -> None:
    """A tilted gantry: as MONAI does, and back."""
    affine = np.array([[1.0, 0, 0, 5], [0, 1, 0.3, 6], [0, 0, 1, 7], [0, 0, 0, 1]])
    image = volume(head((16, 18, 14)), affine)
    ours = ToNetworkGridd("image")
    there = ours({"image": image})
    theirs = Spacingd("image", pixdim=(1, 1, 1), padding_mode="border")({"image": image})["image"]
    assert same_grid(there["image"].shape[1:], there["image"].affine, theirs.shape[1:], theirs.affine)
    assert (there["image"].as_tensor() - theirs.as_tensor()).abs().quantile(0.9) < 2e-3
    assert np.array_equal(ours.inverse(there)["image"].affine.numpy(), affine)


def test_a_label_map_by_the_largest_share() -> None:
    """Halfway between two labels the lower one wins; no label arises that was not there."""
    labels = np.array([0, 0, 3, 3, 5, 5], np.uint8).reshape(6, 1, 1)
    by_share = ToNetworkGridd("label", (0.5, 1, 1), "label")({"label": volume(labels, np.eye(4))})["label"]
    assert by_share.flatten().tolist() == [0, 0, 0, 0, 3, 3, 3, 3, 5, 5, 5]
    assert by_share.dtype == torch.uint8


def test_a_label_on_a_grid_of_its_own_joins_the_image() -> None:
    """The label map's file is half as fine; both end on one grid."""
    image, label = np.zeros((8, 8, 8), np.float32), np.zeros((4, 4, 4), np.uint8)
    image[2:4, 4:6, 4:6], label[1, 2, 2] = 1, 1
    fine, coarse = np.eye(4), np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] = 0.5
    step = ToNetworkGridd(("image", "label"), mode=("bilinear", "nearest"))
    result = step({"image": volume(image, fine), "label": volume(label, coarse)})
    assert np.array_equal(result["label"].numpy(), result["image"].numpy())
    back = step.inverse(result)
    assert tuple(back["label"].shape) == (1, 4, 4, 4)


def written(folder: Path, array: np.ndarray, affine: np.ndarray) -> str:
    path = folder / "case.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def test_invertd_brings_logits_back(tmp_path: Path) -> None:
    """What a bundle does: two maps on the network's grid, through a batch, onto the file's grid, interpolated."""
    affine = affine_of(11, (1.2, 0.8, 2.0), 7)
    array = head((18, 20, 12))
    preparation = Compose(
        [
            LoadImaged(["image"], reader="neurobundle.load.Reader", ensure_channel_first=True),
            ToNetworkGridd(["image"], (1, 1, 1), crop="foreground", margin_mm=4, multiple_of=8),
            NormalizeForegroundd(["image"]),
        ]
    )
    case = preparation({"image": written(tmp_path, array, affine)})
    batch = list_data_collate([case])
    batch["pred"] = torch.cat([batch["image"], 1 - batch["image"]], dim=1)
    item = decollate_batch(batch)[0]
    native = Invertd("pred", preparation, "image", nearest_interp=False)(item)["pred"]
    assert tuple(native.shape) == (2, 18, 20, 12)
    stored = nib.load(tmp_path / "case.nii.gz").affine
    assert np.allclose(native.affine.numpy(), stored, atol=1e-6)
    inside = array > 0
    assert np.allclose((native[0] + native[1]).numpy()[inside], 1, atol=1e-4)
    assert np.corrcoef(native[0].numpy()[inside], array[inside])[0, 1] > 0.5
    nearest = Invertd("pred", preparation, "image", nearest_interp=True)(item)["pred"]
    assert set(np.unique(nearest.numpy())) <= {0, *np.unique(batch["pred"].numpy())}


def test_a_missing_key_is_let_through_in_the_inverse() -> None:
    step = ToNetworkGridd(("image", "label"), mode=("bilinear", "nearest"))
    case = {"image": volume(head((6, 6, 6)), np.eye(4)), "label": volume(np.ones((6, 6, 6), np.uint8), np.eye(4))}
    there = step(case)
    with allow_missing_keys_mode(step):
        assert tuple(step.inverse({"image": there["image"]})["image"].shape) == (1, 6, 6, 6)


def test_the_spacing_to_train_at() -> None:
    """The median; across thick slices its 10th percentile, but nothing finer than in the slices."""
    assert target_spacing([[1, 1, 2], [1, 1, 3], [1, 1, 2.5]]).tolist() == [1, 1, 2.5]
    assert target_spacing([[1, 1, 4]] * 9 + [[1, 1, 2]]).tolist() == pytest.approx([1, 1, 3.8])
    assert target_spacing([[1, 1, 4]] * 6 + [[1, 1, 0.5]] * 4).tolist() == [1, 1, 1]


def test_box_of_a_mask() -> None:
    mask = np.zeros((4, 5, 6), bool)
    mask[1, 2:4, 5] = True
    assert box_of(mask) == ((1, 2), (2, 4), (5, 6))


def test_a_crop_between_two_voxels_of_a_coarse_grid_keeps_both() -> None:
    grid = network_grid((40, 40, 40), np.eye(4), (10, 10, 10), ((14, 15), (15, 16), (0, 1)))
    assert grid.shape == (2, 2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing_mm": (1, 0, 1)}, "spacing_mm must be three numbers above 0"),
        ({"spacing_mm": (1, 1)}, "spacing_mm must be three numbers above 0"),
        ({"spacing_mm": "abc"}, "spacing_mm must be three numbers above 0"),
        ({"spacing_mm": (1, None, "x")}, "spacing_mm must be three numbers above 0"),
        ({"mode": "linear"}, "mode must be one of bilinear, nearest, label, got 'linear'"),
        ({"crop": "forground"}, "did you mean 'foreground'"),
        ({"crop": "mask"}, "wants crop_key"),
        ({"multiple_of": 0}, "multiple_of must be whole numbers of 1 or more"),
        ({"multiple_of": (8, 8)}, "multiple_of must be whole numbers of 1 or more, one or three"),
        ({"multiple_of": "8"}, "multiple_of must be whole numbers of 1 or more"),
        ({"margin_mm": -1}, "margin_mm must be 0 or more"),
        ({"margin_mm": "1"}, "margin_mm must be 0 or more"),
        ({"margin_mm": float("nan")}, "margin_mm must be 0 or more"),
    ],
)
def test_settings_that_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ToNetworkGridd("image", **change)


def test_input_that_is_refused() -> None:
    flat = np.diag([1.0, 0, 1, 1])
    with pytest.raises(InputError, match="spacing of zero"):
        network_grid((4, 4, 4), flat, (1, 1, 1))
    empty = volume(np.zeros((4, 4, 4), np.float32), np.eye(4))
    empty.meta["filename_or_obj"] = "empty.nii"
    with pytest.raises(InputError, match=r"nothing to crop to") as caught:
        ToNetworkGridd("image", crop="foreground")({"image": empty})
    assert "empty.nii" in str(caught.value)
    other = volume(np.ones((4, 4, 5), np.float32), np.eye(4))
    with pytest.raises(InputError, match=r"has the shape \(4, 4, 5\), the image \(4, 4, 4\)"):
        ToNetworkGridd("image", crop="mask", crop_key="mask")({"image": empty, "mask": other})
    with pytest.raises(InputError, match="not \\(channel, i, j, k\\)"):
        ToNetworkGridd("image")({"image": MetaTensor(torch.zeros(1, 4, 4))})
    with pytest.raises(InputError, match="a spacing is not above zero"):
        target_spacing([[1, 0, 1]])


@pytest.mark.parametrize("shape", [(0, 4, 4), (4, 4, 0)])
def test_a_volume_without_voxels_is_refused(shape: tuple[int, ...]) -> None:
    empty = MetaTensor(torch.zeros(1, *shape), meta={"filename_or_obj": "empty.nii"})
    with pytest.raises(InputError, match=r"empty\.nii: it has the shape .* without a voxel"):
        ToNetworkGridd("image")({"image": empty})
    with pytest.raises(InputError, match="without a voxel"):
        ToNetworkGridd(("other", "image"))({"other": torch.ones(1, 4, 4, 4), "image": empty})
    with pytest.raises(InputError, match="without a voxel"):
        network_grid(shape, np.eye(4), (1, 1, 1))


@pytest.mark.parametrize(
    ("sizes", "spacing", "multiple", "says"),
    [
        ((1, 1, 1), (0.001,) * 3, None, "0.001 x 0.001 x 0.001 mm it would have 39001 x 39001 x 39001 voxels"),
        ((1, 1, 1), (1, 1, 1), 10**4, "1 x 1 x 1 mm it would have 10000 x 10000 x 10000 voxels"),
        ((1e30, 1, 1), (1, 1, 1), None, r"it would have 3\.9e\+31 x 40 x 40 voxels"),
    ],
)
def test_a_grid_that_no_memory_holds_is_refused(
    sizes: tuple[float, ...], spacing: tuple[float, ...], multiple: int | None, says: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        network_grid((40, 40, 40), np.diag([*sizes, 1]), spacing, None, multiple)
    assert "spacing_mm" in caught.value.way_out


def test_a_fine_grid_of_a_small_crop_is_no_fault() -> None:
    """A voxel of 40 x 40 x 40 at a hundredth of a millimetre: 100 steps to either side of its centre, less the ends."""
    grid = network_grid((40, 40, 40), np.eye(4), (0.01,) * 3, ((5, 6), (5, 6), (5, 6)))
    assert grid.shape == (199, 199, 199)


def test_a_mask_is_cropped_to_where_it_lies() -> None:
    """The same head stored from right to left: as an array without an affine it is one thing, as a volume another."""
    image = volume(np.ones((20, 20, 20), np.float32), np.eye(4))
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[12:15, 5:8, 5:8] = 1
    step = ToNetworkGridd("image", crop="mask", crop_key="mask")
    for same in (volume(mask, np.eye(4)), torch.from_numpy(mask)[None], mask[None]):
        assert step({"image": image, "mask": same})["image"].affine[:3, 3].tolist() == [12, 5, 5]
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = 19
    with pytest.raises(InputError, match="'mask', which is cropped to, has the image's shape but another affine"):
        step({"image": image, "mask": volume(mask[::-1], mirrored)})
    nearly = np.eye(4)
    nearly[0, 3] = 0.05
    assert step({"image": image, "mask": volume(mask, nearly)})["image"].affine[:3, 3].tolist() == [12, 5, 5]


def test_a_mask_that_is_not_there_is_named() -> None:
    image = volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    with pytest.raises(SettingError, match="there is no 'brain' to crop to"):
        ToNetworkGridd("image", crop="mask", crop_key="brain")({"image": image})


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "label"])
def test_every_kind_of_float(kind: torch.dtype, sheared: bool, mode: str) -> None:
    """What float32 gives, rounded."""
    affine = np.eye(4)
    affine[0, 1] = 0.2 * sheared
    array = torch.from_numpy(head((8, 9, 7)).round())[None].to(kind)
    step = ToNetworkGridd("image", (1.5, 1.5, 1.5), mode, crop="foreground")
    given = MetaTensor(array, affine=torch.from_numpy(affine))
    result = step({"image": given})
    expected = step({"image": MetaTensor(array.float(), affine=torch.from_numpy(affine))})["image"]
    assert result["image"].dtype == kind
    assert torch.allclose(result["image"].float(), expected.as_tensor(), rtol=0.01)
    assert step.inverse(result)["image"].shape == array.shape


@pytest.mark.parametrize("turn", [0, 20])
def test_what_wants_a_gradient(turn: float) -> None:
    affine = affine_of(0, (1, 1, 1), turn)
    source = torch.rand(1, 6, 6, 6, requires_grad=True)
    for mode in ("bilinear", "label"):
        step = ToNetworkGridd("image", (1.5, 1.5, 1.5), mode, crop="foreground")
        there = step({"image": MetaTensor(source, affine=torch.from_numpy(affine))})
        assert not there["image"].requires_grad
        assert step.inverse(there)["image"].shape == source.shape
