"""The overlays that the tumour bundle has of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.bundle.find import own_overlays
from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.load.datalist import write_datalist

from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "brain_tumor_segmentation"
TINY = {"network_size": "tiny", "device": "cpu"}
SMALL = {**TINY, "patch_size": [32, 32, 32], "window": [32, 32, 32], "epochs": 1, "val_interval": 1}


def built(kind: str, overlay: str, **settings: object) -> torch.nn.Module:
    parser = make_plan(BUNDLE, kind, [overlay], {"device": "cpu", **settings}).workflow().parser
    network = parser.get_parsed_content("network_def")
    assert isinstance(network, torch.nn.Module)
    return network


def size(network: torch.nn.Module) -> int:
    return sum(values.numel() for values in network.parameters())


def test_they_are_known_by_name() -> None:
    assert {"network_unet", "network_segresnet", "with_lgg"} <= set(own_overlays(BUNDLE))


@pytest.mark.parametrize(
    ("overlay", "millions"),
    [("network_unet", (1.5, 2.5)), ("network_segresnet", (4.3, 5.3))],
    ids=lambda value: str(value),
)
def test_a_network_of_another_kind(overlay: str, millions: tuple[float, float]) -> None:
    """As large as its file says, the same in training and in inference, from four channels to three regions."""
    full = built("train", overlay)
    assert millions[0] < size(full) / 1e6 < millions[1]
    assert {key: value.shape for key, value in built("inference", overlay).state_dict().items()} == {
        key: value.shape for key, value in full.state_dict().items()
    }
    tiny = built("train", overlay, network_size="tiny").eval()
    assert size(tiny) < size(full) / 4
    with torch.no_grad():
        assert tiny(torch.zeros(1, 4, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four heads of 32 voxels of 2 mm; of each, T2 is absent and the mask says where the tumour is, as a whole."""
    folder = tmp_path_factory.mktemp("heads")
    rng, items, affine = np.random.default_rng(0), [], np.diag([2.0, 2.0, 2.0, 1.0])
    for n in range(4):
        label = np.zeros((32, 32, 32), np.uint8)
        label[10 : 18 + n, 12:20, 12:20] = 1
        images = []
        for channel in ("T1", "T1c", "T2", "FLAIR"):
            data = (
                np.zeros(label.shape, np.float32)
                if channel == "T2"
                else 100 + 50 * label + rng.normal(0, 9, label.shape)
            )
            images.append(folder / f"case_{n}_{channel}.nii.gz")
            nib.save(nib.Nifti1Image(data.astype(np.float32), affine), images[-1])
        path = folder / f"case_{n}_seg.nii.gz"
        nib.save(nib.Nifti1Image(label, affine), path)
        items.append({"case": f"case_{n}", "subject": f"case_{n}", "fold": n % 2, "image": images, "label": str(path)})
    return write_datalist(
        folder / "datalist.json", [{**item, "image": list(map(str, item["image"]))} for item in items]
    )


def train(heads: Path, out: Path, overlay: str) -> int:
    words = ["train", "brain_tumor_segmentation", "--data", str(heads), "-o", str(out), "--config", overlay]
    return main([*words, "--set", *(f"{name}={value}" for name, value in SMALL.items())])


@pytest.mark.parametrize("overlay", ["network_unet", "network_segresnet", "with_lgg"])
def test_it_trains(overlay: str, heads: Path, tmp_path: Path) -> None:
    assert train(heads, tmp_path / "out", overlay) == 0
    assert (tmp_path / "out" / "final.pt").exists()


def batches(heads: Path, overlay: str, part: str, tmp_path: Path) -> Iterator[dict[str, torch.Tensor]]:
    settings = {**SMALL, "datalist": str(heads), "dataset_dir": str(heads.parent), "output_dir": str(tmp_path)}
    parser = make_plan(BUNDLE, "train", [overlay], settings).workflow().parser
    yield from parser.get_parsed_content(f"{part}::dataloader")


def test_core_and_enhancing_part_are_unknown_within_a_mask_of_all(heads: Path, tmp_path: Path) -> None:
    seen = 0
    for batch in batches(heads, "with_lgg", "train", tmp_path):
        whole, core, enhancing = batch["label"][0]
        assert set(whole.unique().tolist()) <= {0, 1}
        assert torch.equal(core == -1, whole == 1)
        assert torch.equal(enhancing, core)
        assert batch["image"][0, 3].any(), "FLAIR is always there"
        assert not batch["image"][0, 2].any(), "T2 never is"
        seen += int(whole.sum())
    assert seen


def test_scores_are_of_the_whole_tumour_alone(heads: Path, tmp_path: Path) -> None:
    assert train(heads, tmp_path / "out", "with_lgg") == 0
    words = ["evaluate", "brain_tumor_segmentation", "--data", str(heads), "-o", str(tmp_path / "scores")]
    words += ["--weights", str(tmp_path / "out" / "final.pt"), "--config", "with_lgg"]
    assert main([*words, "--set", *(f"{name}={value}" for name, value in SMALL.items() if name != "epochs")]) == 0
    rows = (tmp_path / "scores" / "per_case.csv").read_text().splitlines()[1:]
    assert all(",WT," in row for row in rows)
    assert len(rows) == 2
