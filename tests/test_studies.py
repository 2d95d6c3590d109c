"""What pages claim of real data, measured by the studies on a few cases; the pages have the rows that these print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

STUDIES = ROOT / "benchmarks" / "studies"
PAGES = {
    "anatomy_real": "anatomy.md",
    "bias_field_real": "bias-field.md",
    "classic_learning": "leakage.md",
    "compare_classifiers": "fine-tuning.md",
    "controls": "leakage.md",
    "leakage_real": "leakage.md",
    "other_definitions": "metrics.md",
    "persons": "classification.md",
    "registration_real": "registration.md",
    "synthesis_statistics": "synthesis.md",
    "tumour_real": "tumours.md",
}
#: How rows of single cases begin.
SINGLE = {
    "bias_field_real": r"visit|\d\d, |\d\.\d\d",
    "registration_real": "visit",
    "synthesis_statistics": ".* real ",
}
#: Asked for at the corners of the brain.
GOAL_MM = 1.0
#: How far a lesion's contrast to white matter may change, as a share of it; what the page says.
CONTRAST_KEPT = 0.006
#: How far a tissue's brightness may lie from the real one, in white matter's. The page's distances are of all heads,
#: of a few they are larger.
DISTANCES = {"grey matter": 0.2, "white-matter lesion": 0.3, "fluid": 0.6}
#: Figures of one machine differ from another's in their last digit.
LAST_DIGITS = 2


@cache
def run(name: str, data: Path, *more: str) -> tuple[dict[str, Any], list[str]]:
    """What a study measures on a few cases, and the rows of its tables."""
    words = [sys.executable, STUDIES / f"{name}.py", "--data", data, "--small", *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return json.loads(last), [line for line in lines if line.startswith("|")]


def test_every_study_has_a_page() -> None:
    """The page names the command."""
    assert set(PAGES) == {path.stem for path in STUDIES.glob("*.py")} - {"study"}
    for name, page in PAGES.items():
        text = (ROOT / "docs" / "concepts" / page).read_text()
        assert f"python benchmarks/studies/{name}.py" in text
        assert not re.search(r"--small", text)


def close(ours: str, theirs: str) -> bool:
    """Whether two rows differ in the last digits of numbers only.

    The counts of a reduced run are not the page's: whole numbers are left out.
    """
    words = [re.sub(r"\d*\.\d+", "#", row) for row in (ours, theirs)]
    pairs = zip(*(re.findall(r"\d*\.\d+", row) for row in (ours, theirs)), strict=False)
    return words[0] == words[1] and all(
        abs(float(a) - float(b)) <= LAST_DIGITS * 10.0 ** -len(a.split(".")[1]) + 1e-9 for a, b in pairs
    )


@pytest.mark.parametrize(
    ("row", "other", "right"),
    [
        ("| a | .95 |", "| a | .94 |", True),
        ("| a | .95 |", "| a | .91 |", False),
        ("| a | 1.6 mm |", "| b | 1.6 mm |", False),
        ("| a | 1.6 |", "| a | 1.60 |", True),
    ],
)
def test_close(row: str, other: str, right: bool) -> None:
    assert close(row, other) is right


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bias_field_real", "registration_real", "synthesis_statistics"])
def test_the_page_s_rows_are_those_that_are_printed(real_data: Path, name: str) -> None:
    """Rows of single cases are the same, whether few or all are run; real patients are always all."""
    page = (ROOT / "docs" / "concepts" / PAGES[name]).read_text().splitlines()
    rows = [row for row in run(name, real_data)[1] if re.match(rf"\| ({SINGLE[name]})", row)]
    assert len(rows) >= 2
    for row in rows:
        assert any(close(row, line) for line in page), f"{PAGES[name]} has no row like {row}"


@pytest.mark.slow
def test_white_matter_becomes_even(real_data: Path) -> None:
    """In every real scan, and in the template about as even as it was before a field was put on."""
    figures, _ = run("bias_field_real", real_data)
    assert len(figures["scans"]) == 3
    for row in figures["scans"]:
        assert row["voxels"] > 10_000
        assert row["ours"] < row["raw"], row
        assert row["ours_smooth"] < row["raw_smooth"], row
        assert row["ours"] < 1.05 * row["itk"], row
    for row in figures["template"]:
        assert row["corrected"] < row["without"] + 0.0015, row
    assert figures["template"][-1]["with"] > 5 * figures["template"][-1]["corrected"]


@pytest.mark.slow
def test_lesions_stay_as_bright_as_they_were(real_data: Path) -> None:
    """In every sequence, with a field put on and without."""
    figures, _ = run("bias_field_real", real_data)
    assert len(figures["lesions"]) == 4
    for row in figures["lesions"]:
        for way in ("corrected", "mended"):
            assert row[way] == pytest.approx(row["published"], rel=CONTRAST_KEPT), (way, row)


@pytest.mark.slow
def test_published_motions_are_found_again(real_data: Path) -> None:
    figures, _ = run("registration_real", real_data)
    assert len(figures["pairs"]) == 2
    for row in figures["pairs"]:
        assert row["to_motion"] < GOAL_MM, row
        assert row["to_motion"] < row["header"]


@pytest.mark.slow
def test_planted_displacements_are_seen_and_mended(real_data: Path) -> None:
    """And what was not displaced is neither suspicious nor moved."""
    figures, _ = run("registration_real", real_data)
    rows = figures["displacements"]
    moved = [row for what, row in rows.items() if "degrees" in what]
    assert len(moved) == 3
    for row in moved:
        assert row["suspicious"] == row["moved"] == row["pairs"] > 0
        assert max(row["left"]) < GOAL_MM
    assert rows["untouched, to FLAIR"]["moved"] == 0
    still = [row for what, row in rows.items() if "untouched" in what or "one visit" in what]
    assert sum(row["pairs"] for row in still) >= 14
    assert all(row["suspicious"] == 0 for row in still)


@pytest.mark.slow
def test_synthetic_tissues_are_near_real_ones(real_data: Path) -> None:
    """In every sequence, in units of white matter; and in the same order of brightness."""
    figures, _ = run("synthesis_statistics", real_data)
    rows = figures["rows"]
    for tissue, limit in DISTANCES.items():
        for sequence, row in rows[tissue].items():
            assert row["distance"] <= limit, (tissue, sequence, row)
    for kind in ("real", "synthetic"):
        t1, t2 = ({tissue: row[name][kind] for tissue, row in rows.items()} for name in ("T1", "T2"))
        assert t1["fluid"] < t1["grey matter"] < t1["white matter"]
        assert t2["fluid"] > t2["grey matter"] > t2["white matter"]
        assert rows["white-matter lesion"]["FLAIR"][kind] > rows["grey matter"]["FLAIR"][kind]
    assert rows["tumour: enhancing"]["T1c"]["synthetic"] > 1.3 * rows["tumour: enhancing"]["T1"]["synthetic"]


@pytest.mark.slow
def test_surface_distance_calls_surfaces_nearer(real_data: Path) -> None:
    """Its distances are smaller and its NSD is larger, on every pair."""
    figures, _ = run("other_definitions", real_data)
    assert len(figures["rows"]) == 3
    for row in figures["rows"].values():
        assert row["hd95"][2] >= 0
        assert row["assd"][2] > 0
        assert row["nsd"][3] < 0
