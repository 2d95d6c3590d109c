"""The Containerfile, read: what it runs is there, and it starts the server, for this machine alone."""

from __future__ import annotations

import re
import shlex

from ..conftest import ROOT

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


def test_what_is_built_here_stays_here() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".venv-label"} <= set(ignored)
