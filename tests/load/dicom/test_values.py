from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobundle.load.dicom.pixels import is_lossy
from neurobundle.load.dicom.syntax import EXPLICIT_LITTLE, IMPLICIT_LITTLE

from .pixel_files import (
    BRAIN,
    NAME,
    dataset,
    read,
    refused,
    save,
)

pydicom = pytest.importorskip("pydicom")

from pydicom.dataset import Dataset  # noqa: E402


def test_slope_and_intercept(tmp_path: Path) -> None:
    path = save(dataset(BRAIN, RescaleSlope="0.25", RescaleIntercept="-10"), tmp_path / "a.dcm")
    assert read(path).dtype == np.float32
    np.testing.assert_array_equal(read(path), BRAIN / 4 - 10)


def test_slope_1_keeps_the_integers(tmp_path: Path) -> None:
    assert read(save(dataset(BRAIN, RescaleSlope="1.0", RescaleIntercept="0"), tmp_path / "a.dcm")).dtype == np.uint16


def test_float64_where_float32_would_round(tmp_path: Path) -> None:
    cells = np.array([[[2**31 + 1, 2**24 + 1]]], np.uint32)
    values = read(save(dataset(cells, RescaleSlope="2", RescaleIntercept="0"), tmp_path / "a.dcm"))
    assert values.tolist() == [[[2**32 + 2, 2**25 + 2]]]


def group(sequence: str, **tags: Any) -> Dataset:
    inner, outer = Dataset(), Dataset()
    for keyword, value in tags.items():
        setattr(inner, keyword, value)
    setattr(outer, sequence, [inner])
    return outer


def line(slope: float, intercept: float = 0) -> Dataset:
    return group("PixelValueTransformationSequence", RescaleSlope=slope, RescaleIntercept=intercept)


def test_a_slope_per_frame(tmp_path: Path) -> None:
    cells = np.ones((3, 2, 2), np.int16)
    made = dataset(cells, RescaleSlope=7, RescaleIntercept=7)
    made.PerFrameFunctionalGroupsSequence = [line(2), line(3, 0.5), line(1)]
    assert read(save(made, tmp_path / "a.dcm"))[:, 0, 0].tolist() == [2, 3.5, 1]


def test_a_shared_slope(tmp_path: Path) -> None:
    made = dataset(np.ones((2, 2, 2), np.int16))
    made.SharedFunctionalGroupsSequence = [line(2, 1)]
    made.PerFrameFunctionalGroupsSequence = [Dataset(), line(5)]
    assert read(save(made, tmp_path / "a.dcm"))[:, 0, 0].tolist() == [3, 5]


def mapped(first: int = 0, last: int = 4095, slope: float = 0.5) -> Dataset:
    item = Dataset()
    item.RealWorldValueFirstValueMapped, item.RealWorldValueLastValueMapped = first, last
    item.RealWorldValueSlope, item.RealWorldValueIntercept = slope, 1.0
    return item


@pytest.mark.parametrize("syntax", [EXPLICIT_LITTLE, IMPLICIT_LITTLE])
def test_real_world_values(tmp_path: Path, syntax: str) -> None:
    """Only where they were asked for, and instead of the rescale slope."""
    made = dataset(BRAIN, RescaleSlope=3, RescaleIntercept=0, RealWorldValueMappingSequence=[mapped()])
    path = save(made, tmp_path / "a.dcm", syntax)
    np.testing.assert_array_equal(read(path), 3.0 * BRAIN)
    np.testing.assert_array_equal(read(path, real_world=True), BRAIN / 2 + 1)
    np.testing.assert_array_equal(read(path), 3.0 * BRAIN)


def test_real_world_values_where_there_are_none(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(save(dataset(BRAIN), tmp_path / "a.dcm"), real_world=True), BRAIN)


def test_real_world_outside_its_range(tmp_path: Path) -> None:
    made = dataset(BRAIN, RealWorldValueMappingSequence=[mapped(last=100)])
    refused(save(made, tmp_path / "a.dcm"), "outside the 0 to 100", real_world=True)


def test_real_world_table(tmp_path: Path) -> None:
    item = mapped()
    del item.RealWorldValueSlope
    item.RealWorldValueLUTData = [1.0, 2.0]
    path = save(dataset(BRAIN, RealWorldValueMappingSequence=[item]), tmp_path / "a.dcm")
    refused(path, "is a table", real_world=True)


@pytest.mark.parametrize(
    ("syntax", "tag", "lossy"),
    [(EXPLICIT_LITTLE, None, False), (EXPLICIT_LITTLE, "01", True), ("1.2.840.10008.1.2.4.81", None, True)],
)
def test_lossy(syntax: str, tag: str | None, lossy: bool) -> None:
    assert is_lossy(syntax, tag) is lossy


@pytest.mark.parametrize(
    ("slope", "cause"),
    [
        pytest.param("0", "RescaleSlope is 0", id="45-zero"),
        pytest.param("0.0", "RescaleSlope is 0", id="45-zero-float"),
        pytest.param("nan", "RescaleSlope is nan", id="45-nan"),
        pytest.param("-inf", "RescaleSlope is -inf", id="45-infinite"),
        pytest.param("1e308", "no finite values", id="45-absurd"),
        pytest.param(NAME, "RescaleSlope is no number", id="45-text"),
        pytest.param("1\\2", "RescaleSlope is no number", id="45-two"),
    ],
)
def test_a_slope_that_is_none(tmp_path: Path, slope: str, cause: str) -> None:
    """faults.md 45; written by hand, since pydicom refuses to write some of them."""
    path = save(dataset(BRAIN, RescaleSlope="123456", RescaleIntercept="0"), tmp_path / "a.dcm")
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x53\x10DS")
    value = slope.encode() + b" " * (len(slope) % 2)
    path.write_bytes(content[: at + 6] + len(value).to_bytes(2, "little") + value + content[at + 14 :])
    refused(path, cause)


def test_45_in_a_functional_group(tmp_path: Path) -> None:
    made = dataset(np.ones((2, 2, 2), np.int16), PerFrameFunctionalGroupsSequence=[line(1), line(0)])
    refused(save(made, tmp_path / "a.dcm"), "RescaleSlope is 0")


def test_45_in_a_real_world_mapping(tmp_path: Path) -> None:
    made = dataset(BRAIN, RealWorldValueMappingSequence=[mapped(slope=float("inf"))])
    refused(save(made, tmp_path / "a.dcm"), "RealWorldValueSlope is inf", real_world=True)
