"""Values of DICOM elements, taken from their bytes: no decoding of names, no warnings that quote a value.

An *element* is a tag with a value. *Elements* here are a view on one or more data sets, the nearest first, so that an
enhanced file's frame, its shared functional groups and its top level read like one classic header. What cannot be
parsed is NaN or nothing, for the checks to name; nothing here raises for a damaged value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

#: numpy's names for the binary value representations (PS3.5 6.2).
_BINARY = {"US": "u2", "SS": "i2", "UL": "u4", "SL": "i4", "UV": "u8", "SV": "i8", "FL": "f4", "FD": "f8"}

#: Private elements that are read here, with the value representation that their makers document (pydicom's private
#: dictionary has the same): an implicit or re-encoded file does not say.
PRIVATE = {
    0x0019100A: ("SIEMENS MR HEADER", "US"),  # NumberOfImagesInMosaic
    0x0019100C: ("SIEMENS MR HEADER", "IS"),  # B_value
    0x00291010: ("SIEMENS CSA HEADER", "OB"),  # CSA Image Header Info
    0x20011003: ("Philips Imaging DD 001", "FL"),  # Diffusion B-Factor
    0x20051011: ("Philips MR Imaging DD 001", "CS"),  # MR Image Type: M, P, R, I
    0x00431039: ("GEMS_PARM_01", "IS"),  # the first is the b-value
    0x0043102F: ("GEMS_PARM_01", "SS"),  # 0 magnitude, 1 phase, 2 real, 3 imaginary
}


@lru_cache(maxsize=512)
def tag_of(name: str | int) -> int:
    """The tag of a keyword of PS3.6; a number is a tag already."""
    if isinstance(name, int):
        return name
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(name)
    if tag is None:
        raise KeyError(name)
    return int(tag)


@lru_cache(maxsize=512)
def _dictionary_vr(tag: int) -> str:
    from pydicom.datadict import dictionary_VR

    try:
        return dictionary_VR(tag)
    except KeyError:
        return PRIVATE[tag][1] if tag in PRIVATE else "UN"


class Elements:
    """A view on data sets.

    Args:
        datasets: pydicom data sets, or mappings from tag to element; the first that has a value speaks.
    """

    def __init__(self, *datasets: Any) -> None:
        self._datasets = datasets

    def behind(self, *nearer: Any) -> Elements:
        """The same view with other data sets in front of it."""
        return Elements(*nearer, *self._datasets)

    def raw(self, name: str | int) -> Any:
        """The element under a keyword or tag, if it has a value, else None."""
        tag = tag_of(name)
        for dataset in self._datasets:
            element = dataset.get(tag) if isinstance(dataset, dict) else _item(dataset, tag)
            if element is not None and _has_value(element):
                return element
        return None

    def __contains__(self, name: str | int) -> bool:
        """Whether the tag is there, even if it is empty."""
        tag = tag_of(name)
        return any(tag in dataset for dataset in self._datasets)

    def numbers(self, name: str | int) -> tuple[float, ...]:
        """All values as numbers; a value that is none is NaN. Nothing if the element is absent or empty."""
        element = self.raw(name)
        if element is None:
            return ()
        value = element.value
        if isinstance(value, bytes):
            code = _BINARY.get(_vr(element))
            if code is None:
                return tuple(_number(part) for part in _parts(value))
            order = "<" if element.is_little_endian else ">"
            whole = value[: len(value) // int(code[1]) * int(code[1])]
            return tuple(float(number) for number in np.frombuffer(whole, order + code))
        return tuple(_number(part) for part in (value if _is_many(value) else [value]))

    def number(self, name: str | int) -> float | None:
        """The first value as a number, or None if there is none or it is not finite."""
        first = self.numbers(name)[:1]
        return first[0] if first and np.isfinite(first[0]) else None

    def whole(self, name: str | int) -> int | None:
        """The first value as a whole number, or None."""
        number = self.number(name)
        return None if number is None else int(number)

    def words(self, name: str | int, upper: bool = True) -> tuple[str, ...]:
        """All values as ASCII words without surrounding blanks, in upper case unless told otherwise."""
        element = self.raw(name)
        if element is None:
            return ()
        value = element.value
        if not isinstance(value, bytes):
            value = "\\".join(str(part) for part in (value if _is_many(value) else [value])).encode("ascii", "replace")
        return tuple(part.upper() if upper else part for part in _parts(value))

    def text(self, name: str | int) -> str:
        """The first value as an upper-case ASCII word, or an empty string."""
        return next(iter(self.words(name)), "")

    def block(self, tag: int) -> bytes:
        """The bytes of an element, or none."""
        element = self.raw(tag)
        return element.value if element is not None and isinstance(element.value, bytes) else b""

    def private(self, tag: int) -> bool:
        """Whether a private element is there and its block belongs to who is expected (PS3.5 7.8)."""
        creator = self.text((tag & 0xFFFF0000) | (tag >> 8 & 0xFF))
        return creator == PRIVATE[tag][0].upper() and tag in self

    def items(self, name: str | int) -> Sequence[Any]:
        """The items of a sequence, as data sets; none if it is damaged."""
        tag = tag_of(name)
        for dataset in self._datasets:
            if tag in dataset:
                # pydicom parses a sequence only now, and may stumble over anything in it.
                try:
                    value = dataset[tag].value
                except Exception:
                    return []
                if _is_many(value):
                    return [item for item in value if hasattr(item, "get_item")]
        return []


def _item(dataset: Any, tag: int) -> Any:
    return dataset.get_item(tag) if tag in dataset else None


def _has_value(element: Any) -> bool:
    value = element.value
    if isinstance(value, bytes):
        return bool(value if _vr(element) in _BINARY else value.strip(b" \0"))
    return value is not None and value != "" and (not _is_many(value) or len(value) > 0)


def _is_many(value: Any) -> bool:
    return not isinstance(value, (str, bytes)) and hasattr(value, "__len__")


def _vr(element: Any) -> str:
    vr = element.VR
    return _dictionary_vr(int(element.tag)) if vr in (None, "UN") else str(vr)


def _parts(value: bytes) -> list[str]:
    return [part.strip(" \0") for part in value.decode("ascii", "replace").split("\\")]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
