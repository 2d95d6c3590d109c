"""Starts an unmodified MONAI Label server with the commands of docs/how-to/annotate.md, and stops it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import ROOT
from .client import SlicerClient

PAGE = ROOT / "docs" / "how-to" / "annotate.md"

#: The bundle that the page serves.
SERVED = "hippocampus_segmentation"

#: Names the Python of an environment that has MONAI Label; `make label-venv` makes one.
VARIABLE = "NEUROBUNDLE_LABEL_PYTHON"

#: A server imports much before it answers; on a busy machine it takes a minute.
SECONDS_TO_START = 300


@dataclass(frozen=True)
class Server:
    """One that runs.

    Attributes:
        client: talks to it.
        bundles: its copies of ours: what it trains, it writes there.
        studies: its store.
        output: a file with all that it and its trainings print.
    """

    client: SlicerClient
    bundles: Path
    studies: Path
    output: Path


@pytest.fixture(scope="session")
def label_python() -> Path:
    """The Python of an environment that has MONAI Label."""
    own = ROOT / ".venv-label"
    named = os.environ.get(VARIABLE)
    if named is None and not (own / ".ready").exists():
        pytest.skip(f"MONAI Label is not here: `make label-venv` installs it, or {VARIABLE} names a Python that has it")
    python = Path(named) if named else own / "bin" / "python"
    assert python.is_file(), f"{VARIABLE} is {named}, which is no Python"
    return python


def commands() -> list[str]:
    """The commands of the page: making the environment, the app, starting the server, using what it learned."""
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)


@contextmanager
def running(folder: Path, python: Path, bundles: list[str]) -> Iterator[Server]:
    """A server in a folder, whose images lie in ``my_images`` there.

    Args:
        folder: an empty one, but for the images.
        python: that has MONAI Label.
        bundles: names of ours, that it serves.
    """
    # A proxy that nobody is: whatever it would fetch from the internet fails.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    variables = {**os.environ, **nowhere, "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    make_app(folder, python, bundles, variables)
    port = free_port()
    start = commands()[2].replace("--port 8000", f"--port {port}").replace(SERVED, ",".join(bundles))
    assert str(port) in start
    output = folder / "server.txt"
    with served(["bash", "-euc", f"exec {start}"], folder, variables, port, output) as client:
        yield Server(client, folder / "label_app" / "monaibundle" / "model", folder / "my_images", output)


@contextmanager
def served(
    words: list[str], folder: Path, variables: dict[str, str], port: int, output: Path
) -> Iterator[SlicerClient]:
    """A client of the server that a command starts, once it answers; the server is stopped afterwards.

    Args:
        words: the command.
        folder: where it runs.
        variables: its environment.
        port: where it listens.
        output: gets what it prints, after what is there.
    """
    with output.open("ab") as file:
        process = subprocess.Popen(words, cwd=folder, env=variables, stdout=file, stderr=file, start_new_session=True)
    client = SlicerClient(f"http://127.0.0.1:{port}")
    try:
        wait_for(client, process, output)
        yield client
    finally:
        stop(process)


def make_app(folder: Path, python: Path, bundles: list[str], variables: dict[str, str]) -> None:
    """What the page does before a start, for these bundles, with this Python in the place of that of the page."""
    (folder / "bundles").symlink_to(ROOT / "bundles")
    named = folder / ".venv-label" / "bin" / "python"
    named.parent.mkdir(parents=True)
    named.write_text(f'#!/bin/sh\nexec {shlex.quote(str(python))} "$@"\n')
    named.chmod(0o755)
    app = commands()[1]
    (copy,) = [line for line in app.splitlines() if line.startswith("cp ")]
    app = app.replace(copy, "\n".join(copy.replace(SERVED, name) for name in bundles))
    done = subprocess.run(["bash", "-euc", app], cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(client: SlicerClient, process: subprocess.Popen[bytes], output: Path) -> None:
    """Until the server answers."""
    for _ in range(SECONDS_TO_START):
        assert process.poll() is None, output.read_text()[-4000:]
        try:
            urllib.request.urlopen(client.address, timeout=client.seconds).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
        else:
            return
    raise AssertionError(f"no answer: {output.read_text()[-4000:]}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """The server, and a training of its that still runs: they are a session of their own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
