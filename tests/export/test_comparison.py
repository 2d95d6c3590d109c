"""Pictures of a comparison: what is where, in which colour, whatever the file's orientation."""

import io

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from neurobundle.export import comparison
from neurobundle.export.comparison import FALSE, MISSED, NO_IMAGE, WRONG_LABEL, case_pictures, comparison_row

from ..conftest import blob

SIDE = 64
GAP, HEADER = comparison._GAP_PIXELS, comparison._HEADER_PIXELS


def panel(row: Image.Image, n: int, side: int = SIDE) -> np.ndarray:
    """The pixels of one of the four, without the words above it."""
    left = n * (side + GAP)
    return np.asarray(row.crop((left, HEADER, left + side, row.height)))


def places(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a colour is, as rows and columns."""
    return np.argwhere((pixels == colour).all(axis=2))


def volume(**blocks: tuple[slice, slice, slice]) -> np.ndarray:
    """A label map of 16 x 16 x 8 with blocks ``v1=...`` of the value that their names say."""
    labels = np.zeros((16, 16, 8), np.uint8)
    for name, block in blocks.items():
        labels[block] = int(name[1:])
    return labels


#: To the right (high i), in front (high j), in the middle of the height.
RIGHT_FRONT = (slice(11, 15), slice(10, 14), slice(3, 6))
LEFT_BACK = (slice(1, 5), slice(2, 6), slice(3, 6))
NOTHING = volume()
GREY = np.full((16, 16, 8), 100.0)


def decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def test_four_panels_stand_side_by_side() -> None:
    row = comparison_row(GREY, volume(v1=RIGHT_FRONT), NOTHING, np.eye(4), panel_pixels=SIDE)
    assert row.size == (4 * SIDE + 3 * GAP, SIDE + HEADER)


def test_what_is_missed_is_shown_on_the_side_where_it_is() -> None:
    """Radiological order: the patient's right is at the left of the picture, and in front is above."""
    row = comparison_row(GREY, volume(v1=RIGHT_FRONT), NOTHING, np.eye(4), panel_pixels=SIDE)
    missed = places(panel(row, 3), MISSED)
    assert len(missed) == 16 * 16, "4 of 16 voxels on either axis, of 64 pixels"
    # i 11..14 of 16 from the right: columns 4..20; j 10..13: rows 8..24.
    assert missed.min(axis=0).tolist() == [8, 4]
    assert missed.max(axis=0).tolist() == [23, 19]
    assert not len(places(panel(row, 3), FALSE))


@pytest.mark.parametrize(
    ("reference", "prediction", "colour"),
    [
        ({"v1": RIGHT_FRONT}, {}, MISSED),
        ({}, {"v1": RIGHT_FRONT}, FALSE),
        ({"v1": RIGHT_FRONT}, {"v2": RIGHT_FRONT}, WRONG_LABEL),
    ],
    ids=["missed", "false", "wrong label"],
)
def test_each_kind_of_error_has_its_colour(reference: dict, prediction: dict, colour: tuple[int, int, int]) -> None:
    row = comparison_row(GREY, volume(**reference), volume(**prediction), np.eye(4), panel_pixels=SIDE)
    found = {kind: len(places(panel(row, 3), kind)) for kind in (MISSED, FALSE, WRONG_LABEL)}
    assert found == {kind: 256 if kind == colour else 0 for kind in found}


def test_a_perfect_prediction_shows_no_error_and_twice_the_same_outline() -> None:
    labels = volume(v1=RIGHT_FRONT, v2=LEFT_BACK)
    row = comparison_row(GREY, labels, labels, np.eye(4), panel_pixels=SIDE)
    assert not any(len(places(panel(row, 3), kind)) for kind in (MISSED, FALSE, WRONG_LABEL))
    assert np.array_equal(panel(row, 1), panel(row, 2))
    assert not np.array_equal(panel(row, 1), panel(row, 0))


def test_the_slice_with_most_error_is_shown() -> None:
    """One voxel is wrong in slice 1, four in slice 6; with no error at all it is where the structure is largest."""
    reference, prediction = volume(v1=RIGHT_FRONT), volume(v1=RIGHT_FRONT)
    prediction[0, 0, 1] = prediction[0:4, 0, 6] = 1
    chosen, sixth = (
        comparison_row(GREY, reference, prediction, np.eye(4), at=at, panel_pixels=SIDE) for at in (None, 6)
    )
    assert chosen.tobytes() == sixth.tobytes()
    larger = volume(v1=RIGHT_FRONT)
    larger[0:8, 0:8, 2] = 1
    chosen, second = (comparison_row(GREY, larger, larger, np.eye(4), at=at, panel_pixels=SIDE) for at in (None, 2))
    assert chosen.tobytes() == second.tobytes()


def test_a_slice_beyond_the_last_is_the_last() -> None:
    labels = volume(v1=(slice(3, 9), slice(3, 9), slice(7, 8)))
    first, second = (comparison_row(GREY, labels, NOTHING, np.eye(4), at=at, panel_pixels=SIDE) for at in (7, 99))
    assert first.tobytes() == second.tobytes()


ORIENTATIONS = [
    nib.orientations.axcodes2ornt(codes) for codes in ("RAS", "LPS", "LAS", "PIR", "ASL", "SRP", "IAR", "PSL")
]


@pytest.mark.parametrize("turn", ORIENTATIONS, ids=lambda turn: "".join(nib.orientations.ornt2axcodes(turn)))
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_the_orientation_of_the_file_does_not_show(turn: np.ndarray, plane: str) -> None:
    """The same body in another order of voxels gives the same picture, anisotropic as it is."""
    rng = np.random.default_rng(0)
    arrays = [rng.random((10, 12, 6)), volume(v1=RIGHT_FRONT)[3:13, 2:14, 1:7], volume(v2=LEFT_BACK)[1:11, 2:14, 1:7]]
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    expected = comparison_row(*arrays, affine, plane, panel_pixels=SIDE)
    back = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), turn)
    turned = [nib.orientations.apply_orientation(array, back) for array in arrays]
    other = affine @ nib.orientations.inv_ornt_aff(back, arrays[0].shape)
    assert "".join(nib.aff2axcodes(other)) == "".join(nib.orientations.ornt2axcodes(turn))
    assert comparison_row(*turned, other, plane, panel_pixels=SIDE).tobytes() == expected.tobytes()


def test_thick_slices_are_shown_as_high_as_they_are() -> None:
    row = comparison_row(GREY, volume(v1=RIGHT_FRONT), NOTHING, np.diag([1.0, 1, 4, 1]), "coronal", panel_pixels=SIDE)
    assert row.height - HEADER == SIDE, "8 slices of 4 mm are higher than 16 voxels of 1 mm are wide"
    missed = places(panel(row, 3), MISSED)
    height, width = missed.max(axis=0) - missed.min(axis=0) + 1
    assert (height, width) == (3 * 8, 4 * 2)


def test_a_picture_is_shown_as_it_is() -> None:
    """Without an affine the first axis is the row from above, the second the column from the left."""
    image = np.zeros((16, 16))
    image[0:4, 0:8] = 255
    reference = np.zeros((16, 16), np.uint8)
    reference[12:16, 0:4] = 1
    row = comparison_row(image, reference, np.zeros_like(reference), None, panel_pixels=SIDE)
    shown = panel(row, 0)[..., 0]
    assert shown[4, 8] > 200
    assert shown[4, 56] < 50
    assert shown[56, 8] < 50
    missed = places(panel(row, 3), MISSED)
    assert missed.min(axis=0).tolist() == [48, 0]
    assert missed.max(axis=0).tolist() == [63, 15]


def test_a_picture_wider_than_high_stays_so() -> None:
    labels = np.zeros((10, 40), np.uint8)
    row = comparison_row(np.ones((10, 40)), labels, labels, None, panel_pixels=SIDE)
    assert row.height - HEADER == SIDE // 4


def test_a_flat_grid_is_shown_in_its_own_plane() -> None:
    """One coronal slice: asked for an axial row it would be one line of voxels."""
    labels = volume(v1=RIGHT_FRONT)[:, 11:12]
    flat = comparison_row(GREY[:, 11:12], labels, 0 * labels, np.eye(4), panel_pixels=SIDE)
    coronal = comparison_row(GREY, volume(v1=RIGHT_FRONT), NOTHING, np.eye(4), "coronal", at=11, panel_pixels=SIDE)
    assert flat.tobytes() == coronal.tobytes()
    pictures = case_pictures(GREY[:, 11:12], labels, 0 * labels, np.eye(4))
    assert pictures.row == pictures.planes


def test_a_slice_with_two_axes_is_read_by_its_affine() -> None:
    two = volume(v1=RIGHT_FRONT)[..., 4]
    row = comparison_row(GREY[..., 4], two, 0 * two, np.eye(4), panel_pixels=SIDE)
    whole = comparison_row(GREY, volume(v1=RIGHT_FRONT), NOTHING, np.eye(4), at=4, panel_pixels=SIDE)
    assert row.tobytes() == whole.tobytes()


def test_without_an_image_there_is_grey_around_the_structures() -> None:
    row = comparison_row(None, volume(v1=RIGHT_FRONT), NOTHING, np.eye(4), panel_pixels=SIDE)
    assert (panel(row, 0)[2:8, 2:8] == round(255 * NO_IMAGE)).all()
    labels = np.zeros((120, 120, 60), np.uint8)
    labels[50:70, 50:70, 20:40] = 1
    cut = comparison_row(None, labels, 0 * labels, np.eye(4), panel_pixels=SIDE)
    # 20 voxels and 20 mm on either side: a third of the panel.
    assert len(places(panel(cut, 3), MISSED)) == pytest.approx((SIDE / 3) ** 2, rel=0.1)


@pytest.mark.parametrize(
    "image",
    [np.zeros((16, 16, 8)), np.full((16, 16, 8), np.nan), np.arange(2048, dtype=np.int16).reshape(16, 16, 8) - 9],
    ids=["constant", "not-a-number", "negative"],
)
def test_any_image_is_drawn(image: np.ndarray) -> None:
    with np.errstate(all="raise"):
        row = comparison_row(image, volume(v1=RIGHT_FRONT), NOTHING, np.eye(4), panel_pixels=SIDE)
    assert len(places(panel(row, 3), MISSED)) == 256


def test_nothing_in_either_is_drawn_too() -> None:
    pictures = case_pictures(GREY, NOTHING, NOTHING, np.eye(4))
    assert decoded(pictures.row).width == 4 * comparison.REPORT_PIXELS + 3 * GAP
    assert "0 voxels in structures 0 are missed" in pictures.alt
    assert case_pictures(None, NOTHING, NOTHING, np.eye(4)).row


def test_planes_are_three_rows_close_to_the_structures() -> None:
    labels = np.zeros((120, 120, 60), np.uint8)
    labels[50:70, 50:70, 20:40] = 1
    pictures = case_pictures(labels.astype(float), labels, 0 * labels, np.eye(4))
    row, planes = decoded(pictures.row), decoded(pictures.planes)
    assert planes.width == row.width
    assert planes.height > 2.5 * row.height
    wide, near = (np.asarray(picture)[HEADER : row.height, :, 2] < 120 for picture in (row, planes))
    yellow = [
        (part & (np.asarray(picture)[HEADER : row.height, :, 0] > 180)).sum()
        for part, picture in ((wide, row), (near, planes))
    ]
    assert yellow[1] > 2 * yellow[0], "the same structure is larger close to"


def test_what_is_said_is_what_is_counted() -> None:
    """Of 6 voxels one is missed and two have another label; one is false."""
    reference = np.zeros((4, 4, 4), np.uint8)
    reference[0, 0:3, 0] = 1
    reference[1, 0:3, 0] = 2
    prediction = reference.copy()
    prediction[0, 0, 0] = 0
    prediction[1, 0:2, 0] = 1
    prediction[3, 3, 3] = 1
    alt = case_pictures(None, reference, prediction, np.eye(4)).alt
    assert "of 6 voxels in structures 1 are missed and 2 have the wrong label; 1 are false" in alt


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_counts_of_any_two_maps_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference, prediction = (rng.integers(0, 3, (5, 4, 3)) for _ in range(2))
    alt = case_pictures(None, reference, prediction, None).alt
    inside, missed, wrong, false = (int(word) for word in alt.replace(";", " ").split() if word.isdigit())
    assert inside == (reference > 0).sum()
    assert missed + wrong + false == (reference != prediction).sum()
    assert missed - false == (reference > 0).sum() - (prediction > 0).sum()


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise as smooth as a brain at 1 mm."""
    return ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)


def test_pictures_are_small_and_the_same_every_time() -> None:
    crop = smooth((37, 50, 40))
    reference = (ndimage.gaussian_filter(crop, 2) + blob(crop.shape, (18, 25, 20), 9) > 0.9).astype(int)
    prediction = 2 * np.roll(reference, 2, axis=1)
    first, second = (case_pictures(crop, reference, prediction, np.eye(4)) for _ in "ab")
    assert first == second
    assert len(first.row) < 15_000
    assert len(first.planes) < 45_000


def test_a_whole_head_is_small_too() -> None:
    coarse = smooth((80, 80, 52))
    head = np.kron(coarse, np.ones((3, 3, 3)))[:, :, :155]
    labels = np.zeros(head.shape, np.uint8)
    labels[100:150, 90:140, 60:100] = 1
    pictures = case_pictures(head, labels, np.roll(labels, 4, axis=0), np.eye(4))
    assert len(pictures.row) < 40_000


def test_without_webp_there_is_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison.features, "check", lambda name: False)
    assert case_pictures(GREY, NOTHING, NOTHING, np.eye(4)).row.startswith(b"\xff\xd8")
