"""Slices as a radiologist looks at them, and back."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from neurobundle.errors import SettingError
from neurobundle.prepare.slices import ToSlicesd, slice_preprocessing, stacked_along

FLIPS = list(itertools.product((1, -1), repeat=3))
ORIENTATIONS = [
    nib.orientations.axcodes2ornt([pair[sign > 0] for pair, sign in zip(pairs, signs, strict=True)])
    for pairs in itertools.permutations(("LR", "PA", "IS"))
    for signs in FLIPS
]


def turned(array: np.ndarray, affine: np.ndarray, orientation: np.ndarray) -> MetaTensor:
    image = nib.Nifti1Image(array, affine).as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(affine), orientation)
    )
    return MetaTensor(torch.from_numpy(np.asarray(image.dataobj).copy())[None], affine=torch.from_numpy(image.affine))


def test_what_a_radiologist_sees() -> None:
    """The patient's left is right on the screen and the back is below: R of RAS+ is the last column, A the top row."""
    volume = np.zeros((4, 5, 3), np.float32)
    volume[3, 4, 2] = 1.0  # furthest right, in front, above
    found = ToSlicesd("image")({"image": turned(volume, np.eye(4), nib.io_orientation(np.eye(4)))})["image"]
    assert found.shape == (1, 4, 5, 3)
    assert torch.nonzero(found[0]).tolist() == [[0, 0, 2]]
    assert nib.aff2axcodes(found.affine.numpy()) == ("L", "P", "S")


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda it: "".join(nib.orientations.ornt2axcodes(it)))
def test_all_orientations_give_the_same_slices(orientation: np.ndarray) -> None:
    """And what is inferred from them lies on each one's own grid."""
    rng = np.random.default_rng(0)
    volume, affine = rng.random((4, 5, 3)).astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0])
    expected = ToSlicesd("image")({"image": turned(volume, affine, nib.io_orientation(affine))})["image"]
    native = turned(volume, affine, orientation)
    transform = ToSlicesd("image")
    there = transform({"image": native})
    assert torch.equal(there["image"].as_tensor(), expected.as_tensor())
    back = transform.inverse(there)["image"]
    assert torch.equal(back.as_tensor(), native.as_tensor())
    assert np.allclose(back.affine, native.affine)


@pytest.mark.parametrize(
    ("thick", "codes"), [(0, ("P", "I", "R")), (1, ("L", "I", "A")), (2, ("L", "P", "S"))], ids=["sag", "cor", "ax"]
)
@pytest.mark.parametrize("orientation", ORIENTATIONS[::7], ids=lambda it: "".join(nib.orientations.ornt2axcodes(it)))
def test_slices_are_those_that_were_scanned(thick: int, codes: tuple[str, ...], orientation: np.ndarray) -> None:
    """The stack is the axis of thick voxels, whose size stays; the plane gets the pixels that were asked for."""
    sizes = [0.5, 0.5, 0.5]
    sizes[thick] = 5.0
    shape = [16, 16, 16]
    shape[thick] = 4
    image = turned(np.ones(shape, np.float32), np.diag([*sizes, 1.0]), orientation)
    assert stacked_along(image.affine) == thick
    found = ToSlicesd("image", spacing_mm=1.0)({"image": image})["image"]
    assert nib.aff2axcodes(found.affine.numpy()) == codes
    assert np.allclose(nib.affines.voxel_sizes(found.affine.numpy()), [1, 1, 5])
    assert found.shape == (1, 8, 8, 4)


def test_an_even_head_is_cut_in_axial_slices() -> None:
    assert stacked_along(np.diag([1.0, 1.2, 1.0, 1.0])) == 2
    assert stacked_along(np.diag([1.0, 1.6, 1.0, 1.0])) == 1


def written(folder: Path, volume: np.ndarray) -> tuple[Path, Path]:
    """A head of one axial slice, and the picture that a screen shows of it."""
    head, picture = folder / "head.nii.gz", folder / "slice.png"
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1.0, 5.0, 1.0])), head)
    Image.fromarray(volume[::-1, ::-1, 0].T.astype(np.uint8)).save(picture)
    return head, picture


def test_a_picture_is_what_its_head_is(tmp_path: Path) -> None:
    """The picture of a head's slice gives the network what the head gives, pixel for pixel."""
    volume = np.random.default_rng(1).integers(60, 250, (40, 30, 1)).astype(np.uint8)
    head, picture = written(tmp_path, volume)
    # The picture's longer side shows 40 mm, as the head's does.
    prepared = slice_preprocessing(["image"], field_of_view_mm=40.0)
    first, second = (prepared({"image": str(path)})["image"] for path in (head, picture))
    assert first.shape == (1, 40, 30, 1)
    assert torch.allclose(first.as_tensor(), second.as_tensor())


def test_a_pictures_pixels_are_sized_by_its_field_of_view(tmp_path: Path) -> None:
    """250 mm by default: 100 pixels along the longer side are 2.5 mm each, so that 1.25 mm makes twice as many."""
    pixels = np.random.default_rng(2).integers(60, 250, (50, 100)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "slice.png")
    found = slice_preprocessing(["image"], spacing_mm=1.25)({"image": str(tmp_path / "slice.png")})["image"]
    assert found.shape[1:] == (199, 99, 1)  # the centres of the outermost pixels stay


def test_a_label_map_lies_on_its_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(3).integers(60, 250, (30, 40)).astype(np.uint8)
    mask = np.zeros((30, 40), np.uint8)
    mask[4:9, 20:31] = 1
    Image.fromarray(pixels).save(tmp_path / "slice.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    prepared = slice_preprocessing(["image"], ["label"], field_of_view_mm=40.0)
    found = prepared({"image": str(tmp_path / "slice.png"), "label": str(tmp_path / "mask.png")})
    assert torch.equal(found["label"][0, :, :, 0].as_tensor().T, torch.from_numpy(mask).float())


def test_no_field_of_view_is_refused() -> None:
    with pytest.raises(SettingError, match="250"):
        ToSlicesd("image", field_of_view_mm=0.0)
