"""The studies of docs/concepts/leakage.md on a part of the data: what the page shows is what they print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import ROOT
from .test_studies import run

PAGE = ROOT / "docs" / "concepts" / "leakage.md"


@pytest.mark.slow
def test_the_page_s_rows_of_ids_are_those_that_are_printed(real_data: Path) -> None:
    """They are of all slices whose id is published, however few of the others are looked at."""
    figures, rows = run("leakage_real", real_data)
    printed = [row for row in rows if row.startswith("| MR")]
    assert printed == [line for line in PAGE.read_text().splitlines() if line.startswith("| MR")]
    assert figures["authors"]["bases"] == 8
    assert {case for pair in figures["authors"]["near"] for case in pair} == {
        str(n) for start in (2120, 2216) for n in range(start, start + 7)
    }
    assert figures["authors"]["kin_pairs_similar"] == 4
    assert f"{figures['authors']['other_pairs_similar']} of the 10,866" in PAGE.read_text().replace("\n", " ")
    assert figures["authors"]["other_pairs"] == 10866


@pytest.mark.slow
def test_copies_are_found_and_strangers_are_not(real_data: Path) -> None:
    altered = run("leakage_real", real_data)[0]["altered"]
    told = [float(line.split("|")[2].strip(" %")) for line in PAGE.read_text().splitlines() if line.endswith(" % |")]
    shares = [value for name, value in altered.items() if name != "strangers"]
    assert len(told) == len(shares) == 11
    for share, said in zip(shares, told, strict=True):
        assert share == 1 if said == 100 else share < 0.5
    assert altered["strangers"]["found"] == 0
    assert altered["strangers"]["most"] < 0.95


@pytest.mark.slow
def test_a_class_that_is_a_source(real_data: Path) -> None:
    sources = run("leakage_real", real_data)[0]["sources"]
    published, made = sources["told"].values()
    assert {"file type", "size in the plane", "pixel type"} <= set(published)
    assert "highest value" in made
    assert not {"file type", "size in the plane", "pixel type"} & set(made)
    assert sources["near_of_both_sets"] == 0
    assert sources["turned_without"] > 0


@pytest.mark.slow
def test_classical_learning(real_data: Path) -> None:
    """A fifth of the persons: every case is answered, and better than by the majority's class."""
    figures, rows = run("classic_learning", real_data)
    assert figures["failed"] == 0
    assert len(rows) == 5
    for scores in figures["rows"].values():
        assert scores["macro_f1"]["mean"] > 0.4
        assert scores["macro_f1"]["interval"][0] < scores["macro_f1"]["mean"] < scores["macro_f1"]["interval"][1]


@pytest.mark.slow
def test_the_outline_alone_tells_something(real_data: Path) -> None:
    """Where a tumour lies and how it is shaped, of a fifth of the persons: above the share of the largest class."""
    figures, rows = run("classic_learning", real_data, "--region", "outline")
    assert (figures["failed"], figures["region"], len(rows)) == (0, "outline", 3)
    assert figures["rows"]["outline"]["accuracy"]["mean"] > 0.5


def test_classical_learning_of_any_datalist(tmp_path: Path) -> None:
    """Stripes of two directions: gradients tell them for sure; what cannot be read counts as wrong."""
    items = []
    for n in range(16):
        stripes = np.sin(np.arange(64) / (2 + n % 5))[None].repeat(64, 0) * 100 + 120
        noise = np.random.default_rng(n).normal(0, 8, (64, 64))
        pixels = ((stripes if n % 2 else stripes.T) + noise).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{n}.png")
        items.append({"image": f"{n}.png", "case": f"c{n}", "subject": f"p{n}", "fold": n // 2 % 2, "label": n % 2})
    (tmp_path / "15.png").write_bytes(b"nothing")
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": items, "labels": {"0": "down", "1": "across"}}))
    study = ROOT / "benchmarks" / "studies" / "classic_learning.py"
    words = [sys.executable, study, "--datalist", path, "-o", tmp_path / "out"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["cases"], figures["failed"]) == (16, 1)
    summary = json.loads((tmp_path / "out" / "HOG" / "summary.json").read_text())
    assert summary["accuracy"]["mean"] == pytest.approx(15 / 16)
    assert "c15" in summary["failed"]
