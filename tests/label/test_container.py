"""The Containerfile, read: what it runs is there, and it starts the server, for this machine alone."""

from __future__ import annotations

import re
import shlex
import subprocess

from neurobundle.bundle.find import bundles

from ..conftest import ROOT
from .conftest import PAGE

TEXT = (ROOT / "Containerfile").read_text()
LINES = [line.split(" ", 1) for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def lines(word: str) -> list[str]:
    return [rest for first, rest in LINES if first == word]


def test_it_makes_what_the_makefile_knows() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|&& )make ([a-z-]+)", "\n".join(lines("RUN")), re.MULTILINE)
    assert targets == ["label-venv"]
    assert all(f"\n{target}:" in makefile for target in targets)
    (place,) = re.findall(r"^LABEL_VENV := (.*)$", makefile, re.MULTILINE)
    (start,) = lines("ENTRYPOINT")
    program, command = shlex.split(start.strip("[]").replace(",", " "))
    (copied,) = lines("WORKDIR")[:1]
    assert (program, command) == (f"{copied}/{place}/bin/neurobundle", "label")


def test_nobody_is_root_and_nobody_else_is_let_in() -> None:
    """It listens where `neurobundle label` listens: on the machine itself."""
    assert lines("USER") == ["annotator"]
    assert not lines("EXPOSE")
    assert "0.0.0.0" not in TEXT


def test_the_page_starts_it_on_the_machine_alone() -> None:
    build, start = re.findall(r"^(podman (?:build|run)(?:.*\\\n)*.*)$", PAGE.read_text(), re.MULTILINE)
    (name,) = re.findall(r"-t (\S+) -f Containerfile \.$", build)
    words = shlex.split(start.replace("\\\n", " "))
    assert words[3:5] == ["--network", "host"]
    bundle, *rest = words[words.index(name) + 1 :]
    assert bundle in bundles()
    assert rest == ["--studies", "/studies", "--store", "/store"]
    assert not {"-p", "--publish", "--host"} & set(words)


def test_no_study_and_no_store_is_built_in() -> None:
    """All is left out but what is named, and nothing that a person may have made is named."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert not tracked or named <= {path.split("/")[0] for path in tracked}
    assert {"Makefile", "bundles", "env", "setup.cfg", "setup.py", "src"} <= named
