"""What the tumour bundle trains on besides synthesized heads, and from which weights: on data made here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.errors import NeurobundleError

from ..conftest import ROOT

BUNDLE = ROOT / "bundles" / "brain_tumor_segmentation"
SIZE = 32
SMALL: dict[str, Any] = {
    "network_size": "tiny",
    "device": "cpu",
    "patch_size": [SIZE] * 3,
    "window": [SIZE] * 3,
    "epochs": 1,
    "val_interval": 1,
    "tumour_radius_mm": [7.0, 10.0],
    "train::slab_transforms::transforms#0::shape": [SIZE] * 3,
}
SEQUENCES = ("T1", "T1c", "T2", "FLAIR")


def save(folder: Path, name: str, data: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"{name}.nii.gz")
    return f"{name}.nii.gz"


def datalist(path: Path, items: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"training": items}))
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two heads with tumours, one a fold; two brains without; three slices of three persons."""
    folder = tmp_path_factory.mktemp("sources")
    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(*[np.arange(SIZE) - (SIZE - 1) / 2] * 3, indexing="ij"))
    inside = np.square(at).sum(axis=0) < (SIZE / 2 - 2) ** 2
    label = np.zeros((SIZE,) * 3, np.uint8)
    label[10:18, 12:20, 12:20] = 3

    def study(case: str, bright: np.ndarray | float) -> list[str]:
        return [
            save(
                folder, f"{case}_{name}", ((100 + rng.normal(0, 5, inside.shape) + bright) * inside).astype(np.float32)
            )
            for name in SEQUENCES
        ]

    heads = [
        {"case": case, "subject": case, "fold": fold, "image": study(case, 50.0 * (label > 0))}
        | {"label": save(folder, f"{case}_seg", label)}
        for fold, case in enumerate(("anna", "bert"))
    ]
    # Anna, who validates, has a scan without a tumour as well: it must not be used.
    scans = [
        {"case": f"{who}_before", "subject": who, "image": study(f"{who}_before", 0.0)} for who in ("anna", "carl")
    ]
    slices = []
    for n in range(3):
        image = np.tile(np.arange(0, 192, 3, dtype=np.uint8) + n, (64, 1))
        mask = np.zeros_like(image)
        mask[28:36, 28:36] = 255
        for name, values in (("image", image), ("mask", mask)):
            Image.fromarray(values).save(folder / f"{n}_{name}.png")
        slices.append({"case": str(n), "subject": f"p{n}", "fold": n, "image": f"{n}_image.png"})
        slices[-1]["label"] = f"{n}_mask.png"
    return {
        "datalist": str(datalist(folder / "heads.json", heads)),
        "dataset_dir": str(folder),
        "scans": str(datalist(folder / "scans.json", scans)),
        "slices": str(datalist(folder / "slices.json", slices)),
        "slices_dir": str(folder),
    }


def train(sources: dict[str, Any], out: Path, **settings: Any) -> int:
    words = ["train", "brain_tumor_segmentation", "--data", sources["datalist"], "-o", str(out), "--device", "cpu"]
    named = {key: sources[key] for key in ("scans", "slices", "slices_dir")}
    given = {key: value for key, value in (SMALL | named | settings).items() if key != "device"}
    return main([*words, "--set", *(f"{name}={json.dumps(value).strip(chr(34))}" for name, value in given.items())])


def parser(sources: dict[str, Any], out: Path, **settings: Any) -> Any:
    given = {**SMALL, **sources, "output_dir": str(out), "num_workers": 0, **settings}
    return make_plan(BUNDLE, "train", [], given).workflow().parser


def batches(sources: dict[str, Any], out: Path, **settings: Any) -> Iterator[dict[str, Any]]:
    config = parser(sources, out, **settings)
    config.get_parsed_content("train::dataset").transform.set_random_state(seed=2)
    yield from config.get_parsed_content("train::dataloader")


def test_an_epoch_holds_every_source(sources: dict[str, Any], tmp_path: Path) -> None:
    """One case of the datalist, three grafts, two slabs; of nobody who validates."""
    seen = [batch["case"][0] for batch in batches(sources, tmp_path, grafts=3, slabs=2)]
    assert sorted(case for case in seen if case.isalpha()) == ["bert"]
    assert [case for case in seen if "before" in case] == ["carl_before"] * 3
    assert {case for case in seen if case.isdigit()} <= {"1", "2"}
    assert len(seen) == 6


def test_a_graft_says_all_and_a_slab_what_its_slice_says(sources: dict[str, Any], tmp_path: Path) -> None:
    for batch in batches(sources, tmp_path, grafts=4, slabs=4):
        image, label = batch["image"][0], batch["label"][0]
        assert image.shape == (4, SIZE, SIZE, SIZE)
        whole, core, enhancing = label
        if batch["case"][0].isdigit():
            assert [bool(channel.any()) for channel in image] == [False, True, False, False]
            assert float((core < 0).float().mean()) > 0.8
            assert torch.equal(core == 1, whole == 1)
            assert not (enhancing == 1).any()
            assert torch.equal((enhancing < 0) & (core >= 0), core == 1)
        else:
            assert set(label.unique().tolist()) <= {0, 1}
            assert bool((whole >= core).all())
            assert bool((core >= enhancing).all())


def test_by_default_there_is_the_datalist_alone(sources: dict[str, Any], tmp_path: Path) -> None:
    assert [batch["case"][0] for batch in batches(sources, tmp_path)] == ["bert"]


def test_it_trains_on_all_of_them_from_given_weights_and_resumes(sources: dict[str, Any], tmp_path: Path) -> None:
    """A step of no length keeps the weights that were given: network, average, and what is saved."""
    assert train(sources, tmp_path / "first", grafts=1, slabs=1) == 0
    given = tmp_path / "first" / "final.pt"
    still: dict[str, Any] = {"pretrained": str(given), "learning_rate": 0.0, "resume": True}
    assert train(sources, tmp_path / "second", grafts=2, slabs=1, **still) == 0
    before = torch.load(given, weights_only=True)
    after = torch.load(tmp_path / "second" / "final.pt", weights_only=True)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    given.unlink()
    assert train(sources, tmp_path / "second", grafts=2, slabs=1, **still, **{"epochs": 1}) == 0


def test_given_weights_that_are_not_there_stop_it(
    sources: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(sources, tmp_path / "out", pretrained=str(tmp_path / "nowhere.pt")) == 1
    assert "nowhere.pt" in capsys.readouterr().err


def test_sources_that_are_not_there_are_named(sources: dict[str, Any], tmp_path: Path) -> None:
    for name in ("scans", "slices"):
        count = {"scans": "grafts", "slices": "slabs"}[name]
        config = parser({**sources, name: str(tmp_path / "nowhere.json")}, tmp_path, **{count: 1})
        with pytest.raises((NeurobundleError, RuntimeError)) as caught:
            config.get_parsed_content("train::dataset")
        chain: BaseException | None = caught.value
        texts = []
        while chain is not None:
            texts.append(str(chain))
            chain = chain.__cause__
        assert any("nowhere.json" in text for text in texts)
