"""A scan far larger than any brain scan is, within the memory of an ordinary machine."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ..conftest import ROOT

SHAPE = (512, 512, 400)
MOST_MIB = 6 * 1024


def write_study(folder: Path) -> Path:
    """Four sequences of half a millimetre: an ellipsoid of coarse noise."""
    folder.mkdir()
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE], indexing="ij", sparse=True)
    head = (axes[0] / 0.6) ** 2 + (axes[1] / 0.7) ** 2 + (axes[2] / 0.8) ** 2 < 1
    noise = np.random.default_rng(0).integers(0, 50, tuple(n // 8 for n in SHAPE)).astype(np.int16)
    noise = noise.repeat(8, 0).repeat(8, 1).repeat(8, 2)
    for n, name in enumerate(("t1", "t1ce", "t2", "flair")):
        scan = np.where(head, 300 + 100 * n + noise, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(scan, np.diag([0.5, 0.5, 0.5, 1.0])), folder / f"head_{name}.nii.gz")
    return folder


@pytest.mark.slow
def test_four_sequences_of_105_million_voxels(tmp_path: Path) -> None:
    """In a process of its own, so that its peak is its own."""
    study, out = write_study(tmp_path / "head"), tmp_path / "out"
    words = ["run", "brain_tumor_segmentation", "-i", str(study), "-o", str(out), "--device", "cpu", "--no-pictures"]
    done = subprocess.run([sys.executable, "-m", "neurobundle", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((out / "report.json").read_text())["cases"]
    assert nib.load(out / case["output"]).shape == SHAPE
    assert 0 < case["timing"]["peak_memory_mib"] <= MOST_MIB
