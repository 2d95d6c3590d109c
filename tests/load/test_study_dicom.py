"""Series of a DICOM study become channels: by facts alone, on stand-ins without pixels, and once on real files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from neurobundle.errors import InputError, NoInputError
from neurobundle.load.dicom import DicomStudy
from neurobundle.load.dicom.facts import Facts
from neurobundle.load.dicom.vocabulary import known_words
from neurobundle.load.gate import STRICT, Level, Policy, Verdict, refuse
from neurobundle.load.scan import Scan
from neurobundle.load.study import Study, find_studies, read_study
from neurobundle.load.study.choices import choose
from neurobundle.load.study.mapping import apply_mapping, read_mapping
from neurobundle.load.study.series import dicom_study

AXIAL = np.diag([1.0, 1.0, 5.0, 1.0])


@dataclass
class StandIn:
    """What a study asks of a DICOM volume; its voxels are its series number."""

    series_number: int | None
    facts: Facts
    shape: tuple[int, int, int] = (20, 20, 24)
    affine: np.ndarray = field(default_factory=lambda: AXIAL)
    key: str = ""
    verdict: Verdict = field(default_factory=Verdict)

    def __post_init__(self) -> None:
        self.key = self.key or f"series-{self.series_number or 0:04d}-0badcafe"
        self.series_key = self.key[:20]
        self.stack_key = self.key.partition("_t-")[0]

    def read(self, policy: Policy = STRICT) -> Scan:
        self.verdict.require(self.key)
        return Scan(np.full(self.shape, self.series_number, np.int16), self.affine)


def series(number: int | None, kind: str, says: str = "", **more: object) -> StandIn:
    """A series of a usual kind, axial, 24 slices of 5 mm; ``more`` changes its facts."""
    sequence, te, tr, ti = {
        "T1": ("SE", 12.0, 550.0, None),
        "MPRAGE": ("GR IR MP", 3.0, 2300.0, 900.0),
        "T2": ("SE SK", 100.0, 4000.0, None),
        "FLAIR": ("SE IR", 120.0, 9000.0, 2500.0),
        "DWI": ("SE EP", 80.0, 5000.0, None),
    }[kind]
    facts = Facts("MR", tuple(sequence.split()), "2D", tr, te, ti, voxel_mm=(1.0, 1.0, 5.0), plane="axial")
    facts = replace(facts, **{"words": known_words(says), **more})  # type: ignore[arg-type]
    return StandIn(number, facts)


def study_of(*volumes: StandIn, channels: tuple[str, ...] = ("T1", "T1c", "T2", "FLAIR")) -> Study:
    study = dicom_study(DicomStudy("study-0badcafe", list(volumes), Verdict()), Path("in"), channels)  # type: ignore[arg-type]
    choose(study)
    return study


def chosen(study: Study) -> dict[str, str]:
    return {channel: choice.name for channel, choice in study.choices.items()}


def over(study: Study) -> dict[str, str]:
    return {choice.name: choice.reason for choice in study.passed_over}


ISO = {"voxel_mm": (1.0, 1.0, 1.0), "plane": "sagittal"}


def test_a_usual_study() -> None:
    """Each channel has its series; everything else is passed over with its reason."""
    study = study_of(
        series(1, "T1", "localizer"),
        series(2, "DWI", "DWI b1000"),
        series(3, "T1", "AX T1"),
        series(4, "T2", "AX T2 TSE"),
        series(5, "FLAIR", "AX FLAIR"),
        series(6, "MPRAGE", "T1 MPRAGE post Gd", **ISO),
        series(7, "T1", "ADC"),
    )
    assert chosen(study) == {"T1": "series 3", "T1c": "series 6", "T2": "series 4", "FLAIR": "series 5"}
    assert over(study) == {
        "series 1": "it is a localizer",
        "series 2": "it is diffusion, or a map of it",
        "series 7": "it is diffusion, or a map of it",
    }
    assert (study.case, study.subject, study.verdict.level) == ("study-0badcafe", "study-0badcafe", Level.OK)
    scan = read_study(study, ("T1", "FLAIR"))
    assert [int(data.max()) for data in scan.data] == [3, 5]
    assert scan.chosen[0] == {
        "channel": "T1",
        "source": "series 3",
        "key": "series-0003-0badcafe",
        "why": "words and numbers say T1 (TE 12, TR 550 ms)",
        "grid": "as it was read",
    }


TIES = {
    # name: (facts of series 3, facts of series 5, kind, the winner, its reason)
    "words-and-numbers-agree": ({"words": ("t2",)}, {"words": ("t1",)}, "T1", 5, "whose words and numbers agree"),
    "isotropic-over-thick": ({}, ISO, "T1", 5, "isotropic voxels"),
    "original-over-derived": (
        {"image_type": ("DERIVED", "SECONDARY", "MPR")} | ISO,
        ISO,
        "T1",
        5,
        "acquired, not derived",
    ),
    "distortion-corrected": (
        {"image_type": ("ORIGINAL", "ND")},
        {"image_type": ("ORIGINAL", "DIS2D")},
        "T2",
        5,
        "corrected",
    ),
    "flair-before-contrast": ({"contrast_agent": True}, {}, "FLAIR", 5, "before contrast"),
    "without-fat-suppression": ({"words": ("t2", "fs")}, {"words": ("t2",)}, "T2", 5, "without fat suppression"),
    "smaller-voxels": ({}, {"voxel_mm": (0.5, 0.5, 5.0)}, "T2", 5, "smaller voxels"),
    "axial": ({"plane": "coronal"}, {}, "T2", 5, "axial"),
}


@pytest.mark.parametrize(("one", "other", "kind", "winner", "why"), TIES.values(), ids=TIES)
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_tie_break(one: dict, other: dict, kind: str, winner: int, why: str, turned: bool) -> None:
    """The better one wins in either order, and both are told why."""
    volumes = [series(3, kind, **one), series(5, kind, **other)]
    study = study_of(*(volumes[::-1] if turned else volumes))
    (choice,) = study.choices.values()
    assert choice.name == f"series {winner}"
    assert "preferred to series 3" in choice.reason
    assert why in choice.reason
    assert why in over(study)["series 3"]


def test_more_slices() -> None:
    few, many = series(3, "T2"), series(5, "T2")
    few.shape = (20, 20, 20)
    assert chosen(study_of(few, many)) == {"T2": "series 5"}


def test_two_series_fit() -> None:
    """Identical facts: nobody can know which is meant."""
    study = study_of(series(3, "T1", "AX T1"), series(5, "T1", "AX T1"), series(6, "T2"))
    assert chosen(study) == {"T2": "series 6"}
    for missing in ("refuse", "fill"):
        with pytest.raises(
            InputError, match=r"two series fit T1: series 3 and series 5\. Choose one with --map"
        ) as caught:
            read_study(study, ("T1", "T2"), missing=missing)  # type: ignore[arg-type]
        assert caught.value.case == "study-0badcafe"
    assert read_study(study, ("T2",)).channels == ("T2",)


def test_two_volumes_of_one_series_fit() -> None:
    one, two = series(4, "T2", echo=1), series(4, "T2", echo=2)
    one.key, two.key = "series-0004-0badcafe_echo-1", "series-0004-0badcafe_echo-2"
    with pytest.raises(InputError, match=r"series 4 \(key series-0004-0badcafe_echo-1\) and series 4 \(key .*echo-2\)"):
        read_study(study_of(one, two), ("T2",))


def test_only_t1_after_contrast() -> None:
    """T1c is never taken for T1: what there is stands first in the message."""
    study = study_of(series(1, "T1", "localizer"), series(7, "T1", "T1 post", contrast_agent=True), channels=("T1",))
    with pytest.raises(InputError) as caught:
        read_study(study, ("T1",))
    assert caught.value.cause.startswith("no T1: no channel was found; passed over series 7 (words and numbers say T1")
    assert "after contrast; T1c is not wanted" in caught.value.cause
    assert "--mapping" in caught.value.way_out


def test_words_against_numbers_warn() -> None:
    study = study_of(series(3, "T2", "T1 ax"), channels=("T2",))
    scan = read_study(study, ("T2",))
    assert scan.warnings == ("T2 is series 3: its words say T1, its numbers say T2 (TE 100, TR 4000 ms)",)


def test_a_refused_series_loses_to_a_whole_one() -> None:
    gap = Verdict([refuse("gap", "gap of 12 mm", "Export it again.")])
    broken, whole = series(3, "T2", **ISO), series(5, "T2")
    broken.verdict = gap
    study = study_of(broken, whole)
    assert chosen(study) == {"T2": "series 5"}
    assert "refused: gap of 12 mm" in over(study)["series 3"]


def test_a_refused_series_is_not_missing() -> None:
    """faults.md 29: a damaged T2 is refused by name, also where a missing one would be filled."""
    broken = series(3, "T2")
    broken.verdict = Verdict([refuse("gap", "gap of 12 mm", "Export it again.")])
    with pytest.raises(InputError, match="gap of 12 mm") as caught:
        read_study(study_of(series(1, "T1"), broken), ("T1", "T2"), missing="fill")
    assert caught.value.case == "study-0badcafe"


def test_32_two_patients_in_one_study() -> None:
    mixed = Verdict([refuse("two_patients", "the study holds files of 2 patients", "Give the files of one.")])
    study = dicom_study(DicomStudy("study-0badcafe", [series(1, "T1")], mixed), Path("in"), ("T1",))  # type: ignore[list-item]
    choose(study)
    with pytest.raises(InputError, match="2 patients"):
        read_study(study, ("T1",))


def test_33_a_few_slices_are_no_head() -> None:
    """A three-plane scout without a word of it is passed over by its slices."""
    scout = series(1, "T1")
    scout.shape = (256, 256, 3)
    assert over(study_of(scout)) == {"series 1": "it has 3 slices: no whole head"}


def test_a_time_series_is_told_once() -> None:
    times = [series(9, "T1", time_index=n) for n in range(1, 41)]
    for n, volume in enumerate(times, 1):
        volume.key = volume.stack_key = "series-0009-0badcafe"
        volume.key += f"_t-{n}"
    assert over(study_of(*times)) == {"series 9": "it is one of a time series"}
    assert len(study_of(*times).passed_over) == 1


def test_another_grid_is_resampled() -> None:
    """DICOM states where a series lies: T2 comes onto T1's grid, with a note."""
    t2 = series(5, "T2")
    t2.shape, t2.affine = (40, 40, 48), np.diag([0.5, 0.5, 2.5, 1.0])
    scan = read_study(study_of(series(3, "T1"), t2), ("T1", "T2"))
    assert scan.data.shape == (2, 20, 20, 24)
    assert np.array_equal(scan.affine, AXIAL)
    assert scan.data[1, 10, 10, 12] == 5
    assert scan.chosen[1]["grid"] == "resampled from 0.50 x 0.50 x 2.50 mm to 1.00 x 1.00 x 5.00 mm"


def test_mapping_by_series(tmp_path: Path) -> None:
    """A number or a key, whatever the rules say of it."""
    file = tmp_path / "map.yaml"
    file.write_text("T1: {series: 9}\nT2: series-0004-0badcafe_echo-2\n")
    one, two = series(4, "T2", echo=1), series(4, "T2", echo=2)
    one.key, two.key = "series-0004-0badcafe_echo-1", "series-0004-0badcafe_echo-2"
    volumes = [series(3, "T1"), series(9, "T1", "T1 post"), one, two]
    study = dicom_study(DicomStudy("study-0badcafe", volumes, Verdict()), tmp_path, ("T1", "T2"))  # type: ignore[arg-type]
    apply_mapping([study], read_mapping(file), ("T1", "T2"))
    choose(study)
    assert [choice.source for choice in study.choices.values()] == [volumes[1], two]
    assert over(study)["series 3"].endswith("the mapping names another")
    for text, match in (
        ("T1: {series: 8}", "series 8, which is not there; the series are 3, 4, 9"),
        ("T2: 'series 4'", "2 v"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=match):
            apply_mapping([study], read_mapping(file), ("T1", "T2"))


def write_series(folder: Path, number: int, slices: int = 10, **tags: object) -> None:
    """A small axial MR series of real files."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for k in range(slices):
        ds = pydicom.Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.3.{number}.{k + 1}"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.2.3", f"1.2.3.{number}", "1.2.9"
        ds.PatientName, ds.PatientID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = (
            "DOE^JANE",
            "4711",
            "MR",
            number,
            k,
        )
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M"]
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.Rows, ds.Columns = [2, 2], 3, 16, 18
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        for name, value in tags.items():
            setattr(ds, name, value)
        ds.PixelData = (np.arange(16 * 18, dtype=np.uint16) + 10 * number + k).tobytes()
        pydicom.dcmwrite(folder / f"{number}_{k}.dcm", ds, enforce_file_format=True)


def test_real_files(tmp_path: Path) -> None:
    """From files on disk to channels; nothing of the patient or of free text gets into the report (faults.md 81)."""
    flair = {"ScanningSequence": ["SE", "IR"], "EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2500}
    t1 = {"ScanningSequence": "SE", "EchoTime": 12, "RepetitionTime": 550}
    write_series(tmp_path / "a", 2, SeriesDescription="T1 Doe Jane", **t1)
    write_series(tmp_path / "b", 3, SeriesDescription="FLAIR Doe", **flair)
    write_series(tmp_path / "b", 4, SeriesDescription="T1 Jane post Gd", **t1)
    (study,) = find_studies(tmp_path, ("T1", "FLAIR"))
    scan = read_study(study, ("T1", "FLAIR"))
    assert scan.data.shape == (2, 18, 16, 10)
    assert np.allclose(np.abs(np.diag(scan.affine)), [2, 2, 3, 1])
    assert [entry["source"] for entry in scan.chosen] == ["series 2", "series 3"]
    assert [entry["channel"] for entry in scan.passed_over] == ["T1c"]
    text = f"{study.case} {scan.chosen} {scan.passed_over} {scan.warnings} {study.lacks('T2')}".lower()
    assert not any(word in text for word in ("doe", "jane", "4711", "1.2.3"))


@pytest.mark.parametrize(
    ("folder", "channels", "why"),
    [
        ("siemens_hfdl/classic", {"T1": "series 2"}, {}),
        ("philips_pcasl/enhanced", {}, {"series 1901": "it is perfusion or arterial spin labelling"}),
        ("philips_pcasl/classic", {}, {"series 1901": "it is perfusion or arterial spin labelling"}),
        ("ge_fmri_4d/classic", {}, {"series 4": "it is functional"}),
    ],
)
def test_real_series(real_data: Path, folder: str, channels: dict[str, str], why: dict[str, str]) -> None:
    """Series of three makers, classic and enhanced: a T1, and two that are no channel."""
    (study,) = find_studies(real_data / "dicom" / folder, ("T1", "T1c", "T2", "FLAIR"))
    assert (chosen(study), over(study)) == (channels, why)


def test_44_no_image_series(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(NoInputError, match="no image series"):
        find_studies(tmp_path, ("T1",))
