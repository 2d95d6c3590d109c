"""The pixels of DICOM files, as the values that the scanner meant.

Native files are read straight from their known offset. Compressed ones are decoded in one child process per call,
whose memory and time are limited by what the header promises, since decoders are C code and files are anybody's. See
:mod:`neurobundle.load.dicom.header` for what is checked before a byte is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.load.dicom.decoding import DecoderProcess
from neurobundle.load.dicom.header import AGAIN, Layout, Opened, open_pixels
from neurobundle.load.dicom.syntax import is_lossy as is_lossy
from neurobundle.load.dicom.values import apply_lines, lines_of


def read_pixels(files: Sequence[Path], *, real_world: bool = False) -> Iterator[npt.NDArray[Any]]:
    """The values of each file.

    Args:
        files: DICOM images, of any supported transfer syntax each.
        real_world: apply the RealWorldValueMapping of a frame that has a linear one, instead of its rescale slope.

    Yields:
        (frames, rows, columns), a file each, in native byte order: the stored integer type if slope is 1 and
        intercept 0 in every frame, else float32 (float64 from cells of more than 24 bits). Files of one series may
        thus differ in type; ``np.result_type`` has what holds them all.

    Raises:
        InputError: names the file: it cannot be read, is truncated, promises more than it holds, is a colour image,
            has a slope of 0 or one that is no finite number, or its decoder failed, crashed, or took more memory or
            time than its size explains.
        MissingPackageError: if the package that decodes its compression is not installed.
    """
    with DecoderProcess() as decoder:
        for file in files:
            yield _read(Path(file), decoder, real_world)


def _read(file: Path, decoder: DecoderProcess, real_world: bool) -> npt.NDArray[Any]:
    with open_pixels(file) as opened:
        layout = opened.layout
        lines = lines_of(opened.dataset, layout.frames, file, real_world)
        stored = _native(opened) if layout.length is not None else decoder.decode(opened)
    return apply_lines(_unpack(stored, layout), lines, layout.bits_stored, file)


def _native(opened: Opened) -> npt.NDArray[Any]:
    """The cells of an uncompressed file; :func:`open_pixels` saw that they are there."""
    layout = opened.layout
    cells = np.empty(layout.n_bytes, np.uint8)
    opened.stream.seek(layout.value_at)
    view = cells.data
    while view and (count := opened.stream.readinto(view)):
        view = view[count:]
    if view:
        raise InputError("it became shorter while it was read", AGAIN, file=layout.file)
    if layout.words:
        cells = cells.view(np.uint16).byteswap().view(np.uint8)[: math.prod(layout.shape)]
    return cells.view(layout.dtype).reshape(layout.shape)


def _unpack(cells: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Numbers in native byte order from cells that may hold other bits above or below them (PS3.5 8.1.1)."""
    cells = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    bits = cells.dtype.itemsize * 8
    if cells.dtype.kind == "f" or layout.bits_stored == bits:
        return cells
    # Up, so that the highest bit that counts is the cell's own, and down again: signed types carry the sign along.
    cells <<= bits - 1 - layout.high_bit
    cells >>= bits - layout.bits_stored
    return cells
