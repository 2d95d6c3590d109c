"""``neurobundle label``: MONAI Label's server with our app, behind the guard."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from neurobundle.bundle.find import find_bundle
from neurobundle.errors import MissingPackageError, NoInputError, SettingError
from neurobundle.files import require_writable, write_atomic
from neurobundle.label.dicomweb import address_of, archive_of, is_address, is_loopback

#: What ``monailabel start_server --app`` loads. The app's folder is the user's: MONAI Label writes its log there.
MAIN = '''"""The app of Neurobundle."""

from neurobundle.label.app.main import NeurobundleApp

__all__ = ["NeurobundleApp"]
'''

#: MONAI Label's settings: what its own defaults open is closed, and nothing is computed that nobody asked for.
SETTINGS = {
    "MONAI_LABEL_SESSIONS": "false",
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
    "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false",
    "MONAI_LABEL_TRACKING_ENABLED": "false",
    "MONAI_LABEL_INFER_CONCURRENCY": "1",
}
_AUTH = "MONAI_LABEL_AUTH_ENABLE"

#: Further names of the server, with commas between them; read by :mod:`neurobundle.label.asgi`.
HOSTS = "NEUROBUNDLE_LABEL_HOSTS"


def make_app(folder: Path) -> Path:
    """Write what ``monailabel start_server --app`` loads.

    Args:
        folder: made if need be; what else lies there stays.

    Returns:
        The folder, absolute.

    Raises:
        EnvironmentFault: if it cannot be written.
    """
    require_writable(folder)
    write_atomic(folder / "main.py", MAIN.encode())
    return folder.absolute()


def label(
    bundles: Sequence[str],
    studies: str | Path,
    store: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> int:
    """Serve bundles until the server is stopped.

    Args:
        bundles: names or folders; the first one's reference channel is what annotators see.
        studies: the folder of studies, or the address of an archive that speaks DICOMweb.
        store: the folder that the app keeps.
        host: the address to listen on.
        port: the port.
        environment: variables; those of this process if None.
        say: is told at which addresses clients find the server, before it starts.

    Returns:
        The server's exit status.

    Raises:
        MissingPackageError: without MONAI Label.
        SettingError: for an unknown bundle, an address of others without authentication, or an archive's address that
            holds a password or would carry patients' data in the clear.
        NoInputError: if there is no such folder of studies.
        ArchiveFault: if the archive cannot be used.
    """
    given = dict(os.environ if environment is None else environment)
    words = server_command(bundles, studies, store, host, port, given)
    require_monai_label()
    if is_address(str(studies)):
        archive_of(str(studies), given).reach()
    make_app(store / "app")
    for line in addresses(host, port, is_address(str(studies))):
        say(line)
    return _serve(words, {**given, **SETTINGS, HOSTS: _hosts(host, given)})


def _serve(words: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the server; what asks this process to end asks the server."""
    process = subprocess.Popen(words, env=environment)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal told the server as well
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)


def require_monai_label() -> None:
    """Fail early where the server's package is not.

    Raises:
        MissingPackageError: without MONAI Label.
    """
    if importlib.util.find_spec("monailabel") is None:
        way_out = "It wants an environment of its own: make label-venv, then .venv-label/bin/neurobundle label."
        raise MissingPackageError("annotating needs the package 'monailabel'", way_out)


def addresses(host: str, port: int, archive: bool) -> list[str]:
    """Where clients find a server, a line each.

    Args:
        host: that it listens on.
        port: likewise.
        archive: whether its studies lie in one; OHIF knows no other.

    >>> addresses("127.0.0.1", 8000, True)
    ['3D Slicer  module MONAILabel, server http://127.0.0.1:8000', 'OHIF       http://127.0.0.1:8000/ohif/']
    """
    server = f"http://{_in_address(host)}:{port}"
    lines = [f"3D Slicer  module MONAILabel, server {server}"]
    return [*lines, f"OHIF       {server}/ohif/"] if archive else lines


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _hosts(host: str, environment: Mapping[str, str]) -> str:
    """The names under which clients may address the server, beside those of this machine: its address among them."""
    own = _in_address(host)
    return ",".join(dict.fromkeys([*filter(None, environment.get(HOSTS, "").split(",")), own]))


def server_command(
    bundles: Sequence[str], studies: str | Path, store: Path, host: str, port: int, environment: Mapping[str, str]
) -> list[str]:
    """The command line of MONAI Label's server; see :func:`label` for arguments and errors."""
    for name in bundles:
        find_bundle(name)
    if is_address(str(studies)):
        studies = address_of(str(studies), environment)
    elif not Path(studies).is_dir():
        raise NoInputError("there is no such folder of studies", "Check --studies.", file=studies)
    _require_loopback(host, environment)
    words = [
        sys.executable,
        "-m",
        "monailabel.main",
        "start_server",
        "--app",
        str(store.absolute() / "app"),
        "--studies",
        str(studies),
    ]
    words += ["--conf", "bundles", ",".join(bundles), "--conf", "store", str(store.absolute())]
    return [*words, "--host", host, "--port", str(port), "--uvicorn_app", "neurobundle.label.asgi:app"]


def _require_loopback(host: str, environment: Mapping[str, str]) -> None:
    if not is_loopback(host) and environment.get(_AUTH, "").lower() not in ("1", "true"):
        raise SettingError(
            f"{host} can be reached by others, and the server would know no passwords",
            f"Leave --host out, or turn MONAI Label's authentication on ({_AUTH} and MONAI_LABEL_AUTH_REALM_URI).",
        )
