"""What lies in a folder, and what may lie there that nobody should open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neurobundle.errors import InputError
from neurobundle.load.datasets import persons_across_folds
from neurobundle.load.gate import Level
from neurobundle.load.inputs import dicom_folders, find_images
from neurobundle.load.scan import is_dicom, read_scan
from neurobundle.load.survey import survey

from . import faults
from .dicom import make


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever opens a pipe that nobody writes to waits for ever."""
    faults.good(tmp_path)
    for name in ("pipe", "p.nii.gz", "index.csv", "p.png"):
        os.mkfifo(tmp_path / name)
    assert [item.name for item in survey([tmp_path]).items] == ["anna.nii.gz"]
    assert find_images([tmp_path]) == [tmp_path / "anna.nii.gz"]
    assert not is_dicom(tmp_path / "pipe")
    with pytest.raises(InputError, match="no regular file"):
        read_scan(tmp_path / "p.nii.gz")
    assert survey([tmp_path / "p.nii.gz"]).items[0].verdict.level is Level.REFUSE


def test_links_that_lead_back_are_not_followed(tmp_path: Path) -> None:
    faults.good(tmp_path)
    for name in "xyz":
        (tmp_path / name).symlink_to(tmp_path)
    assert len(survey([tmp_path]).items) == 1
    assert len(find_images([tmp_path])) == 1
    assert dicom_folders(tmp_path) == []


def test_dicom_without_preamble(tmp_path: Path) -> None:
    """Old archives have it; every command knows it alike."""
    for path in make.series(tmp_path, slices=4).files:
        path.write_bytes(path.read_bytes()[132:])
    assert [item.kind for item in survey([tmp_path]).items] == ["dicom"]
    assert dicom_folders(tmp_path) == [tmp_path]
    assert read_scan(tmp_path).data.shape == (8, 10, 4)


@pytest.mark.parametrize(
    ("content", "check"),
    [
        (b"fold,subject\n0,A\n1,A\n0\n1\n", {"folds"}),
        (b"subject,fold\nA,0\nA\nB,1\n", set()),
        ("subject,fold\nJosé,0\n".encode("latin-1"), {"table"}),
        (b"", set()),
        (b"\x00\x01", set()),
    ],
    ids=["torn-and-ragged", "ragged", "latin-1", "empty", "binary"],
)
def test_tables_that_somebody_wrote_by_hand(content: bytes, check: set[str], tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(content)
    assert {finding.check for finding in persons_across_folds([tmp_path / "index.csv"])} == check
