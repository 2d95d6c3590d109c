"""Stacks of made pictures: every voxel has a value that says where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.load.picture_stacks import (
    HEAD_BREADTH_MM,
    HEAD_LENGTH_MM,
    HEIGHT_MM,
    estimate_spacing,
    find_stacks,
    read_stack,
)


def write_stack(folder: Path, slices: np.ndarray, masks: np.ndarray | None = None, first: int = 1) -> Path:
    """``(slice, row, column)`` or ``(slice, row, column, colour)`` as PNG files."""
    folder.mkdir(parents=True)
    for n, picture in enumerate(slices):
        Image.fromarray(picture).save(folder / f"{folder.name}_{n + first}.png")
        if masks is not None:
            Image.fromarray(masks[n]).save(folder / f"{folder.name}_{n + first}_mask.png")
    return folder


def ellipse(shape: tuple[int, int], length: float, breadth: float) -> np.ndarray:
    """Rows run along the length."""
    row, column = np.indices(shape)
    r, c = (row - shape[0] / 2) / (length / 2), (column - shape[1] / 2) / (breadth / 2)
    return r**2 + c**2 <= 1


def test_display_order_becomes_ras(tmp_path: Path) -> None:
    """The picture's upper left corner of the lowest slice is right, front, below: last i, last j, first k."""
    slices = np.arange(1, 25, dtype=np.uint8).reshape(2, 3, 4)
    masks = np.where(slices == slices[1, 0, 3], 255, 0).astype(np.uint8)
    stack = read_stack(write_stack(tmp_path / "anna", slices, masks), ["T1"], spacing_mm=(1, 2, 6))
    data = stack.channels["T1"]
    assert data.shape == (4, 3, 2)
    assert data[3, 2, 0] == slices[0, 0, 0]
    assert data[0, 2, 0] == slices[0, 0, 3]
    assert data[3, 0, 1] == slices[1, 2, 0]
    assert stack.mask is not None
    assert np.argwhere(stack.mask).tolist() == [[0, 2, 1]], "left, front, above"
    assert np.array_equal(np.diag(stack.affine), [1, 2, 6, 1])
    assert stack.affine[:3, 3].tolist() == [-1.5, -2, -3]


def test_slices_are_ordered_by_number_and_not_by_name(tmp_path: Path) -> None:
    slices = np.full((11, 4, 4), np.arange(20, 31, dtype=np.uint8)[:, None, None]).copy()
    slices[:, 0, 0] = 1
    stack = read_stack(write_stack(tmp_path / "anna", slices), ["T1"], spacing_mm=(1, 1, 1))
    assert stack.channels["T1"][0, 0].tolist() == list(range(20, 31))
    assert stack.mask is None


def test_colours_are_channels_and_copies_are_left_out(tmp_path: Path) -> None:
    """T1c is FLAIR again, but for a grey level that a JPEG took: it is absent."""
    rng = np.random.default_rng(0)
    slices = rng.integers(0, 255, (3, 8, 8, 3), np.uint8)
    slices[..., 2] = np.clip(slices[..., 1].astype(int) + 1, 0, 255)
    folder = write_stack(tmp_path / "anna", slices)
    stack = read_stack(folder, ["T1", "FLAIR", "T1c"], "FLAIR", (1, 1, 1))
    assert (list(stack.channels), stack.copies) == (["T1", "FLAIR"], ("T1c",))
    assert list(read_stack(folder, ["T1", "FLAIR", "T1c"], "T1c", (1, 1, 1)).channels) == ["T1", "T1c"]
    slices[..., 0] = slices[..., 1]
    stack = read_stack(write_stack(tmp_path / "otto", slices), ["T1", "FLAIR", "T1c"], "FLAIR", (1, 1, 1))
    assert (list(stack.channels), stack.copies) == (["FLAIR"], ("T1", "T1c"))


def test_the_spacing_of_an_average_head() -> None:
    """An ellipse of 192 x 148 pixels is a head of average size: 1 mm; half as large, 2 mm. Ten slices of 14 mm."""
    slices = np.zeros((12, 220, 220))
    slices[1:11] = 100 * ellipse((220, 220), HEAD_LENGTH_MM, HEAD_BREADTH_MM)
    slices[3, 5, 5] = 100  # noise is no head
    i, j, k = estimate_spacing(slices.transpose(2, 1, 0))
    assert (i, j) == pytest.approx((1, 1), rel=0.01)
    assert k == pytest.approx(HEIGHT_MM / 10)
    small = 100 * ellipse((220, 220), HEAD_LENGTH_MM / 2, HEAD_BREADTH_MM / 2)[:, :, None]
    assert estimate_spacing(small)[0] == pytest.approx(2, rel=0.02)


def test_the_estimate_is_marked_and_scaled(tmp_path: Path) -> None:
    head = (100 * ellipse((220, 220), HEAD_LENGTH_MM, HEAD_BREADTH_MM)).astype(np.uint8)
    folder = write_stack(tmp_path / "anna", np.stack([head] * 4))
    stack, wider = read_stack(folder, ["T1"]), read_stack(folder, ["T1"], scale=(1.1, 0.5))
    assert stack.estimated
    assert wider.spacing_mm == pytest.approx(np.multiply(stack.spacing_mm, (1.1, 1.1, 0.5)))
    assert not read_stack(folder, ["T1"], spacing_mm=(1, 1, 1)).estimated


def test_no_head_has_no_size() -> None:
    for head in (np.zeros((8, 8, 8)), np.full((8, 8, 8), 3.0)):
        with pytest.raises(InputError, match="no head is seen"):
            estimate_spacing(head)


def test_folders_of_pictures_are_found(tmp_path: Path) -> None:
    write_stack(tmp_path / "b" / "otto", np.ones((2, 4, 4), np.uint8))
    write_stack(tmp_path / "anna", np.ones((2, 4, 4), np.uint8))
    (tmp_path / "cover.png").write_bytes(b"")
    assert [path.name for path in find_stacks(tmp_path)] == ["anna", "otto"]
    assert find_stacks(tmp_path / "anna") == [tmp_path / "anna"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(NoInputError, match="no folders of numbered pictures"):
        find_stacks(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("gap", r"slices \[3\] are missing"),
        ("twice", "have the same number"),
        ("size", "has the shape"),
        ("truncated", "cannot be read"),
        ("mask", "mask is missing"),
        ("mask size", "another size than its slice"),
        ("empty", "no numbered pictures"),
    ],
)
def test_a_stack_that_is_not_whole(fault: str, cause: str, tmp_path: Path) -> None:
    ones = np.full((4, 6, 6), 90, np.uint8)
    folder = write_stack(tmp_path / "anna", ones, ones)
    if fault == "gap":
        (folder / "anna_3.png").unlink()
    elif fault == "twice":
        Image.fromarray(ones[0]).save(folder / "otto_2.png")
    elif fault == "size":
        Image.fromarray(ones[0, :4]).save(folder / "anna_2.png")
    elif fault == "truncated":
        (folder / "anna_2.png").write_bytes((folder / "anna_2.png").read_bytes()[:40])
    elif fault == "mask":
        (folder / "anna_2_mask.png").unlink()
    elif fault == "mask size":
        Image.fromarray(ones[0, :4]).save(folder / "anna_2_mask.png")
    else:
        folder = tmp_path
    with pytest.raises(InputError, match=cause):
        read_stack(folder, ["T1"], spacing_mm=(1, 1, 1))


def test_settings_that_mean_nothing(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "anna", np.full((2, 6, 6), 90, np.uint8))
    with pytest.raises(SettingError, match="reference"):
        read_stack(folder, ["T1"], "FLAIR")
    with pytest.raises(SettingError, match="spacing"):
        read_stack(folder, ["T1"], spacing_mm=(1, 0, 1))
    with pytest.raises(SettingError, match="scale"):
        read_stack(folder, ["T1"], scale=(1, -1))
    with pytest.raises(InputError, match="1 colours, and 2 channels"):
        read_stack(folder, ["T1", "T2"], spacing_mm=(1, 1, 1))
