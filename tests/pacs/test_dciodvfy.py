"""Other people's programs on our objects: dicom3tools' dciodvfy, dcmtk's dcmdump and dsrdump."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobundle.export.dicom_seg import make_seg, save_seg
from neurobundle.export.dicom_source import read_source
from neurobundle.export.dicom_sr import make_sr, save_sr
from neurobundle.export.uncertainty import CaseUncertainty
from neurobundle.load.dicom import DicomVolume, find_dicom

from ..export.dicom_results import ALGORITHM, REGIONS, SEGMENTS, one_volume, result_on
from ..export.test_dicom_seg import MADE

pytest.importorskip("highdicom")

#: dciodvfy of dicom3tools 1.00 does not know label maps (2024), and says so in these words alone.
KNOWS_NO_LABEL_MAP = ("Information Object Not found", "SegmentNumber not monotonically increasing from one by one")
UNSURE = CaseUncertainty(0.1, True, 0.05, 3, {"anterior": {"expected_dice": 0.9, "ml_of_members": [0.1, 0.2]}})


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: dicom3tools, dcmtk)")
    return found


def errors_of(path: Path) -> list[str]:
    done = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True, check=False)
    lines = (done.stderr + done.stdout).splitlines()
    assert lines, "it said nothing at all"
    return [line for line in lines if line.startswith("Error")]


def objects(volume: DicomVolume, folder: Path, hidden: bool) -> dict[str, Path]:
    """An object of each kind."""
    source, labels = read_source(volume), result_on(volume.shape, values=3)
    shares = np.stack([labels * 60] * len(REGIONS)).astype(np.uint8)
    empty = np.zeros_like(labels)
    options: dict[str, Any] = {"deidentified": hidden}
    made = {
        "binary": make_seg(source, SEGMENTS, ALGORITHM, labels=labels, **options),
        "regions": make_seg(source, REGIONS, ALGORITHM, labels=labels, **options),
        "fractional": make_seg(source, REGIONS, ALGORITHM, labels=labels, shares=shares, kind="fractional", **options),
        "empty": make_seg(source, SEGMENTS, ALGORITHM, labels=empty, **options),
        "labelmap": make_seg(source, SEGMENTS, ALGORITHM, labels=labels, kind="labelmap", **options),
    }
    files = {name: save_seg(folder / f"{name}_seg.dcm", seg) for name, seg in made.items()}
    ml = {segment.name: 0.5 for segment in SEGMENTS}
    full = make_sr(source, SEGMENTS, ALGORITHM, ml, seg=made["binary"], uncertainty=UNSURE, **options)
    files["report"] = save_sr(folder / "full_sr.dcm", full)
    files["report alone"] = save_sr(folder / "alone_sr.dcm", make_sr(source, SEGMENTS, ALGORITHM, ml, **options))
    return files


@pytest.mark.parametrize("hidden", [False, True], ids=["with the patient", "without"])
@pytest.mark.parametrize("name", ["oblique", "enhanced", "mosaic"])
def test_dciodvfy_finds_no_error(tmp_path: Path, name: str, hidden: bool) -> None:
    program("dciodvfy")
    MADE[name](tmp_path / "study")
    for kind, path in objects(one_volume(tmp_path / "study"), tmp_path, hidden).items():
        found = errors_of(path)
        if kind == "labelmap":
            found = [line for line in found if not any(words in line for words in KNOWS_NO_LABEL_MAP)]
        assert found == [], kind


def test_dciodvfy_sees_an_error(tmp_path: Path) -> None:
    """The test above can fail: an object without its type 1 elements is found out."""
    import pydicom

    program("dciodvfy")
    MADE["oblique"](tmp_path / "study")
    path = objects(one_volume(tmp_path / "study"), tmp_path, hidden=False)["binary"]
    seg = pydicom.dcmread(path)
    del seg.SegmentSequence
    seg.save_as(path)
    assert errors_of(path)


@pytest.mark.parametrize("series", ["philips_pcasl", "ge_fmri_4d/classic", "siemens_hfdl", "seg"])
def test_real_scanners(real_data: Path, tmp_path: Path, series: str) -> None:
    program("dciodvfy")
    if not (real_data / "dicom" / series).is_dir():
        pytest.skip(f"{series} is not here")
    volume = next(one for one in find_dicom(real_data / "dicom" / series).volumes if not one.verdict.refusals)
    files = objects(volume, tmp_path, hidden=False)
    assert [line for kind in ("binary", "fractional", "report") for line in errors_of(files[kind])] == []


def test_dcmtk_reads_them(tmp_path: Path) -> None:
    """With dcmtk: dcmdump reads every object whole; dsrdump prints the report with its volumes."""
    dump, report = program("dcmdump"), program("dsrdump")
    MADE["oblique"](tmp_path / "study")
    files = objects(one_volume(tmp_path / "study"), tmp_path, hidden=False)
    for path in files.values():
        done = subprocess.run([dump, "+L", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "RESEARCH USE ONLY" in done.stdout
    printed = subprocess.run([report, files["report"]], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    assert '"Volume"' in printed.stdout
    assert '"0.5" (ml,UCUM' in printed.stdout
