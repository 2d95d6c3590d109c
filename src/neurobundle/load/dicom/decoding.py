"""The parent of the child process that decodes: starts it when it is first needed, and survives it."""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError, require
from neurobundle.load.dicom.encapsulated import Fragment, frame_fragments
from neurobundle.load.dicom.header import AGAIN, Layout, Opened
from neurobundle.load.dicom.syntax import ENCAPSULATED

#: What runs in the child.
DECODER = Path(__file__).with_name("decoder.py")

#: Memory that decoding a frame may take: a constant for the libraries, and multiples of the frame's size and of its
#: compressed bytes. OpenJPEG keeps 4 bytes a pixel and again as much for wavelets; gdcm copies some five times.
MEMORY = 256 << 20
MEMORY_A_BYTE = 32
MEMORY_A_PACKED_BYTE = 8

#: CPU seconds that decoding a frame may take, and per byte of it: the slowest decoder here does 10 MB a second.
CPU_S = 10.0
CPU_S_A_BYTE = 1e-6

#: A decoder that gets so little CPU time that it takes this much longer, and this many seconds more, hangs.
WALL = 20.0
WALL_S = 60.0


class DecoderProcess:
    """Decodes compressed files in a child process.

    The child starts with the first compressed frame, and ends with the ``with`` block. One that crashed or ran into a
    limit is followed by a new one.

    Args:
        script: what runs in the child.
    """

    def __init__(self, script: Path = DECODER) -> None:
        self._script = script
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def decode(self, opened: Opened) -> npt.NDArray[Any]:
        """All frames of a file.

        Args:
            opened: a file with compressed pixels.

        Returns:
            Cells, (frames, rows, columns), little endian.

        Raises:
            InputError: if the file contradicts itself, or a frame cannot be decoded within its limits.
            MissingPackageError: if its decoder is not installed.
        """
        layout = opened.layout
        compression = ENCAPSULATED[layout.syntax]
        if importlib.util.find_spec(compression.package) is None:
            require(compression.package, extra="dicom", feature=f"reading {compression.name} compressed DICOM")
        frames = frame_fragments(opened)
        cells = np.empty(layout.shape, layout.dtype)
        for fragments, frame in zip(frames, cells, strict=True):
            self._decode_frame(layout, _joined(opened, fragments), memoryview(frame.reshape(-1).view(np.uint8)))
        return cells

    def _decode_frame(self, layout: Layout, packed: bytes, frame: memoryview) -> None:
        cpu_s = CPU_S + CPU_S_A_BYTE * (len(frame) + len(packed))
        request = {
            "syntax": layout.syntax,
            "package": ENCAPSULATED[layout.syntax].package,
            "rows": layout.rows,
            "columns": layout.columns,
            "cell_bytes": layout.dtype.itemsize,
            "bits_stored": layout.bits_stored,
            "signed": layout.dtype.kind == "i",
            "photometric": layout.photometric,
            "packed": len(packed),
            "memory": MEMORY + MEMORY_A_BYTE * len(frame) + MEMORY_A_PACKED_BYTE * len(packed),
            "cpu_s": cpu_s,
        }
        process = self._running()
        deadline = time.monotonic() + WALL_S + WALL * cpu_s
        try:
            content = json.dumps(request).encode()
            _write(process, len(content).to_bytes(4, "little") + content + packed)
            status = bytearray(1)
            _fill(process, memoryview(status), deadline)
            if status == b".":
                _fill(process, frame, deadline)
                return
            length = bytearray(1)
            _fill(process, memoryview(length), deadline)
            text = bytearray(length[0])
            _fill(process, memoryview(text), deadline)
        except (EOFError, BrokenPipeError, TimeoutError):
            raise InputError(f"its compressed pixels {self._how_it_ended()}", AGAIN, file=layout.file) from None
        except BaseException:
            # Half a reply is left in the pipe: the next frame would get it.
            self._end()
            raise
        raise InputError(text.decode("ascii", "replace"), AGAIN, file=layout.file)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # -P: the script's own folder is not searched for modules. One thread: each keeps address space of its own.
            command = [sys.executable, "-P", "-B", str(self._script)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        return self._process

    def _how_it_ended(self) -> str:
        """End the child that did not answer, and say why it did not."""
        code = self._end()
        if code == -signal.SIGXCPU:
            return "keep their decoder busy for longer than their size explains"
        if code in (None, -signal.SIGKILL):
            return "make their decoder hang"
        return f"crash their decoder ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"

    def _end(self) -> int | None:
        """End the child; its exit code, or None if it had to be killed."""
        process, self._process = self._process, None
        if process is None:
            return None
        with process:
            # Its output is at its end where it died by itself; then it is about to be gone, and its code tells why.
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                return process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return None


def _joined(opened: Opened, fragments: list[Fragment]) -> bytes:
    parts = []
    for fragment in fragments:
        opened.stream.seek(fragment.at)
        parts.append(opened.stream.read(fragment.length))
    return b"".join(parts)


def _write(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    view = memoryview(content)
    while view:
        view = view[process.stdin.write(view) or 0 :]


def _fill(process: subprocess.Popen[bytes], target: memoryview, deadline: float) -> None:
    """Read exactly as many bytes as the target has.

    Raises:
        EOFError: if the child ends before.
        TimeoutError: if the deadline passes before.
    """
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while target:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            count = os.readv(process.stdout.fileno(), [target])
            if not count:
                raise EOFError
            target = target[count:]
