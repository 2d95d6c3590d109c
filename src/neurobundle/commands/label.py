"""``neurobundle label``: MONAI Label's server with our app, behind the guard."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from neurobundle.bundle.find import find_bundle
from neurobundle.errors import MissingPackageError, NoInputError, SettingError
from neurobundle.files import require_writable, write_atomic

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
    studies: Path,
    store: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Serve bundles until the server is stopped.

    Args:
        bundles: names or folders; the first one's reference channel is what annotators see.
        studies: the folder of studies.
        store: the folder that the app keeps.
        host: the address to listen on.
        port: the port.
        environment: variables; those of this process if None.

    Returns:
        The server's exit status.

    Raises:
        MissingPackageError: without MONAI Label.
        SettingError: for an unknown bundle, or an address of others without authentication.
        NoInputError: if there is no such folder of studies.
    """
    given = dict(os.environ if environment is None else environment)
    words = server_command(bundles, studies, store, host, port, given)
    if importlib.util.find_spec("monailabel") is None:
        way_out = "It wants an environment of its own: make label-venv, then .venv-label/bin/neurobundle label."
        raise MissingPackageError("annotating needs the package 'monailabel'", way_out)
    make_app(store / "app")
    return subprocess.run(words, env={**given, **SETTINGS, HOSTS: _hosts(host, given)}, check=False).returncode


def _hosts(host: str, environment: Mapping[str, str]) -> str:
    """The names under which clients may address the server, beside those of this machine: its address among them."""
    own = f"[{host}]" if ":" in host else host
    return ",".join(dict.fromkeys([*filter(None, environment.get(HOSTS, "").split(",")), own]))


def server_command(
    bundles: Sequence[str], studies: Path, store: Path, host: str, port: int, environment: Mapping[str, str]
) -> list[str]:
    """The command line of MONAI Label's server; see :func:`label` for arguments and errors."""
    for name in bundles:
        find_bundle(name)
    if not studies.is_dir():
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
    try:
        own = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = False
    if not own and environment.get(_AUTH, "").lower() not in ("1", "true"):
        raise SettingError(
            f"{host} can be reached by others, and the server would know no passwords",
            f"Leave --host out, or turn MONAI Label's authentication on ({_AUTH} and MONAI_LABEL_AUTH_REALM_URI).",
        )
