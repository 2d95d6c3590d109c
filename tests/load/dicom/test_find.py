"""What is DICOM, what is an image, and how it is named."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from neurobundle.errors import InputError, MissingPackageError
from neurobundle.load.dicom import find_dicom, read_volume, require_images
from neurobundle.load.dicom.folder import series_key, study_key
from neurobundle.load.gate import Level
from neurobundle.load.salt import SALT_VARIABLE
from tests.load.dicom import make


def test_a_good_series(tmp_path: Path) -> None:
    made = make.series(tmp_path / "any" / "depth")
    folder = find_dicom(tmp_path)
    (volume,) = folder.volumes
    assert (volume.shape, len(volume.files), volume.series_number) == ((8, 10, 20), 20, 4)
    assert volume.verdict.findings == []
    assert folder.set_aside == {}
    scan = volume.read()
    assert np.array_equal(scan.data, made.data)
    assert scan.data.dtype == np.uint16
    assert np.allclose(scan.affine, made.affine, atol=1e-6)
    assert np.allclose(volume.affine, made.affine, atol=1e-6)
    assert (scan.form_code, scan.units, scan.warnings) == (1, "mm", ())


def test_one_file_of_a_series(tmp_path: Path) -> None:
    """A single slice has the whole series' folder as its way out."""
    made = make.series(tmp_path)
    with pytest.raises(InputError, match=r"one slice is no volume\. Give the folder"):
        read_volume(made.files[3])


def test_rescaled_values(tmp_path: Path) -> None:
    """Each slice has its own slope, as Philips and PET have."""

    def edit(ds: pydicom.Dataset, k: int) -> None:
        ds.RescaleSlope, ds.RescaleIntercept = f"{k + 1}", "-5"

    made = make.series(tmp_path, edit=edit)
    scan = read_volume(tmp_path)
    assert scan.data.dtype == np.float32
    assert np.array_equal(scan.data, made.data * np.arange(1, 21, dtype=np.float32) - 5)


def test_one_slice_is_scaled(tmp_path: Path) -> None:
    """Types of slices differ, and no value is cut off."""
    made = make.series(tmp_path)
    make.change(made.files[7], RescaleSlope="0.5", RescaleIntercept="0")
    expected = made.data.astype(float)
    expected[:, :, 7] /= 2
    assert np.array_equal(read_volume(tmp_path).data, expected)


@pytest.mark.parametrize("form", ["bare", "implicit", "deflated", "bare implicit"])
def test_forms_of_files(form: str, tmp_path: Path) -> None:
    """Without preamble and meta information, implicit, deflated: one series as it was."""
    made = make.series(tmp_path)
    for path in made.files:
        ds = pydicom.dcmread(path)
        if form == "deflated":
            make.write(ds, path, DeflatedExplicitVRLittleEndian)
        elif "implicit" in form:
            make.write(ds, path, ImplicitVRLittleEndian)
        if form.startswith("bare"):
            content = path.read_bytes()
            start = content.index(b"\x08\x00\x08\x00")
            path.write_bytes(content[start:])
    scan = read_volume(tmp_path)
    assert np.array_equal(scan.data, made.data)
    assert np.allclose(scan.affine, made.affine, atol=1e-6)


def test_big_endian() -> None:
    """One of pydicom's own: the header is read, and the one slice refused for being one."""
    (volume,) = find_dicom(get_testdata_file("MR_small_bigendian.dcm", download=False)).volumes
    assert volume.shape == (64, 64, 1)
    assert [finding.check for finding in volume.verdict.findings] == ["one_slice"]
    assert (
        volume.facts.echo_time_ms
        == find_dicom(get_testdata_file("MR_small.dcm", download=False)).volumes[0].facts.echo_time_ms
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("reportsi.dcm", "no image: Basic Text SR"),
        ("rtstruct.dcm", "no image: RT Structure Set"),
        ("rtdose.dcm", "no image: RT Dose"),
        ("liver_1frame.dcm", "no image: Segmentation"),
        ("waveform_ecg.dcm", "no image: 12-lead ECG Waveform"),
        ("dicomdirtests/DICOMDIR", "DICOMDIR"),
    ],
)
def test_set_aside(name: str, reason: str) -> None:
    """Files of pydicom's own that are no images of a volume."""
    path = get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"this pydicom does not bring {name}")
    assert find_dicom(path).set_aside == {reason: 1}


def test_private_kinds_stay_unsaid(tmp_path: Path) -> None:
    """A UID may tell who made it."""
    ds = make.header("1.2.826.0.1.3680043.77.1")
    make.write(ds, tmp_path / "a")
    assert find_dicom(tmp_path).set_aside == {"no image: a private kind": 1}


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    make.series(tmp_path)
    assert len(find_dicom(tmp_path).volumes) == 1


def one_classic(path: Path) -> None:
    make.series(path.parent, slices=1, name=path.name)


@pytest.mark.parametrize("kind", [one_classic, make.enhanced, make.mosaic])
def test_damaged_files_that_pydicom_stumbles_over(kind: Callable[[Path], object], tmp_path: Path) -> None:
    """Random bytes behind a good beginning never escape as another exception, nor hang."""
    kind(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    rng = np.random.default_rng(5)
    for n in range(120):
        bad = bytearray(good)
        for place in rng.integers(132, len(bad) - 200, 8):
            bad[place] = rng.integers(256)
        (tmp_path / f"bad{n}").write_bytes(bad)
    folder = find_dicom(tmp_path)
    for volume in folder.volumes:
        try:
            volume.read()
        except InputError:
            continue


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys hide UIDs, hang on the salt, and tell studies and series apart."""
    make.series(tmp_path)
    (study,) = find_dicom(tmp_path).studies
    (volume,) = study.volumes
    assert study.key == study_key(make.STUDY) == "study-4e6a71d0"
    assert volume.key == volume.series_key == series_key(make.SERIES, 4)
    assert volume.key.startswith("series-0004-")
    monkeypatch.setenv(SALT_VARIABLE, "a secret")
    assert study_key(make.STUDY) != study.key


def test_volumes_are_sorted_by_series_number(tmp_path: Path) -> None:
    for number in (11, 2, None):
        make.series(
            tmp_path / str(number),
            uid=f"1.2.{number or 3}",
            slices=3,
            edit=lambda ds, _, number=number: setattr(ds, "SeriesNumber", number),
        )
    assert [volume.series_number for volume in find_dicom(tmp_path).volumes] == [2, 11, None]


def test_several_studies(tmp_path: Path) -> None:
    make.series(tmp_path / "a", slices=3)
    make.series(tmp_path / "b", slices=3, uid="1.2", edit=lambda ds, _: setattr(ds, "StudyInstanceUID", "1.9"))
    folder = find_dicom(tmp_path)
    assert len(folder.studies) == 2
    assert folder.verdict.level is Level.OK
    require_images(folder)


def test_fewer_images_than_stated(tmp_path: Path) -> None:
    make.series(tmp_path, slices=18, edit=lambda ds, _: setattr(ds, "ImagesInAcquisition", 20))
    assert find_dicom(tmp_path).volumes[0].verdict.warnings == [
        "its header says that there are 20 images, 18 were found"
    ]


def test_two_frames_of_reference(tmp_path: Path) -> None:
    make.series(tmp_path, edit=lambda ds, k: setattr(ds, "FrameOfReferenceUID", f"1.2.{k % 2}"))
    assert "2 frames of reference" in find_dicom(tmp_path).volumes[0].verdict.warnings[0]


def test_lossy_compression_warns(tmp_path: Path) -> None:
    make.series(tmp_path, edit=lambda ds, _: setattr(ds, "LossyImageCompression", "01"))
    assert find_dicom(tmp_path).volumes[0].verdict.warnings[0].startswith("its pixels were compressed with losses")


def test_a_constant_volume_has_no_signal(tmp_path: Path) -> None:
    make.series(tmp_path, data=np.zeros((8, 10, 20), np.uint16))
    with pytest.raises(InputError, match="no signal"):
        read_volume(tmp_path)


def test_headers_are_read_and_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of slices of 128 KiB each, less than a quarter is read: a folder of thousands is looked through at once."""
    data = np.arange(256 * 256 * 6, dtype=np.uint16).reshape(256, 256, 6)
    make.series(tmp_path, slices=6, rows=256, columns=256, data=data)
    read: list[int] = []

    class Counted(io.FileIO):
        def readinto(self, buffer: Any, /) -> int | None:
            read.append(super().readinto(buffer) or 0)
            return read[-1]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode: io.BufferedReader(Counted(path, mode)))
        (volume,) = find_dicom(tmp_path).volumes
    assert volume.shape == (256, 256, 6)
    assert 0 < sum(read) < 6 * 256 * 256 * 2 / 4


def test_nothing_of_a_patient_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor held by what is returned."""
    make.series(tmp_path)
    make.change(tmp_path / "IM0003", PatientBirthDate="31.1.1970, DOE^JANE")
    damaged = (tmp_path / "IM0003").read_bytes().replace(b"2300", b"JANE").replace(b"19700131", b"DOE^JANE")
    (tmp_path / "IM0003").write_bytes(damaged)
    with caplog.at_level(logging.DEBUG):
        folder = find_dicom(tmp_path)
        with pytest.raises(InputError, match="2 patients, by their PatientBirthDate") as caught:
            folder.volumes[0].read()
    held = f"{caplog.text} {folder!r} {folder.volumes[0].facts!r} {caught.value}"
    assert not [word for word in ("DOE", "Jane", "MRN", "1970", make.STUDY) if word in held]


def test_light_door() -> None:
    code = "import sys, neurobundle.load.dicom; sys.exit(bool({'torch', 'monai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_pydicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingPackageError, match="reading DICOM needs the package 'pydicom'") as caught:
        find_dicom(tmp_path)
    assert "neurobundle[dicom]" in caught.value.way_out
