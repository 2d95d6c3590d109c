"""The bundle, from file to label map, however the head is stored (number 27 of the list of bad input)."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main
from neurobundle.geometry import corners_mm


@pytest.mark.slow
def test_27_48_orientations(template_crop: Path, tmp_path: Path) -> None:
    """Corners within 0.01 mm of the input's, and Dice against the canonical run at least 0.99."""
    canonical = nib.load(template_crop)
    inputs = tmp_path / "in"
    inputs.mkdir()
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = canonical.as_reoriented(np.column_stack([axes, flips]))
            nib.save(turned, inputs / f"turned{''.join(nib.aff2axcodes(turned.affine))}.nii.gz")
    assert len(list(inputs.iterdir())) == 48
    words = ["run", "hippocampus_segmentation", "-i", str(inputs), "-o", str(tmp_path / "out"), "--no-pictures"]
    assert main([*words, "--device", "cpu", "--input", "crop"]) == 0
    reference = np.asarray(nib.load(tmp_path / "out" / "turnedRAS_seg.nii.gz").dataobj)
    assert reference.any()
    for path in inputs.iterdir():
        source = nib.load(path)
        written = nib.load(tmp_path / "out" / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert np.abs(corners_mm(source.shape, written.affine) - corners_mm(source.shape, source.affine)).max() < 0.01
        found = np.asarray(nib.as_closest_canonical(written).dataobj)
        for value in (1, 2):
            a, b = found == value, reference == value
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.99
