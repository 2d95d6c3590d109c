"""Folders that show patients: what a process that is killed leaves of them."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from neurobundle.label.fetched import private_folder


def test_what_a_killed_process_left_goes_with_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        with private_folder() as folder:
            (folder / "scan.nii").touch()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(tmp_path.rglob("scan.nii"))
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "scan.nii").touch()
        with private_folder():
            assert (folder / "scan.nii").exists(), "this one is still in use"
    assert not list(tmp_path.iterdir())
