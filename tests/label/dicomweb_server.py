"""A DICOMweb server of a few files on loopback, which can be told to do wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom

#: Says an answer in place of the right one; None lets the right one be said.
Trick = Callable[["Handler"], bool]


@dataclass
class Made:
    """What the server has, and what it was asked.

    Attributes:
        files: SeriesInstanceUID to the bytes of its instances.
        studies: SeriesInstanceUID to StudyInstanceUID.
        asked: method and path with query of every request.
        headers: those of the last request.
        taken: what was stored.
        trick: what it does wrong.
        address: of the server.
    """

    files: dict[str, list[bytes]] = field(default_factory=dict)
    studies: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    taken: list[bytes] = field(default_factory=list)
    trick: Trick | None = None
    address: str = ""

    def add(self, paths: Iterable[Path]) -> None:
        """Have further files."""
        for path in paths:
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            self.files.setdefault(str(ds.SeriesInstanceUID), []).append(path.read_bytes())
            self.studies[str(ds.SeriesInstanceUID)] = str(ds.StudyInstanceUID)

    def fetched(self) -> list[str]:
        """The paths of all series that were handed over."""
        return [one for one in self.asked if one.startswith("GET /studies/")]


def body_of(parts: Iterable[bytes]) -> bytes:
    """A multipart body with the boundary ``x``."""
    return b"".join(b"--x\r\nContent-Type: application/dicom\r\n\r\n" + part + b"\r\n" for part in parts) + b"--x--\r\n"


class Handler(BaseHTTPRequestHandler):
    """Answers QIDO for all series, WADO of one, STOW."""

    made: Made

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def answer(self, status: int, kind: str, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def json(self, value: Any, status: int = 200) -> None:
        self.answer(status, "application/dicom+json", json.dumps(value).encode())

    def _noted(self) -> bool:
        self.made.asked.append(f"{self.command} {self.path}")
        self.made.headers = dict(self.headers)
        return self.made.trick is not None and self.made.trick(self)

    def do_GET(self) -> None:
        if self._noted():
            return
        parts = urlsplit(self.path)
        if parts.path == "/series":
            self.json(self.listed(parse_qs(parts.query)))
            return
        series = parts.path.rsplit("/", 1)[-1]
        if series not in self.made.files:
            self.answer(404, "text/plain", b"DOE^JANE has none")
            return
        self.answer(200, 'multipart/related; type="application/dicom"; boundary="x"', body_of(self.made.files[series]))

    def listed(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        first, most = (int(query.get(name, ["0"])[0]) for name in ("offset", "limit"))
        return [
            {
                "0020000D": {"vr": "UI", "Value": [self.made.studies[uid]]},
                "0020000E": {"vr": "UI", "Value": [uid]},
                "00080060": {"vr": "CS", "Value": ["MR"]},
                "00080020": {"vr": "DA", "Value": ["20200229"]},
                "00201209": {"vr": "IS", "Value": [len(files)]},
                "00100010": {"vr": "PN", "Value": [{"Alphabetic": "DOE^JANE"}]},
            }
            for uid, files in sorted(self.made.files.items())
        ][first : first + most]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._noted():
            return
        head, _, rest = body.partition(b"\r\n\r\n")
        self.made.taken.append(rest[: rest.rindex(b"\r\n--" + head.partition(b"\r\n")[0][2:])])
        self.json({"00081199": {"vr": "SQ", "Value": [{}]}})


@contextmanager
def serving_files(*paths: Path) -> Iterator[Made]:
    """A server of some files, while it is needed."""
    made = Made()
    made.add(paths)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"made": made}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    made.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
