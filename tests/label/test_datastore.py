"""Labels of a store that a server, its scorings and its trainings share; in an environment that has MONAI Label."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..conftest import ROOT

pytestmark = pytest.mark.slow

NAMES = {"1": "Posterior", "2": "Anterior"}


@pytest.fixture(scope="module")
def found(label_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script saw."""
    script, folder = ROOT / "tests" / "label" / "store_of_labels.py", tmp_path_factory.mktemp("labels")
    words = [str(label_python), str(script), str(folder)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_what_one_process_notes_the_other_one_keeps(found: dict[str, Any]) -> None:
    """Not the names of segments, without which the values would be taken as the bundle's, and not a score."""
    assert found["two processes"] == [NAMES, NAMES]
    assert found["score"] == {"b": 0.5}


def test_an_image_that_was_away_has_its_names_again(found: dict[str, Any]) -> None:
    assert found["away"] == ["anna", "bert"]
    assert found["back"] == NAMES


def test_names_that_are_none_are_refused_before_anything_is_kept(found: dict[str, Any]) -> None:
    assert len(found["names"]) == 4
    assert all("label_info is no list of names" in said for said in found["names"])


def test_an_nrrd_file_that_names_another_file_or_any_size(found: dict[str, Any]) -> None:
    other, large = found["nrrd"]
    assert "holds its voxels itself" in other
    assert "another grid" in large
    assert found["good nrrd"] == "taken"
    assert found["kept"]
