"""From the frames of one volume to a grid: slices by their place along the normal, and by nothing else.

A *slot* is one step of the grid along the normal; a slot without a frame is a missing slice, one with several a
duplicate. *Off-grid* is how far a slice lies from its slot; *drift* how far slices move sideways. All checks return
findings, with the tolerances below; InstanceNumber plays no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from neurobundle.load.checks import SHEAR_TOLERANCE
from neurobundle.load.dicom.frames import Array, Frame, Plane
from neurobundle.load.dicom.grouping import SAME_PLACE_MM, place_numbers
from neurobundle.load.gate import Finding, Level, refuse, warn

#: A slice may lie off its slot by this share of a step: highdicom's tolerance of spacing (highdicom.spatial).
SPACING_TOLERANCE = 0.01

#: Positions that are written with two decimals are off by this much, whatever the step; see SAME_PLACE_MM.
ROUNDING_MM = 0.02

#: More missing slices than this share of all slots cannot be filled: there is too little between which to interpolate.
MOST_MISSING = 0.5

#: Pixel edges of one volume agree to this share; what is written with four digits does.
PIXEL_TOLERANCE = 1e-3

_EXPORT = "Export the series again; if slices were lost, ask for the whole series."

#: DICOM's x grows to the left and its y to the back, RAS+ to the right and to the front (PS3.3 C.7.6.2.1.1).
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


class Stack(NamedTuple):
    """A volume's grid, and where each of its slices is.

    Attributes:
        shape: (i, j, k): columns, rows, slots.
        affine: (4, 4), voxel index to RAS+ mm; NaN if the geometry is refused.
        slots: for each k the planes that lie there: none is a missing slice, several are duplicates.
        findings: of all checks.
    """

    shape: tuple[int, int, int]
    affine: Array
    slots: tuple[tuple[Plane, ...], ...]
    findings: tuple[Finding, ...]


def stack(frames: Sequence[Frame]) -> Stack:
    """The grid of one volume.

    Args:
        frames: its frames, in any order.
    """
    findings = [*gathered_faults(frames), *check_alike(frames)]
    placed = [frame for frame in frames if frame.has_place and frame.spacing is not None]
    rows, columns = Counter((f.plane.rows, f.plane.columns) for f in frames).most_common(1)[0][0]
    if not placed:
        shape, affine = (columns, rows, len(frames)), np.full((4, 4), np.nan)
        return Stack(shape, affine, tuple((frame.plane,) for frame in frames), tuple(findings))
    numbers = place_numbers(placed)
    at: list[list[Frame]] = [[] for _ in range(int(numbers.max()) + 1)]
    for frame, number in zip(placed, numbers, strict=True):
        at[number].append(frame)
    firsts = [here[0] for here in at]
    findings += [*check_drift(firsts), *check_duplicates(at)]
    step, slots, spaced = check_spacing(firsts)
    planes: list[tuple[Plane, ...]] = [()] * (slots[-1] + 1)
    for slot, here in zip(slots, at, strict=True):
        planes[slot] = tuple(frame.plane for frame in here)
    affine = affine_of(firsts[0], step)
    return Stack((columns, rows, len(planes)), affine, tuple(planes), (*findings, *spaced))


def affine_of(first: Frame, step_mm: float) -> Array:
    """The affine of a stack, (4, 4): i along a row, j along a column, k along their normal, in RAS+ mm.

    Args:
        first: the slice with k = 0.
        step_mm: from one slice to the next.
    """
    assert first.orientation is not None
    assert first.spacing is not None
    assert first.position is not None
    along_row, along_column = first.orientation
    affine = np.eye(4)
    affine[:3, 0] = along_row * first.spacing[1]
    affine[:3, 1] = along_column * first.spacing[0]
    affine[:3, 2] = np.cross(along_row, along_column) * step_mm
    affine[:3, 3] = first.position
    affine[:3] *= LPS_TO_RAS[:, None]
    return affine + 0.0  # -0.0 becomes 0.0


def gathered_faults(frames: Sequence[Frame]) -> list[Finding]:
    """The faults of all frames, one finding a cause: it names the first file, and counts the others."""
    files: dict[tuple[str, Level, str, str], dict[str, None]] = {}
    for frame in frames:
        for fault in frame.faults:
            files.setdefault((fault.check, fault.level, fault.cause, fault.way_out), {})[fault.file] = None
    found = []
    for (check, level, cause, way_out), named in files.items():
        more = f"; the same in {len(named) - 1} more files" if len(named) > 1 else ""
        found.append(Finding(check, level, cause + more, way_out, next(iter(named))))
    return found


def check_alike(frames: Sequence[Frame]) -> list[Finding]:
    """Whether all slices have one size and one pixel spacing; the file that differs is named."""
    found = []
    # A file that holds no pixels has a better-named fault.
    sizes = Counter((f.plane.rows, f.plane.columns) for f in frames if f.plane.rows and f.plane.columns)
    if len(sizes) > 1:
        rows, columns = sizes.most_common(1)[0][0]
        odd = next(f for f in frames if (f.plane.rows, f.plane.columns) != (rows, columns) and f.plane.rows)
        cause = f"it has {odd.plane.rows} x {odd.plane.columns} pixels, the other slices {rows} x {columns}"
        found.append(refuse("size", cause, "Take it out, or export the series again.", odd.plane.file))
    spaced = [frame for frame in frames if frame.spacing is not None]
    if spaced:
        usual = np.median(np.array([frame.spacing for frame in spaced]), axis=0)
        for frame in spaced:
            if not np.allclose(frame.spacing or 0, usual, rtol=PIXEL_TOLERANCE, atol=0):
                mine = "{:g} x {:g}".format(*(frame.spacing or (0, 0)))
                cause = f"its pixels are {mine} mm, those of the other slices {usual[0]:g} x {usual[1]:g} mm"
                found.append(refuse("spacing", cause, "Take it out, or export the series again.", frame.plane.file))
                break
    return found


def check_duplicates(at: Sequence[Sequence[Frame]]) -> list[Finding]:
    """Warn of places with several slices; whether their pixels are the same shows when they are read.

    Args:
        at: the frames at each place.
    """
    twice = [here for here in at if len(here) > 1]
    if not twice:
        return []
    extra = sum(len(here) - 1 for here in twice)
    cause = f"{len(twice)} of {len(at)} places have more than one slice, {extra} too many; copies are dropped"
    return [warn("duplicates", cause, "Delete the copies.", twice[0][1].plane.file)]


def check_drift(slices: Sequence[Frame]) -> list[Finding]:
    """Whether slices lie straight behind each other along their normal: a sheared or tilted stack is no grid.

    Tolerance: the gate's for the angle between voxel axes, over the length of the stack, and the rounding of positions.

    Args:
        slices: one a place, in their order.
    """
    assert slices[0].orientation is not None
    positions = np.array([frame.position for frame in slices])
    sideways = (positions - positions[0]) @ slices[0].orientation.T
    normal = np.cross(*slices[0].orientation)
    length = float((positions[-1] - positions[0]) @ normal)
    drift = np.linalg.norm(sideways, axis=1)
    worst = int(drift.argmax())
    if drift[worst] <= max(ROUNDING_MM, SHEAR_TOLERANCE * length):
        return []
    file = slices[worst].plane.file
    # A stack is sheared if the same slant explains all slices; else single ones went astray.
    slanted = np.outer((positions - positions[0]) @ normal / length, sideways[-1])
    if np.linalg.norm(sideways - slanted, axis=1).max() <= max(ROUNDING_MM, 0.01 * drift[-1]):
        angle = np.degrees(np.arctan2(drift[-1], length))
        cause = f"its slices are sheared: each lies {drift[-1] / (len(slices) - 1):.3g} mm beside the last"
        cause += f", a tilt of {angle:.2f} degrees"
        return [refuse("shear", cause, "Ask for a series that was not tilted, or resample it first.", file)]
    cause = f"slice {worst + 1} of {len(slices)} lies {drift[worst]:.3g} mm beside the first one's normal"
    return [refuse("shear", cause, _EXPORT, file)]


def check_spacing(slices: Sequence[Frame]) -> tuple[float, list[int], list[Finding]]:
    """Whether slices are equally far apart, but for missing ones.

    Args:
        slices: one a place, in their order.

    Returns:
        The step in mm, the slot of each slice, and what was found.
    """
    everyone = list(range(len(slices)))
    if len(slices) == 1:
        return _one_slice(slices[0])
    assert slices[0].orientation is not None
    along = np.array([frame.position for frame in slices]) @ np.cross(*slices[0].orientation)
    gaps = np.diff(along)
    usual = float(np.median(gaps))
    counts = np.maximum(np.round(gaps / usual), 1).astype(int)
    slots = np.concatenate([[0], np.cumsum(counts)])
    step = float((along[-1] - along[0]) / slots[-1])
    off_grid = np.abs(along - along[0] - slots * step)
    tolerance = max(SPACING_TOLERANCE * usual, ROUNDING_MM)
    missing = int(slots[-1] + 1 - len(slices))
    if off_grid.max() > tolerance or np.abs(gaps - counts * usual).max() > 2 * tolerance * counts.max():
        worst = int(np.abs(gaps - usual).argmax())
        cause = f"its slices are not equally spaced: {gaps[worst]:.3g} mm between slices {worst + 1} and {worst + 2}"
        cause += f" of {len(slices)}, expected {usual:.3g}"
        return usual, everyone, [refuse("irregular_spacing", cause, _EXPORT, slices[worst + 1].plane.file)]
    if missing:
        return step, slots.tolist(), [_gap(slices, gaps, slots, missing)]
    return step, everyone, _check_stated_spacing(slices[0], step)


def _gap(slices: Sequence[Frame], gaps: Array, slots: Array, missing: int) -> Finding:
    worst = int(gaps.argmax())
    before, after = int(slots[worst]) + 1, int(slots[worst + 1]) + 1
    lost = "1 slice is" if missing == 1 else f"{missing} slices are"
    cause = f"gap of {gaps[worst]:.3g} mm between slices {before} and {after}, expected {np.median(gaps):.3g}"
    file: Path = slices[worst].plane.file
    if missing > MOST_MISSING * (int(slots[-1]) + 1):
        return refuse("irregular_spacing", f"{cause}; {lost} missing, too many to fill", _EXPORT, file)
    return refuse("missing_slices", f"{cause}; {lost} missing", f"{_EXPORT} Or fill them with --allow-gaps.", file)


def _one_slice(frame: Frame) -> tuple[float, list[int], list[Finding]]:
    """A single slice, as thick as its header says."""
    step = frame.elements.number("SpacingBetweenSlices") or frame.elements.number("SliceThickness") or 1.0
    cause = "it is one slice, and one slice is no volume"
    found = refuse("one_slice", cause, "Give the folder with the whole series.", frame.plane.file)
    return abs(step), [0], [found]


def _check_stated_spacing(frame: Frame, step: float) -> list[Finding]:
    """Warn where every second (third ...) slice seems to be missing, by SpacingBetweenSlices (0018,0088)."""
    stated = frame.elements.number("SpacingBetweenSlices")
    if stated is None or stated <= SAME_PLACE_MM or step < 1.5 * stated:
        return []
    if abs(step / stated - round(step / stated)) > SPACING_TOLERANCE * round(step / stated):
        return []
    cause = f"its slices are {step:.3g} mm apart, and its header says {stated:.3g}: slices may be missing"
    return [warn("stated_spacing", cause, "Compare the number of slices with the scanner's.")]
