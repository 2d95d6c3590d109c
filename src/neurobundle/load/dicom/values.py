"""From stored numbers to what the scanner meant by them: a slope and an intercept, per frame.

A *line* is value = slope x stored + intercept. It stands at the top level of a classic file, or in a functional group
of an enhanced one, shared or per frame (PS3.3 C.11.1, C.7.6.16.2.9). A *real-world* line leads to a physical unit
instead (PS3.3 C.7.6.16.2.11).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError

_MEND = "Export the series again, or leave it out."

#: float32 holds every whole number of this many bits.
_FLOAT32_BITS = 24


class Line(NamedTuple):
    """value = slope x stored + intercept, for stored numbers from ``first`` to ``last``."""

    slope: float = 1.0
    intercept: float = 0.0
    first: float = -math.inf
    last: float = math.inf


#: Stored numbers are the values.
AS_STORED = Line()


def lines_of(dataset: Any, frames: int, file: Path, real_world: bool = False) -> list[Line]:
    """The line of each frame.

    Args:
        dataset: the file's header.
        frames: how many frames it has.
        file: for messages.
        real_world: take the real-world line of a frame that has one.

    Raises:
        InputError: if a slope is 0, or a slope or intercept is no finite number; if the functional groups are not one
            a frame; if a real-world mapping is a table.
    """
    places = [*_places(dataset, frames, file)]
    names = ("PixelValueTransformationSequence", "RealWorldValueMappingSequence")
    return [_line(groups, dataset, names, file, real_world) for groups in places]


def apply_lines(stored: npt.NDArray[Any], lines: Sequence[Line], bits: int, file: Path) -> npt.NDArray[Any]:
    """Values of stored numbers.

    Args:
        stored: (frames, rows, columns).
        lines: one a frame.
        bits: how many bits of a cell count.
        file: for messages.

    Returns:
        (frames, rows, columns): ``stored`` itself where every line leaves it as it is, else float32, or float64 for
        cells of more than 24 bits, which float32 would round. Each value is computed in float64 and rounded once.

    Raises:
        InputError: if a stored number lies outside what its real-world line is defined for, or a value would not be
            finite.
    """
    for frame, line in zip(stored, lines, strict=True):
        if (line.first, line.last) != (-math.inf, math.inf) and not (
            line.first <= frame.min() and frame.max() <= line.last
        ):
            cause = (
                f"it has stored values outside the {line.first:g} to {line.last:g} that its real-world mapping covers"
            )
            raise InputError(cause, "Read it without --real-world.", file=file)
    if all(line[:2] == AS_STORED[:2] for line in lines):
        return stored
    values = np.empty(stored.shape, np.float32 if bits <= _FLOAT32_BITS or stored.dtype == np.float32 else np.float64)
    largest = float(np.finfo(values.dtype).max)
    for out, frame, line in zip(values, stored, lines, strict=True):
        if abs(line.slope) * max(abs(float(frame.min())), abs(float(frame.max()))) + abs(line.intercept) > largest:
            cause = f"its RescaleSlope {line.slope:g} and RescaleIntercept {line.intercept:g} give no finite values"
            raise InputError(cause, _MEND, file=file)
        out[...] = frame * np.float64(line.slope) + line.intercept
    return values


def _places(dataset: Any, frames: int, file: Path) -> Iterator[list[Any]]:
    """The functional groups that speak for each frame, the nearest first; none in a classic file."""
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    if per_frame and len(per_frame) != frames:
        cause = f"it has functional groups for {len(per_frame)} frames, and {frames} frames"
        raise InputError(cause, _MEND, file=file)
    for n in range(frames):
        yield [per_frame[n], *shared] if per_frame else shared


def _line(groups: list[Any], dataset: Any, names: tuple[str, str], file: Path, real_world: bool) -> Line:
    transformation, mapping = names
    if real_world:
        for place in [*groups, dataset]:
            if place.get(mapping):
                return _real_world_line(place.get(mapping), file)
    for group in groups:
        if group.get(transformation):
            return _checked(group.get(transformation)[0], "RescaleSlope", "RescaleIntercept", file)
    return _checked(dataset, "RescaleSlope", "RescaleIntercept", file)


def _real_world_line(items: Any, file: Path) -> Line:
    for item in items:
        if item.get("RealWorldValueSlope") is not None:
            line = _checked(item, "RealWorldValueSlope", "RealWorldValueIntercept", file)
            first, last = (item.get(f"RealWorldValue{end}ValueMapped") for end in ("First", "Last"))
            # Unlike a classic element, their sign is ambiguous in implicit files, and then pydicom leaves them bytes.
            if isinstance(first, int) and isinstance(last, int):
                return line._replace(first=first, last=last)
            return line
    raise InputError("its real-world mapping is a table, not a line", "Read it without --real-world.", file=file)


def _checked(place: Any, slope_name: str, intercept_name: str, file: Path) -> Line:
    """The line of a data set; an absent or empty slope is 1, an intercept 0."""
    numbers = []
    for name, default in ((slope_name, 1.0), (intercept_name, 0.0)):
        try:
            value = place.get(name)
            number = default if value is None or value == "" else float(value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"its {name} is no number", _MEND, file=file) from None
        if not math.isfinite(number):
            raise InputError(f"its {name} is {number}", _MEND, file=file)
        numbers.append(number)
    if numbers[0] == 0:
        raise InputError(f"its {slope_name} is 0, which makes every voxel the same", _MEND, file=file)
    return Line(*numbers)
