"""What the doctor says of a bundle's codes for DICOM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from neurobundle.bundle.doctor import examine

from ..helpers import HIPPOCAMPUS


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    copy = tmp_path / "copy_segmentation"
    shutil.copytree(HIPPOCAMPUS, copy, ignore=shutil.ignore_patterns("*.pt"))
    return copy


def said(bundle: Path, check: str, change: Any) -> list[tuple[str, str]]:
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    return [(one.level, one.message) for one in examine(bundle, thorough=False) if one.check == check]


def test_codes_that_are_there_or_not_at_all(bundle: Path) -> None:
    """A bundle without the block writes no DICOM, and is no worse for it."""
    assert [level for level, _ in said(bundle, "dicom", lambda metadata: None)] == ["ok"]
    assert [level for level, _ in said(bundle, "dicom", lambda m: m.pop("neurobundle_dicom"))] == ["ok"]


def test_a_structure_without_codes(bundle: Path) -> None:
    found = said(bundle, "dicom", lambda m: m["neurobundle_dicom"]["structures"].pop("posterior"))
    assert found == [("fail", "metadata.json neurobundle_dicom has no codes of posterior")]


@pytest.mark.parametrize(
    "code", [["5366008", "SCT"], ["5366008", "SCT", "x" * 65], ["a code too long for it", "SCT", "x"]]
)
def test_a_code_that_dicom_cannot_hold(bundle: Path, code: list[str]) -> None:
    pytest.importorskip("jsonschema")
    found = said(bundle, "metadata", lambda m: m["neurobundle_dicom"]["structures"]["anterior"].update(type=code))
    assert [level for level, _ in found] == ["fail"]
    assert "neurobundle_dicom::structures::anterior::type" in found[0][1]
