"""A final label as a DICOM segmentation of its study, for the archive that the study came from.

Its segments have the codes of the served bundle that knows a structure of that name; what an annotator named otherwise
is tissue, and says its name. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from neurobundle import __version__
from neurobundle.bundle.find import read_metadata, structures_of
from neurobundle.commands.run_outputs import volumes_of
from neurobundle.commands.sources import StudySource
from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.export.dicom_codes import Algorithm, Code, DicomCodes, Segment, StructureCodes, read_codes, segments_of
from neurobundle.export.dicom_files import MANUFACTURER
from neurobundle.export.dicom_seg import AlgorithmType, make_seg, save_seg
from neurobundle.export.dicom_source import read_source
from neurobundle.geometry import same_grid
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan

#: CID 7150; what 3D Slicer says of a segment that nobody gave a meaning.
_TISSUE = Code("85756007", "SCT", "Tissue")
UNKNOWN = StructureCodes(_TISSUE, _TISSUE)

#: The program that a label was drawn with where no bundle had a part in it. It is no algorithm, so no family is said.
_BY_HAND = Algorithm("Annotation", __version__, Code("", "", ""), MANUFACTURER)


def label_object(
    source: StudySource, labels: Path, names: Mapping[int, str], bundles: Sequence[Path], made_by: str = ""
) -> bytes:
    """The file of a DICOM segmentation.

    Args:
        source: the study; what its reference shows is what was labelled.
        labels: the label map, a NIfTI file on the reference's grid.
        names: what its values are called; the names of the bundle if empty.
        bundles: folders of those that are served.
        made_by: the name of the one whose answer was corrected: the segments are then semi-automatic, else manual.

    Raises:
        InputError: if the label lies on another grid, is empty of names, or cannot be made into an object.
        MissingPackageError: if highdicom is not installed.
    """
    first, *others = volumes_of(source)
    found = read_scan(labels, LABEL)
    if not same_grid(first.shape, first.affine, found.data.shape, found.affine):
        raise InputError("the label does not lie on the grid of the reference series", "Draw it on the image served.")
    helper = next((bundle for bundle in bundles if bundle.name == made_by and _codes_of(bundle) is not None), None)
    own = structures_of(helper or bundles[0]) if bundles else {}
    known = dict(names) or own
    values = [int(value) for value in np.unique(found.data) if value]
    segments = named_segments({**{value: f"label {value}" for value in values}, **known}, bundles)
    if not segments:
        raise InputError("nothing is outlined, and no segment is named", "Name the segments.")
    kind: AlgorithmType = "MANUAL" if helper is None else "SEMIAUTOMATIC"
    algorithm = _BY_HAND if helper is None else read_codes(read_metadata(helper)).algorithm
    try:
        seg = make_seg(read_source(first, others), segments, algorithm, labels=found.data, algorithm_type=kind)
        with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
            return save_seg(Path(folder) / "label.dcm", seg).read_bytes()
    except (NeurobundleError, OSError):
        raise
    # What highdicom and pydicom say may quote a patient's data.
    except Exception as error:
        raise InputError(f"its DICOM segmentation could not be made ({type(error).__name__})", "Report this.") from None


def named_segments(names: Mapping[int, str], bundles: Sequence[Path]) -> list[Segment]:
    """The segments of a label map.

    Args:
        names: the name of each value.
        bundles: folders of those whose codes may fit.
    """
    known = [codes for bundle in bundles if (codes := _codes_of(bundle)) is not None]
    return [
        Segment(number, name, (value,), _meaning(name, known))
        for number, (value, name) in enumerate(sorted(names.items()), start=1)
    ]


def _codes_of(bundle: Path) -> DicomCodes | None:
    try:
        return read_codes(read_metadata(bundle))
    except SettingError:  # one that has none: it answers a class
        return None


def _meaning(name: str, known: Sequence[DicomCodes]) -> StructureCodes:
    for codes in known:
        spelt = {each.casefold(): each for each in codes.structures}.get(name.casefold(), name)
        try:
            return segments_of(codes, {1: spelt})[0].codes
        except SettingError:
            continue
    return UNKNOWN
