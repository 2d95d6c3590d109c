"""The bundles of whole heads look at the head alone, and give one label map by whichever way they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.bundle.find import channels_of
from neurobundle.bundle.runner import CaseRunner
from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.load.datalist import write_datalist
from neurobundle.networks import save_weights, strided_unet

from ..conftest import ROOT, blob

HEADS = [ROOT / "bundles" / name for name in ("brain_anatomy_segmentation", "brain_tumor_segmentation")]
NETWORKS: dict[str, dict[str, Any]] = {
    "brain_anatomy_segmentation": {"in_channels": 1, "out_channels": 33, "features": 16},
    "brain_tumor_segmentation": {"in_channels": 4, "out_channels": 3, "prior": 0.4},
}
#: Turned by 15 degrees, 1.5 x 1.5 x 3 mm.
COS, SIN = np.cos(np.deg2rad(15)), np.sin(np.deg2rad(15))
AFFINE = np.array([[-1.5 * COS, 1.5 * SIN, 0, 60], [1.5 * SIN, 1.5 * COS, 0, -70], [0, 0, 3.0, -50], [0, 0, 0, 1.0]])
SHAPE, MIDDLE, RADIUS = (80, 90, 36), (44, 40, 18), 15


@pytest.fixture(params=HEADS, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def case(bundle: Path, tmp_path: Path) -> dict[str, Any]:
    """A ball in noisy air; a file a channel, and a label map that says nothing."""
    rng = np.random.default_rng(0)
    ball = blob(SHAPE, MIDDLE, RADIUS)
    channels = channels_of(bundle)
    names = [f"anna_{name}.nii.gz" for name in channels] if len(channels) > 1 else ["anna.nii.gz"]
    images = []
    for n, name in enumerate(names):
        images.append(tmp_path / "in" / ("anna" if len(names) > 1 else "") / name)
        images[-1].parent.mkdir(parents=True, exist_ok=True)
        data = np.abs(rng.normal(0, 4, SHAPE)) + ball * rng.normal(100 + 20 * n, 25, SHAPE)
        nib.save(nib.Nifti1Image(data.astype(np.float32), AFFINE), images[-1])
    label = tmp_path / "anna_seg.nii.gz"
    nib.save(nib.Nifti1Image(blob(SHAPE, MIDDLE, 5).astype(np.uint8), AFFINE), label)
    torch.manual_seed(0)
    save_weights(
        strided_unet(**NETWORKS[bundle.name], size="tiny"), tmp_path / "models" / "model.pt", origin="trained-here"
    )
    files = [str(path) for path in images]
    return {"image": files if len(files) > 1 else files[0], "label": str(label), "case": "anna", "subject": "anna"}


def settings(folder: Path) -> dict[str, Any]:
    return {
        "network_size": "tiny",
        "device": "cpu",
        "ckpt_dir": str(folder / "models"),
        "window": [32, 32, 32],
    }


def labels(path: Path) -> np.ndarray:
    image = nib.load(path)
    assert image.shape == SHAPE
    assert np.allclose(image.affine, AFFINE, atol=1e-4)
    return np.asarray(image.dataobj)


def test_the_network_sees_the_head_and_little_air(bundle: Path, case: dict[str, Any], tmp_path: Path) -> None:
    """A ball of 45 mm across and 8 mm around it, at 2 mm; not 120 x 135 x 108 mm."""
    plan = make_plan(bundle, "inference", (), {**settings(tmp_path), "output_dir": str(tmp_path)})
    image = CaseRunner(plan).preprocessing({"image": case["image"], "case": "anna"})["image"]
    across = 2 * RADIUS * np.array([1.5, 1.5, 3.0]) / 2.0
    assert (np.abs(np.array(image.shape[1:]) - across - 2 * 4) <= 3).all()
    middle = nib.affines.apply_affine(image.affine.numpy(), (np.array(image.shape[1:]) - 1) / 2)
    assert np.abs(middle - nib.affines.apply_affine(AFFINE, MIDDLE)).max() < 3


@pytest.mark.slow
def test_our_command_stock_monai_and_evaluate_give_one_label_map(
    bundle: Path, case: dict[str, Any], tmp_path: Path
) -> None:
    """The command, the workflow that MONAI's own command runs, and an evaluation: it scores what a user gets."""
    known = settings(tmp_path)
    words = [f"{name}={value}" for name, value in known.items() if name != "device"]
    where = ["run", bundle.name, "-i", str(tmp_path / "in"), "-o", str(tmp_path / "ours"), "--no-pictures"]
    assert main([*where, "--device", "cpu", "--set", *words]) == 0
    ours = labels(tmp_path / "ours" / "anna_seg.nii.gz")
    folder = {"dataset_dir": str(tmp_path / "in"), "output_dir": str(tmp_path / "stock")}
    workflow = make_plan(bundle, "inference", (), {**known, **folder}).workflow()
    workflow.initialize()
    workflow.run()
    assert np.array_equal(labels(tmp_path / "stock" / "anna_seg.nii.gz"), ours)
    data = write_datalist(tmp_path / "datalist.json", [{**case, "fold": 0}])
    scored = {"dataset_dir": str(tmp_path), "datalist": str(data), "output_dir": str(tmp_path / "scores"), "fold": 0}
    workflow = make_plan(bundle, "evaluate", (), {**known, **scored}).workflow()
    workflow.initialize()
    workflow.run()
    assert np.array_equal(labels(tmp_path / "scores" / "predictions" / "anna_seg.nii.gz"), ours)
    assert len(np.unique(ours)) > 1
    assert not ours[:, -10:].any(), "air beyond the crop is background"
