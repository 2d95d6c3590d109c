"""The demo's painted tumour: the same each time, marked as painted, and found where there are weights."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import PATH_VARIABLE
from neurobundle.commands import demo, demo_tumour
from neurobundle.commands.demo_tumour import BUNDLE, PaintedHead, paint_template, painted_tumour, region_rows
from neurobundle.networks import save_weights, strided_unet
from neurobundle.prepare.register import template_path

from ..conftest import ROOT

pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def painted() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    return paint_template()


def test_it_is_a_tumour_with_all_its_parts(painted: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]) -> None:
    """In the left hemisphere; bright in FLAIR as a whole, and in T1c in its rim."""
    scans, label, affine = painted
    assert set(np.unique(label)) == {0, 1, 2, 3}
    assert all(2 < (label == value).sum() / 1000 < 20 for value in (1, 2, 3))
    assert nib.affines.apply_affine(affine, np.argwhere(label).mean(axis=0))[0] < -10
    white = {name: np.median(scan[(label == 0) & (scan > 0)]) for name, scan in scans.items()}
    assert np.median(scans["FLAIR"][label == 2]) > 1.1 * white["FLAIR"]
    assert np.median(scans["T1c"][label == 3]) > 1.3 * white["T1c"]
    assert np.median(scans["T1c"][label == 1]) < white["T1c"]


def test_the_t1_is_the_templates_away_from_the_tumour(
    painted: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray],
) -> None:
    scans, _, _ = painted
    template = np.asarray(nib.load(template_path()).dataobj, float)
    right = slice(scans["T1"].shape[0] // 2 + 20, None)
    ours, theirs = scans["T1"][right].ravel(), template[right].ravel()
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99999
    assert all(not scan[right][template[right] == 0].any() for scan in scans.values()), "air is 0"


def test_it_is_the_same_each_time(painted: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]) -> None:
    again = paint_template()
    assert np.array_equal(again[1], painted[1])
    assert all(np.array_equal(again[0][name], painted[0][name]) for name in painted[0])


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of 24 voxels instead of the template's: two of its parts are labelled."""
    label = np.zeros((24, 24, 24), np.uint8)
    label[8:12, 8:12, 8:12], label[12:14, 8:12, 8:12] = 3, 2
    scan = np.full(label.shape, 100, np.int16) + label * 40
    scans = dict.fromkeys(demo_tumour.SUFFIXES, scan)
    monkeypatch.setattr(demo_tumour, "paint_template", lambda: (scans, label, np.diag([4.0, 4, 4, 1])))


def test_without_weights_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch)
    monkeypatch.setattr(demo_tumour, "has_weights", lambda: False)
    head = painted_tumour(tmp_path)
    assert head.result is None
    assert {path.name for path in head.folder.iterdir()} == {
        *(f"painted_tumour_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair", "seg"))
    }
    assert region_rows(head)[0] == {"region": "whole tumour", "painted, ml": "6.1"}, "96 voxels of 64 mm3"
    text = " ".join(demo._tumour_parts(head))
    assert "nothing was segmented" in text
    assert "Painted tumour: not a patient." in text.split("<img")[0]


def test_painted_and_found_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 voxels of enhancing tumour were painted; half of them are found, and no more."""
    small(monkeypatch)
    monkeypatch.setattr(demo_tumour, "has_weights", lambda: False)
    head = painted_tumour(tmp_path)
    found = np.asarray(nib.load(head.truth).dataobj).copy()
    found[10:12] = 0
    nib.save(nib.Nifti1Image(found, nib.load(head.truth).affine), tmp_path / "found.nii.gz")
    result = CaseResult(case="painted_tumour", file="", output="found.nii.gz", status="ok")
    rows = region_rows(PaintedHead(head.folder, head.truth, result, tmp_path))
    assert rows[2] == {"region": "enhancing tumour", "painted, ml": "4.1", "found, ml": "2.0", "Dice": "0.67"}
    text = " ".join(demo._tumour_parts(PaintedHead(head.folder, head.truth, result, tmp_path)))
    assert "that the network found" in text
    assert "nothing was segmented" not in text


def test_with_weights_it_is_segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network that knows nothing: the way from four files to a label map on their grid."""
    small(monkeypatch)
    bundle = tmp_path / "bundles" / BUNDLE
    shutil.copytree(ROOT / "bundles" / BUNDLE, bundle, ignore=shutil.ignore_patterns("*.pt", "M*256"))
    config = bundle / "configs" / "inference.yaml"
    text = re.sub(r"window: \[.*\]", "window: [16, 16, 16]", config.read_text())
    config.write_text(text.replace("network_size: full", "network_size: tiny"))
    torch.manual_seed(0)
    save_weights(strided_unet(4, 3, size="tiny"), bundle / "models" / "model.pt", origin="released")
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path / "bundles"))
    head = painted_tumour(tmp_path / "out")
    assert head.found is not None
    assert nib.load(head.found).shape == (24, 24, 24)
    assert {row["region"] for row in region_rows(head)} == set(demo_tumour.REGIONS)
    assert all("Dice" in row for row in region_rows(head))
