"""``check --channels`` and ``convert --channels``: which scan becomes which channel, seen and kept."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main

from ..load import faults
from ..load.dicom import make
from .test_run_studies import flair, t1


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A DICOM study with T1 and FLAIR."""
    t1(tmp_path / "study" / "a")
    t1(tmp_path / "study" / "b", uid=make.SERIES + ".9", edit=flair)
    return tmp_path / "study"


def test_what_would_be_chosen(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(study), "--channels", "T1,FLAIR"]) == 0
    said = capsys.readouterr().out
    assert "T1 is series 4" in said
    assert "FLAIR is series 9" in said


def test_a_missing_channel_is_refused_or_filled(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(study), "--channels", "T1,T2"]) == 4
    said = capsys.readouterr().out
    assert "no T2: found T1" in said
    assert "--missing" not in said, "whether a bundle may fill it is not known here"
    assert main(["check", str(study), "--channels", "T1,T2", "--missing", "fill", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["levels"] == {"ok": 0, "warn": 1, "refuse": 0}


def test_what_a_run_would_refuse_is_refused(study: Path, tmp_path: Path) -> None:
    """A truncated file, a gap, and a channel that shows another place are seen by the check too."""
    for folder, spoil in (("cut", lambda path: path.write_bytes(path.read_bytes()[:-40])), ("gap", Path.unlink)):
        made = t1(tmp_path / folder)
        spoil(made.files[9])
        assert main(["check", str(tmp_path / folder), "--channels", "T1"]) == 4
    (tmp_path / "away").mkdir()
    faults.good(tmp_path / "away", "first_T1.nii.gz")
    moved = faults.AFFINE + 300 * np.eye(4, k=3)
    faults.saved(np.copy, moved)(faults.good(tmp_path / "away", "first_FLAIR.nii.gz"))
    assert main(["check", str(tmp_path / "away"), "--channels", "T1,FLAIR"]) == 4


def test_32_two_patients_in_one_folder(study: Path) -> None:
    make.change(sorted((study / "b").iterdir())[0], PatientID="another")
    assert main(["check", str(study / "b"), "--channels", "FLAIR"]) == 4


def test_options_of_channels_go_with_channels(study: Path) -> None:
    assert main(["check", str(study), "--missing", "fill"]) == 1


def test_an_unknown_channel(study: Path) -> None:
    assert main(["check", str(study), "--channels", "T9"]) == 1


def test_channels_on_one_grid_are_kept(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what was written is a study again, whose channels need no resampling."""
    assert main(["convert", str(study), "-o", str(tmp_path / "out"), "--channels", "FLAIR,T1"]) == 0
    (case,) = json.loads((tmp_path / "out/conversion.json").read_text())["cases"]
    assert not (tmp_path / "out" / "report.json").exists(), "a run's report has that name"
    written = [nib.load(tmp_path / "out" / case["outputs"][channel]) for channel in ("FLAIR", "T1")]
    assert np.allclose(written[0].affine, written[1].affine)
    assert main(["check", str(tmp_path / "out"), "--channels", "T1,FLAIR"]) == 0


def test_one_bad_study_does_not_stop_the_others(tmp_path: Path) -> None:
    for case in ("anna", "otto"):
        (tmp_path / "in" / case).mkdir(parents=True)
        for channel in ("T1", "FLAIR"):
            faults.good(tmp_path / "in" / case, f"{case}_{channel}.nii.gz")
    faults.truncated(tmp_path / "in/anna/anna_FLAIR.nii.gz")
    words = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--channels", "T1,FLAIR"]
    assert main(words) == 3
    cases = json.loads((tmp_path / "out/conversion.json").read_text())["cases"]
    assert [case["status"] for case in cases] == ["failed", "ok"]
    assert "truncated" in cases[0]["error"]
    assert not (tmp_path / "out" / "anna").exists()


def test_no_scan_is_replaced_by_what_is_made_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The outputs' names are a layout, so that a folder converted onto itself would lose its scans."""
    (tmp_path / "anna").mkdir()
    files = [faults.good(tmp_path / "anna", f"anna_{channel}.nii.gz") for channel in ("T1", "FLAIR")]
    before = [path.read_bytes() for path in files]
    assert main(["convert", str(tmp_path), "-o", str(tmp_path), "--channels", "T1,FLAIR"]) == 4
    assert "anna_T1.nii.gz, anna_FLAIR.nii.gz would be replaced" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before


def test_a_study_that_is_refused_leaves_no_earlier_conversion(tmp_path: Path) -> None:
    for channel in ("T1", "FLAIR"):
        (tmp_path / "in/anna").mkdir(parents=True, exist_ok=True)
        faults.good(tmp_path / "in/anna", f"anna_{channel}.nii.gz")
    words = ["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--channels", "T1,FLAIR"]
    assert main(words) == 0
    faults.truncated(tmp_path / "in/anna/anna_FLAIR.nii.gz")
    assert main(words) == 4
    assert list((tmp_path / "out/anna").iterdir()) == []
