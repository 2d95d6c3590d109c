"""An archive for a try: Orthanc with its DICOMweb plugin, where it is installed, for this machine alone.

Orthanc (orthanc-server.com) is a program of its own; its settings are those of its "Orthanc Book".
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from neurobundle.errors import EnvironmentFault
from neurobundle.files import require_writable, write_atomic
from neurobundle.label.dicomweb import ArchiveFault, DicomWeb

#: Where its packages put it beside PATH, and its plugin.
_PROGRAMS = "/usr/sbin"
_PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
_PLUGIN = "libOrthancDicomWeb.so"

SECONDS_TO_START = 60


class Orthanc(NamedTuple):
    """Where it lies.

    Attributes:
        program: the server.
        plugin: for DICOMweb.
    """

    program: Path
    plugin: Path


def find_orthanc() -> Orthanc | None:
    """Orthanc and its DICOMweb plugin; None where one of them is not installed."""
    program = shutil.which("Orthanc", path=os.pathsep.join([os.environ.get("PATH", ""), _PROGRAMS]))
    plugin = next((path for folder in _PLUGINS if (path := Path(folder) / _PLUGIN).is_file()), None)
    return None if program is None or plugin is None else Orthanc(Path(program), plugin)


def settings_of(folder: Path, plugin: Path, port: int, **more: Any) -> dict[str, Any]:
    """Orthanc's settings for an archive that answers this machine by the web, and nobody by DICOM's own protocol.

    Args:
        folder: keeps what it is sent.
        plugin: for DICOMweb.
        port: of the web.
        more: further settings, or others in their place.
    """
    return {
        "Name": "Neurobundle",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomServerEnabled": False,
        # The same file sent again is the same.
        "OverwriteInstances": True,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **more,
    }


@contextmanager
def running(orthanc: Orthanc, folder: Path) -> Iterator[DicomWeb]:
    """An archive that is stopped afterwards.

    Args:
        orthanc: that is started.
        folder: keeps its settings, what it prints, and what it is sent.

    Raises:
        EnvironmentFault: if it does not start.
    """
    require_writable(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    config = write_atomic(folder / "orthanc.json", json.dumps(settings_of(folder, orthanc.plugin, port)).encode())
    log = folder / "orthanc.txt"
    with log.open("wb") as output:
        words = [str(orthanc.program), str(config)]
        process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
    try:
        archive = DicomWeb(f"http://127.0.0.1:{port}/dicom-web")
        _wait_for(archive, process, log)
        yield archive
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(archive: DicomWeb, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(10 * SECONDS_TO_START):
        if process.poll() is not None:
            raise EnvironmentFault("Orthanc did not start", "See what it printed.", file=log)
        try:
            archive.reach()
        except ArchiveFault:
            time.sleep(0.1)
        else:
            return
    raise EnvironmentFault(f"Orthanc does not answer after {SECONDS_TO_START} s", "See what it printed.", file=log)
