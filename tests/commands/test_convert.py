from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.journal import Journal
from neurobundle.cli import main, parser
from neurobundle.commands import convert as module
from neurobundle.commands.convert import convert, sidecar
from neurobundle.errors import EnvironmentFault
from neurobundle.files import write_json
from neurobundle.load.dicom import Facts
from neurobundle.load.gate import Policy

from ..load.dicom.pixel_files import dataset, save

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset  # noqa: E402

#: What must be found nowhere: name, number, birthday, dates, and what is written into texts.
SECRETS = ("DOE", "JANE", "MRN4711", "19700203", "19991231", "HOSPITAL", "1.2.826.0.1.4711")
SHAPE = (20, 16, 6)


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 999, SHAPE, np.uint16)


def write_series(folder: Path, data: np.ndarray, series: int = 4, patient: str = "MRN4711", **tags: Any) -> list[Path]:
    """An axial series, (i, j, k), of voxels 1 x 1 x 3 mm, with a patient in every text."""
    folder.mkdir(parents=True, exist_ok=True)
    root = "1.2.826.0.1.4711"
    files = []
    for k in range(data.shape[2]):
        made = dataset(np.ascontiguousarray(data[:, :, k].T)[None])
        made.SOPInstanceUID = f"{root}.{series}.{len(list(folder.iterdir()))}"
        made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = root, f"{root}.{series}", f"{root}.9"
        made.Modality, made.Manufacturer, made.SeriesNumber, made.InstanceNumber = "MR", "SIEMENS", series, k + 1
        made.PatientName, made.PatientID, made.PatientBirthDate = "DOE^JANE", patient, "19700203"
        made.StudyDate = made.SeriesDate = made.AcquisitionDate = made.ContentDate = "19991231"
        made.InstitutionName = made.StationName = "HOSPITAL DOE"
        made.SeriesDescription = made.ProtocolName = "t1_mprage DOE^JANE MRN4711"
        made.SequenceName = "tfl DOE^JANE"
        made.StudyDescription = made.ImageComments = made.PatientComments = "JANE DOE 19700203"
        made.ReferringPhysicianName = made.OperatorsName = "DOE^JANE"
        made.ContrastBolusAgent = "GADO DOE"
        made.ImageType = ["ORIGINAL", "PRIMARY", "M", "DOE"]
        made.ScanningSequence, made.SequenceVariant, made.MRAcquisitionType = ["GR", "IR"], ["SP", "MP"], "3D"
        made.RepetitionTime, made.EchoTime, made.InversionTime, made.FlipAngle = "2300", "2.3", "900", "9"
        made.MagneticFieldStrength, made.SliceThickness, made.EchoTrainLength = "3", "3", 1
        made.PixelSpacing, made.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
        made.ImagePositionPatient = [-10, -8, 3 * k]
        for keyword, value in tags.items():
            setattr(made, keyword, value)
        files.append(save(made, folder / f"{series}-{len(list(folder.iterdir())):03d}.dcm"))
    return files


def report_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "conversion.json").read_text())


def only(out: Path, pattern: str) -> Path:
    (found,) = out.glob(pattern)
    return found


def flipped(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An image with its second axis the other way round, as dcm2niix writes it."""
    image = nib.load(path)
    turn = np.diag([1.0, -1, 1, 1])
    turn[1, 3] = image.shape[1] - 1
    return np.asarray(image.dataobj)[:, ::-1], image.affine @ turn


def test_a_volume_and_its_sidecar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "in", voxels())
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "in"), "-o", str(out)]) == 0
    assert "1 of 1 volumes written" in capsys.readouterr().out
    image = nib.load(only(out, "study-*/series-0004-*.nii.gz"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), voxels())
    assert image.get_data_dtype() == np.uint16
    # LPS to RAS: i to the left, j to the back.
    np.testing.assert_allclose(image.affine, [[-1, 0, 0, 10], [0, -1, 0, 8], [0, 0, 3, 0], [0, 0, 0, 1]])
    facts = json.loads(only(out, "study-*/series-0004-*.json").read_text())
    ours = facts.pop("neurobundle")
    assert facts == {
        "Modality": "MR",
        "Manufacturer": "Siemens",
        "MagneticFieldStrength": 3.0,
        "MRAcquisitionType": "3D",
        "RepetitionTime": 2.3,
        "EchoTime": 0.0023,
        "InversionTime": 0.9,
        "FlipAngle": 9.0,
        "EchoTrainLength": 1,
        "SliceThickness": 3.0,
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "ScanningSequence": ["IR", "GR"],
        "SequenceVariant": ["SP", "MP"],
    }
    assert ours["plane"] == "axial"
    assert ours["component"] == "magnitude"
    assert ours["contrast_agent"] is True
    assert ours["warnings"] == []
    entry = report_of(out)["cases"][0]
    assert entry["status"] == "ok"
    assert nib.load(out / entry["output"]).shape == SHAPE


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    for name in ("a", "b"):
        convert(tmp_path / "in", tmp_path / name)
    files = [sorted(p for p in (tmp_path / name).rglob("*") if p.is_file()) for name in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]


@pytest.mark.parametrize("debug", [False, True])
def test_81_no_patient_anywhere(
    tmp_path: Path, debug: bool, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A good series, a truncated file, a gap, and a broken number: nothing of the patient in files, names or words."""
    write_series(tmp_path / "in", voxels(), 4)
    cut = write_series(tmp_path / "in" / "b", voxels(1), 5)[2]
    cut.write_bytes(cut.read_bytes()[:-100])
    write_series(tmp_path / "in" / "c", voxels(2), 6)[3].unlink()
    odd = write_series(tmp_path / "in" / "d", voxels(3), 7, RescaleSlope="123456", RescaleIntercept="0")
    for path in odd:
        path.write_bytes(path.read_bytes().replace(b"DS\x06\x00123456", b"DS\x06\x00DOE^JA"))
    out = tmp_path / "out"
    caplog.set_level("DEBUG" if debug else "WARNING")
    assert main(["convert", str(tmp_path / "in"), "-o", str(out), *["--debug"] * debug]) == 3
    said = capfd.readouterr()
    assert len([line for line in said.err.splitlines() if line.startswith("ERROR study-")]) == 3
    texts = [said.out.encode(), said.err.encode(), caplog.text.encode()]
    for path in out.rglob("*"):
        texts.append(str(path.relative_to(out)).encode())
        if path.is_file():
            texts.append(path.read_bytes())
        if path.suffix == ".gz":
            texts.append(gzip.decompress(path.read_bytes()))
    for secret in SECRETS:
        assert not [text for text in texts if secret.encode() in text], secret


def test_81_a_file_named_after_its_patient(tmp_path: Path) -> None:
    """The error on the screen names the file; what is written does not."""
    first, *_ = write_series(tmp_path / "in", voxels())
    named = first.rename(first.with_name("DOE_JANE.dcm"))
    named.write_bytes(named.read_bytes()[:-100])
    report = convert(tmp_path / "in", tmp_path / "out")
    assert report.exit_code == 4
    assert "DOE" not in (tmp_path / "out" / "conversion.json").read_text()


def test_numbers_stay_though_files_are_called_by_numbers(tmp_path: Path) -> None:
    """What is written speaks of slices by their place, and names no file."""
    files = write_series(tmp_path / "in", voxels())
    write_series(tmp_path / "other", voxels(1))
    files.append((tmp_path / "other" / files[4].name).rename(tmp_path / "in" / "extra.dcm"))
    made = pydicom.dcmread(files[-1])
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.4711.99"
    made.save_as(files[-1])
    for n, file in enumerate(files, 1):
        file.rename(file.with_name(str(n)))
    convert(tmp_path / "in", tmp_path / "out")
    (entry,) = report_of(tmp_path / "out")["cases"]
    assert entry["error"] == (
        "two slices lie at one place and differ: slice 5 of 6. "
        "Find out which of the two is right, and take the other out."
    )


def test_numbers_of_a_gap_stay(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", voxels())
    files.pop(3).unlink()
    for n, file in enumerate(files, 1):
        file.rename(file.with_name(str(n)))
    convert(tmp_path / "in", tmp_path / "out", Policy(allow_gaps=True))
    (entry,) = report_of(tmp_path / "out")["cases"]
    assert entry["warnings"][0].startswith("gap of 6 mm between slices 3 and 5, expected 3; 1 slice is missing")


def test_the_other_slice_s_name_is_not_written(tmp_path: Path) -> None:
    first, *_ = write_series(tmp_path / "in", voxels())
    write_series(tmp_path / "other", voxels(1))
    second = (tmp_path / "other" / first.name).rename(tmp_path / "in" / "JANE.dcm")
    made = pydicom.dcmread(second)
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.4711.99"
    made.save_as(second)
    first.rename(first.with_name("DOE.dcm"))
    convert(tmp_path / "in", tmp_path / "out")
    written = (tmp_path / "out" / "conversion.json").read_text()
    assert "two slices lie at one place" in written
    assert not [name for name in ("JANE", "DOE") if name in written]


def test_a_run_s_report_in_the_same_folder_stays(tmp_path: Path) -> None:
    """And a run that follows finds only its own, whole."""
    write_series(tmp_path / "in", voxels())
    out = tmp_path / "out"
    Journal(out, {"bundle": "x"}).record(CaseResult("anna", "in/anna.nii.gz"))
    before = (out / "report.json").read_bytes()
    assert convert(tmp_path / "in", out).exit_code == 0
    assert (out / "report.json").read_bytes() == before
    converted = (out / "conversion.json").read_bytes()
    Journal(out, {"bundle": "x"}).record(CaseResult("otto", "in/otto.nii.gz"))
    assert (out / "conversion.json").read_bytes() == converted
    assert list(Journal(out).entries()) == ["anna", "otto"]


def test_a_refused_volume_is_named_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "in", voxels(), 4)
    cut = write_series(tmp_path / "in" / "cut", voxels(1), 5)[2]
    cut.write_bytes(cut.read_bytes()[:-100])
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "in"), "-o", str(out)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR study-")
    assert f"{cut}: truncated" in line
    assert line.endswith(".")
    assert [entry["status"] for entry in report_of(out)["cases"]] == ["ok", "failed"]
    assert "truncated" in report_of(out)["cases"][1]["error"]
    assert len(list(out.rglob("*.nii.gz"))) == 1


def test_all_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())[3].unlink()
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 4


def test_a_failed_volume_leaves_no_older_one_under_its_name(tmp_path: Path) -> None:
    files = write_series(tmp_path / "in", voxels())
    out = tmp_path / "out"
    assert convert(tmp_path / "in", out).exit_code == 0
    files[3].unlink()
    assert convert(tmp_path / "in", out).exit_code == 4
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["conversion.json"]


def test_allow_gaps(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())[3].unlink()
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "in"), "-o", str(out), "--allow-gaps"]) == 0
    (entry,) = report_of(out)["cases"]
    assert "interpolation" in entry["warnings"][0]
    assert json.loads(only(out, "study-*/series-*.json").read_text())["neurobundle"]["warnings"] == entry["warnings"]
    assert nib.load(out / entry["output"]).shape == SHAPE


def test_time_series(tmp_path: Path) -> None:
    """A file a time, or all in one; the sidecar of all states no time."""
    for t in range(3):
        times = {"TemporalPositionIdentifier": t + 1, "NumberOfTemporalPositions": 3, "AcquisitionNumber": t + 1}
        write_series(tmp_path / "in", voxels(t), 4, **times)
    assert convert(tmp_path / "in", tmp_path / "apart").n_written == 3
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--4d"]) == 0
    image = nib.load(only(tmp_path / "out", "study-*/*.nii.gz"))
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.stack([voxels(t) for t in range(3)], -1))
    ours = json.loads(only(tmp_path / "out", "study-*/*.json").read_text())["neurobundle"]
    assert ours["shape"] == [*SHAPE, 3]
    assert "time_index" not in ours


def test_real_world(tmp_path: Path) -> None:
    item = Dataset()
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = 0, 4095
    item.RealWorldValueSlope, item.RealWorldValueIntercept = 0.5, 1.0
    write_series(tmp_path / "in", voxels(), RealWorldValueMappingSequence=[item])
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "stored")]) == 0
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--real-world"]) == 0
    np.testing.assert_array_equal(nib.load(only(tmp_path / "out", "*/*.nii.gz")).get_fdata(), voxels() / 2 + 1)
    np.testing.assert_array_equal(nib.load(only(tmp_path / "stored", "*/*.nii.gz")).get_fdata(), voxels())


def test_32_two_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "in", voxels(), 4)
    write_series(tmp_path / "in", voxels(1), 5, patient="MRN4712")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 4
    said = capsys.readouterr().err
    assert "2 patients" in said
    assert "MRN" not in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["conversion.json"]


def test_32_two_patients_in_folders_of_their_own(tmp_path: Path) -> None:
    """That is a set of two studies, and no fault; for check and run neither."""
    write_series(tmp_path / "in" / "a", voxels(), 4)
    write_series(tmp_path / "in" / "b", voxels(1), 5, patient="MRN4712", StudyInstanceUID="1.2.826.0.1.4712")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    assert main(["check", str(tmp_path / "in")]) == 0


@pytest.mark.parametrize("content", [None, b"no image"])
def test_44_no_series(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "in").mkdir()
    if content:
        (tmp_path / "in" / "notes.txt").write_bytes(content)
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2
    assert main(["convert", str(tmp_path / "nowhere"), "-o", str(tmp_path / "out")]) == 2


def test_an_output_that_cannot_be(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    (tmp_path / "out").write_text("a file")
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 5


def test_a_full_disk_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a failed volume, whose neighbours would fail as well."""

    def full(path: Path, *_: object, **__: object) -> None:
        raise EnvironmentFault("the disk is full", "Free some space and run the command again.", file=path)

    write_series(tmp_path / "in", voxels())
    monkeypatch.setattr(module, "save_volume", full)
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 5
    assert not list((tmp_path / "out").rglob("*.nii*"))


def test_what_is_set_aside_is_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    (tmp_path / "in" / "notes.txt").write_text("DOE JANE")
    assert sum(convert(tmp_path / "in", tmp_path / "out").set_aside.values()) == 1
    assert sum(report_of(tmp_path / "out")["set_aside"].values()) == 1


def test_sidecar_of_nothing_known(tmp_path: Path) -> None:
    assert list(sidecar(Facts())) == ["neurobundle"]
    write_json(tmp_path / "a.json", sidecar(Facts(), ["odd"], series_number=3))


def test_help_has_an_example_that_parses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["convert", "--help"])
    assert ended.value.code == 0
    example = capsys.readouterr().out.split("example: neurobundle ")[1].split()
    assert parser().parse_args(example).command == "convert"


def test_no_torch(tmp_path: Path) -> None:
    write_series(tmp_path / "in", voxels())
    code = (
        "import sys\n"
        "from neurobundle.cli import main\n"
        "assert main(['convert', sys.argv[1], '-o', sys.argv[2]]) == 0\n"
        "assert not {'torch', 'monai', 'SimpleITK'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "in", tmp_path / "out"], check=True)


@pytest.mark.parametrize(
    ("folder", "reference"),
    [("classic", "1901_WIP_3DpCASL_cl.nii.gz"), ("enhanced", "1901_WIP_3DpCASL_enh_real.nii.gz")],
)
def test_real_philips_equals_its_reference(real_data: Path, tmp_path: Path, folder: str, reference: str) -> None:
    """dcm2niix flips j; after that it is the same grid and the same values, to int16's step."""
    source = real_data / "dicom" / "philips_pcasl"
    assert convert(source / folder, tmp_path / "out", Policy()).exit_code == 0
    data, affine = flipped(only(tmp_path / "out", "study-*/*.nii.gz"))
    expected = nib.load(source / "reference" / reference)
    np.testing.assert_allclose(affine, expected.affine, atol=1e-3)
    np.testing.assert_allclose(data, expected.get_fdata(), rtol=1e-5, atol=1e-3)
    stated = json.loads((source / "reference" / reference.replace(".nii.gz", ".json")).read_text())
    ours = json.loads(only(tmp_path / "out", "study-*/*.json").read_text())
    for name in ("Modality", "Manufacturer", "RepetitionTime", "EchoTime", "FlipAngle", "SliceThickness"):
        assert ours[name] == pytest.approx(stated[name]), name


def test_real_ge_time_series_equals_its_reference(real_data: Path, tmp_path: Path) -> None:
    source = real_data / "dicom" / "ge_fmri_4d"
    assert convert(source, tmp_path / "out", series_as_4d=True).exit_code == 0
    data, affine = flipped(only(tmp_path / "out", "study-*/*.nii.gz"))
    expected = nib.load(only(source, "reference/*.nii"))
    np.testing.assert_allclose(affine, expected.affine, atol=1e-3)
    np.testing.assert_array_equal(data, np.asarray(expected.dataobj))
