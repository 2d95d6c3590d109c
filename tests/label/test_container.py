"""The Containerfile, read: what it runs is there, and it starts the server, for this machine alone."""

from __future__ import annotations

import re
import shlex

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


def test_what_is_built_here_stays_here() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".venv-label"} <= set(ignored)
