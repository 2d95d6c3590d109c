"""The way of a map from crops back to what they were cut from."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.case_uncertainty import kept_of, kept_of_head, save_kept
from neurobundle.export.uncertainty import read_uncertainty, save_map, save_numbers
from neurobundle.load.scan import Scan
from neurobundle.prepare.locate import Place


def write(folder: Path, case: str, steps: np.ndarray, affine: np.ndarray, score: float) -> None:
    numbers = {"case_score": score, "flag_above": 0.25, "flagged": score > 0.25, "members": 1}
    save_numbers(folder / f"{case}_uncertainty.json", case, {**numbers, "structures": {"1": {"entropy": 0.5}}})
    save_map(folder / f"{case}_uncertainty.nii.gz", steps, affine)


def test_a_case_goes_through_byte_for_byte(tmp_path: Path) -> None:
    steps = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) * 10
    affine = np.diag([-1, 2, 3, 1.0])
    write(tmp_path, "anna", steps, affine, 0.1)
    kept = kept_of(tmp_path, "anna", {1: "front"})
    assert kept is not None
    assert np.array_equal(kept.steps, steps)
    assert kept.numbers.structures == {"front": {"entropy": 0.5}}
    files = save_kept(kept, tmp_path / "out", "anna", Scan(np.zeros((2, 3, 4), np.float32), affine))
    assert [path.name for path in files] == ["anna_uncertainty.nii.gz", "anna_uncertainty.json"]
    assert files[0].read_bytes() == (tmp_path / "anna_uncertainty.nii.gz").read_bytes()
    assert read_uncertainty(files[1]) == kept.numbers


def test_without_files_there_is_nothing(tmp_path: Path) -> None:
    assert kept_of(tmp_path, "anna", {}) is None


def test_both_crops_of_a_head_lie_where_they_were_cut(tmp_path: Path) -> None:
    shape = (10, 4, 4)
    crop = np.zeros((3, 2, 2), np.uint8)
    crop[0] = 200
    places = []
    for side, start, score in (("left", 1, 0.1), ("right", 6, 0.3)):
        affine = np.eye(4)
        affine[0, 3] = start
        places.append(Place(side, crop.shape, affine, mirrored=side == "right"))
        write(tmp_path, side, crop, affine, score)
    kept = kept_of_head(tmp_path, places, shape, np.eye(4), {1: "front"})
    assert kept is not None
    expected = np.zeros(shape, np.uint8)
    expected[1, :2, :2] = expected[8, :2, :2] = 200  # the right crop was mirrored: its first plane is its last
    assert np.array_equal(kept.steps, expected)
    assert kept.numbers.case_score == 0.3
    assert kept.numbers.flagged
    assert list(kept.numbers.structures) == ["left front", "right front"]
    (tmp_path / "right_uncertainty.json").unlink()
    assert kept_of_head(tmp_path, places, shape, np.eye(4), {}) is None


def test_a_map_is_a_byte_a_voxel(tmp_path: Path) -> None:
    write(tmp_path, "anna", np.full((2, 2, 2), 255, np.uint8), np.eye(4), 0.5)
    volume = nib.load(tmp_path / "anna_uncertainty.nii.gz")
    assert volume.get_data_dtype() == np.uint8
    assert volume.get_fdata().max() == pytest.approx(1)
