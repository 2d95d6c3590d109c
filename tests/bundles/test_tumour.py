"""The tumour bundle from studies to label maps, with a small random network in the place of its weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.cli import main
from neurobundle.geometry import same_grid
from neurobundle.networks import save_weights, strided_unet
from neurobundle.networks.manifest import read_manifest

from ..conftest import ROOT, blob
from ..helpers import require_weights

NAME = "brain_tumor_segmentation"
BRATS = {"T1": "t1", "T1c": "t1ce", "T2": "t2", "FLAIR": "flair"}
#: Neither isotropic nor in RAS order.
AFFINE = np.array([[0, -1.5, 0, 60], [1.5, 0, 0, -40], [0, 0, 3.0, -30], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    save_weights(strided_unet(4, 3, "tiny"), folder / "model.pt", origin="trained-here")
    return folder


def head(seed: int) -> np.ndarray:
    """A ball of tissue with noise in air with less."""
    rng = np.random.default_rng(seed)
    ball = blob((40, 48, 20), (20, 24, 10), 9)
    return (rng.normal(10, 2, ball.shape) + ball * rng.normal(200, 30, ball.shape)).clip(0).astype(np.float32)


def study(folder: Path, case: str, channels: list[str]) -> Path:
    """A BraTS folder of some sequences."""
    for n, channel in enumerate(channels):
        path = folder / case / f"{case}_{BRATS[channel]}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(head(n), AFFINE), path)
    return folder


def run(folder: Path, out: Path, weights: Path, *options: str) -> int:
    settings = ["--set", "network_size=tiny", f"ckpt_dir={weights}", "window=[32, 32, 32]"]
    return main(["run", NAME, "-i", str(folder), "-o", str(out), "--device", "cpu", *options, *settings])


@pytest.mark.parametrize("channels", [["FLAIR"], ["T1c"], ["T1", "T1c", "FLAIR"], ["T1", "T1c", "T2", "FLAIR"]])
def test_one_to_four_sequences(channels: list[str], tmp_path: Path, weights: Path) -> None:
    folder = study(tmp_path / "in", "anna", channels)
    assert run(folder, tmp_path / "out", weights, "--probabilities") == 0
    labels = nib.load(tmp_path / "out" / "anna_seg.nii.gz")
    assert same_grid(labels.shape, labels.affine, (40, 48, 20), AFFINE)
    found = np.asarray(labels.dataobj)
    assert set(np.unique(found)) <= {0, 1, 2, 3}
    (case,) = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    assert case["study"]["missing"] == [name for name in BRATS if name not in channels]
    assert (tmp_path / "out" / "anna.png").exists()
    shares = nib.load(tmp_path / "out" / "anna_prob.nii.gz").get_fdata()
    assert shares.shape == (40, 48, 20, 3)
    # Region upon region: whatever is above one half in the last one is enhancing tumour, and so on.
    unsure = np.abs(shares - 0.5) < 0.5 / 255
    expected = np.select([shares[..., 2] > 0.5, shares[..., 1] > 0.5, shares[..., 0] > 0.5], [3, 1, 2], 0)
    assert np.array_equal(found[~unsure.any(-1)], expected[~unsure.any(-1)])
    with (tmp_path / "out" / "volumes.csv").open() as file:
        ml = {row["structure"]: float(row["ml"]) for row in csv.DictReader(file)}
    voxel = 1.5 * 1.5 * 3 / 1000
    counts = [int((found == value).sum()) for value in (1, 2, 3)]
    assert ml["necrotic core"] == pytest.approx(counts[0] * voxel, abs=1e-4)
    assert ml["WT"] == pytest.approx(sum(counts) * voxel, abs=1e-4)
    assert ml["TC"] == pytest.approx((counts[0] + counts[2]) * voxel, abs=1e-4)


def test_another_set_of_sequences_is_another_answer(tmp_path: Path, weights: Path) -> None:
    """An absent channel is not guessed from the others."""
    for name, channels in (("one", ["T1"]), ("two", ["T1", "FLAIR"])):
        assert run(study(tmp_path / name, "anna", channels), tmp_path / f"{name}_out", weights, "--no-pictures") == 0
    maps = [np.asarray(nib.load(tmp_path / f"{name}_out" / "anna_seg.nii.gz").dataobj) for name in ("one", "two")]
    assert not np.array_equal(*maps)


def test_a_study_that_lacks_a_sequence_can_be_refused(
    tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = study(study(tmp_path / "in", "anna", ["FLAIR"]), "bert", list(BRATS))
    assert run(folder, tmp_path / "out", weights, "--missing", "refuse", "--no-pictures") == 3
    assert "no T1: found FLAIR" in caplog.text
    assert [path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")] == ["bert_seg.nii.gz"]


def test_without_weights_a_run_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = study(tmp_path / "in", "anna", ["FLAIR"])
    assert run(folder, tmp_path / "out", tmp_path / "nowhere") == 1
    assert "model.pt" in caplog.text


def test_a_bundle_without_probabilities_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = study(tmp_path / "in", "anna", ["T1"])
    words = ["run", "hippocampus_segmentation", "-i", str(folder), "-o", str(tmp_path / "out"), "--probabilities"]
    assert main(words) == 1
    assert "writes no probabilities" in caplog.text


def test_regions_of_config_and_metadata_are_one() -> None:
    from monai.bundle import ConfigParser

    configs = ROOT / "bundles" / NAME / "configs"
    train, inference = (ConfigParser.load_config_file(configs / f"{name}.yaml") for name in ("train", "inference"))
    pred = json.loads((configs / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    assert train["regions"] == pred["regions"] == pred["groups"]
    assert list(train["regions"]) == list(pred["channel_def"].values()) == list(inference["labels"])
    # A region's own label is one of its labels, and of no later region's.
    names = list(train["regions"])
    for n, name in enumerate(names):
        assert inference["labels"][name] in train["regions"][name]
        assert all(inference["labels"][name] not in train["regions"][later] for later in names[n + 1 :])


def test_the_card_says_what_the_study_of_real_heads_wrote() -> None:
    bundle = ROOT / "bundles" / NAME
    require_weights(bundle)
    figures = json.loads((bundle / "docs" / "results" / "real.json").read_text())
    card = (bundle / "docs" / "README.md").read_text()
    for name, facts in figures["patients"].items():
        assert facts["dice"] == pytest.approx(np.mean(list(facts["per_patient"].values())))
        dice, low, high = (f"{value:.3f}"[1:] for value in (facts["dice"], *facts["interval"]))
        assert f"| {name} | {facts['patients']} | {dice} ({low} to {high}) |" in card
    for head, ml in figures["without_tumour_ml"].items():
        assert f"| {head} | {ml:.1f} |" in card
    assert figures["weights"] == read_manifest(bundle / "models")["model.pt"].sha256
