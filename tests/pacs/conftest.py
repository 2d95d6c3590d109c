"""Starts an archive (Debian's Orthanc with DICOMweb), and stops it; talks DICOMweb (PS3.18) to it."""

from __future__ import annotations

import json
import os
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from neurobundle.label.orthanc import find_orthanc, settings_of

from ..label.conftest import SERVED, Server, commands, free_port, label_python, make_app, served

__all__ = ["label_python"]

#: What dcmtk's programs call themselves here, and what they call the archive.
CALLER, CALLED = "TESTS", "ARCHIVE"

_MULTIPART = 'multipart/related; type="application/dicom"'


class Series(NamedTuple):
    """Where a series lies."""

    study_uid: str
    series_uid: str


@dataclass(frozen=True)
class Archive:
    """One that runs.

    Attributes:
        address: of its DICOMweb, ``http://127.0.0.1:8042/dicom-web``.
        port: of its DICOM.
        output: a file with all that it prints.
        seconds: that a caller waits for an answer.
    """

    address: str
    port: int
    output: Path
    seconds: float = 120.0

    def store(self, paths: Iterable[Path]) -> dict[str, Any]:
        """Send files (STOW-RS), and give the archive's answer; fails if it refused one of them."""
        boundary = uuid.uuid4().hex
        start = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = b"".join(start + path.read_bytes() + b"\r\n" for path in paths) + f"--{boundary}--\r\n".encode()
        kind = f"{_MULTIPART}; boundary={boundary}"
        answer = self._ask("/studies", body, {"Content-Type": kind, "Accept": "application/dicom+json"})[0]
        said: dict[str, Any] = json.loads(answer)
        refused = said.get("00081198", {}).get("Value")  # Failed SOP Sequence
        assert not refused, f"refused: {refused}"
        return said

    def fetch_series(self, study_uid: str, series_uid: str) -> list[bytes]:
        """The files of a series (WADO-RS), in the transfer syntax in which they were sent."""
        path, accept = f"/studies/{study_uid}/series/{series_uid}", f"{_MULTIPART}; transfer-syntax=*"
        content, kind = self._ask(path, None, {"Accept": accept})
        boundary = kind.partition("boundary=")[2].partition(";")[0].strip('"').encode()
        parts = (b"\r\n" + content).split(b"\r\n--" + boundary)[1:-1]
        return [part.partition(b"\r\n\r\n")[2] for part in parts]

    def series(self, modality: str) -> list[Series]:
        """All series of a modality (QIDO-RS), by their UIDs."""
        answer = self._ask(f"/series?Modality={modality}", None, {"Accept": "application/dicom+json"})[0]
        found = json.loads(answer) if answer else []
        return sorted(Series(*(one[tag]["Value"][0] for tag in ("0020000D", "0020000E"))) for one in found)

    def _ask(self, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[bytes, str]:
        request = urllib.request.Request(self.address + path, body, headers)
        # Not through a proxy that the environment names: the archive is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=self.seconds) as answer:
            return answer.read(), answer.headers.get("Content-Type", "")


@contextmanager
def archive(folder: Path) -> Iterator[Archive]:
    """An archive that keeps its files in a folder and is stopped afterwards.

    Its web answers this machine alone. Its DICOM port is open on all addresses, which Orthanc cannot help; only
    :data:`CALLER` on this machine may use it.
    """
    orthanc = find_orthanc()
    if orthanc is None:
        pytest.skip("orthanc is not here: `make pacs` installs it")
    folder.mkdir(parents=True, exist_ok=True)
    web, port = free_port(), free_port()
    dicom: dict[str, Any] = {
        **{"DicomServerEnabled": True, "DicomPort": port, "DicomAet": CALLED},
        **{"DicomCheckCalledAet": True, "DicomCheckModalityHost": True},
        **{f"DicomAlwaysAllow{word}": False for word in ("Echo", "Store", "Find", "Get", "Move")},
        "DicomModalities": {CALLER: [CALLER, "127.0.0.1", free_port()]},
    }
    settings = settings_of(folder, orthanc.plugin, web, **dicom)
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings, indent=2))
    output = folder / "orthanc.txt"
    with served([str(orthanc.program), str(config)], folder, dict(os.environ), web, output):
        yield Archive(f"http://127.0.0.1:{web}/dicom-web", port, output)


@contextmanager
def on_archive(store: Archive, folder: Path, python: Path, bundles: list[str]) -> Iterator[Server]:
    """A stock MONAI Label server on an archive, started as docs/how-to/annotate.md has it.

    Args:
        store: the archive.
        folder: an empty one.
        python: that has MONAI Label.
        bundles: names of ours, that it serves.
    """
    # A proxy that nobody is: whatever it would fetch from the internet fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    variables = {**os.environ, **nowhere, "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    make_app(folder, python, bundles, variables)
    dcmqi = "itkimage2segimage"
    (folder / ".venv-label" / "bin" / dcmqi).symlink_to(python.parent / dcmqi)
    port = free_port()
    (start,) = [text for text in commands() if "/dicom-web" in text]
    for words, ours in (("--port 8000", f"--port {port}"), ("http://127.0.0.1:8042/dicom-web", store.address)):
        assert words in start
        start = start.replace(words, ours)
    output = folder / "server.txt"
    with served(["bash", "-euc", start.replace(SERVED, ",".join(bundles))], folder, variables, port, output) as client:
        yield Server(client, folder / "label_app" / "monaibundle" / "model", folder / "label_cache", output)
