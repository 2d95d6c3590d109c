"""Every benchmark runs, asserts that both ways give the same, and ends with the line that programs read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

BENCHMARKS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.name != "harness.py")


@pytest.mark.slow
@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_it_runs_and_its_outputs_are_equal(path: Path) -> None:
    words = [sys.executable, str(path), "--small", "--rounds", "1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["benchmark"] == path.stem
    compared = [result for result in said["results"] if result["ratio"] is not None]
    assert compared
    assert all(result["equal"] is True for result in compared)
