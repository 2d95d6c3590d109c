"""One series, several volumes: echoes, components, times, b-values; and what is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from neurobundle.errors import InputError
from neurobundle.load.dicom import DicomVolume, find_dicom, read_series_4d, time_series
from neurobundle.load.gate import Level
from tests.load.dicom import make

Edit = Callable[[pydicom.Dataset, int, int], None]


def several(folder: Path, count: int, edit: Edit, slices: int = 8) -> list[make.Made]:
    """One series of several volumes at the same places, each with its own voxels; edit gets volume and slice."""
    made = []
    for n in range(count):

        def change(ds: pydicom.Dataset, k: int, n: int = n) -> None:
            ds.InstanceNumber = n * slices + k + 1
            ds.SOPInstanceUID = f"{make.SERIES}.{n}.{k}"
            edit(ds, n, k)

        data = make.voxels((8, 10, slices)) + 1000 * n
        made.append(make.series(folder, slices=slices, edit=change, data=data, name=f"v{n}-{{:03d}}"))
    return made


def found(folder: Path) -> list[DicomVolume]:
    return find_dicom(folder).volumes


def suffixes(volumes: list[DicomVolume]) -> list[str]:
    return [volume.key.removeprefix(volume.series_key) for volume in volumes]


def set_echo(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.EchoNumbers, ds.EchoTime = n + 1, f"{5 * (n + 1)}"


def set_echo_time(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.EchoTime = f"{5 * (n + 1)}"


def set_component(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.ImageType = ["ORIGINAL", "PRIMARY", "MPRI"[n], "ND"]


def set_ge_component(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.ImageType, ds.Manufacturer = ["ORIGINAL", "PRIMARY", "OTHER"], "GE MEDICAL SYSTEMS"
    ds.private_block(0x0043, "GEMS_PARM_01", create=True).add_new(0x2F, "SS", n)


def set_type(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.ImageType = ["DERIVED", "PRIMARY", "DIFFUSION", ["ADC", "FA"][n]]


def set_b_value(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.DiffusionBValue = [0.0, 500.0, 1000.0][n]


def set_direction(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.DiffusionBValue, ds.DiffusionGradientOrientation = 1000.0, [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]][n]


def set_siemens_b(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", str(1000 * n))


def set_time(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.TemporalPositionIdentifier = n + 1


def set_acquisition(ds: pydicom.Dataset, n: int, _: int) -> None:
    ds.AcquisitionNumber = n + 1


def set_clock(ds: pydicom.Dataset, n: int, k: int) -> None:
    ds.AcquisitionTime = f"1201{n * 2 + k % 2:02d}.{k:02d}"


def set_trigger(ds: pydicom.Dataset, n: int, k: int) -> None:
    ds.TriggerTime = f"{100 * n + k}"


def set_count(ds: pydicom.Dataset, *_: int) -> None:
    ds.NumberOfTemporalPositions = 3


SPLITS: dict[str, tuple[Edit, int, list[str]]] = {
    "echo number": (set_echo, 3, ["_echo-1", "_echo-2", "_echo-3"]),
    "echo time": (set_echo_time, 2, ["_echo-1", "_echo-2"]),
    "components": (set_component, 4, ["_imaginary", "_magnitude", "_phase", "_real"]),
    "GE's components": (set_ge_component, 2, ["_magnitude", "_phase"]),
    "image types": (set_type, 2, ["_type-1", "_type-2"]),
    "b-values": (set_b_value, 3, ["_b-0", "_b-1000", "_b-500"]),
    "Siemens' b-values": (set_siemens_b, 2, ["_b-0", "_b-1000"]),
    "directions": (set_direction, 3, ["_dir-1", "_dir-2", "_dir-3"]),
    "times": (set_time, 3, ["_t-001", "_t-002", "_t-003"]),
    "acquisitions": (set_acquisition, 3, ["_t-001", "_t-002", "_t-003"]),
    "clock": (set_clock, 3, ["_t-001", "_t-002", "_t-003"]),
    "trigger": (set_trigger, 3, ["_t-001", "_t-002", "_t-003"]),
    "instance numbers": (set_count, 3, ["_t-001", "_t-002", "_t-003"]),
}


@pytest.mark.parametrize("by", SPLITS)
def test_split(by: str, tmp_path: Path) -> None:
    """Each volume is whole, named, and as it was."""
    edit, count, names = SPLITS[by]
    made = several(tmp_path, count, edit)
    volumes = found(tmp_path)
    assert suffixes(volumes) == names
    scans = [volume.read() for volume in volumes]
    assert all(volume.verdict.level is Level.OK for volume in volumes)
    for one in made:
        assert sum(np.array_equal(scan.data, one.data) for scan in scans) == 1
    assert all(np.allclose(scan.affine, made[0].affine, atol=1e-6) for scan in scans)


def test_facts_of_parts(tmp_path: Path) -> None:
    several(tmp_path, 3, set_echo)
    assert [(v.facts.echo, v.facts.echo_time_ms) for v in found(tmp_path)] == [(1, 5.0), (2, 10.0), (3, 15.0)]


def test_times_are_in_order_and_make_one_4d_array(tmp_path: Path) -> None:
    made = several(tmp_path, 12, set_time, slices=3)
    (series,) = time_series(found(tmp_path)).values()
    assert [volume.facts.time_index for volume in series] == list(range(1, 13))
    scan = read_series_4d(series)
    assert np.array_equal(scan.data, np.stack([one.data for one in made], axis=-1))
    assert np.allclose(scan.affine, made[0].affine, atol=1e-6)


def test_times_of_two_echoes_are_two_time_series(tmp_path: Path) -> None:
    def edit(ds: pydicom.Dataset, n: int, k: int) -> None:
        set_echo(ds, n % 2, k)
        set_time(ds, n // 2, k)

    several(tmp_path, 6, edit, slices=3)
    series = time_series(found(tmp_path))
    assert [key[-7:] for key in series] == ["_echo-1", "_echo-2"]
    assert [len(volumes) for volumes in series.values()] == [3, 3]


def test_4d_of_different_grids(tmp_path: Path) -> None:
    make.series(tmp_path / "a", uid="1.2.1", slices=3)
    make.series(tmp_path / "b", uid="1.2.2", slices=3, first=(0, 0, 0))
    with pytest.raises(InputError, match="lies on another grid"):
        read_series_4d(found(tmp_path))
    with pytest.raises(InputError, match="no volumes"):
        read_series_4d([])


def test_the_last_time_is_cut_off(tmp_path: Path) -> None:
    """It alone is refused, however regular what is left of it."""
    several(tmp_path, 4, set_time)
    for k in range(3, 8):
        (tmp_path / f"v3-{k:03d}").unlink()
    volumes = found(tmp_path)
    assert [volume.verdict.level for volume in volumes] == [Level.OK, Level.OK, Level.OK, Level.REFUSE]
    assert volumes[3].verdict.refusals[0].cause == "it has 3 of the 8 slices of its series (t-004)"


def test_the_last_time_is_cut_off_without_numbers(tmp_path: Path) -> None:
    several(tmp_path, 4, set_clock)
    for k in range(3, 8):
        (tmp_path / f"v3-{k:03d}").unlink()
    assert [volume.verdict.level.value for volume in found(tmp_path)] == ["ok", "ok", "ok", "refuse"]


def test_a_gap_in_one_time(tmp_path: Path) -> None:
    several(tmp_path, 3, set_time)
    (tmp_path / "v1-004").unlink()
    volumes = found(tmp_path)
    assert [volume.verdict.level.value for volume in volumes] == ["ok", "refuse", "ok"]
    assert {finding.check for finding in volumes[1].verdict.refusals} == {"incomplete", "missing_slices"}


def test_interleaved_acquisition_numbers_do_not_split_a_volume(tmp_path: Path) -> None:
    made = make.series(tmp_path, edit=lambda ds, k: setattr(ds, "AcquisitionNumber", k % 2 + 1))
    (volume,) = found(tmp_path)
    assert np.array_equal(volume.read().data, made.data)


def test_two_rescanned_slices_are_no_second_time(tmp_path: Path) -> None:
    """Two slices that were acquired again: which are right, nobody knows."""
    make.series(tmp_path)
    for k in (4, 5):
        ds = pydicom.dcmread(tmp_path / f"IM{k:04d}")
        ds.SOPInstanceUID, ds.AcquisitionNumber, ds.InstanceNumber = f"1.2.{k}", 2, 90 + k
        ds.PixelData = bytes(len(ds.PixelData))
        make.write(ds, tmp_path / f"again{k}")
    (volume,) = found(tmp_path)
    with pytest.raises(InputError, match="two slices lie at one place and differ"):
        volume.read()


def test_two_times_by_instance_number_alone_are_refused(tmp_path: Path) -> None:
    """Nothing in the header says that there are two."""
    several(tmp_path, 2, lambda *_: None)
    (volume,) = found(tmp_path)
    with pytest.raises(InputError, match="two slices lie at one place and differ"):
        volume.read()


def test_a_nan_position_in_one_time_refuses_that_time(tmp_path: Path) -> None:
    several(tmp_path, 3, set_time)
    make.change(tmp_path / "v1-004", ImagePositionPatient=["nan", "0", "0"])
    assert [volume.verdict.level.value for volume in found(tmp_path)] == ["ok", "refuse", "ok"]


def test_image_types_that_change_within_a_volume(tmp_path: Path) -> None:
    """They share no place: one volume, with a warning, not two halves of a head."""
    kinds = (["ORIGINAL", "PRIMARY", "M", "ND"], ["DERIVED", "PRIMARY", "M", "ND"])
    made = make.series(tmp_path, edit=lambda ds, k: setattr(ds, "ImageType", kinds[k > 9]))
    scan = found(tmp_path)[0].read()
    assert np.array_equal(scan.data, made.data)
    assert scan.warnings == ("its slices have 2 different image types, though they lie at different places",)


def test_three_planes_in_one_series(tmp_path: Path) -> None:
    """A scout of three planes is three volumes."""
    planes = [make.AXIAL, np.array([[1.0, 0, 0], [0, 0, -1]]), np.array([[0, 1.0, 0], [0, 0, -1]])]
    made = [
        make.series(tmp_path, slices=5, orientation=plane, name=f"p{n}-{{}}", uid="1.2.3")
        for n, plane in enumerate(planes)
    ]
    for n in range(3):
        for k in range(5):
            make.change(tmp_path / f"p{n}-{k}", SOPInstanceUID=f"1.2.3.{n}.{k}")
    volumes = found(tmp_path)
    assert suffixes(volumes) == ["_plane-1", "_plane-2", "_plane-3"]
    assert [volume.facts.plane for volume in volumes] == ["axial", "coronal", "sagittal"]
    for volume, one in zip(volumes, made, strict=True):
        assert np.array_equal(volume.read().data, one.data)


def test_single_slices_of_three_planes(tmp_path: Path) -> None:
    for n, plane in enumerate([make.AXIAL, np.array([[1.0, 0, 0], [0, 0, -1]])]):
        make.series(tmp_path, slices=1, orientation=plane, name=f"p{n}-{{}}")
    assert [volume.verdict.refusals[0].check for volume in found(tmp_path)] == ["one_slice", "one_slice"]
