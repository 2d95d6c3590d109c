"""An ensemble with its uncertainty in the place of a bundle's own inferer, from the bundle's config to files."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from neurobundle.geometry import same_grid
from neurobundle.networks import residual_unet, save_weights, strided_unet
from neurobundle.networks.manifest import write_entry

from ..conftest import ROOT, blob

#: Neither isotropic nor in RAS order.
AFFINE = np.array([[0, -1.5, 0, 60], [1.5, 0, 0, -40], [0, 0, 3.0, -30], [0, 0, 0, 1.0]])
SHAPE = (30, 34, 14)
STRUCTURES = {
    "hippocampus_segmentation": ("softmax", ["anterior", "posterior"]),
    "brain_tumor_segmentation": ("sigmoid", ["WT", "TC", "ET"]),
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
    for name in STRUCTURES:
        for seed, file in enumerate(("model.pt", "fold0.pt")):
            torch.manual_seed(seed)
            net = residual_unet(1, 3, "tiny") if name.startswith("hippocampus") else strided_unet(4, 3, "tiny")
            save_weights(net, tmp_path / name / file, origin="trained-here")
    return tmp_path


def run(bundle: str, place: Path, out: str, **ensemble: Any) -> Path:
    """The config with settings changed, as MONAI's own command would build it."""
    root = ROOT / "bundles" / bundle
    activation, structures = STRUCTURES[bundle]
    parser = ConfigParser(ConfigParser.load_config_file(root / "configs" / "inference.yaml"))
    parser.read_meta(root / "configs" / "metadata.json")
    source = "scans" if bundle.startswith("hippocampus") else "studies"
    settings = {"bundle_root": str(root), "dataset_dir": str(place / source), "output_dir": str(place / out)}
    settings |= {"ckpt_dir": str(place / bundle), "device": "cpu", "network_size": "tiny", "window": [16, 16, 16]}
    for key, value in settings.items():
        parser[key] = value
    enabled = ensemble.pop("enabled", True)
    parser["inferer"] = {
        "_target_": "neurobundle.infer.AutocastInferer",
        "inferer": {
            "_target_": "neurobundle.infer.EnsembleInferer",
            "activation": activation,
            "network": "@network",
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": "@window", "mode": "gaussian"},
            **ensemble,
        },
    }
    says = {
        "_target_": "neurobundle.postprocess.uncertainty.Uncertaintyd",
        "keys": "@pred",
        "orig_keys": "@image",
        "channels": "@num_classes",
        "activation": activation,
        "structures": structures,
        "calibration": "$@ckpt_dir + '/calibration.json'",
        "enabled": enabled,
    }
    writes = {
        "_target_": "neurobundle.export.uncertainty_transforms.SaveUncertaintyd",
        "keys": "@pred",
        "output_dir": "@output_dir",
    }
    steps = parser["postprocessing::transforms"]
    others = [step for step in steps if "ncertainty" not in step["_target_"]]
    parser["postprocessing::transforms"] = [says, writes, *others]
    parser.parse(True)
    parser.get_parsed_content("evaluator").run()
    return place / out


@pytest.mark.slow
@pytest.mark.parametrize("bundle", STRUCTURES)
def test_an_ensemble_says_how_sure_it_is(bundle: str, place: Path) -> None:
    models = place / bundle
    (models / "calibration.json").write_text('{"temperature": 1.5, "flag_above": 0.0, "chosen_on": "nothing", "n": 0}')
    write_entry(models, "calibration.json", origin="trained-here")
    out = run(bundle, place, "out", weights=[str(models / "fold0.pt")], axes=[0], uncertainty=True)
    volume = nib.load(out / "anna_uncertainty.nii.gz")
    assert same_grid(volume.shape, volume.affine, SHAPE, AFFINE)
    assert 0 < volume.get_fdata().max() <= 1 + 1e-6, "a header's scale is a float32"
    numbers = json.loads((out / "anna_uncertainty.json").read_text())
    assert (numbers["case"], numbers["members"], numbers["flagged"]) == ("anna", 4, True)
    assert list(numbers["structures"]) == STRUCTURES[bundle][1]
    for each in numbers["structures"].values():
        low, high = each["ml_of_members"]
        assert 0 <= low <= high
        assert 0 <= each["expected_dice"] <= 1
    assert any(each["variance"] for each in numbers["structures"].values())
    (entry,) = json.loads((out / "report.json").read_text())["cases"]
    assert entry["status"] == "ok"
    assert "anna_seg.nii.gz" in entry["outputs"]


@pytest.mark.slow
@pytest.mark.parametrize("bundle", STRUCTURES)
def test_labels_do_not_depend_on_whether_it_is_asked(bundle: str, place: Path) -> None:
    member = [str(place / bundle / "fold0.pt")]
    asked = run(bundle, place, "asked", weights=member, uncertainty=True)
    plain = run(bundle, place, "plain", weights=member, enabled=False)
    assert (asked / "anna_seg.nii.gz").read_bytes() == (plain / "anna_seg.nii.gz").read_bytes()
    assert sorted(path.name for path in plain.glob("anna*")) == ["anna_seg.nii.gz"]


def test_a_member_that_is_missing_ends_the_run_before_its_first_case(place: Path) -> None:
    with pytest.raises(Exception, match="EnsembleInferer") as caught:
        run("hippocampus_segmentation", place, "out", weights=[str(place / "nowhere.pt")])
    causes, error = [], caught.value
    while error is not None:
        causes.append(str(error))
        error = error.__cause__
    assert "nowhere.pt: the weights file does not exist" in causes[-1]
    assert not (place / "out").exists()
