"""Slices that are pictures, and folders of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from neurobundle.errors import InputError
from neurobundle.load.gate import LABEL
from neurobundle.load.layouts import find_pairs
from neurobundle.load.reader import Reader
from neurobundle.load.scan import read_scan
from neurobundle.load.slice_folders import find_slices, is_slice_folder


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(seed: int, shape: tuple[int, ...] = (6, 4)) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, shape).astype(np.uint8)


def test_columns_come_before_rows(tmp_path: Path) -> None:
    """An asymmetric picture: row 1, column 2 is voxel (2, 1, 0), and lies to the left and the back of voxel 0."""
    pixels = np.zeros((3, 5), np.uint8)
    pixels[1, 2] = 9
    scan = read_scan(save(tmp_path / "a.png", pixels))
    assert scan.data.shape == (5, 3, 1)
    assert np.argwhere(scan.data).tolist() == [[2, 1, 0]]
    assert (scan.affine @ [2, 1, 0, 1]).tolist() == [-2, -1, 0, 1]
    assert "a pixel counts as 1 mm" in scan.warnings[0]


def test_colours_are_refused(tmp_path: Path) -> None:
    """A network of one channel has nothing to choose among them by."""
    with pytest.raises(InputError, match="RGB"):
        read_scan(save(tmp_path / "a.png", noise(0, (6, 4, 3))))


def test_a_mask_may_be_empty_and_an_image_not(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((6, 4), np.uint8))
    assert not read_scan(path, LABEL).data.any()
    with pytest.raises(InputError, match="no signal"):
        read_scan(path)


def test_a_network_of_volumes_refuses_a_picture(tmp_path: Path) -> None:
    """The reader takes pictures only where a config says so; ``read`` never raises (faults of MONAI's fallback)."""
    path = save(tmp_path / "a.png", noise(0))
    strict = Reader()
    handle = strict.read(str(path))
    with pytest.raises(InputError, match="but a picture"):
        strict.get_data(handle)
    data, meta = Reader(pictures=True).get_data(handle)
    assert data.shape == (4, 6, 1)
    assert list(meta["spatial_shape"]) == [4, 6, 1]


def test_a_table_says_who_is_who(tmp_path: Path) -> None:
    """``id`` 1 is ``0001.png``; a slice that the table lacks, and what has no partner, is named."""
    for n in (1, 2, 3, 4):
        save(tmp_path / "images" / f"000{n}.png", noise(n))
    for n in (1, 2, 3, 5):
        save(tmp_path / "masks" / f"000{n}.png", np.ones((6, 4), np.uint8))
    (tmp_path / "index.csv").write_text("id,pid,person\n1,A,A\n2,AB,A\n4,C,C\n5,D,D\n")
    found = find_slices(tmp_path)
    assert [(pair.case, pair.subject) for pair in found.pairs] == [("0001", "A"), ("0002", "A")]
    assert {problem.case: problem.cause for problem in found.problems} == {
        "0003": "the table has no row for it",
        "0004": "it is an image without a mask",
        "0005": "it is a mask without an image",
    }
    assert find_pairs(tmp_path).layout == "slices"


def test_a_table_without_persons_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png", noise(1))
    save(tmp_path / "masks" / "1.png", noise(1))
    (tmp_path / "index.csv").write_text("id,pid\n1,A\n")
    with pytest.raises(InputError, match="no column 'person'"):
        find_slices(tmp_path)


def test_any_other_folder_is_none(tmp_path: Path) -> None:
    save(tmp_path / "images" / "1.png", noise(1))
    assert not is_slice_folder(tmp_path)
