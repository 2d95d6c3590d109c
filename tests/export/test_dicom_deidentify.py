"""DICOM results without the patient: a table of tags, and what may be said to have been done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

from neurobundle.export.dicom_deidentify import ACTIONS, remapped
from neurobundle.export.dicom_seg import make_seg, save_seg
from neurobundle.export.dicom_source import COPIED
from neurobundle.export.dicom_sr import make_sr, save_sr

from ..load.dicom import make
from .dicom_results import ALGORITHM, NAME, NUMBER, SEGMENTS, one_volume, result_on, source_of

pytest.importorskip("highdicom")

#: A value for each element that is copied, so that none stays by being absent.
PLANTED = {
    "PatientBirthTime": "101112",
    "OtherPatientIDs": NUMBER,
    "OtherPatientNames": NAME,
    "IssuerOfPatientID": "JANE's",
    "EthnicGroup": "JANE",
    "PatientComments": "calls herself JANE",
    "PatientSpeciesDescription": "JANE",
    "ResponsiblePerson": NAME,
    "ResponsiblePersonRole": "JANE",
    "ResponsibleOrganization": "JANE",
    "DeidentificationMethod": "JANE",
    "PatientIdentityRemoved": "NO",
    "PatientSex": "F",
    "PatientAge": "050Y",
    "PatientSize": "1.75",
    "PatientWeight": "70",
    "StudyTime": "131415",
    "AccessionNumber": NUMBER,
    "StudyID": "JANE 1",
    "ReferringPhysicianName": "JANE^DR",
    "StudyDescription": "brain of JANE",
    "TimezoneOffsetFromUTC": "+0100",
    "LongitudinalTemporalInformationModified": "UNMODIFIED",
}


#: PS3.15 Table E.1-1, Basic Profile, of what our objects may hold: what it allows, by tag.
STANDARD = {
    0x00020003: "U", 0x00080012: "X/D", 0x00080013: "X/Z/D", 0x00080018: "U", 0x00080020: "Z", 0x00080023: "Z/D",
    0x00080030: "Z", 0x00080033: "Z/D", 0x00080050: "Z", 0x00080090: "Z", 0x00080201: "X", 0x00081030: "X",
    0x0008103E: "X", 0x00081155: "U", 0x00100010: "Z", 0x00100020: "Z", 0x00100021: "X", 0x00100030: "Z",
    0x00100032: "X", 0x00100040: "Z", 0x00101000: "X", 0x00101001: "X", 0x00101010: "X", 0x00101020: "X",
    0x00101030: "X", 0x00102160: "X", 0x00102297: "X", 0x00102299: "X", 0x00104000: "X", 0x00181000: "X/Z/D",
    0x0018A003: "X", 0x0020000D: "U", 0x0020000E: "U", 0x00200010: "Z", 0x00200052: "U", 0x00209164: "U",
    0x0040A124: "U", 0x00620021: "U", 0x00700084: "Z/D",
}  # fmt: skip


def plant(ds: Any, _: int) -> None:
    for keyword, value in PLANTED.items():
        setattr(ds, keyword, value)


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Path]:
    """A segmentation and a report of a series with everything planted, as they are and without the patient."""
    make.series(tmp_path / "study", edit=plant)
    source = source_of(tmp_path / "study")
    labels, files = result_on(source.shape), {}
    for hidden in (True, False):
        name = "hidden" if hidden else "open"
        seg = make_seg(source, SEGMENTS, ALGORITHM, labels=labels, deidentified=hidden)
        volumes = {"anterior": 1.0, "posterior": 2.0}
        sr = make_sr(source, SEGMENTS, ALGORITHM, volumes, seg=seg, deidentified=hidden)
        files[f"{name} seg"] = save_seg(tmp_path / f"{name}_seg.dcm", seg)
        files[f"{name} sr"] = save_sr(tmp_path / f"{name}_sr.dcm", sr)
    return files


def elements(dataset: Any, keyword: str) -> Iterator[Any]:
    return (element for element in dataset.iterall() if element.keyword == keyword)


@pytest.mark.parametrize("kind", ["seg", "sr"])
def test_each_tag_of_the_table(results: dict[str, Path], kind: str) -> None:
    """X is gone, Z is empty, D is no one's, U is another one: of every element that is there otherwise."""
    before, after = (pydicom.dcmread(results[f"{name} {kind}"]) for name in ("open", "hidden"))
    there = [keyword for keyword in ACTIONS if list(elements(before, keyword))]
    assert len(there) > 25
    for keyword in there:
        old, new = list(elements(before, keyword)), list(elements(after, keyword))
        if ACTIONS[keyword] == "X":
            assert new == [], keyword
        elif ACTIONS[keyword] == "Z":
            assert [element.is_empty for element in new] == [True] * len(old), keyword
        elif ACTIONS[keyword] == "U":
            assert len(new) == len(old), keyword
            assert not {str(element.value) for element in new} & {str(element.value) for element in old}, keyword
    assert (after.ContentDate, after.ContentTime, after.DeviceSerialNumber) == ("19000101", "000000", "0")
    assert not any(element.tag.is_private for element in after.iterall())


def test_the_table_is_the_standards() -> None:
    """Each action is one that PS3.15 allows; what else we list, we remove."""
    from pydicom.datadict import keyword_for_tag

    known = {keyword_for_tag(tag): allowed.split("/") for tag, allowed in STANDARD.items() if tag != 0x00020003}
    assert not set(known) - set(ACTIONS)
    for keyword, action in ACTIONS.items():
        assert action in known.get(keyword, ["X"]), keyword


def test_every_copied_element_is_treated() -> None:
    """What is copied from a source is in the table, or said anew, or says how texts are written."""
    said_anew = {
        *("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
        *("LongitudinalTemporalInformationModified", "SpecificCharacterSet"),
    }
    assert set(COPIED) - set(ACTIONS) == said_anew


@pytest.mark.parametrize("kind", ["seg", "sr"])
def test_no_word_of_the_patient_is_left(results: dict[str, Path], kind: str) -> None:
    content = results[f"hidden {kind}"].read_bytes()
    for word in (b"JANE", b"MRN", b"19700131", b"20200229", b"131415", make.STUDY.encode()):
        assert word not in content, word
        assert word in results[f"open {kind}"].read_bytes(), word


@pytest.mark.parametrize(("kind", "codes"), [("seg", ["113100"]), ("sr", ["113100", "113104"])])
def test_codes_of_what_was_done(results: dict[str, Path], kind: str, codes: list[str]) -> None:
    """The basic profile; of a report its content was clean by its making. Nothing was defaced, and none says so."""
    after = pydicom.dcmread(results[f"hidden {kind}"])
    assert after.PatientIdentityRemoved == "YES"
    assert after.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in after.DeidentificationMethodCodeSequence] == codes
    assert pydicom.dcmread(results[f"open {kind}"]).PatientIdentityRemoved == "NO", "it is as the source says"


def test_objects_of_one_study_stay_together(results: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """UIDs are remapped alike in all objects, and by the salt."""
    seg, sr = (pydicom.dcmread(results[f"hidden {kind}"]) for kind in ("seg", "sr"))
    assert seg.StudyInstanceUID == sr.StudyInstanceUID == remapped(make.STUDY)
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == remapped(make.SERIES)
    (image,) = (item for item in elements(sr, "ReferencedSegmentNumber") if item.value == 1)
    assert image.value == 1
    assert seg.SOPInstanceUID in {element.value for element in elements(sr, "ReferencedSOPInstanceUID")}
    assert seg.SegmentSequence[0].TrackingUID in {element.value for element in elements(sr, "UID")}
    known = remapped("1.2.3")
    monkeypatch.setenv("NEUROBUNDLE_SALT", "a secret")
    assert remapped("1.2.3") != known


@pytest.mark.parametrize(
    ("keyword", "value", "cause"),
    [
        ("BurnedInAnnotation", "YES", "its header says that text is burned into it"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7", "it is a secondary capture"),
    ],
)
def test_83_what_may_show_a_name_is_flagged(tmp_path: Path, keyword: str, value: str, cause: str) -> None:
    """Neither clean pixels (113101) nor a face that was removed (113102) is claimed: nobody looked at the pixels."""
    make.series(tmp_path / "study", edit=lambda ds, _: setattr(ds, keyword, value))
    (warned,) = one_volume(tmp_path / "study").verdict.warnings
    assert warned.startswith(f"{cause}; it may show a name")
    source = source_of(tmp_path / "study")
    seg = make_seg(source, SEGMENTS, ALGORITHM, labels=result_on(source.shape), deidentified=True)
    assert [item.CodeValue for item in seg.DeidentificationMethodCodeSequence] == ["113100"]
    assert "BurnedInAnnotation" not in seg
