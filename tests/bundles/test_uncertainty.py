"""An ensemble and its uncertainty, from each bundle's own config to files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from neurobundle.bundle.find import structures_of
from neurobundle.bundle.workflow import make_plan
from neurobundle.geometry import same_grid
from neurobundle.networks import residual_unet, save_weights, strided_unet
from neurobundle.networks.manifest import write_entry

from ..conftest import ROOT, blob

#: Neither isotropic nor in RAS order.
AFFINE = np.array([[0, -1.5, 0, 60], [1.5, 0, 0, -40], [0, 0, 3.0, -30], [0, 0, 0, 1.0]])
SHAPE = (30, 34, 14)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "hippocampus_segmentation": lambda: residual_unet(1, 3, "tiny"),
    "brain_tumor_segmentation": lambda: strided_unet(4, 3, "tiny"),
    "brain_anatomy_segmentation": lambda: strided_unet(1, 33, "tiny", features=16),
}
#: What each config needs to be told for members, and how many these are.
MEMBERS: dict[str, tuple[dict[str, Any], int]] = {
    "hippocampus_segmentation": ({"members": ["fold0.pt"]}, 2),
    "brain_tumor_segmentation": ({"members": ["fold0.pt"], "mirror": True}, 4),
    "brain_anatomy_segmentation": ({"members": ["fold0.pt"], "mirror": True}, 4),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A head-like scan, channels of it, and weights of two trainings that learned nothing."""
    rng = np.random.default_rng(0)
    ball = blob(SHAPE, (15, 17, 7), 6)
    array = (rng.normal(10, 2, SHAPE) + ball * rng.normal(200, 30, SHAPE)).clip(0.1).astype(np.float32)
    (tmp_path / "scans").mkdir()
    nib.save(nib.Nifti1Image(array, AFFINE), tmp_path / "scans" / "anna.nii.gz")
    for sequence in ("t1", "t1ce", "t2", "flair"):
        path = tmp_path / "studies" / "anna" / f"anna_{sequence}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE), path)
    for name in NETWORKS:
        for seed, file in enumerate(("model.pt", "fold0.pt")):
            torch.manual_seed(seed)
            save_weights(NETWORKS[name](), tmp_path / name / file, origin="trained-here")
    return tmp_path


def run(bundle: str, place: Path, out: str, **settings: Any) -> Path:
    """The bundle's own config, as MONAI's command would build it."""
    source = "studies" if bundle == "brain_tumor_segmentation" else "scans"
    given = {"dataset_dir": str(place / source), "output_dir": str(place / out), "ckpt_dir": str(place / bundle)}
    given |= {"device": "cpu", "network_size": "tiny", "window": [16, 16, 16]}
    workflow = make_plan(ROOT / "bundles" / bundle, "inference", (), {**given, **settings}).workflow()
    workflow.initialize()
    workflow.run()
    return place / out


def names_of(bundle: str) -> list[str]:
    """The structures, in the order of the network's outputs."""
    regions = bundle == "brain_tumor_segmentation"
    return ["WT", "TC", "ET"] if regions else list(structures_of(ROOT / "bundles" / bundle).values())


@pytest.mark.parametrize("bundle", NETWORKS)
def test_an_ensemble_says_how_sure_it_is(bundle: str, place: Path) -> None:
    models = place / bundle
    (models / "calibration.json").write_text('{"temperature": 1.5, "flag_above": 0.0, "chosen_on": "nothing", "n": 0}')
    write_entry(models, "calibration.json", origin="trained-here")
    settings, members = MEMBERS[bundle]
    out = run(bundle, place, "out", uncertainty=True, **settings)
    volume = nib.load(out / "anna_uncertainty.nii.gz")
    assert same_grid(volume.shape, volume.affine, SHAPE, AFFINE)
    assert 0 < volume.get_fdata().max() <= 1 + 1e-6, "a header's scale is a float32"
    numbers = json.loads((out / "anna_uncertainty.json").read_text())
    assert (numbers["case"], numbers["members"], numbers["flagged"]) == ("anna", members, True)
    assert list(numbers["structures"]) == names_of(bundle)
    for each in numbers["structures"].values():
        low, high = each["ml_of_members"]
        assert 0 <= low <= high
        assert 0 <= each["expected_dice"] <= 1
    assert any(each["variance"] for each in numbers["structures"].values())
    (entry,) = json.loads((out / "report.json").read_text())["cases"]
    assert entry["status"] == "ok"
    assert "anna_seg.nii.gz" in entry["outputs"]


@pytest.mark.parametrize("bundle", NETWORKS)
def test_labels_do_not_depend_on_whether_it_is_asked(bundle: str, place: Path) -> None:
    asked = run(bundle, place, "asked", members=["fold0.pt"], uncertainty=True)
    plain = run(bundle, place, "plain", members=["fold0.pt"])
    assert (asked / "anna_seg.nii.gz").read_bytes() == (plain / "anna_seg.nii.gz").read_bytes()
    assert sorted(path.name for path in plain.glob("anna*")) == ["anna_seg.nii.gz"]


def test_a_member_that_is_missing_ends_the_run_before_its_first_case(place: Path) -> None:
    with pytest.raises(Exception, match="EnsembleInferer") as caught:
        run("hippocampus_segmentation", place, "out", members=["nowhere.pt"])
    causes, error = [], caught.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert "nowhere.pt: the weights file does not exist" in causes[-1]
    assert not (place / "out").exists()
