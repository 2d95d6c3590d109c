"""Real scanners' files; see the data's README for where they are from."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.load.dicom import find_dicom, read_series_4d, read_volume, require_images, time_series
from neurobundle.load.gate import Level
from tests.load.dicom.test_oracles import assert_same, by_simpleitk


@pytest.fixture
def dicom(real_data: Path) -> Path:
    folder = real_data / "dicom"
    if not folder.is_dir():
        pytest.skip("the real DICOM files are not here")
    return folder


def test_philips_classic_is_enhanced(dicom: Path) -> None:
    """40 classic files and one enhanced file: the same voxels in the same places; the raw data are no image."""
    folder = find_dicom(dicom / "philips_pcasl")
    assert folder.set_aside["raw data: no image"] == 1
    classic, enhanced = folder.volumes
    assert (len(classic.files), len(enhanced.files)) == (40, 1)
    assert enhanced.key == f"{classic.key}_enhanced"
    one, other = classic.read(), enhanced.read()
    assert np.array_equal(one.data, other.data)
    assert np.abs(one.affine - other.affine).max() < 1e-6
    for facts in (classic.facts, enhanced.facts):
        assert (facts.echo_time_ms, facts.repetition_time_ms, facts.plane) == (9, 4250, "axial")
        assert facts.words[:2] == ("3d", "pcasl")


@pytest.mark.parametrize("form", ["cl", "enh_real"])
def test_philips_references(dicom: Path, form: str) -> None:
    """Another converter's NIfTI: equal but for the float32 in which a NIfTI header keeps the slope of 0.1."""
    scan = read_volume(dicom / "philips_pcasl/classic")
    reference = nib.load(dicom / f"philips_pcasl/reference/1901_WIP_3DpCASL_{form}.nii.gz")
    assert_same(scan, np.asarray(reference.dataobj), reference.affine, rounding=1e-7)


def test_ge_times(dicom: Path) -> None:
    """150 files are 15 slices at 10 times, not a volume of 150; all voxels as another converter has them."""
    folder = find_dicom(dicom / "ge_fmri_4d")
    assert [volume.shape for volume in folder.volumes] == [(64, 64, 15)] * 10
    assert all(volume.verdict.level is Level.OK for volume in folder.volumes)
    (series,) = time_series(folder.volumes).values()
    scan = read_series_4d(series)
    reference = nib.load(dicom / "ge_fmri_4d/reference/DCM2NIIX_regression_test_4.nii")
    expected = np.asarray(reference.dataobj)
    for time in range(10):
        assert_same(scan._replace(data=scan.data[..., time]), expected[..., time], reference.affine)
    assert np.array_equal(series[3].read().data, scan.data[..., 3])


def test_siemens_lying_on_the_left_side(dicom: Path) -> None:
    """The affine knows it, by the positions alone: slices run from left to right, and a row of pixels to the back."""
    (volume,) = find_dicom(dicom / "siemens_hfdl").volumes
    assert volume.shape == (256, 256, 35)
    assert (volume.facts.plane, volume.verdict.level) == ("sagittal", Level.OK)
    scan = volume.read()
    assert_same(scan, *by_simpleitk(dicom / "siemens_hfdl/classic"))
    assert nib.aff2axcodes(scan.affine) == ("P", "I", "R")
    stated = [json.loads(path.read_text()) for path in (dicom / "siemens_hfdl/reference").glob("*.json")]
    (mine,) = (one for one in stated if one["PatientPosition"] == "HFDL")
    assert volume.facts.echo_time_ms == pytest.approx(1000 * mine["EchoTime"])
    assert volume.facts.repetition_time_ms == pytest.approx(1000 * mine["RepetitionTime"])
    assert volume.facts.voxel_mm == pytest.approx((1.015625, 1.015625, mine["SpacingBetweenSlices"]))


def test_segmentations_are_no_images(dicom: Path) -> None:
    """SEG, SR and real-world value maps are set aside under their names, and the CT series beside them are found."""
    folder = find_dicom(dicom / "seg/dicom_seg_dcmqi")
    require_images(folder)
    assert folder.set_aside["no image: Segmentation"] >= 4
    assert folder.set_aside["no image: Label Map Segmentation"] == 2
    assert folder.set_aside["no image: Comprehensive SR"] == 1
    assert folder.set_aside["no image: Real World Value Mapping"] == 1
    assert folder.set_aside["not DICOM"] > 0
    assert [finding.check for finding in folder.verdict.refusals] == ["two_patients"]
    assert sorted(volume.shape for volume in folder.volumes) == [(23, 38, 3)] * 2 + [(24, 38, 3)] * 2 + [(512, 512, 3)]
    assert {volume.facts.modality for volume in folder.volumes} == {"CT"}


@pytest.mark.parametrize("size", ["23x38x3", "24x38x3"])
def test_a_ct_and_its_legacy_converted_form(dicom: Path, size: str) -> None:
    """Three classic files and one enhanced file of the same slices."""
    place = dicom / "seg/dicom_seg_dcmqi/segmentations" / size
    classic, enhanced = read_volume(place / "image"), read_volume(place / "multiframe")
    assert np.array_equal(classic.data, enhanced.data)
    assert np.abs(classic.affine - enhanced.affine).max() < 1e-6
    assert_same(classic, *by_simpleitk(place / "image"))


def test_nothing_of_the_patients_is_kept(dicom: Path) -> None:
    """Names, ids, dates and UIDs of the files' headers stand in nothing that is returned, paths apart."""
    import pydicom

    for name in ("philips_pcasl", "ge_fmri_4d", "siemens_hfdl"):
        folder = find_dicom(dicom / name)
        ds = pydicom.dcmread(folder.volumes[0].files[0], stop_before_pixels=True)
        held = f"{[(v.key, v.facts, v.verdict) for v in folder.volumes]} {folder.set_aside} {folder.verdict}"
        for word in (ds.PatientName, ds.PatientID, ds.StudyDate, ds.StudyInstanceUID, ds.SeriesInstanceUID):
            assert str(word) not in held
