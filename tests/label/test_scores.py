"""How well a bundle agrees with a final label; without MONAI Label."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.errors import InputError
from neurobundle.label.answers import Answer
from neurobundle.label.finals import Labelled
from neurobundle.label.scores import agreement
from neurobundle.load.scan import Scan

from ..conftest import ROOT

HIPPOCAMPUS, TUMOUR, CLASSES = (
    ROOT / "bundles" / name
    for name in ("hippocampus_segmentation", "brain_tumor_segmentation", "tumor_type_classification")
)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def final(folder: Path, labels: np.ndarray, names: dict[int, str] | None = None) -> Labelled:
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), AFFINE), folder / "final.nii.gz")
    return Labelled("one", folder / "final.nii.gz", names or {})


def test_by_structure_in_mm(tmp_path: Path) -> None:
    """Four voxels of each, two of them the same: 2 * 2 / 8; one farther along an axis of 2 mm."""
    there, said = np.zeros((8, 8, 8)), np.zeros((8, 8, 8))
    there[2:4, 2:4, 4] = 1
    said[2:4, 3:5, 4] = 1
    found = agreement(HIPPOCAMPUS, Answer(Scan(said.astype(np.uint8), AFFINE)), final(tmp_path, there))
    assert found == {"anterior": {"dice": 0.5, "hd95_mm": 2.0}}, "the posterior part is in neither"


def test_regions_that_overlap(tmp_path: Path) -> None:
    """A voxel of value 2 of the tumour is of the whole tumour alone."""
    there, said = np.zeros((6, 6, 6)), np.zeros((6, 6, 6))
    there[2:4, 2, 2], said[2, 2, 2], said[3, 2, 2] = 2, 2, 1
    found = agreement(TUMOUR, Answer(Scan(said.astype(np.uint8), AFFINE)), final(tmp_path, there))
    assert {name: score["dice"] for name, score in found.items()} == {"WT": 1.0, "TC": 0.0}


def test_a_clients_names_count(tmp_path: Path) -> None:
    there, said = np.zeros((6, 6, 6)), np.zeros((6, 6, 6))
    there[2, 2, 2], said[2, 2, 2] = 1, 2
    answer = Answer(Scan(said.astype(np.uint8), AFFINE))
    assert agreement(HIPPOCAMPUS, answer, final(tmp_path, there, {1: "Posterior"}))["posterior"]["dice"] == 1
    with pytest.raises(InputError, match="none is one of the bundle"):
        agreement(HIPPOCAMPUS, answer, final(tmp_path, there, {1: "liver"}))


def test_of_a_class(tmp_path: Path) -> None:
    said = Answer(None, {"answer": {"probabilities": {"glioma": 0.25, "meningioma": 0.625, "pituitary": 0.125}}})
    labels = np.zeros((6, 6, 6))
    labels[2:4] = 2
    assert agreement(CLASSES, said, final(tmp_path, labels)) == {"right": True, "probability": 0.625}
    labels[2] = 1
    with pytest.raises(InputError, match=r"segments \[1, 2\] are outlined"):
        agreement(CLASSES, said, final(tmp_path, labels))
