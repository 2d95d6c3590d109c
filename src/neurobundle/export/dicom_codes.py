"""What a bundle's structures are called in DICOM, and which of them become segments. Imports no pydicom.

A *code* is a value of a coding scheme with its meaning: SNOMED CT (``SCT``), DICOM's own (``DCM``) or NCI Thesaurus
(``NCIt``), as the context groups of PS3.16 list them. A *segment* is a part of a segmentation object: a structure with
one label value, or a region of several that may overlap with others. The codes stand in the block :data:`BLOCK` of a
bundle's metadata.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from neurobundle.errors import SettingError

#: The block of ``metadata.json`` that no other program reads.
BLOCK = "neurobundle_dicom"


class Code(NamedTuple):
    """A coded concept.

    Attributes:
        value: at most 16 characters (PS3.5, SH).
        scheme: its coding scheme designator, PS3.16 section 8.
        meaning: at most 64 characters (PS3.5, LO).
    """

    value: str
    scheme: str
    meaning: str


#: CID 244.
LATERALITY = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}


@dataclass(frozen=True)
class StructureCodes:
    """What a structure is.

    Attributes:
        category: of CID 7150.
        type: of CID 7151; where a structure has none of its own, that of what it is a part of.
        modifiers: what tells it from others of its type: left, anterior.
        region: where in the body it lies, if the type does not say it.
    """

    category: Code
    type: Code
    modifiers: tuple[Code, ...] = ()
    region: Code | None = None


@dataclass(frozen=True)
class Algorithm:
    """What made a segmentation.

    Attributes:
        name: the bundle's.
        version: of the bundle.
        family: of CID 7162.
        source: who makes it.
        weights: the fingerprint of its weights; empty if it is not known.
    """

    name: str
    version: str
    family: Code
    source: str
    weights: str = ""


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        number: from 1.
        name: the structure's or the region's.
        values: the label values that it holds.
        codes: what it is.
    """

    number: int
    name: str
    values: tuple[int, ...]
    codes: StructureCodes


@dataclass(frozen=True)
class DicomCodes:
    """What a bundle's metadata say for DICOM.

    Attributes:
        algorithm: what makes its segmentations.
        structures: by the names of label values and of regions.
    """

    algorithm: Algorithm
    structures: Mapping[str, StructureCodes]


def read_codes(metadata: Mapping[str, Any], weights: str = "") -> DicomCodes:
    """The codes of a bundle.

    Args:
        metadata: the bundle's.
        weights: the fingerprint of the weights that a run loads.

    Raises:
        SettingError: if the block is missing, or is not as ``metadata_schema.json`` says.
    """
    block = metadata.get(BLOCK)
    if not isinstance(block, Mapping):
        raise SettingError(
            f"the bundle's metadata have no {BLOCK}, which names its structures in DICOM",
            "Add it (docs/how-to/dicom-seg.md), or leave dicom-seg and dicom-sr out of --output.",
        )
    try:
        made_by = block["algorithm"]
        algorithm = Algorithm(
            str(made_by["name"]), str(metadata["version"]), Code(*made_by["family"]), str(made_by["source"]), weights
        )
        structures = {str(name): _structure(given) for name, given in block["structures"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        cause = f"{BLOCK} of the bundle's metadata is not as it should be ({type(error).__name__}: {error})"
        raise SettingError(cause, "See neurobundle doctor.") from error
    return DicomCodes(algorithm, structures)


def segments_of(
    codes: DicomCodes,
    structures: Mapping[int, str],
    regions: Mapping[str, Sequence[int]] | None = None,
    side: str = "",
) -> list[Segment]:
    """The segments of one case: its regions if it has any, else its structures.

    Args:
        codes: the bundle's.
        structures: the name of each label value; ``left`` or ``right`` may stand before a name that has a code.
        regions: name -> the label values that it holds; they may overlap.
        side: ``left`` or ``right`` of a crop whose structures do not say it; empty else.

    Raises:
        SettingError: if a structure has no code.
    """
    wanted = {name: tuple(values) for name, values in (regions or {}).items()}
    wanted = wanted or {name: (value,) for value, name in sorted(structures.items())}
    return [
        Segment(number, name, values, _codes_of(codes, name, side))
        for number, (name, values) in enumerate(wanted.items(), start=1)
    ]


def overlap(segments: Sequence[Segment]) -> bool:
    """Whether a label value belongs to several segments.

    >>> codes = StructureCodes(Code("1", "SCT", "x"), Code("2", "SCT", "y"))
    >>> overlap([Segment(1, "WT", (1, 2), codes), Segment(2, "ET", (2,), codes)])
    True
    """
    values = [value for segment in segments for value in segment.values]
    return len(values) != len(set(values))


def _codes_of(codes: DicomCodes, name: str, side: str) -> StructureCodes:
    first, _, rest = name.partition(" ")
    if name not in codes.structures and first in LATERALITY:
        name, side = rest, first
    found = codes.structures.get(name)
    if found is None:
        raise SettingError(f"{name!r} has no codes in {BLOCK} of the bundle's metadata", "Add them.")
    sided = any(code in LATERALITY.values() for code in found.modifiers)
    more = (LATERALITY[side],) if side and not sided else ()
    return StructureCodes(found.category, found.type, (*more, *found.modifiers), found.region)


def _structure(given: Mapping[str, Any]) -> StructureCodes:
    region = given.get("region")
    return StructureCodes(
        Code(*given["category"]),
        Code(*given["type"]),
        tuple(Code(*modifier) for modifier in given.get("modifiers", ())),
        Code(*region) if region else None,
    )
