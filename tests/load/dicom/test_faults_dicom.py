"""The faults of docs' list that DICOM folders have, each made from a good series. The ids are the list's numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from neurobundle.errors import ExitCode, InputError, NoInputError
from neurobundle.load.dicom import DicomFolder, DicomVolume, find_dicom, read_volume, require_images
from neurobundle.load.gate import Level, Policy
from tests.load.dicom import make

NORMAL = np.cross(*make.OBLIQUE)

#: What stands in our headers and must stand in no message.
PATIENT = ("DOE", "JANE", "Jane", "MRN-12345", "19700131", "20200229", make.STUDY)


def delete(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (folder / f"IM{number:04d}").unlink()


def one(folder: Path) -> DicomVolume:
    (volume,) = find_dicom(folder).volumes
    return volume


# --- faults that refuse a volume ------------------------------------------------------------------------------------


def missing(folder: Path) -> None:
    delete(folder, 8, 9, 10)


def duplicate_differs(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0005")
    ds.SOPInstanceUID, ds.InstanceNumber = f"{make.SERIES}.99", 99
    ds.PixelData = bytes(len(ds.PixelData))
    make.write(ds, folder / "IM0099")


def shear(folder: Path) -> None:
    for k in range(20):
        make.move(folder / f"IM{k:04d}", 0.3 * k * make.OBLIQUE[1])


def irregular(folder: Path) -> None:
    for k in range(11, 20):
        make.move(folder / f"IM{k:04d}", 1.7 * NORMAL)


def nan_position(number: int) -> Callable[[Path], None]:
    return lambda folder: make.change(folder / f"IM{number:04d}", ImagePositionPatient=["nan", "1", "2"])


def truncated(folder: Path) -> None:
    path = folder / "IM0003"
    path.write_bytes(path.read_bytes()[:-60])


def odd_rows(folder: Path) -> None:
    ds = pydicom.dcmread(folder / "IM0006")
    make.put_pixels(ds, np.ones((9, 8)))
    make.write(ds, folder / "IM0006")


def odd_spacing(folder: Path) -> None:
    make.change(folder / "IM0006", PixelSpacing=["1.5", "1.5"])


def no_geometry(folder: Path) -> None:
    for k in range(20):
        make.change(folder / f"IM{k:04d}", ImagePositionPatient=None, ImageOrientationPatient=None)


def huge(folder: Path) -> None:
    make.change(folder / "IM0000", Rows=65535, Columns=65535, PixelData=bytes(2560))


def slope(value: str) -> Callable[[Path], None]:
    return lambda folder: make.change(folder / "IM0002", RescaleSlope=value, RescaleIntercept="0")


def two_patients(folder: Path) -> None:
    make.change(folder / "IM0007", PatientID="MRN-54321")


def two_birth_dates(folder: Path) -> None:
    make.change(folder / "IM0007", PatientBirthDate="19500101")


def turned_slice(folder: Path) -> None:
    angle = np.radians(2)
    x, y = make.OBLIQUE
    turned = np.array([x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)])
    make.change(folder / "IM0004", ImageOrientationPatient=make.decimals(turned.ravel()))


def stray_slice(folder: Path) -> None:
    make.move(folder / "IM0012", 5 * make.OBLIQUE[0])


def colour(folder: Path) -> None:
    for k in range(20):
        eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(240)}
        make.change(folder / f"IM{k:04d}", SamplesPerPixel=3, PhotometricInterpretation="RGB", **eight)


def one_slice(folder: Path) -> None:
    delete(folder, *range(1, 20))


def no_pixels(folder: Path) -> None:
    make.change(folder / "IM0001", PixelData=None)


REFUSED = {
    "29-missing": (missing, "gap of 12 mm between slices 8 and 12, expected 3; 3 slices are missing", "IM0007"),
    "30-differs": (duplicate_differs, "two slices lie at one place and differ: slice 6 of 20", "IM0099"),
    "32-two-patients": (two_patients, "the study holds files of 2 patients, by their PatientID", ""),
    "32-birth-dates": (two_birth_dates, "the study holds files of 2 patients, by their PatientBirthDate", ""),
    "33-turned": (turned_slice, "its slices are turned by 2 degrees against the others of its series", "IM0004"),
    "35-shear": (shear, "each lies 0.3 mm beside the last, a tilt of 5.71 degrees", "IM0019"),
    "35-stray": (stray_slice, "slice 13 of 20 lies 5 mm beside the first one's normal", "IM0012"),
    "36-irregular": (irregular, "4.7 mm between slices 11 and 12 of 20, expected 3", "IM0011"),
    "37-nan-first": (nan_position(0), r"ImagePositionPatient \(0020,0032\) has a value that is no finite", "IM0000"),
    "37-nan-middle": (nan_position(9), r"ImagePositionPatient \(0020,0032\) has a value that is no finite", "IM0009"),
    "38-truncated": (truncated, "truncated", "IM0003"),
    "38-no-pixels": (no_pixels, "it holds no pixels", "IM0001"),
    "39-odd-rows": (odd_rows, "it has 9 x 8 pixels, the other slices 10 x 8", "IM0006"),
    "39-odd-spacing": (odd_spacing, "its pixels are 1.5 x 1.5 mm, those of the other slices 1.5 x 1.25", "IM0006"),
    "40-no-geometry": (
        no_geometry,
        r"it has no ImagePositionPatient \(0020,0032\); the same in 19 more files",
        "IM0000",
    ),
    "41-huge": (huge, "65535 x 65535 pixels", "IM0000"),
    "45-slope-0": (slope("0"), "RescaleSlope is 0", "IM0002"),
    "45-slope-nan": (slope("nan"), "RescaleSlope is nan", "IM0002"),
    "colour": (colour, "RGB not supported", "IM0000"),
    "one-slice": (one_slice, "one slice is no volume", "IM0000"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_refused(fault: str, tmp_path: Path) -> None:
    """Each is refused with a cause, a way out and the file; no message holds anything of the patient."""
    make.series(tmp_path)
    break_it, cause, file = REFUSED[fault]
    break_it(tmp_path)
    folder = find_dicom(tmp_path)
    (volume,) = folder.volumes
    assert (volume.verdict.level is Level.REFUSE) == (fault != "30-differs"), "only pixels tell copies from conflicts"
    with pytest.raises(InputError, match=cause) as caught:
        volume.read()
    assert caught.value.way_out
    if file:
        assert caught.value.file == str(tmp_path / file)
    said = f"{caught.value} {folder} {folder.set_aside}"
    assert not [word for word in PATIENT if word in said]


@pytest.mark.parametrize("fault", REFUSED)
def test_gaps_are_the_only_thing_that_a_policy_allows(fault: str, tmp_path: Path) -> None:
    make.series(tmp_path)
    REFUSED[fault][0](tmp_path)
    volume = one(tmp_path)
    if fault == "29-missing":
        assert volume.read(Policy(allow_gaps=True)).warnings
    else:
        with pytest.raises(InputError):
            volume.read(Policy(allow_gaps=True))


def test_29_filled(tmp_path: Path) -> None:
    """Allowed gaps are filled between their neighbours, and the grid is the whole one."""
    data = np.arange(20, dtype=np.uint16) * 10 * np.ones((8, 10, 20), np.uint16) + make.voxels((8, 10, 1))
    made = make.series(tmp_path, data=data)
    missing(tmp_path)
    scan = one(tmp_path).read(Policy(allow_gaps=True))
    assert np.array_equal(scan.data, made.data)
    assert np.allclose(scan.affine, made.affine, atol=1e-6)
    assert scan.warnings == (
        "gap of 12 mm between slices 8 and 12, expected 3; 3 slices are missing; filled by linear interpolation",
    )


def test_29_too_many(tmp_path: Path) -> None:
    """Nothing is invented where more is missing than there."""
    make.series(tmp_path)
    delete(tmp_path, *range(4, 17))
    with pytest.raises(InputError, match="13 slices are missing, too many to fill"):
        one(tmp_path).read(Policy(allow_gaps=True))


def test_29_every_second(tmp_path: Path) -> None:
    """Equally far apart, but not as far as the header says: a warning."""
    make.series(tmp_path, edit=lambda ds, _: setattr(ds, "SpacingBetweenSlices", "3"))
    delete(tmp_path, *range(1, 20, 2))
    assert one(tmp_path).verdict.warnings == ["its slices are 6 mm apart, and its header says 3: slices may be missing"]


def test_30_copies(tmp_path: Path) -> None:
    """The same slice under two UIDs, and the same file twice: dropped, with a note."""
    made = make.series(tmp_path)
    ds = pydicom.dcmread(tmp_path / "IM0005")
    ds.SOPInstanceUID, ds.InstanceNumber = f"{make.SERIES}.99", 99
    make.write(ds, tmp_path / "IM0099")
    shutil.copy(tmp_path / "IM0008", tmp_path / "copy")
    volume = one(tmp_path)
    assert volume.verdict.level is Level.WARN
    scan = volume.read()
    assert np.array_equal(scan.data, made.data)
    assert "2 slices were there twice, pixel for pixel; the copies were dropped" in scan.warnings


def test_30_everything_twice(tmp_path: Path) -> None:
    """A folder that was copied into itself is one volume, not two times."""
    made = make.series(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert np.array_equal(one(tmp_path).read().data, made.data)


def test_30_everything_twice_under_other_uids(tmp_path: Path) -> None:
    """The same, exported twice: nothing says that these are two times."""
    made = make.series(tmp_path / "a")
    make.series(tmp_path / "b", edit=lambda ds, k: setattr(ds, "SOPInstanceUID", f"{make.SERIES}.{100 + k}"))
    assert np.array_equal(one(tmp_path).read().data, made.data)


def test_31_two_series(tmp_path: Path) -> None:
    """Two volumes, each as it was; who wants one is told."""
    first = make.series(tmp_path)
    other = make.series(tmp_path, slices=5, uid=f"{make.SERIES}.5", name="other{}", first=(0, 0, 0))
    volumes = sorted(find_dicom(tmp_path).volumes, key=lambda volume: -volume.shape[2])
    for volume, made in zip(volumes, (first, other), strict=True):
        assert volume.verdict.level is Level.OK
        assert np.array_equal(volume.read().data, made.data)
    with pytest.raises(InputError, match="it holds 2 volumes, one is wanted: series-0004-"):
        read_volume(tmp_path)


def test_32_two_patients_two_studies(tmp_path: Path) -> None:
    """Two good studies, and a folder that is refused as one input."""

    def other(ds: pydicom.Dataset, _: int) -> None:
        ds.StudyInstanceUID, ds.PatientID, ds.PatientName = "1.2.3", "MRN-54321", "ROE^RICHARD"

    make.series(tmp_path / "a")
    make.series(tmp_path / "b", uid="1.2.3.4", edit=other)
    folder = find_dicom(tmp_path)
    assert [study.verdict.level for study in folder.studies] == [Level.OK, Level.OK]
    assert [finding.cause for finding in folder.verdict.refusals] == [
        "the folder holds files of 2 patients, by their PatientID"
    ]
    with pytest.raises(InputError, match="2 patients"):
        read_volume(tmp_path)


def test_32_one_patient_written_in_two_ways(tmp_path: Path) -> None:
    make.series(tmp_path, edit=lambda ds, k: setattr(ds, "PatientName", "Doe^Jane^^" if k % 2 else "DOE^JANE"))
    assert one(tmp_path).verdict.level is Level.OK


@pytest.mark.parametrize("by", ["orientation", "image type"])
def test_33_localizer_in_a_series(by: str, tmp_path: Path) -> None:
    """Left out, with a note; the series is what it was."""
    made = make.series(tmp_path)
    ds = pydicom.dcmread(tmp_path / "IM0003")
    ds.SOPInstanceUID = f"{make.SERIES}.77"
    if by == "orientation":
        ds.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    else:
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    make.write(ds, tmp_path / "loc.dcm")
    folder = find_dicom(tmp_path)
    scan = folder.volumes[0].read()
    assert np.array_equal(scan.data, made.data)
    assert scan.warnings == ("1 localizer slice was left out of its series",)
    assert folder.set_aside == {"localizer": 1}


@pytest.mark.parametrize("numbers", ["reversed", "all 1", "absent", "no number"])
def test_34_instance_numbers(numbers: str, tmp_path: Path) -> None:
    """They play no part."""

    def edit(ds: pydicom.Dataset, k: int) -> None:
        ds.InstanceNumber = 20 - k if numbers == "reversed" else 1
        if numbers == "absent":
            del ds.InstanceNumber

    made = make.series(tmp_path, edit=edit)
    if numbers == "no number":
        make.change(tmp_path / "IM0000", InstanceNumber="")
    scan = one(tmp_path).read()
    assert np.array_equal(scan.data, made.data)
    assert np.allclose(scan.affine, made.affine, atol=1e-6)
    assert scan.warnings == ()


def test_42_junk(tmp_path: Path) -> None:
    """Set aside, and counted; what may have been a slice is mentioned."""
    made = make.series(tmp_path)
    for name, content in {
        ".DS_Store": b"\0\0\0\1Bud1",
        "notes.txt": b"no image\n" * 40,
        "._IM0001": bytes.fromhex("00051607") + bytes(200),
        "empty.dcm": b"",
        "empty": b"",
        "short": b"DICM",
        "damaged": bytes(128) + b"DICM" + b"\xff" * 300,
    }.items():
        (tmp_path / name).write_bytes(content)
    folder = find_dicom(tmp_path)
    assert folder.set_aside == {"empty file": 2, "not DICOM": 4, "damaged DICOM header": 1}
    assert len(folder.verdict.warnings) == 2
    scan = folder.volumes[0].read()
    assert np.array_equal(scan.data, made.data)
    assert scan.warnings == ("2 damaged or empty files lie beside it; slices may be missing",)


def report(path: Path) -> None:
    ds = make.header(make.SR)
    ds.Modality = "SR"
    make.write(ds, path)


def no_images(folder: DicomFolder, path: Path) -> NoInputError:
    assert folder.studies == []
    with pytest.raises(NoInputError, match="no image series") as caught:
        require_images(folder, path)
    assert caught.value.exit_code == ExitCode.NO_INPUT
    return caught.value


def test_43_report_only(tmp_path: Path) -> None:
    report(tmp_path / "report.dcm")
    folder = find_dicom(tmp_path)
    assert folder.set_aside == {"no image: Comprehensive SR": 1}
    assert "1 x no image: Comprehensive SR" in str(no_images(folder, tmp_path))


def test_44_empty_folder(tmp_path: Path) -> None:
    assert "there are no files" in str(no_images(find_dicom(tmp_path), tmp_path))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such file or folder"):
        find_dicom(tmp_path / "nowhere")


def test_cut_in_the_header(tmp_path: Path) -> None:
    """A file that ends before it says what it is: set aside, and the series warns."""
    make.series(tmp_path)
    last = tmp_path / "IM0019"
    last.write_bytes(last.read_bytes()[:700])
    folder = find_dicom(tmp_path)
    assert sum(folder.set_aside.values()) == 1
    assert folder.volumes[0].verdict.warnings == ["1 damaged or empty file lies beside it; slices may be missing"]


def test_screenshots_and_burned_in_text_warn(tmp_path: Path) -> None:
    make.series(tmp_path, edit=lambda ds, _: setattr(ds, "BurnedInAnnotation", "YES"))
    assert one(tmp_path).verdict.warnings == [
        "its header says that text is burned into it; it may show a name; the same in 19 more files"
    ]


def test_slightly_turned_slices_pass(tmp_path: Path) -> None:
    """Directions that differ in the fifth digit are one."""
    noise = np.random.default_rng(0).uniform(-3e-5, 3e-5, (20, 2, 3))
    made = make.series(
        tmp_path,
        edit=lambda ds, k: setattr(ds, "ImageOrientationPatient", make.decimals((make.OBLIQUE + noise[k]).ravel())),
    )
    scan = one(tmp_path).read()
    assert np.array_equal(scan.data, made.data)
    assert np.abs(scan.affine - made.affine).max() < 2e-3


def test_positions_with_two_decimals_pass(tmp_path: Path) -> None:
    def edit(ds: pydicom.Dataset, _: int) -> None:
        ds.ImagePositionPatient = [f"{float(number):.2f}" for number in ds.ImagePositionPatient]

    made = make.series(tmp_path, edit=edit, step=1.0)
    scan = one(tmp_path).read()
    assert np.array_equal(scan.data, made.data)
    assert np.abs(scan.affine - made.affine).max() < 0.01
