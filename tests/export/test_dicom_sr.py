"""Reports of volumes, read back by highdicom and pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from neurobundle.export.dicom_codes import LATERALITY, Segment, StructureCodes
from neurobundle.export.dicom_seg import make_seg
from neurobundle.export.dicom_sr import SCHEME, make_sr, numbers_in, save_sr
from neurobundle.export.uncertainty import CaseUncertainty

from ..load.dicom import make
from .dicom_results import ALGORITHM, ANTERIOR, NAME, SEGMENTS, result_on, source_of

pytest.importorskip("highdicom")

VOLUMES = {"anterior": 0.0225, "posterior": 1.5}
UNSURE = CaseUncertainty(
    0.125, True, 0.1, 3, {"anterior": {"expected_dice": 0.875, "entropy": None, "ml_of_members": [0.02, 0.03]}}
)


def written(folder: Path, *, with_seg: bool = True, segments: list[Segment] = SEGMENTS, **options: Any) -> Path:
    make.series(folder / "study")
    source = source_of(folder / "study")
    hidden = options.get("deidentified", False)
    labels = result_on(source.shape)
    seg = make_seg(source, segments, ALGORITHM, labels=labels, deidentified=hidden) if with_seg else None
    if seg is not None:
        (folder / "uid").write_text(f"{seg.SOPInstanceUID} {seg.SegmentSequence[0].TrackingUID}")
    sr = make_sr(source, segments, ALGORITHM, VOLUMES, seg=seg, **options)
    return save_sr(folder / "result_sr.dcm", sr)


def test_volumes_in_millilitres(tmp_path: Path) -> None:
    """A group a structure, which refers to its segment and to the series that was segmented."""
    import highdicom

    sr = highdicom.sr.srread(written(tmp_path))
    assert (sr.ContentTemplateSequence[0].TemplateIdentifier, sr.Modality) == ("1500", "SR")
    instance, tracking = (tmp_path / "uid").read_text().split()
    groups = sr.content.get_volumetric_roi_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["anterior", "posterior"]
    for number, group in enumerate(groups, start=1):
        (volume,) = group.get_measurements()
        assert volume.name.value == "118565006"
        assert (volume.value, volume.unit.value) == (VOLUMES[group.tracking_identifier], "ml")
        assert group.reference_type.meaning == "Referenced Segment"
        image = next(item for item in group[0].ContentSequence if item.ValueType == "IMAGE")
        (referred,) = image.ReferencedSOPSequence
        assert (referred.ReferencedSOPInstanceUID, referred.ReferencedSegmentNumber) == (instance, number)
    assert groups[0].tracking_uid == tracking


def test_how_sure_it_was(tmp_path: Path) -> None:
    """Numbers that a case has, in a coding scheme that the report declares; what is None is not said."""
    sr = pydicom.dcmread(written(tmp_path, uncertainty=UNSURE))
    assert numbers_in(sr) == [
        ("anterior", "Volume", 0.0225),
        ("anterior", "Expected Dice coefficient", 0.875),
        ("anterior", "Smallest volume that a member gives", 0.02),
        ("anterior", "Largest volume that a member gives", 0.03),
        ("posterior", "Volume", 1.5),
        ("case", "Case score: the error that is expected", 0.125),
    ]
    assert [item.CodingSchemeDesignator for item in sr.CodingSchemeIdentificationSequence] == [SCHEME]
    assert "To be looked at by a person" in str(sr)


def test_without_a_segmentation(tmp_path: Path) -> None:
    """A report alone refers to the images alone, and says the same numbers."""
    sr = pydicom.dcmread(written(tmp_path, with_seg=False))
    assert numbers_in(sr) == [("anterior", "Volume", 0.0225), ("posterior", "Volume", 1.5)]
    (study,) = sr.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (series.SeriesInstanceUID, len(series.ReferencedSOPSequence)) == (make.SERIES, 20)


def test_a_side_is_the_sites_laterality(tmp_path: Path) -> None:
    codes = StructureCodes(ANTERIOR.category, ANTERIOR.type, (LATERALITY["left"], *ANTERIOR.modifiers))
    sr = pydicom.dcmread(written(tmp_path, segments=[Segment(1, "anterior", (1,), codes)]))
    text = str(sr)
    assert "Laterality" in text
    assert "Topographical modifier" in text


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    sr = pydicom.dcmread(written(tmp_path))
    assert sr.ContentDescription.startswith("RESEARCH USE ONLY")
    assert (str(sr.PatientName), sr.VerificationFlag, sr.PreliminaryFlag) == (NAME, "UNVERIFIED", "PRELIMINARY")
    assert sr.CompletionFlag == "COMPLETE"


def test_the_same_result_is_the_same_file(tmp_path: Path) -> None:
    first, again = (written(tmp_path / name, uncertainty=UNSURE).read_bytes() for name in "ab")
    assert first == again
