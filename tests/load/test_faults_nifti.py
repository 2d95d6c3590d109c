"""Bad NIfTI input, by its number in the project's list: refused, warned of, or accepted, as it says there."""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import InputError
from neurobundle.geometry import corners_mm
from neurobundle.load.gate import STRICT, Level, Policy
from neurobundle.load.nifti import judge_nifti, read_nifti

from . import faults


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return faults.good(tmp_path)


@pytest.mark.parametrize("fault", faults.REFUSED.values(), ids=faults.REFUSED.keys())
def test_refused(fault: faults.Fault, good: Path) -> None:
    """The refusal names the file, the cause and the way out."""
    path = fault.build(good)
    with pytest.raises(InputError, match=fault.saying) as caught:
        read_nifti(path, case="anna")
    assert (caught.value.case, caught.value.file) == ("anna", str(path))
    assert caught.value.way_out.endswith(".")


@pytest.mark.parametrize("fault", faults.WARNED.values(), ids=faults.WARNED.keys())
def test_warned(fault: faults.Fault, good: Path) -> None:
    verdict, scan = judge_nifti(fault.build(good))
    assert verdict.level is Level.WARN
    assert scan is not None
    assert any(fault.saying in warning for warning in scan.warnings)


@pytest.mark.parametrize("build", faults.ACCEPTED.values(), ids=faults.ACCEPTED.keys())
def test_accepted(build: faults.Builder, good: Path) -> None:
    scan = read_nifti(build(good))
    np.testing.assert_array_equal(scan.data, faults.volume())
    np.testing.assert_allclose(scan.affine, faults.AFFINE, atol=1e-5)
    assert scan.warnings == ()


def test_3_every_bit_behind_the_header_is_guarded(good: Path) -> None:
    """The stream or its checksum tells; nibabel looks at neither the checksum nor the length."""
    whole = good.read_bytes()
    for place in range(20, len(whole), 7):
        good.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"CRC mismatch|stream is damaged|truncated|not a NIfTI"):
            read_nifti(good)


def test_6_nonfinite_to_zero(good: Path) -> None:
    """It is allowed by name, and the scan says so."""
    scan = read_nifti(faults.saved(faults.with_nan)(good), replace(STRICT, nonfinite="zero"))
    assert scan.data[0, 1, 2] == scan.data[3, 0, 0] == 0
    assert scan.data[0, 0, 1] == 1
    assert "2 NaN and 1 infinite voxels, the first at (0, 1, 2); set to 0" in scan.warnings[0]


def test_7_a_label_map_may_be_empty(good: Path) -> None:
    assert not read_nifti(faults.saved(np.zeros_like)(good), Policy(kind="label")).data.any()


@pytest.mark.parametrize(("form", "sign"), [("sform", 1), ("qform", -1)])
def test_8_the_form_can_be_chosen(form: str, sign: int, good: Path) -> None:
    affine = read_nifti(faults.flipped_qform(good), replace(STRICT, form=form)).affine
    np.testing.assert_allclose(affine[0], sign * faults.AFFINE[0], atol=1e-5)


def test_8_a_form_without_a_code_cannot_be_chosen(good: Path) -> None:
    with pytest.raises(InputError, match="its qform has no code"):
        read_nifti(faults.patched(qform_code=0)(good), replace(STRICT, form="qform"))


def test_8_a_tenth_of_a_millimetre_is_no_conflict(good: Path) -> None:
    """0.09 mm pass, 0.11 mm do not."""
    for shift, level in ((0.09, Level.OK), (0.11, Level.REFUSE)):
        path = faults.good(good.parent, f"{shift}.nii.gz")
        verdict, _ = judge_nifti(faults.patched(qoffset_x=np.float32(11 + shift))(path))
        assert verdict.level is level


@pytest.mark.parametrize("qfac", [0, 1])
def test_a_qfac_of_0_means_1(qfac: int, tmp_path: Path) -> None:
    """As nifti1.h has it for old writers, and as nibabel reads it."""
    image = nib.Nifti1Image(faults.volume(), np.diag([1.0, 1, 3, 1]))
    image.set_qform(image.affine, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    pixdim = np.array([qfac, 1, 1, 3, 1, 1, 1, 1], np.float32)
    path = faults.patched(pixdim=pixdim, sform_code=0)(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_nifti(path).affine, np.diag([1, 1, 3, 1]))


def test_9_ras_can_be_assumed(good: Path) -> None:
    """Voxel sizes alone, to the right, to the front and up; NIfTI's "method 1"."""
    scan = read_nifti(faults.patched(qform_code=0, sform_code=0)(good), replace(STRICT, assume_ras=True))
    np.testing.assert_allclose(scan.affine, np.diag([1, 1, 3, 1]), atol=1e-6)
    assert "RAS+ is assumed" in scan.warnings[0]


def test_12_channels_where_they_are_wanted(good: Path) -> None:
    path = faults.saved(lambda data: np.stack([data] * 4, -1))(good)
    assert read_nifti(path, replace(STRICT, channels=4)).data.shape == (*faults.SHAPE, 4)
    with pytest.raises(InputError, match="3 channels are wanted"):
        read_nifti(path, replace(STRICT, channels=3))


def test_14_flat_where_flat_is_wanted(good: Path) -> None:
    flat = replace(STRICT, spatial_dims=2)
    assert read_nifti(faults.saved(lambda data: data[..., 0])(good), flat).data.shape == faults.SHAPE[:2]
    with pytest.raises(InputError, match="it is 3D"):
        read_nifti(faults.good(good.parent), flat)


_LIE = """
import resource, sys, time
from neurobundle.errors import InputError
from neurobundle.load.nifti import read_nifti
resource.setrlimit(resource.RLIMIT_AS, (int(open('/proc/self/statm').read().split()[0]) * 4096 + 200_000_000,) * 2)
start = time.perf_counter()
try:
    read_nifti(sys.argv[1])
except InputError as error:
    print(error.cause, time.perf_counter() - start < 1)
"""


def test_21_the_header_that_lies_takes_no_memory(good: Path) -> None:
    """A process that may grow by 200 MB refuses it, within a second."""
    words = [sys.executable, "-c", _LIE, str(faults.lying(good))]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "27000000352 bytes" in said
    assert said.strip().endswith("True")


def test_21_more_than_the_memory_that_is_free(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An honest header may ask for more than there is."""
    monkeypatch.setattr("neurobundle.load.checks.available_bytes", lambda: 1000)
    with pytest.raises(InputError, match=r"its voxels need 0\.0 GiB"):
        read_nifti(good)


def test_several_gzip_members(good: Path) -> None:
    """What ``cat a.gz b.gz`` and bgzip write, with zeros to fill a block, is one stream (RFC 1952, 2.2)."""
    whole = gzip.decompress(good.read_bytes())
    good.write_bytes(gzip.compress(whole[:800]) + gzip.compress(whole[800:]) + bytes(512))
    np.testing.assert_array_equal(read_nifti(good).data, faults.volume())


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"])
def test_every_type_as_nibabel_reads_it(dtype: str, tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype))
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image((faults.volume() % 100).astype(dtype), faults.AFFINE, header), path)
    scan = read_nifti(path)
    np.testing.assert_array_equal(scan.data, faults.volume() % 100)
    assert scan.data.dtype == np.dtype(dtype).newbyteorder("=")
    assert scan.data.flags.writeable


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_scaling_as_nibabel_applies_it(kind: type, tmp_path: Path) -> None:
    image = kind(faults.volume().astype(np.int16), faults.AFFINE)
    image.header.set_slope_inter(0.25, -3)
    nib.save(image, tmp_path / "a.nii.gz")
    theirs = nib.load(tmp_path / "a.nii.gz")
    scan = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(scan.data, np.asanyarray(theirs.dataobj))
    np.testing.assert_array_equal(scan.affine, theirs.affine)


@pytest.mark.parametrize(("code", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_units(code: int, mm: float, good: Path) -> None:
    """The affine is in millimetres whatever the file's unit is; what is written from it gets the file's unit back."""
    path = faults.patched(xyzt_units=code)(good)
    scan = read_nifti(path)
    np.testing.assert_allclose(scan.affine[:3], mm * faults.AFFINE[:3], rtol=1e-5, atol=1e-6)
    assert scan.units == {0: "mm", 1: "m", 2: "mm", 3: "um"}[code]


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.lists(st.floats(0.5, 6), min_size=3, max_size=3))
def test_27_oblique_affines_are_nibabels(tmp_path_factory: pytest.TempPathFactory, turn: list, sizes: list) -> None:
    quaternion = np.add(turn, (2, 0, 0, 0))
    rotation = nib.quaternions.quat2mat(quaternion / np.linalg.norm(quaternion))
    affine = nib.affines.from_matvec(rotation * sizes, [3, 4, 5])
    path = tmp_path_factory.mktemp("oblique") / "a.nii"
    nib.save(nib.Nifti1Image(faults.volume(), affine), path)
    apart = corners_mm(faults.SHAPE, read_nifti(path).affine) - corners_mm(faults.SHAPE, affine)
    assert np.abs(apart).max() < 1e-3


def test_real_files_as_nibabel_reads_them(real_data: Path) -> None:
    """Every set that lies as NIfTI: the same voxels and affines, and no refusal."""
    files = [
        *sorted((real_data / "hippocampus/imagesTr").iterdir())[:20],
        *sorted((real_data / "ms_lesions").rglob("*.nii.gz"))[:2],
        *sorted((real_data / "ms_lesions_raw").rglob("*.nii.gz")),
        *sorted((real_data / "dicom").rglob("*.nii.gz"))[:2],
    ]
    for path in files:
        theirs = nib.load(path)
        policy = Policy(allow_empty=True, channels=theirs.shape[3] if theirs.ndim == 4 else None)
        scan = read_nifti(path, policy)
        np.testing.assert_array_equal(scan.data, np.asanyarray(theirs.dataobj))
        np.testing.assert_array_equal(scan.affine, theirs.affine)
