"""Siemens mosaics."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from neurobundle.errors import InputError
from neurobundle.load.dicom import find_dicom, read_series_4d, read_volume
from neurobundle.load.gate import Level
from tests.load.dicom import make


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("slices", [5, 7, 9])
def test_a_mosaic(slices: int, reverse: bool, tmp_path: Path) -> None:
    """Voxels and grid as they were meant, and as nibabel has them, voxel for voxel."""
    made = make.mosaic(tmp_path / "a", slices=slices, reverse=reverse)
    scan = read_volume(tmp_path)
    assert np.array_equal(scan.data, made.data)
    assert np.allclose(scan.affine, made.affine, atol=1e-6)
    data, affine = make.nibabels(tmp_path / "a")
    index = np.array([(0, 0, 0), (3, 2, 1), (5, 4, slices - 1), (0, 4, 2)])
    world = index @ affine[:3, :3].T + affine[:3, 3]
    ours = np.linalg.inv(scan.affine) @ np.c_[world, np.ones(4)].T
    assert np.allclose(ours, ours.round(), atol=1e-4)
    assert np.array_equal(scan.data[tuple(ours[:3].round().astype(int))], data[tuple(index.T)])


def test_a_time_series_of_mosaics(tmp_path: Path) -> None:
    made = [make.mosaic(tmp_path / f"m{n}", number=n + 1, seed=1000 * n) for n in range(3)]
    volumes = find_dicom(tmp_path).volumes
    assert [volume.key[-6:] for volume in volumes] == ["_t-001", "_t-002", "_t-003"]
    assert np.array_equal(read_series_4d(volumes).data, np.stack([one.data for one in made], -1))


def spoiled(ds: pydicom.Dataset) -> None:
    ds[0x0029, 0x1010].value = b"SV10" + bytes(64)


def turned(ds: pydicom.Dataset) -> None:
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def too_many(ds: pydicom.Dataset) -> None:
    ds[0x0019, 0x100A].value = 17


def nowhere(ds: pydicom.Dataset) -> None:
    del ds.ImagePositionPatient


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (spoiled, "without a readable CSA header"),
        (turned, "CSA header and ImageOrientationPatient disagree"),
        (too_many, "it is a mosaic of 17 slices in 18 x 15 pixels"),
        (nowhere, "it has no ImagePositionPatient"),
    ],
)
def test_refused(edit: object, cause: str, tmp_path: Path) -> None:
    """A mosaic whose slices cannot be placed for certain is none: the order of its tiles may be up or down."""
    make.mosaic(tmp_path / "a", edit=edit)
    with pytest.raises(InputError, match=cause):
        read_volume(tmp_path)


def test_without_csa_header(tmp_path: Path) -> None:
    make.mosaic(tmp_path / "a", csa=False)
    with pytest.raises(InputError, match="without a readable CSA header"):
        read_volume(tmp_path)


@pytest.mark.parametrize("name", ["siemens_dwi_0", "siemens_dwi_1000"])
def test_nibabels_mosaics(name: str, tmp_path: Path) -> None:
    """Real mosaics of 48 slices that nibabel brings: the same grid. Their pixels are all 0."""
    packed = Path(nibabel.__file__).parent / f"nicom/tests/data/{name}.dcm.gz"
    if not packed.is_file():
        pytest.skip("this nibabel does not bring its test data")
    (tmp_path / "a").write_bytes(gzip.decompress(packed.read_bytes()))
    (volume,) = find_dicom(tmp_path).volumes
    assert (volume.shape, volume.verdict.level) == ((128, 128, 48), Level.OK)
    assert volume.facts.b_value == (1000 if name.endswith("1000") else None)
    _, affine = make.nibabels(tmp_path / "a")
    both = np.linalg.inv(volume.affine) @ affine
    expected = np.eye(4)[[1, 0, 2, 3]]  # rows and columns change places
    assert np.allclose(both, expected, atol=1e-3)
