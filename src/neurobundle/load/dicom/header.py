"""The header of one DICOM file: where its pixels lie, how they are stored, and whether the file can hold them.

A *layout* is what the header promises: so many frames of so many rows and columns, each *cell* of so many bits. A
header is believed only after the file's size was held against it: nothing is allocated before. No value of a patient's
tag enters a message, and neither does what pydicom says, which may quote one.
"""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from neurobundle.errors import InputError, require
from neurobundle.load.dicom.syntax import (
    DEFLATED,
    ENCAPSULATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    NATIVE,
    RLE,
)

AGAIN = "Export or copy the file again."
_CONVERT = "Ask the scanner or the archive for an uncompressed export as MR images."

#: The elements that hold pixels (PS3.6): Float, Double Float and plain Pixel Data, with their bits.
PIXEL_ELEMENTS = {0x7FE00008: 32, 0x7FE00009: 64, 0x7FE00010: 0}

#: Value representations that pixels may have; explicit ones are followed by a 4-byte length (PS3.5 7.1.2).
_PIXEL_VRS = {b"OB", b"OW", b"OF", b"OD", b"UN"}
#: Explicit value representations with a 4-byte length in the file meta information (PS3.5 7.1.2).
_LONG_VRS = {b"OB", b"OW", b"UN", b"UT", b"SQ"}
_UNDEFINED_LENGTH = 0xFFFFFFFF

#: The syntax of a file that states none, by pydicom's guess: (implicit, little endian).
_UNSTATED = {(True, True): IMPLICIT_LITTLE, (False, True): EXPLICIT_LITTLE, (False, False): EXPLICIT_BIG}

#: All that reading pixels needs. pydicom skips the rest, so no name is ever decoded.
TAGS = [
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "RealWorldValueMappingSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
]

#: A deflated file is unpacked this far to find its pixels; headers of MR images take some 100 KiB.
_MOST_DEFLATED_HEADER = 64 << 20
#: A deflate stream expands at most 1032 times (zlib, "Maximum expansion factor", zlib.net/zlib_tech.html).
_MOST_EXPANSION = 1032

#: A compressed file may promise this much whatever its size: a blank slice packs into a hundred bytes. Beyond it, it
#: may promise this many times its own size.
_FREE_PROMISE = 64 << 20
_MOST_COMPRESSION = 1000


@dataclass(frozen=True)
class Layout:
    """How the pixels of one file are stored.

    Attributes:
        file: the file.
        syntax: UID of its transfer syntax.
        frames: number of frames, 1 in a classic file.
        rows: of a frame.
        columns: of a frame.
        dtype: of a cell, in the file's byte order.
        bits_stored: how many bits of a cell count.
        high_bit: the highest of them.
        photometric: MONOCHROME1 or MONOCHROME2.
        value_at: where the pixels begin in the file, or in what a deflated file unpacks to.
        length: of the pixel element's value in bytes; None if it is undefined, which means encapsulated.
        words: whether a big-endian file stores bytes in swapped pairs.
    """

    file: Path
    syntax: str
    frames: int
    rows: int
    columns: int
    dtype: np.dtype[Any]
    bits_stored: int
    high_bit: int
    photometric: str
    value_at: int = 0
    length: int | None = None
    words: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, rows, columns)."""
        return self.frames, self.rows, self.columns

    @property
    def n_bytes(self) -> int:
        """How many bytes the cells take when they are not compressed, whole words in a file of words."""
        size = self.frames * self.rows * self.columns * self.dtype.itemsize
        return size + size % 2 if self.words else size


@dataclass(frozen=True)
class Opened:
    """A file whose header was read.

    Attributes:
        layout: how its pixels are stored.
        dataset: pydicom's dataset with the tags that reading pixels needs, none of a patient.
        stream: the file, or what a deflated file unpacks to.
        size: of the stream, in bytes.
    """

    layout: Layout
    dataset: Any
    stream: BufferedIOBase
    size: int


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom, whose warnings quote values, and stop it from judging what nobody here reads."""
    config: Any = require("pydicom.config", extra="dicom", feature="reading DICOM")
    logger = logging.getLogger("pydicom")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings(), config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


@contextmanager
def open_pixels(file: Path) -> Iterator[Opened]:
    """Open a DICOM file and check that it can hold the pixels that its header promises.

    Args:
        file: the file.

    Raises:
        InputError: if it is no DICOM image, is truncated, or holds what is not supported.
        MissingPackageError: if pydicom is not installed.
    """
    try:
        raw = file.open("rb")
    except OSError as error:
        cause = f"it cannot be read ({(error.strerror or 'no reason given').lower()})"
        raise InputError(cause, "Check the path and its permissions.", file=file) from None
    with raw, quiet_pydicom():
        opened = _read_header(file, raw)
        require_room(opened)
        yield opened


def _read_header(file: Path, raw: BufferedIOBase) -> Opened:
    try:
        dataset, stream, syntax = parse(raw, _tags())
        layout = layout_of(file, dataset, stream, syntax)
        needed = layout.value_at + layout.n_bytes
        size = stream.seek(0, io.SEEK_END)
        if syntax == DEFLATED and size < needed <= _MOST_EXPANSION * file.stat().st_size:
            dataset, stream, syntax = parse(raw, _tags(), needed)
            size = stream.seek(0, io.SEEK_END)
    except InputError:
        raise
    # Whatever pydicom trips over in a damaged file (struct.error, RecursionError, zlib.error, MemoryError, ...) is the
    # same to the user, and its words may quote the file.
    except Exception as error:
        cause = f"its header cannot be read ({type(error).__name__})"
        raise InputError(cause, AGAIN, file=file) from None
    return Opened(layout, dataset, stream, size)


def parse(
    raw: BufferedIOBase, tags: Sequence[int], most: int = _MOST_DEFLATED_HEADER
) -> tuple[Any, BufferedIOBase, str]:
    """Read a header up to its pixels.

    pydicom unpacks a deflated file whole before it looks at it; here it is unpacked up to ``most`` bytes.

    Args:
        raw: the file.
        tags: all that is read; pydicom skips the rest.
        most: how far a deflated file is unpacked.

    Returns:
        pydicom's dataset, the stream that stands at the pixel element (the file, or what it unpacked to), and the UID
        of the transfer syntax.

    Raises:
        Exception: whatever pydicom trips over in a damaged file; its words may quote a patient's data.
    """
    from pydicom.filereader import read_dataset, read_partial

    wanted: Any = list(tags)
    if (start := _deflated_from(raw)) is None:
        raw.seek(0)
        dataset: Any = read_partial(cast(BinaryIO, raw), _at_pixels, force=True, specific_tags=wanted)
        stated = str(dataset.file_meta.get("TransferSyntaxUID") or "")
        return dataset, raw, stated or _UNSTATED[dataset.original_encoding]
    raw.seek(start)
    stream = io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw.read(), most))
    return read_dataset(stream, False, True, stop_when=_at_pixels, specific_tags=wanted), stream, DEFLATED


def _deflated_from(raw: BufferedIOBase) -> int | None:
    """Where the deflated part of a file begins, or None if its file meta information names another syntax.

    The group 0002 is always explicit and little endian (PS3.10 7.1).
    """
    syntax = b""
    raw.seek(128)
    if raw.read(4) != b"DICM":
        return None
    while (head := raw.read(8))[:2] == b"\x02\x00":
        length = int.from_bytes(raw.read(4) if head[4:6] in _LONG_VRS else head[6:8], "little")
        if head[:4] == b"\x02\x00\x10\x00":
            syntax = raw.read(min(length, 64)).rstrip(b"\0 ")
        else:
            raw.seek(length, io.SEEK_CUR)
    return raw.tell() - len(head) if syntax == DEFLATED.encode() else None


@lru_cache(maxsize=1)
def _tags() -> tuple[int, ...]:
    from pydicom.tag import Tag

    return tuple(Tag(keyword) for keyword in TAGS)


def _at_pixels(tag: int, _vr: str | None, _length: int) -> bool:
    return tag in PIXEL_ELEMENTS


def layout_of(file: Path, dataset: Any, stream: BufferedIOBase, syntax: str) -> Layout:
    """What the header promises; the stream stands at the pixel element."""
    if syntax not in NATIVE and syntax not in ENCAPSULATED:
        raise InputError("its transfer syntax is not supported", _CONVERT, file=file)
    order: Literal["big", "little"] = "big" if syntax == EXPLICIT_BIG else "little"
    head = stream.read(12)
    tag = int.from_bytes(head[0:2], order) << 16 | int.from_bytes(head[2:4], order)
    if len(head) < 8 or tag not in PIXEL_ELEMENTS:
        raise InputError(
            "it holds no pixels: it is cut short, or no image", "Copy it or export the series again.", file=file
        )
    explicit = head[4:6] in _PIXEL_VRS
    length = int.from_bytes(head[8:12] if explicit else head[4:8], order)
    number = _Numbers(file, dataset)
    bits = PIXEL_ELEMENTS[tag] or number("BitsAllocated", range(1, 65))
    layout = Layout(
        file=file,
        syntax=syntax,
        frames=number("NumberOfFrames", range(2**31), default=1) or 1,
        rows=number("Rows", range(1, 65536)),
        columns=number("Columns", range(1, 65536)),
        dtype=_cell_type(file, tag, bits, number("PixelRepresentation", range(2), default=0)).newbyteorder(order),
        bits_stored=(stored := number("BitsStored", range(1, bits + 1), default=bits)),
        high_bit=number("HighBit", range(stored - 1, bits), default=stored - 1),
        photometric=_require_grey(file, dataset),
        value_at=stream.tell() - len(head) + (12 if explicit else 8),
        length=None if length == _UNDEFINED_LENGTH else length,
        words=order == "big" and bits == 8 and head[4:6] == b"OW",
    )
    _require_supported(layout, dataset)
    return layout


class _Numbers:
    """Whole numbers of a header, each in its range."""

    def __init__(self, file: Path, dataset: Any) -> None:
        self.file, self.dataset = file, dataset

    def __call__(self, keyword: str, allowed: range, default: int | None = None) -> int:
        """The number under a keyword, or the default if it is absent or empty.

        Raises:
            InputError: if it is absent, no whole number, or outside the range.
        """
        try:
            value = self.dataset.get(keyword)
            number = default if value is None or value == "" else int(value)
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"its {keyword} is no whole number", AGAIN, file=self.file) from None
        if number is None:
            raise InputError(f"it has no {keyword}", AGAIN, file=self.file)
        if number not in allowed:
            cause = f"its {keyword} is {number}, not {allowed[0]} to {allowed[-1]}"
            raise InputError(cause, AGAIN, file=self.file)
        return number


def _cell_type(file: Path, tag: int, bits: int, signed: int) -> np.dtype[Any]:
    if PIXEL_ELEMENTS[tag]:
        return np.dtype(f"f{bits // 8}")
    if bits not in (8, 16, 32):
        raise InputError(f"its pixels are {bits}-bit cells, and 8, 16 or 32 bits are supported", _CONVERT, file=file)
    return np.dtype(f"{'i' if signed else 'u'}{bits // 8}")


def _require_grey(file: Path, dataset: Any) -> str:
    """MONOCHROME1 and MONOCHROME2 differ in how they are shown, not in their values (PS3.3 C.7.6.3.1.2)."""
    photometric = str(dataset.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    samples = str(dataset.get("SamplesPerPixel") or 1)
    if samples != "1" or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise InputError("RGB not supported: it is a colour image", "Leave out screenshots and colour maps.", file=file)
    return photometric


def _require_supported(layout: Layout, dataset: Any) -> None:
    """Refuse a syntax that contradicts the element, and what nobody meets in MR images."""
    encapsulated = layout.syntax in ENCAPSULATED
    if encapsulated != (layout.length is None) or (encapsulated and layout.dtype.kind == "f"):
        says = "compressed" if encapsulated else "uncompressed"
        raise InputError(f"its transfer syntax says {says}, its pixels are stored otherwise", AGAIN, file=layout.file)
    if encapsulated and layout.syntax != RLE and layout.high_bit != layout.bits_stored - 1:
        cause = f"it is compressed with HighBit {layout.high_bit} for {layout.bits_stored} bits stored"
        raise InputError(cause, _CONVERT, file=layout.file)
    if dataset.get("ModalityLUTSequence"):
        raise InputError("its values are given by a Modality LUT, not by a slope", _CONVERT, file=layout.file)


def require_room(opened: Opened) -> None:
    """Hold the promise against the file's size."""
    layout = opened.layout
    if layout.length is None:
        promise, packed = layout.n_bytes, opened.size - layout.value_at
        if promise > max(_FREE_PROMISE, _MOST_COMPRESSION * packed):
            cause = f"its header promises {_size_text(layout)}, and {packed} compressed bytes cannot hold them"
            raise InputError(cause, AGAIN, file=layout.file)
        return
    held = min(layout.length, opened.size - layout.value_at)
    if held < layout.n_bytes:
        kind = "truncated" if held < layout.length else "its header lies"
        raise InputError(
            f"{kind}: its header promises {_size_text(layout)}, and {held} are there", AGAIN, file=layout.file
        )
    frame = layout.n_bytes // layout.frames
    if layout.length >= layout.n_bytes + frame:
        cause = f"it holds {layout.length // frame} frames, its header says {layout.frames}"
        raise InputError(cause, AGAIN, file=layout.file)


def _size_text(layout: Layout) -> str:
    frames = f"{layout.frames} frames of " if layout.frames > 1 else ""
    return f"{frames}{layout.rows} x {layout.columns} pixels, {layout.n_bytes} bytes"
