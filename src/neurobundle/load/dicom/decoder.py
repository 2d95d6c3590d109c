"""The child process that decodes compressed frames, one request at a time. A script: it imports nothing of ours.

Decoders are C code, and a file may be made to make them write anywhere, run for ever or ask for all memory. So they
run here, under limits of memory and CPU time that each request states, without the right to write a file or a core
dump; what happens here ends here. It is told a frame's bytes, never the file's name, and no word of a decoder's
messages leaves it, since comments in a code stream may name a patient.

*Request*: 4 bytes of length (little endian), that many bytes of JSON (:class:`Frame` says what), then ``packed``
bytes: the frame. *Reply*: ``.`` and the cells, rows x columns x ``cell_bytes``; or ``!``, one byte of length and that
many bytes of text. It ends when its input does.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import resource
import struct
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

#: Ends every JPEG (ISO 10918-1 EOI, ISO 15444-1 EOC). Decoders fill with zeros what is missing before it.
_END = b"\xff\xd9"
_MOST_PADDING = 16
_OTHER_SIZE = "its compressed pixels decode to another size than its header says"


@dataclass(frozen=True)
class Frame:
    """What a request says of a frame; the names are those of DICOM's tags.

    Attributes:
        packed: how many bytes of code stream follow.
        cell_bytes: of one cell, BitsAllocated / 8.
        package: the module that decodes it.
        memory: bytes that decoding may take, above what the process has.
        cpu_s: seconds of CPU time that it may take.
    """

    syntax: str
    package: str
    rows: int
    columns: int
    cell_bytes: int
    bits_stored: int
    signed: bool
    photometric: str
    packed: int
    memory: int
    cpu_s: float


class Refused(Exception):
    """A frame that is not what its header says; the text holds numbers only."""


class CodeStream(NamedTuple):
    """What the header of a JPEG, JPEG-LS or JPEG 2000 code stream says of its image."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


def decode(frame: Frame, packed: bytes) -> npt.NDArray[Any]:
    """One frame's cells.

    Returns:
        (rows, columns), unsigned or signed, of ``cell_bytes`` bytes or fewer.

    Raises:
        Refused: if the code stream is cut short, or holds an image of another size or more than one component.
    """
    if frame.package == "rle":
        rle = importlib.import_module("rle")
        size = {"rows": frame.rows, "columns": frame.columns, "bits_allocated": 8 * frame.cell_bytes}
        return _cells(frame, rle.decode_pixel_data(packed, version=2, **size))
    stream = read_code_stream(packed)
    if (stream.rows, stream.columns, stream.components) != (frame.rows, frame.columns, 1):
        said = f"{stream.rows} x {stream.columns}{f' of {stream.components} channels' * (stream.components != 1)}"
        raise Refused(f"its compressed image is {said}, its header says {frame.rows} x {frame.columns}")
    if stream.precision > 8 * frame.cell_bytes:
        raise Refused(f"its compressed image has {stream.precision} bits, its header says {8 * frame.cell_bytes}")
    if stream.signed != frame.signed and stream.precision < frame.bits_stored:
        raise Refused(
            f"its compressed image has {stream.precision} bits, its header says {frame.bits_stored} with a sign"
        )
    if _END not in packed[-_MOST_PADDING:]:
        raise Refused("truncated: its compressed image has no end")
    cells = _cells(frame, DECODERS[frame.package](frame, packed, stream.precision))
    # A stream without a sign, of an image that has one, keeps it in its highest bit; and the other way round.
    unused = 8 * cells.dtype.itemsize - stream.precision
    return cells << unused >> unused


def read_code_stream(packed: bytes) -> CodeStream:
    """The header of a code stream.

    Raises:
        Refused: if there is none.
    """
    try:
        # ISO 15444-1 A.5.1: SOC, then SIZ; a JP2 file's boxes may come before.
        if (at := packed[:4096].find(b"\xff\x4f\xff\x51")) >= 0:
            x, y, x0, y0 = struct.unpack_from(">4L", packed, at + 8)
            components, depth = struct.unpack_from(">HB", packed, at + 40)
            return CodeStream(y - y0, x - x0, components, (depth & 0x7F) + 1, bool(depth & 0x80))
        # ISO 10918-1 B.1.1.4: markers with lengths up to a start of frame; ISO 14495-1 C.1: 0xF7 is JPEG-LS's.
        at = 2
        while packed[at] == 0xFF:
            marker, length = packed[at + 1], int.from_bytes(packed[at + 2 : at + 4], "big")
            if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
                precision, rows, columns, components = struct.unpack_from(">BHHB", packed, at + 4)
                return CodeStream(rows, columns, components, precision)
            # A marker may be preceded by fill bytes (B.1.1.2).
            at += 1 if marker == 0xFF else 2 + length
    except (IndexError, struct.error):
        pass
    raise Refused("its compressed image has no header")


def _by_gdcm(frame: Frame, packed: bytes, precision: int) -> bytes:
    """JPEG, lossy and lossless, of 8 to 16 bits."""
    gdcm: Any = importlib.import_module("gdcm")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(packed)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((frame.columns, frame.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType(frame.photometric)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(frame.syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, 8 if precision <= 8 else 16, precision, precision - 1, 0))
    # gdcm's wrapper turns char* into str.
    return bytes(image.GetBuffer().encode("utf-8", "surrogateescape"))


def _by_openjpeg(frame: Frame, packed: bytes, precision: int) -> bytes:
    return bytes(importlib.import_module("openjpeg").decode_pixel_data(packed, version=2))


def _by_charls(frame: Frame, packed: bytes, precision: int) -> bytes:
    return bytes(importlib.import_module("jpeg_ls").decode_pixel_data(packed)[0])


#: By the module that they import; each gives rows x columns little-endian cells of 1, 2 or 4 bytes.
DECODERS = {"gdcm": _by_gdcm, "openjpeg": _by_openjpeg, "jpeg_ls": _by_charls}


def _cells(frame: Frame, content: bytes | bytearray) -> npt.NDArray[Any]:
    """What a decoder gave, in as many bytes a cell as it gave, with the header's sign."""
    size, rest = divmod(len(content), frame.rows * frame.columns)
    if rest or size not in (1, 2, 4):
        raise Refused(_OTHER_SIZE)
    return np.frombuffer(content, f"<{'i' if frame.signed else 'u'}{size}").reshape(frame.rows, frame.columns)


def limit(memory: int, cpu_s: float) -> None:
    """Allow this process so many bytes and seconds more than it has taken; less where it may not have as much."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {resource.RLIMIT_CPU: math.ceil(used.ru_utime + used.ru_stime + cpu_s)}
    pages = Path("/proc/self/statm")
    if pages.exists():  # Linux; elsewhere there is no such file, and macOS does not keep this limit
        limits[resource.RLIMIT_AS] = int(pages.read_text().split()[0]) * resource.getpagesize() + memory
    for kind, soft in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def serve(decode: Callable[[Frame, bytes], npt.NDArray[Any]] = decode) -> None:
    """Answer requests until the input ends.

    Args:
        decode: what decodes a frame.
    """
    requests, replies = _take_pipes()
    while head := requests.read(4):
        frame = Frame(**json.loads(requests.read(int.from_bytes(head, "little"))))
        packed = requests.read(frame.packed)
        try:
            limit(frame.memory, frame.cpu_s)
            reply = b"." + _checked(frame, decode(frame, packed))
        except Refused as error:
            reply = _refusal(str(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        # Whatever a decoder raises is one answer, and its words stay here. MemoryError is among it, and the panic of
        # a decoder in Rust, which is no Exception.
        except BaseException as error:
            reply = _refusal(f"its compressed pixels cannot be decoded ({type(error).__name__})")
        replies.write(reply)
        replies.flush()


def _checked(frame: Frame, cells: npt.NDArray[Any]) -> bytes:
    """The cells as the parent expects them: as many bytes each as the header says."""
    if cells.shape != (frame.rows, frame.columns) or cells.dtype.itemsize > frame.cell_bytes:
        raise Refused(_OTHER_SIZE)
    return cells.astype(f"<{cells.dtype.kind}{frame.cell_bytes}", copy=False).tobytes()


def _refusal(text: str) -> bytes:
    content = text.encode("ascii", "replace")[:255]
    return b"!" + bytes([len(content)]) + content


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Our input and output, where no library can print into them."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(kind, (0, 0))
    return pipes


if __name__ == "__main__":
    serve()
    sys.exit()
