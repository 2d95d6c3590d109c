"""Views, their shift correlation, who is nearly the same, and the traits of a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from neurobundle.errors import InputError
from neurobundle.load.likeness import (
    CANDIDATE,
    NEARLY_SAME,
    fingerprints_of,
    most_alike,
    nearly_same,
    shift_correlations,
    spectra_of,
    view_of,
)
from neurobundle.load.slice_folders import find_slices
from neurobundle.load.traits import block_contrast, look_at

from .made_slices import made_slice


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return most_alike([view_of(one)], [view_of(other)])[2]


def as_jpeg(picture: np.ndarray, quality: int = 50) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def as_size(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size)))


#: What is done to a picture and must not hide it.
ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "brightened": lambda p: np.clip(p * 1.3 + 10, 0, 255).astype(np.uint8),
    "gamma": lambda p: (255 * (p / 255) ** 0.7).astype(np.uint8),
    "JPEG": as_jpeg,
    "resized": lambda p: as_size(p, 224),
    "shifted": lambda p: np.roll(p, (3, -5), (0, 1)),
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 8, p.shape), 0, 255).astype(np.uint8),
    "16 bit": lambda p: p.astype(np.uint16) * 200,
    "turned": lambda p: ndimage.rotate(p, 1, reshape=False, order=1),
}


def test_a_cell_is_the_mean_of_what_it_covers() -> None:
    """128 pixels onto 64 cells: two by two."""
    picture = np.zeros((128, 128), np.uint8)
    picture[0, 0], picture[2, 3] = 40, 8
    view = view_of(picture)
    assert view.shape == (64, 64)
    assert view[0, 0] == 10
    assert view[1, 1] == 2
    assert view.sum() == 12


def test_a_cell_may_be_smaller_than_a_pixel() -> None:
    view = view_of(np.array([[0, 8], [4, 12]]))
    assert view[:32, :32].max() == 0
    assert (view[32:, 32:] == 12).all()


@given(st.integers(5, 90), st.integers(5, 90))
def test_the_mean_stays(rows: int, columns: int) -> None:
    picture = np.random.default_rng(rows).random((rows, columns))
    assert view_of(picture).mean() == pytest.approx(picture.mean(), rel=1e-4)


def test_a_volume_s_view_is_in_ras_order() -> None:
    """Stored in another order of axes, it has the same view."""
    data = np.random.default_rng(0).random((20, 24, 28)).astype(np.float32)
    image = nib.Nifti1Image(data, np.diag([1.0, 1, 2, 1]))
    other = image.as_reoriented(nib.orientations.axcodes2ornt("PIL"))
    assert other.shape != image.shape
    np.testing.assert_allclose(view_of(data, image.affine), view_of(np.asarray(other.dataobj), other.affine), rtol=1e-5)


def test_one_slice_is_a_picture() -> None:
    assert view_of(np.ones((20, 24, 1)), np.eye(4)).shape == (64, 64)


def test_a_spectrum_has_unit_energy() -> None:
    """So a view correlates by 1 with itself, and by less with any other; one of a single value by 0."""
    views = np.stack([view_of(made_slice(0)), view_of(made_slice(1)), np.ones((64, 64), np.float32)])
    spectra = spectra_of(views)
    assert shift_correlations(spectra, spectra) == pytest.approx([1, 1, 0], abs=1e-4)
    assert shift_correlations(spectra[:1], spectra[1:2])[0] < 0.8


@given(st.integers(-20, 20), st.integers(-20, 20))
def test_a_shift_by_whole_cells_changes_nothing(down: int, right: int) -> None:
    view = view_of(made_slice(3))
    moved = np.roll(view, (down, right), (0, 1))
    one, other = spectra_of(np.stack([view, moved]))[:, None]
    assert shift_correlations(one, other)[0] == pytest.approx(1, abs=1e-4)
    prints = fingerprints_of(np.concatenate([one, other]))
    assert float(prints[0] @ prints[1]) == pytest.approx(1, abs=1e-4)


def test_against_the_definition() -> None:
    """The peak is the largest of the correlations of all shifts of the band-passed views."""
    views = np.stack([view_of(made_slice(4)), view_of(made_slice(5))])
    spectra = spectra_of(views)
    plain = np.fft.irfft2(spectra, s=(64, 64))
    ours, theirs = (grid / np.linalg.norm(grid) for grid in plain)
    largest = max(
        float((ours * np.roll(theirs, shift, (0, 1))).sum()) for shift in np.ndindex(64, 64) if sum(shift) % 4 == 0
    )
    found = float(shift_correlations(spectra[:1], spectra[1:])[0])
    assert largest <= found + 1e-4
    assert found < largest + 0.1


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_copy_is_found(name: str) -> None:
    """Among others that are not it."""
    pictures = [made_slice(n) for n in range(6)]
    found = nearly_same([view_of(p) for p in [*pictures, ALTERED[name](pictures[2])]], ["a"] * 6 + ["b"])
    assert [(pair.first, pair.second, pair.turn) for pair in found] == [(2, 6, "")]
    assert NEARLY_SAME <= found[0].correlation <= 1.0001


@pytest.mark.parametrize(
    ("quarters", "mirrored", "words"),
    [
        (1, False, "turned by 270 degrees"),
        (2, False, "turned by 180 degrees"),
        (3, False, "turned by 90 degrees"),
        (0, True, "mirrored left to right"),
        (1, True, "mirrored and turned by 90 degrees"),
        (2, True, "mirrored top to bottom"),
        (3, True, "mirrored and turned by 270 degrees"),
    ],
)
def test_a_turned_copy_is_found(quarters: int, mirrored: bool, words: str) -> None:
    picture = made_slice(1)
    other = np.rot90(picture[:, ::-1] if mirrored else picture, quarters)
    views = [view_of(picture), view_of(other)]
    (found,) = nearly_same(views, ["a", "b"])
    assert found.correlation > 0.999
    assert found.turn == words
    assert nearly_same(views, ["a", "b"], turns=False) == []


def test_who_is_not_compared() -> None:
    """Those of one side, those of one value, slices with volumes, and nobody at all."""
    view = view_of(made_slice(0))
    assert nearly_same([view, view], ["a", "a"]) == []
    assert nearly_same([np.ones((64, 64), np.float32)] * 2, ["a", "b"]) == []
    assert nearly_same([view, np.random.default_rng(0).random((32, 32, 32)).astype(np.float32)], ["a", "b"]) == []
    assert nearly_same([], []) == []
    assert len(nearly_same([view, view], [0, 1])) == 1


def test_a_moved_volume_is_found() -> None:
    data = np.stack([made_slice(n, 40) for n in range(20)], axis=2).astype(np.float32)
    data = ndimage.gaussian_filter(data, (0, 0, 2))
    other = ndimage.gaussian_filter(np.stack([made_slice(n, 40) for n in range(30, 50)], axis=2).astype(float), 1)
    views = [view_of(each, np.eye(4)) for each in (data, other, 3 * np.roll(data, (2, -1, 1), (0, 1, 2)) + 5)]
    assert [(pair.first, pair.second) for pair in nearly_same(views, "abc")] == [(0, 2)]


def test_blocks_of_jpeg_are_seen() -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(256, 256)), 1)
    picture = np.clip(128 + 100 * noise, 0, 255).astype(np.uint8)
    assert block_contrast(picture) == pytest.approx(1, abs=0.05)
    assert block_contrast(as_jpeg(picture, 5)) > 1.3
    assert block_contrast(np.zeros((4, 4))) == 1


def test_traits_of_a_picture(tmp_path: Path) -> None:
    """16 pixels: 12 in the border, of level 10 but for one of 50, and four of 110 inside."""
    pixels = np.full((4, 4), 10, np.uint8)
    pixels[1:3, 1:3] = 110
    pixels[0, 0] = 60
    Image.fromarray(pixels).save(tmp_path / "a.png")
    traits = look_at(tmp_path / "a.png").traits
    assert traits["file type"] == ".png"
    assert traits["pixel type"] == "L"
    assert traits["size in the plane"] == 16
    assert traits["aspect ratio"] == 1
    assert (traits["lowest value"], traits["highest value"], traits["distinct values"]) == (10, 110, 3)
    assert traits["share of exact background"] == traits["dark share"] == 11 / 16
    # Corners are on two sides of the frame, and count for each.
    assert traits["border level"] == pytest.approx((2 * 50) / 16 / 100)


def test_how_it_is_stored_does_not_change_the_content(tmp_path: Path) -> None:
    """Grey in colour, compressed otherwise, under another name."""
    pixels = made_slice(0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "other.PNG", compress_level=0)
    looks = [look_at(tmp_path / name) for name in ("a.png", "other.PNG")]
    assert looks[0].content == looks[1].content
    assert [look.traits["pixel type"] for look in looks] == ["L", "RGB"]


def test_traits_of_a_volume(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 200, (10, 12, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, -1, 2, 1])), tmp_path / "a.nii.gz")
    traits = look_at(tmp_path / "a.nii.gz").traits
    assert traits["file type"] == ".nii.gz"
    assert traits["pixel type"] == "int16"
    assert traits["voxel axes"] == "LPS"
    assert (traits["voxel volume"], traits["longest voxel edge"], traits["number of slices"]) == (2, 2, 8)
    assert "JPEG blocks" not in traits


def test_a_bad_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(InputError, match="cannot be read"):
        look_at(tmp_path / "a.png")
    with pytest.raises(InputError, match="no such file"):
        look_at(tmp_path / "b.png")


@pytest.mark.slow
def test_persons_are_not_taken_for_each_other(real_data: Path) -> None:
    """Of all pairs of slices of different persons in CE-MRI none reaches the threshold, and altered copies do."""
    pairs = find_slices(real_data / "ce_mri").pairs
    pixels = [np.asarray(Image.open(pair.images[0])) for pair in pairs]
    views = [view_of(picture) for picture in pixels]
    assert nearly_same(views, [str(pair.subject) for pair in pairs]) == []
    some = range(0, len(pairs), 40)
    for name, alter in ALTERED.items():
        changed = [view_of(alter(pixels[n])) for n in some]
        found = nearly_same([*(views[n] for n in some), *changed], [f"{s}{n}" for s in "ab" for n in some])
        again = {(pair.first, pair.second) for pair in found}
        missed = [n for n in range(len(some)) if (n, n + len(some)) not in again]
        assert not missed, f"{name}: {missed}"
    assert CANDIDATE < NEARLY_SAME
