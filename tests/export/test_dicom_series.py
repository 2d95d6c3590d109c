"""Volumes written as classic MR series, read back by our own reader and by dciodvfy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from neurobundle.errors import InputError
from neurobundle.export.dicom_series import save_series
from neurobundle.load.dicom import find_dicom

ATTRIBUTES = {
    "SeriesNumber": 7,
    "ScanningSequence": "SE",
    "SequenceVariant": "SK",
    "ScanOptions": "",
    "MRAcquisitionType": "3D",
    "RepetitionTime": "4500",
    "EchoTime": "95",
    "EchoTrainLength": 1,
}


def turned(degrees: float) -> np.ndarray:
    """An affine of voxels of 1 x 2 x 3 mm, turned about the head's long axis, far from the origin."""
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= (1, 2, 3)
    affine[:3, 3] = (-40, 25.5, 8)
    return affine


@pytest.mark.parametrize("degrees", [0, 12, 200])
def test_what_is_read_back_lies_where_it_lay(tmp_path: Path, degrees: float) -> None:
    """Each voxel, by its place in the world: the axes may have another order."""
    data = np.arange(5 * 6 * 7).reshape(5, 6, 7)
    files = save_series(tmp_path, data, turned(degrees), "one", ATTRIBUTES)
    assert len(files) == 7
    (study,) = find_dicom(tmp_path).studies
    (volume,) = study.volumes
    scan = volume.read()
    where = np.argwhere(np.ones(scan.data.shape)).astype(float)
    world = where @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    before = (world - turned(degrees)[:3, 3]) @ np.linalg.inv(turned(degrees)[:3, :3]).T
    assert np.abs(before - before.round()).max() < 1e-3
    index = tuple(before.round().astype(int).T)
    assert np.array_equal(scan.data[tuple(where.astype(int).T)], data[index])
    assert volume.series_number == 7


def test_the_same_again_is_the_same_and_series_share_a_study(tmp_path: Path) -> None:
    data = np.ones((3, 4, 2), int)
    first = save_series(tmp_path / "a", data, np.eye(4), "one", ATTRIBUTES)
    again = save_series(tmp_path / "b", data, np.eye(4), "one", ATTRIBUTES)
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    other = save_series(tmp_path / "c", data, np.eye(4), "one", {**ATTRIBUTES, "SeriesNumber": 8})
    one, two = pydicom.dcmread(first[0]), pydicom.dcmread(other[0])
    assert (one.StudyInstanceUID, one.FrameOfReferenceUID) == (two.StudyInstanceUID, two.FrameOfReferenceUID)
    assert one.SeriesInstanceUID != two.SeriesInstanceUID
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in (*first, *other)}) == 4


@pytest.mark.parametrize("value", [-1, 0.5, 65536])
def test_values_that_are_none(tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="whole numbers"):
        save_series(tmp_path, np.full((2, 2, 2), value), np.eye(4), "one", ATTRIBUTES)
    assert not list(tmp_path.iterdir())


def test_axes_that_are_skewed(tmp_path: Path) -> None:
    skewed = np.eye(4)
    skewed[0, 1] = 0.2
    with pytest.raises(InputError, match="right angles"):
        save_series(tmp_path, np.ones((2, 2, 2), int), skewed, "one", ATTRIBUTES)


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not here: `make pacs` installs it")
    (path, *_) = save_series(tmp_path, np.ones((3, 4, 2), int), turned(12), "one", ATTRIBUTES)
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    assert "MRImage" in done.stdout + done.stderr
    assert not [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
