"""Which bytes of a compressed file are which frame.

Compressed pixels are a sequence of *items*: first the *basic offset table*, which may be empty, then *fragments*, then
a delimiter (PS3.5 A.4). A frame is one fragment or several, and the offset table, or the extended one of newer files,
says where each frame begins. Every length and offset is held against the file and against each other; a file that
contradicts itself is refused, because a wrong table gives another frame's pixels, and no error.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from io import BufferedIOBase
from typing import NamedTuple

from neurobundle.errors import InputError
from neurobundle.load.dicom.header import AGAIN, Opened
from neurobundle.load.dicom.syntax import RLE

_ITEM, _END = 0xE000, 0xE0DD
_UNDEFINED_LENGTH = 0xFFFFFFFF

#: Fragments that a frame may have on average; a file of nothing but empty items is not read on.
_MOST_FRAGMENTS = 4096

#: Ends the code stream of every JPEG (ISO 10918-1 EOI, ISO 15444-1 EOC), maybe followed by padding.
_JPEG_END = b"\xff\xd9"
_MOST_PADDING = 16


class Fragment(NamedTuple):
    """One fragment: where its item begins, where its bytes begin, and how many they are."""

    item_at: int
    at: int
    length: int


def frame_fragments(opened: Opened) -> list[list[Fragment]]:
    """The fragments of each frame.

    Args:
        opened: a file with compressed pixels.

    Raises:
        InputError: if a fragment reaches beyond the file, the sequence has no end, an offset table points elsewhere
            than to fragments, or there are fewer or more frames than the header says.
    """
    file, n = opened.layout.file, opened.layout.frames
    try:
        table, fragments = _items(opened)
        if extended := opened.dataset.get("ExtendedOffsetTable"):
            table = [*struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8])]
        frames = _deal(opened, table, fragments)
    except _LyingError as error:
        raise InputError(str(error), AGAIN, file=file) from None
    except (OSError, struct.error, TypeError):
        raise InputError("its compressed pixels cannot be read", AGAIN, file=file) from None
    if len(frames) != n:
        raise InputError(f"it holds {len(frames)} compressed frames, its header says {n}", AGAIN, file=file)
    return frames


class _LyingError(ValueError):
    """What contradicts itself, in words."""


def _items(opened: Opened) -> tuple[list[int], list[Fragment]]:
    """The basic offset table and all fragments."""
    stream, at = opened.stream, opened.layout.value_at
    fragments: list[Fragment] = []
    while True:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8:
            raise _LyingError("truncated: its compressed pixels have no end")
        group, element, length = struct.unpack("<HHL", head)
        if (group, element) == (0xFFFE, _END):
            break
        if (group, element) != (0xFFFE, _ITEM) or length == _UNDEFINED_LENGTH:
            raise _LyingError(f"its compressed pixels are damaged at byte {at}")
        if at + 8 + length > opened.size:
            raise _LyingError(f"truncated: a fragment of {length} bytes begins at byte {at} of {opened.size}")
        fragments.append(Fragment(at, at + 8, length))
        if len(fragments) > _MOST_FRAGMENTS * opened.layout.frames:
            raise _LyingError(f"its compressed pixels are in over {len(fragments)} fragments")
        at += 8 + length
    if not fragments:
        raise _LyingError("its compressed pixels have no offset table")
    stream.seek(fragments[0].at)
    table = struct.unpack(f"<{fragments[0].length // 4}L", stream.read(fragments[0].length // 4 * 4))
    return [*table], fragments[1:]


def _deal(opened: Opened, table: Sequence[int], fragments: list[Fragment]) -> list[list[Fragment]]:
    """Fragments to frames: by the table, else one each, else by where a code stream ends."""
    n = opened.layout.frames
    if table:
        return _by_table(table, fragments)
    if n == 1:
        return [fragments] if fragments else []
    # Each RLE frame is exactly one fragment (PS3.5 A.4.2).
    if len(fragments) == n or opened.layout.syntax == RLE:
        return [[fragment] for fragment in fragments]
    return _by_end(opened.stream, fragments)


def _by_table(table: Sequence[int], fragments: list[Fragment]) -> list[list[Fragment]]:
    """Offsets count from the first fragment's item (PS3.5 A.4)."""
    begins = {fragment.item_at - fragments[0].item_at: k for k, fragment in enumerate(fragments)}
    starts = [begins.get(offset, -1) for offset in table]
    if starts[0] != 0 or any(b <= a for a, b in itertools.pairwise(starts)):
        raise _LyingError("its offset table does not point to its fragments")
    return [fragments[a:b] for a, b in zip(starts, [*starts[1:], len(fragments)], strict=True)]


def _by_end(stream: BufferedIOBase, fragments: list[Fragment]) -> list[list[Fragment]]:
    frames: list[list[Fragment]] = [[]]
    for fragment in fragments:
        frames[-1].append(fragment)
        stream.seek(fragment.at + max(0, fragment.length - _MOST_PADDING))
        tail = stream.read(min(fragment.length, _MOST_PADDING))
        if tail.rstrip(b"\0").endswith(_JPEG_END):
            frames.append([])
    return [frame for frame in frames if frame]
