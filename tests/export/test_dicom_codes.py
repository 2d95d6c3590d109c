"""Which segments a case has, and that the codes of our bundles exist."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neurobundle.errors import SettingError
from neurobundle.export.dicom_codes import BLOCK, LATERALITY, Code, DicomCodes, overlap, read_codes, segments_of

from ..conftest import BUNDLES
from .dicom_results import ALGORITHM, ANTERIOR, POSTERIOR

CODES = DicomCodes(ALGORITHM, {"anterior": ANTERIOR, "posterior": POSTERIOR, "WT": ANTERIOR, "ET": POSTERIOR})
SEGMENTATIONS = [path for path in BUNDLES if path.name.endswith("_segmentation")]


def test_structures_are_segments() -> None:
    found = segments_of(CODES, {2: "posterior", 1: "anterior"})
    assert [(one.number, one.name, one.values) for one in found] == [(1, "anterior", (1,)), (2, "posterior", (2,))]
    assert not overlap(found)


def test_regions_are_segments_where_there_are_any() -> None:
    found = segments_of(CODES, {1: "anterior"}, {"WT": [1, 2], "ET": [2]})
    assert [(one.name, one.values) for one in found] == [("WT", (1, 2)), ("ET", (2,))]
    assert overlap(found)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_side_is_a_modifier(side: str) -> None:
    """Whether the structure's name says it, as in a head, or the case does, as of a crop."""
    (named,) = segments_of(CODES, {3: f"{side} anterior"})
    (told,) = segments_of(CODES, {1: "anterior"}, side=side)
    assert named.codes == told.codes
    assert named.codes.modifiers == (LATERALITY[side], *ANTERIOR.modifiers)
    (again,) = segments_of(DicomCodes(ALGORITHM, {"x": named.codes}), {1: "x"}, side="left")
    assert again.codes == named.codes, "a structure that says its side is on that side"


def test_a_structure_without_codes() -> None:
    with pytest.raises(SettingError, match="'tail' has no codes"):
        segments_of(CODES, {1: "tail"})


@pytest.mark.parametrize("metadata", [{}, {BLOCK: {"algorithm": {}}}, {BLOCK: {"algorithm": 3, "structures": {}}}])
def test_metadata_without_codes(metadata: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=BLOCK):
        read_codes({"version": "1", **metadata})


def in_pydicom(code: Code) -> bool:
    """Whether a code stands in the context groups of PS3.16 that pydicom has."""
    from pydicom.sr._concepts_dict import concepts

    return any(code.value in found for found in concepts[code.scheme].values())


@pytest.mark.parametrize("bundle", SEGMENTATIONS, ids=lambda path: path.name)
def test_our_bundles_have_codes_that_exist(bundle: Path) -> None:
    """Each structure and region has a category, a type and modifiers of PS3.16's context groups."""
    pytest.importorskip("pydicom")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    codes = read_codes(metadata)
    output = metadata["network_data_format"]["outputs"]["pred"]
    names = {*output.get("label_def", output["channel_def"]).values(), *output.get("regions", {})} - {"background"}
    assert set(codes.structures) == names
    for name, found in codes.structures.items():
        for code in (found.category, found.type, *found.modifiers, *filter(None, [found.region])):
            assert in_pydicom(code), f"{name}: {code}"
        assert name.startswith("Left-") == (LATERALITY["left"] in found.modifiers)
        assert name.startswith("Right-") == (LATERALITY["right"] in found.modifiers)
    assert in_pydicom(codes.algorithm.family)
    # Two structures that are one to DICOM could not be told apart in a viewer; a region may be the structure it equals.
    told = [(c.type, c.modifiers) for n, c in codes.structures.items() if n not in output.get("regions", {})]
    assert len(told) == len(set(told))
