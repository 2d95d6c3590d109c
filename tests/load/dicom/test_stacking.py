"""From slices to a grid: countable by hand, then for any orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.load.dicom.elements import Elements
from neurobundle.load.dicom.frames import Frame, Plane
from neurobundle.load.dicom.grouping import part_series
from neurobundle.load.dicom.stacking import Stack, stack
from tests.load.dicom import make

AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])


def frame(position: object, name: str = "a", orientation: np.ndarray = AXIAL) -> Frame:
    """A slice of 2 rows and 3 columns, 2 mm from row to row and 1 mm from column to column."""
    place = np.asarray(position, float)
    marks = dict.fromkeys(["stack", "component", "echo"], None) | {"type": (), "uid": name}
    return Frame(Plane(Path(name), 0, 0, 0, 2, 3), place, orientation, (2.0, 1.0), "classic", marks, (), Elements())


def stack_at(*heights: float) -> Stack:
    return stack([frame((10, 20, height), f"{n}") for n, height in enumerate(heights)])


def checks(stacked: Stack) -> list[str]:
    return [finding.check for finding in stacked.findings]


def order(stacked: Stack) -> list[list[str]]:
    return [[plane.file.name for plane in planes] for planes in stacked.slots]


def test_three_slices() -> None:
    """DICOM's x and y grow to the left and back, RAS+ to the right and front; i runs along a row."""
    stacked = stack_at(0, 5, 10)
    assert stacked.shape == (3, 2, 3)
    assert stacked.affine.tolist() == [[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 5, 0], [0, 0, 0, 1]]
    assert (order(stacked), stacked.findings) == ([["0"], ["1"], ["2"]], ())


def test_slices_in_any_order() -> None:
    assert order(stack_at(10, 0, 5)) == [["1"], ["2"], ["0"]]


def test_a_missing_slice() -> None:
    stacked = stack_at(0, 5, 15, 20)
    assert order(stacked) == [["0"], ["1"], [], ["2"], ["3"]]
    assert stacked.affine[2].tolist() == [0, 0, 5, 0]
    (finding,) = stacked.findings
    assert finding.cause == "gap of 10 mm between slices 2 and 4, expected 5; 1 slice is missing"
    assert (finding.check, finding.file) == ("missing_slices", "1")


def test_two_gaps() -> None:
    stacked = stack_at(0, 5, 15, 20, 25, 40, 45, 50)
    assert [n for n, planes in enumerate(order(stacked)) if not planes] == [2, 6, 7]
    assert "gap of 15 mm between slices 6 and 9, expected 5; 3 slices are missing" in stacked.findings[0].cause


def test_a_duplicate() -> None:
    stacked = stack_at(0, 5, 5, 10)
    assert order(stacked) == [["0"], ["1", "2"], ["3"]]
    assert checks(stacked) == ["duplicates"]


@pytest.mark.parametrize("heights", [(0, 5, 11, 16), (0, 5, 5.5, 10), (0, 5, 12.5, 17.5, 22.5), (0, 1, 3, 6, 10)])
def test_irregular(heights: tuple[float, ...]) -> None:
    assert checks(stack_at(*heights)) == ["irregular_spacing"]


@pytest.mark.parametrize(("off_mm", "good"), [(0.04, True), (0.2, False)])
def test_the_tolerance_of_spacing(off_mm: float, good: bool) -> None:
    """A hundredth of a step."""
    assert (checks(stack_at(0, 5, 10 + off_mm, 15, 20)) == []) == good


def test_many_small_errors_do_not_add_up() -> None:
    """Steps that are each within a hundredth may not bend the stack: the slices must lie on one grid."""
    heights = np.cumsum([0] + [1.01] * 30 + [0.99] * 30)
    assert checks(stack_at(*heights)) == ["irregular_spacing"]


def test_one_slice() -> None:
    assert checks(stack_at(5)) == ["one_slice"]


@pytest.mark.parametrize(("tilt", "good"), [(5e-5, True), (5e-3, False)])
def test_shear(tilt: float, good: bool) -> None:
    stacked = stack([frame((10, 20 + tilt * z, z), f"{z}") for z in range(0, 100, 5)])
    assert checks(stacked) == ([] if good else ["shear"])


def test_slices_against_the_normal() -> None:
    """Row and column of a sagittal slice: the normal points to the left, and so does k."""
    sagittal = np.array([[0.0, 1, 0], [0, 0, -1]])
    stacked = stack([frame((x, 0, 0), f"{x}", sagittal) for x in (0, 4, 8)])
    assert order(stacked) == [["8"], ["4"], ["0"]]
    assert stacked.affine.tolist() == [[0, 0, 4, -8], [-1, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1]]


@st.composite
def rotations(draw: st.DrawFn) -> np.ndarray:
    """A random rotation matrix, from a quaternion."""
    numbers = st.floats(-1, 1).filter(lambda x: abs(x) > 1e-3)
    w, x, y, z = np.array([draw(numbers) for _ in range(4)])
    w, x, y, z = np.array([w, x, y, z]) / np.linalg.norm([w, x, y, z])
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@given(
    rotation=rotations(),
    first=st.tuples(*[st.floats(-200, 200)] * 3),
    step=st.floats(0.3, 8),
    count=st.integers(2, 12),
    seed=st.integers(0, 99),
)
def test_any_orientation(
    rotation: np.ndarray, first: tuple[float, float, float], step: float, count: int, seed: int
) -> None:
    """The affine is right to a nanometre, in whatever order the slices come."""
    orientation = rotation[:2]
    frames = [frame(np.array(first) + k * step * np.cross(*orientation), f"{k}", orientation) for k in range(count)]
    np.random.default_rng(seed).shuffle(frames)
    (part,) = part_series(frames)
    stacked = stack(part.frames)
    assert stacked.findings == ()
    assert order(stacked) == [[f"{k}"] for k in range(count)]
    assert np.abs(stacked.affine - make.affine_of(first, orientation, (2.0, 1.0), step)).max() < 1e-6
