"""What is scored: *structures*, each a name and the label values that it is made of.

A *region* is a structure of several values, and regions may overlap: the whole tumour holds the tumour core. A label
map is turned into *codes*: in a voxel's code, bit k says whether it lies in structure k. So one pass over the voxels
serves up to eight structures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, SettingError

#: Name to label values, in the order of the report.
Structures: TypeAlias = dict[str, tuple[int, ...]]

#: Structures that one code of 8 bits holds.
CODE_BITS = 8

#: Labels up to here are looked up in a table; larger ones (some atlases number by millions) are searched for.
_LARGEST_IN_TABLE = 1 << 16


def as_structures(given: Mapping[Any, Any]) -> Structures:
    """Structures from either way of writing them.

    Args:
        given: ``{1: "front", 2: "back"}``, as a bundle names its labels; or ``{"WT": [1, 2, 3], "ET": 3}``, as
            nnU-Net's ``dataset.json`` names regions. Its value 0 or the name ``background`` is left out.

    Raises:
        SettingError: if there is nothing to score, a value is no whole number above 0, or a name stands twice.

    >>> as_structures({1: "front", 2: "back"})
    {'front': (1,), 'back': (2,)}
    >>> as_structures({"background": 0, "WT": [1, 2, 3], "ET": 3})
    {'WT': (1, 2, 3), 'ET': (3,)}
    """
    structures: Structures = {}
    for key, value in given.items():
        name, values = (str(value), [key]) if _is_number(key) and isinstance(value, str) else (str(key), value)
        listed = list(values) if isinstance(values, (list, tuple)) else [values]
        if name == "background" or listed in ([0], ["0"]):
            continue
        if not listed or not all(_is_number(v) and int(v) > 0 for v in listed):
            raise SettingError(
                f"the structure {name!r} has the values {listed}",
                "Give whole numbers above 0, for example WT: [1, 2, 3].",
            )
        if name in structures:
            raise SettingError(f"two structures are called {name!r}", "Give each a name of its own.")
        structures[name] = tuple(sorted({int(v) for v in listed}))
    if not structures:
        raise SettingError("there is no structure to score", "Name some label values above 0.")
    return structures


def parse_structures(text: str) -> Structures:
    """Structures from a command line: ``1,2``, each named by its number, or the path of a JSON file.

    Args:
        text: numbers with commas, or a path.

    Returns:
        As :func:`as_structures`; the file may also be nnU-Net's ``dataset.json``, which has them under ``labels``.

    Raises:
        SettingError: if it is neither, or the file cannot be read.

    >>> parse_structures("1,2")
    {'1': (1,), '2': (2,)}
    """
    words = [word.strip() for word in text.split(",")]
    if all(word.isdecimal() for word in words):
        return as_structures({int(word): str(int(word)) for word in words})
    path = Path(text)
    if not path.is_file():
        raise SettingError(
            f"--labels is {text!r}, neither numbers nor a file",
            'Give --labels 1,2 or a JSON file like {"WT": [1, 2, 3], "ET": 3}.',
        )
    try:
        given = json.loads(path.read_bytes())
    except ValueError as error:
        raise SettingError(f"it is not JSON: {error}", "Mend the file.", file=path) from error
    if isinstance(given, dict) and isinstance(given.get("labels"), dict):
        given = given["labels"]
    if not isinstance(given, dict):
        raise SettingError("it holds no mapping", 'Write it like {"WT": [1, 2, 3], "ET": 3}.', file=path)
    try:
        return as_structures(given)
    except SettingError as error:
        error.file = error.file or str(path)
        raise


def values_of(structures: Structures) -> tuple[int, ...]:
    """All label values that belong to a structure, sorted."""
    return tuple(sorted({value for values in structures.values() for value in values}))


def whole_numbers(data: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """A label map in a whole-number type, without a copy where it is in one.

    Args:
        data: of any real type.
        what: begins the error: ``the prediction``.

    Raises:
        InputError: if a value is not whole, or not finite.

    >>> whole_numbers(np.array([0.0, 2.0]), "it").dtype
    dtype('int32')
    """
    if data.dtype == bool:
        return data.view(np.uint8)
    if data.dtype.kind in "iu":
        return data
    if data.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            whole = data.astype(np.int32)
        if np.array_equal(whole, data):
            return whole
    raise InputError(f"{what} is no label map: its values are not all whole numbers", "Give label maps.")


def is_label_map(data: npt.NDArray[Any]) -> bool:
    """Whether all values are whole numbers."""
    try:
        whole_numbers(data, "it")
    except InputError:
        return False
    return True


def codes_of(labels: npt.NDArray[Any], structures: Sequence[Sequence[int]]) -> npt.NDArray[np.uint8]:
    """Which structures each voxel lies in.

    Args:
        labels: whole numbers, of any shape.
        structures: the values of each, eight at most.

    Returns:
        Of the same shape; bit k is set in the voxels of structure k.

    >>> codes_of(np.array([0, 1, 2, 9]), [(1, 2), (2,)])
    array([0, 1, 3, 0], dtype=uint8)
    """
    bits: dict[int, int] = {}
    for k, values in enumerate(structures):
        for value in values:
            bits[value] = bits.get(value, 0) | 1 << k
    return translate(labels, bits, np.uint8)


def translate(labels: npt.NDArray[Any], table: Mapping[int, int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Each voxel's value replaced by what a table says of it; by 0 where it says nothing.

    Args:
        labels: whole numbers, of any shape.
        table: value to replacement.
        dtype: of the result.

    >>> translate(np.array([-1, 7, 70000]), {7: 1, 70000: 2}, np.uint8)
    array([0, 1, 2], dtype=uint8)
    """
    low, high = _range(labels)
    if low < 0 or high >= _LARGEST_IN_TABLE:
        known = np.array(sorted(table))
        places = np.minimum(np.searchsorted(known, labels), len(known) - 1)
        new = np.array([table[int(value)] for value in known], dtype)
        return np.where(known[places] == labels, new[places], np.zeros(1, dtype))
    whole = np.zeros(high + 1, dtype)
    for value, replacement in table.items():
        if value <= high:
            whole[value] = replacement
    return whole.take(labels)


def by_eights(structures: Structures) -> Iterator[dict[str, tuple[int, ...]]]:
    """The structures in lots that fit into one code."""
    names = list(structures)
    for start in range(0, len(names), CODE_BITS):
        yield {name: structures[name] for name in names[start : start + CODE_BITS]}


def foreground_box(*label_maps: npt.NDArray[Any]) -> tuple[slice, ...] | None:
    """The smallest box that holds all voxels above or below 0 of some label maps of one shape, or None.

    >>> foreground_box(np.array([[0, 0, 0], [0, 5, 0]]), np.array([[0, 0, 1], [0, 0, 0]]))
    (slice(0, 2, None), slice(1, 3, None))
    """
    boxes = [box for box in map(_box, label_maps) if box is not None]
    if not boxes:
        return None
    return box_around(boxes)


def box_around(boxes: Sequence[tuple[slice, ...]]) -> tuple[slice, ...]:
    """The smallest box that holds some boxes.

    >>> box_around([(slice(0, 2),), (slice(1, 5),)])
    (slice(0, 5, None),)
    """
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )


def _box(labels: npt.NDArray[Any]) -> tuple[slice, ...] | None:
    if not labels.size:
        return None
    # Along the axis that varies slowest in memory first: the rest is done within the slices that it leaves.
    order = sorted(range(labels.ndim), key=lambda axis: -abs(labels.strides[axis]))
    view = labels.transpose(order)
    first = _extent(np.bitwise_or.reduce(view.reshape(len(view), -1), axis=1))
    if first is None:
        return None
    rest = np.bitwise_or.reduce(view[first], axis=0)
    sides = [first]
    for axis in range(rest.ndim):
        others = tuple(n for n in range(rest.ndim) if n != axis)
        side = _extent(np.bitwise_or.reduce(rest, axis=others) if others else rest)
        assert side is not None
        sides.append(side)
    return tuple(sides[order.index(axis)] for axis in range(labels.ndim))


def _extent(line: npt.NDArray[Any]) -> slice | None:
    where = np.flatnonzero(line)
    return slice(int(where[0]), int(where[-1]) + 1) if len(where) else None


def _range(labels: npt.NDArray[Any]) -> tuple[int, int]:
    if labels.dtype in (np.uint8, np.uint16):  # a table for the whole type costs less than looking
        return 0, int(np.iinfo(labels.dtype).max)
    return (int(labels.min()), int(labels.max())) if labels.size else (0, 0)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        return value.isdecimal()
    return isinstance(value, (int, np.integer)) or (isinstance(value, float) and value.is_integer())
