"""Our DICOM objects without the patient, after PS3.15's Basic Application Level Confidentiality Profile.

What may be in an object of ours is listed here with what the profile does to it (PS3.15 Table E.1-1, 2024): X removes,
Z empties, D puts a value that is no one's, U another UID, the same for the same one. An object is made of known
elements only, and none of them is private; what was copied of a person and has no action here is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurobundle.export.dicom_files import SERIAL_NUMBER, adopt, name, settle
from neurobundle.export.dicom_source import COPIED, NO_DATE, NO_TIME, DicomSource
from neurobundle.export.dicom_uids import uid_of
from neurobundle.load import salt

#: Keyword -> action.
ACTIONS = {
    "PatientName": "Z",
    "PatientID": "Z",
    "PatientBirthDate": "Z",
    "PatientSex": "Z",
    "IssuerOfPatientID": "X",
    "PatientBirthTime": "X",
    "OtherPatientIDs": "X",
    "OtherPatientNames": "X",
    "EthnicGroup": "X",
    "PatientComments": "X",
    "PatientSpeciesDescription": "X",
    "ResponsiblePerson": "X",
    "ResponsiblePersonRole": "X",
    "ResponsibleOrganization": "X",
    "PatientAge": "X",
    "PatientSize": "X",
    "PatientWeight": "X",
    "StudyDate": "Z",
    "StudyTime": "Z",
    "AccessionNumber": "Z",
    "StudyID": "Z",
    "ReferringPhysicianName": "Z",
    "StudyDescription": "X",
    "SeriesDescription": "X",
    "TimezoneOffsetFromUTC": "X",
    "InstanceCreationDate": "X",
    "InstanceCreationTime": "X",
    "ContentDate": "D",
    "ContentTime": "D",
    "ContentCreatorName": "Z",
    "ContributionDateTime": "X",
    "ContributionDescription": "X",
    "DeviceSerialNumber": "D",
    "StudyInstanceUID": "U",
    "SeriesInstanceUID": "U",
    "SOPInstanceUID": "U",
    "FrameOfReferenceUID": "U",
    "ReferencedSOPInstanceUID": "U",
    "DimensionOrganizationUID": "U",
    "TrackingUID": "U",
    "UID": "U",
}
#: What a D becomes.
_DUMMIES = {"ContentDate": NO_DATE, "ContentTime": NO_TIME, "DeviceSerialNumber": SERIAL_NUMBER}

#: CID 7050: what is done to every object, and what is done to one with a content tree.
BASIC_PROFILE = ("113100", "DCM", "Basic Application Confidentiality Profile")
CLEAN_STRUCTURED_CONTENT = ("113104", "DCM", "Clean Structured Content Option")

#: What of :data:`COPIED` is no one's, or is said anew.
_KEPT = ("SpecificCharacterSet",)


def finish(dataset: Any, source: DicomSource, deidentified: bool, made: Sequence[str] = ()) -> None:
    """Give an object that highdicom made its patient, or none, and its own UIDs by its content.

    Args:
        dataset: changed in place.
        source: the images.
        deidentified: without the patient.
        made: UIDs in it that are of objects made here, and stay; see :func:`deidentify`.
    """
    adopt(dataset, source)
    settle(dataset, source)
    if deidentified:
        deidentify(dataset, made)
    name(dataset)


def deidentify(dataset: Any, made: Sequence[str] = ()) -> None:
    """Take the patient out of an object of ours, and say so in it.

    UIDs become salted digests of themselves (:mod:`neurobundle.load.salt`), so that the objects of one study still
    belong together. The content tree of a report is ours, from a template: it holds no word of the images' headers, so
    it stays, and the code of the Clean Structured Content Option says so.

    Args:
        dataset: changed in place; its own UIDs are set afterwards.
        made: UIDs of objects of ours that it refers to, which were de-identified themselves.
    """
    _walk(dataset, frozenset(made))
    for keyword in COPIED:
        if keyword not in ACTIONS and keyword not in _KEPT and keyword in dataset:
            delattr(dataset, keyword)
    done = [BASIC_PROFILE, *([CLEAN_STRUCTURED_CONTENT] if "ContentSequence" in dataset else [])]
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    dataset.DeidentificationMethodCodeSequence = [_code(*code) for code in done]


def remapped(uid: str) -> str:
    """The UID that stands for another one; without the salt nobody can tell which."""
    return uid_of("deidentified", salt.digest(uid, 64))


def _walk(dataset: Any, made: frozenset[str]) -> None:
    for element in list(dataset):
        action = ACTIONS.get(element.keyword)
        if element.tag.is_private or action == "X":
            del dataset[element.tag]
        elif action == "Z":
            element.value = None
        elif action == "D":
            element.value = _DUMMIES[element.keyword]
        elif action == "U":
            element.value = element.value if element.value in made else remapped(str(element.value))
        elif element.VR == "SQ":
            for item in element.value:
                _walk(item, made)


def _code(value: str, scheme: str, meaning: str) -> Any:
    from pydicom import Dataset

    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code
