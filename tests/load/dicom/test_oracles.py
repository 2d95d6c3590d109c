"""The same folders through SimpleITK's and MONAI's readers, where these are right: voxel for voxel, in one place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurobundle.load.dicom import read_volume
from neurobundle.load.scan import Scan
from tests.load.dicom import make
from tests.load.dicom.test_stacking import rotations


def by_simpleitk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (i, j, k) and RAS+ affine."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1.0, -1, 1, 1]) @ affine


_ITK_READER = """
import sys, warnings
import numpy as np
from monai.data import ITKReader
warnings.simplefilter("ignore")
for folder in sys.argv[1:]:
    reader = ITKReader()
    data, meta = reader.get_data(reader.read(folder))
    np.savez(folder + ".npz", data=np.asarray(data), affine=np.asarray(meta["affine"]))
"""


def by_monai(*folders: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same by MONAI's ITKReader, of several folders.

    In a process of its own: itk loads its modules when they are asked for, and crashes the interpreter at its end where
    some were loaded with warnings as errors, as this suite has them.
    """
    subprocess.run([sys.executable, "-c", _ITK_READER, *map(str, folders)], check=True, capture_output=True)
    found = [np.load(f"{folder}.npz") for folder in folders]
    return [(one["data"], one["affine"]) for one in found]


def assert_same(scan: Scan, data: np.ndarray, affine: np.ndarray, rounding: float = 0) -> None:
    """Every voxel of one lies on one of the other, to a thousandth of a millimetre, and has its value."""
    index = np.indices(data.shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    ours = np.linalg.inv(scan.affine[:3, :3]) @ (world - scan.affine[:3, 3:])
    nearest = ours.round().astype(int)
    apart = scan.affine[:3, :3] @ (ours - nearest)
    assert np.linalg.norm(apart, axis=0).max() < 1e-3
    assert sorted(scan.data.shape) == sorted(data.shape)
    assert np.allclose(scan.data[tuple(nearest)], data.reshape(-1), rtol=rounding, atol=0)


PLANES = {
    "axial": make.AXIAL,
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1]]),
    "sagittal": np.array([[0.0, 1, 0], [0, 0, -1]]),
    "oblique": make.OBLIQUE,
    "upside-down": np.array([[-1.0, 0, 0], [0, 1, 0]]),
}


@pytest.mark.parametrize("plane", PLANES)
def test_good_series(plane: str, tmp_path: Path) -> None:
    make.series(tmp_path, orientation=PLANES[plane])
    assert_same(read_volume(tmp_path), *by_simpleitk(tmp_path))


@pytest.mark.slow
def test_good_series_by_monai(tmp_path: Path) -> None:
    folders = [tmp_path / plane for plane in PLANES]
    for folder in folders:
        make.series(folder, orientation=PLANES[folder.name])
    for folder, (data, affine) in zip(folders, by_monai(*folders), strict=True):
        assert_same(read_volume(folder), data, affine)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotation=rotations(), step=st.floats(0.5, 6))
def test_any_orientation(tmp_path_factory: pytest.TempPathFactory, rotation: np.ndarray, step: float) -> None:
    folder = tmp_path_factory.mktemp("any")
    make.series(folder, slices=4, orientation=rotation[:2], step=step)
    assert_same(read_volume(folder), *by_simpleitk(folder))


def test_rescaled_ct(tmp_path: Path) -> None:
    def edit(ds: object, _: int) -> None:
        ds.Modality, ds.SOPClassUID = "CT", "1.2.840.10008.5.1.4.1.1.2"  # type: ignore[attr-defined]
        ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"  # type: ignore[attr-defined]
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]  # type: ignore[attr-defined]

    make.series(tmp_path, edit=edit)
    assert_same(read_volume(tmp_path), *by_simpleitk(tmp_path))


def test_shuffled_instance_numbers(tmp_path: Path) -> None:
    make.series(tmp_path, edit=lambda ds, k: setattr(ds, "InstanceNumber", k * 7 % 20))
    assert_same(read_volume(tmp_path), *by_simpleitk(tmp_path))
