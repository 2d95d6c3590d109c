"""A case's volumes as a DICOM structured report: TID 1500, Measurement Report (PS3.16).

A *group* of the report is one structure or region: what it is, where, by which algorithm, its volume in millilitres,
and how sure the network was of it where that was asked. With a segmentation object a group refers to the segment that
was measured. What DICOM has no code for has one of :data:`SCHEME`, a scheme of ours that the report declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.export.dicom_codes import LATERALITY, Algorithm, Code, Segment
from neurobundle.export.dicom_deidentify import finish
from neurobundle.export.dicom_files import (
    MANUFACTURER,
    RESEARCH_USE_ONLY,
    SERIAL_NUMBER,
    UNNAMED,
    encode,
    quiet,
    write_dicom,
)
from neurobundle.export.dicom_seg import concept, tracking_uid
from neurobundle.export.dicom_source import DicomSource, unnamed_header
from neurobundle.export.dicom_uids import uid_of
from neurobundle.export.uncertainty import CaseUncertainty

SR_ENDING = "_sr.dcm"
SERIES_NUMBER = 9101

#: Our coding scheme; PS3.16 section 8.2 leaves names that begin with 99 to whoever wants one.
SCHEME = "99NEUROBUNDLE"
_SCHEME_NAME = "Neurobundle: how sure a network is (docs/concepts/dicom-objects.md)"
#: Keys of a structure's numbers -> what they are (:func:`neurobundle.postprocess.uncertainty.numbers_of`).
UNCERTAINTY_CODES = {
    "expected_dice": Code("expected-dice", SCHEME, "Expected Dice coefficient"),
    "entropy": Code("entropy", SCHEME, "Mean predictive entropy"),
    "mutual_information": Code("mutual-info", SCHEME, "Mean mutual information"),
    "variance": Code("variance", SCHEME, "Mean variance of the members"),
}
SMALLEST = Code("smallest-ml", SCHEME, "Smallest volume that a member gives")
LARGEST = Code("largest-ml", SCHEME, "Largest volume that a member gives")
CASE_SCORE = Code("case-score", SCHEME, "Case score: the error that is expected")
FLAGGED = Code("flagged", SCHEME, "To be looked at by a person")

_VOLUME = Code("118565006", "SCT", "Volume")
_MILLILITRE = Code("ml", "UCUM", "ml")
_NO_UNIT = Code("1", "UCUM", "no units")
_YES, _NO = Code("373066001", "SCT", "Yes"), Code("373067005", "SCT", "No")
#: What was done, of CID 100's kind.
_PROCEDURE = Code("816077007", "SCT", "Magnetic resonance imaging of brain")
#: Significant digits of a number; a decimal string holds 16 characters.
_DIGITS = 8


def make_sr(
    source: DicomSource,
    segments: Sequence[Segment],
    algorithm: Algorithm,
    volumes_ml: Mapping[str, float],
    *,
    seg: Any = None,
    uncertainty: CaseUncertainty | None = None,
    deidentified: bool = False,
) -> Any:
    """A report; :func:`save_sr` writes it.

    Args:
        source: the images.
        segments: what was measured.
        algorithm: what made the result.
        volumes_ml: by the names of the segments.
        seg: the segmentation object with these segments, made with the same ``deidentified``; None refers to the images
            alone.
        uncertainty: of the case, if it was asked.
        deidentified: as for :func:`neurobundle.export.dicom_seg.make_seg`.

    Returns:
        A ``highdicom.sr.ComprehensiveSR``, with all its UIDs.

    Raises:
        MissingPackageError: if highdicom is not installed.
    """
    with quiet() as hd:
        groups = [
            _group(hd, source, segment, algorithm, volumes_ml[segment.name], seg, uncertainty) for segment in segments
        ]
        if uncertainty is not None:
            groups.append(_case_group(hd, source, algorithm, uncertainty))
        report = hd.sr.MeasurementReport(
            observation_context=_observer(hd, algorithm),
            procedure_reported=concept(_PROCEDURE),
            imaging_measurements=groups,
        )
        sr = hd.sr.ComprehensiveSR(
            evidence=_evidence(source, seg),
            content=report,
            series_instance_uid=UNNAMED,
            series_number=SERIES_NUMBER,
            sop_instance_uid=UNNAMED,
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=algorithm.name,
            software_versions=algorithm.version,
            device_serial_number=SERIAL_NUMBER,
            is_complete=True,
            series_description=f"{algorithm.name[:20]} {RESEARCH_USE_ONLY}",
            coding_schemes=_scheme(hd) if uncertainty is not None else None,
        )
        sr.ContentDescription = RESEARCH_USE_ONLY
        made = [str(seg.SOPInstanceUID), str(seg.SeriesInstanceUID)] if seg is not None else []
        finish(sr, source, deidentified, made)
    return sr


def save_sr(path: Path, sr: Any) -> Path:
    """Write a report atomically, and read it back before it gets its name.

    Args:
        path: ends in ``.dcm``.
        sr: what :func:`make_sr` gave.

    Raises:
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    expected = numbers_in(sr)
    return write_dicom(path, encode(sr), lambda read: numbers_in(read) == expected)


def numbers_in(sr: Any) -> list[tuple[str, str, float]]:
    """The numbers of a report, in their order: the tracking identifier of the group, what it is, and the value."""
    found = []
    top = [item for item in sr.ContentSequence if item.ValueType == "CONTAINER"]
    for group in (group for part in top for group in part.ContentSequence):
        tracked = next((str(i.TextValue) for i in group.ContentSequence if i.ValueType == "TEXT"), "")
        for item in group.ContentSequence:
            if item.ValueType == "NUM":
                meaning = str(item.ConceptNameCodeSequence[0].CodeMeaning)
                found.append((tracked, meaning, float(item.MeasuredValueSequence[0].NumericValue)))
    return found


def _group(
    hd: Any,
    source: DicomSource,
    segment: Segment,
    algorithm: Algorithm,
    ml: float,
    seg: Any,
    uncertainty: CaseUncertainty | None,
) -> Any:
    codes = segment.codes
    numbers = uncertainty.structures.get(segment.name, {}) if uncertainty is not None else {}
    said: dict[str, Any] = {
        "tracking_identifier": hd.sr.TrackingIdentifier(
            uid=tracking_uid(source, segment, algorithm), identifier=segment.name[:64]
        ),
        "finding_type": concept(codes.type),
        "finding_category": concept(codes.category),
        "finding_sites": _sites(hd, segment),
        "algorithm_id": hd.sr.AlgorithmIdentification(algorithm.name, algorithm.version),
        "measurements": [_measured(hd, _VOLUME, ml, _MILLILITRE), *_unsure(hd, numbers)],
    }
    if seg is None:
        return hd.sr.MeasurementsAndQualitativeEvaluations(**said)
    series = hd.sr.SourceSeriesForSegmentation(source.series[0].uid)
    referred = hd.sr.ReferencedSegment(seg.SOPClassUID, seg.SOPInstanceUID, segment.number, source_series=series)
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=referred, **said)


def _sites(hd: Any, segment: Segment) -> list[Any]:
    """Where it is: the region, or the structure itself; a side is its laterality, another modifier its topography."""
    sides = [code for code in segment.codes.modifiers if code in LATERALITY.values()]
    others = [code for code in segment.codes.modifiers if code not in LATERALITY.values()]
    return [
        hd.sr.FindingSite(
            concept(segment.codes.region or segment.codes.type),
            laterality=concept(sides[0]) if sides else None,
            topographical_modifier=concept(others[0]) if others else None,
        )
    ]


def _unsure(hd: Any, numbers: Mapping[str, Any]) -> list[Any]:
    known = [(code, numbers.get(key)) for key, code in UNCERTAINTY_CODES.items()]
    found = [_measured(hd, code, float(value), _NO_UNIT) for code, value in known if value is not None]
    if numbers.get("ml_of_members"):
        pairs = zip((SMALLEST, LARGEST), numbers["ml_of_members"], strict=True)
        found += [_measured(hd, code, float(value), _MILLILITRE) for code, value in pairs]
    return found


def _case_group(hd: Any, source: DicomSource, algorithm: Algorithm, uncertainty: CaseUncertainty) -> Any:
    flagged = hd.sr.QualitativeEvaluation(concept(FLAGGED), concept(_YES if uncertainty.flagged else _NO))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=uid_of("tracking", source.series[0].uid, algorithm.name, algorithm.version), identifier="case"
        ),
        finding_type=concept(Code("12738006", "SCT", "Brain")),
        algorithm_id=hd.sr.AlgorithmIdentification(algorithm.name, algorithm.version),
        measurements=[_measured(hd, CASE_SCORE, uncertainty.case_score, _NO_UNIT)],
        qualitative_evaluations=[flagged],
    )


def _measured(hd: Any, what: Code, value: float, unit: Code) -> Any:
    return hd.sr.Measurement(concept(what), float(f"{value:.{_DIGITS}g}"), concept(unit))


def _observer(hd: Any, algorithm: Algorithm) -> Any:
    attributes = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of("device", algorithm.name, algorithm.version),
        name=algorithm.name,
        manufacturer_name=MANUFACTURER,
        model_name=algorithm.name,
    )
    device = hd.sr.ObserverContext(concept(Code("121007", "DCM", "Device")), attributes)
    return hd.sr.ObservationContext(observer_device_context=device)


def _scheme(hd: Any) -> list[Any]:
    from highdicom import coding_schemes

    return [coding_schemes.CodingSchemeIdentificationItem(designator=SCHEME, name=_SCHEME_NAME)]


def _evidence(source: DicomSource, seg: Any) -> list[Any]:
    """A header for each image, without a patient, and for the segmentation."""
    named = [(series.uid, *instance) for series in source.series for instance in series.instances]
    if seg is not None:
        named.append((str(seg.SeriesInstanceUID), str(seg.SOPClassUID), str(seg.SOPInstanceUID)))
    return [unnamed_header(source, *uids) for uids in named]
