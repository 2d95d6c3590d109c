"""DICOM objects as files: UIDs that follow from the content, and writing that is read back.

The *content* of an object is its bytes with :data:`UNNAMED` in the place of the UIDs that name the object itself. Its
own UIDs are digests of that, so the same result of the same images is the same file, byte for byte, and another one has
another name.
"""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

from neurobundle import __version__
from neurobundle.errors import EnvironmentFault, require
from neurobundle.export.dicom_source import DicomSource
from neurobundle.export.dicom_uids import uid_of
from neurobundle.files import write_atomic
from neurobundle.load.dicom.header import quiet_pydicom

#: What each object says of its use, in ContentDescription and in the name of its series.
RESEARCH_USE_ONLY = "RESEARCH USE ONLY - not for diagnosis"

#: What stands for an object's own UIDs while they are not known.
UNNAMED = "2.25.0"
#: The UIDs that name an object itself, and its dimensions.
_OWN = ("SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationUID")

MANUFACTURER = "Neurobundle"
#: A program has no serial number, and the element must not be empty (PS3.3 C.7.5.2).
SERIAL_NUMBER = "0"


@contextmanager
def quiet() -> Iterator[Any]:
    """Around the making of objects: highdicom, silent, since what it and pydicom log may quote a patient's data.

    Raises:
        MissingPackageError: if highdicom is not installed.
    """
    highdicom = require("highdicom", extra="dicom", feature="writing DICOM")
    # Its modules have loggers of their own, whose records come by here.
    logger, nowhere = logging.getLogger("highdicom"), logging.NullHandler()
    before = logger.propagate
    logger.addHandler(nowhere)
    logger.propagate = False
    try:
        with quiet_pydicom(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield highdicom
    finally:
        logger.propagate = before
        logger.removeHandler(nowhere)


def adopt(dataset: Any, source: DicomSource) -> None:
    """Give an object the patient and the study of its source, as they are.

    Args:
        dataset: changed in place; it has no patient yet.
        source: the images.
    """
    for element in deepcopy(source.elements):
        dataset[element.tag] = element
    if "SpecificCharacterSet" not in source.elements and "SpecificCharacterSet" in dataset:
        del dataset.SpecificCharacterSet


def settle(dataset: Any, source: DicomSource) -> None:
    """Take out of an object what a clock or chance put into it.

    Args:
        dataset: changed in place: its content has the date of the images, its own UIDs are :data:`UNNAMED`.
        source: the images.
    """
    for item in (dataset, *dataset.get("ContributingEquipmentSequence", ())):
        for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContributionDateTime"):
            if keyword in item:
                delattr(item, keyword)
    dataset.ContentDate, dataset.ContentTime = source.date
    dataset.SoftwareVersions = __version__
    _name(dataset, lambda keyword: UNNAMED)


def name(dataset: Any) -> bytes:
    """Name an object by its content.

    Args:
        dataset: settled; gets its own UIDs.

    Returns:
        The bytes of its file.
    """
    digest = hashlib.sha256(encode(dataset)).hexdigest()
    _name(dataset, lambda keyword: uid_of(keyword, digest))
    return encode(dataset)


def encode(dataset: Any) -> bytes:
    """The bytes of a DICOM file, with its meta information (PS3.10 7.1)."""
    from pydicom import dcmwrite

    buffer = io.BytesIO()
    with quiet_pydicom():
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def write_dicom(path: Path, content: bytes, check: Callable[[Any], bool]) -> Path:
    """Write an object atomically; it is read again before it gets its name.

    Args:
        path: ends in ``.dcm``.
        content: of the file.
        check: whether what pydicom reads is what was meant.

    Raises:
        EnvironmentFault: if the file cannot be written, or reads back as something else.
    """
    from pydicom import dcmread

    def read_back(temporary: Path) -> None:
        written = temporary.read_bytes()
        with quiet_pydicom():
            if written != content or not check(dcmread(io.BytesIO(written))):
                raise EnvironmentFault("what was written differs from the result", "Check the disk.", file=path)

    return write_atomic(path, content, read_back)


def _name(dataset: Any, uid: Callable[[str], str]) -> None:
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID = uid(_OWN[0]), uid(_OWN[1])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in dataset.get(keyword, ()):
            item.DimensionOrganizationUID = uid(_OWN[2])
