"""When a training validates, and what it keeps where it cannot."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader

from neurobundle.commands.train import train_plan
from neurobundle.errors import SettingError
from neurobundle.networks.manifest import sha256_of, verify
from neurobundle.networks.weights import save_weights
from neurobundle.train import EpochValidation

from ..helpers import TINY, Maker, small_datalist


def validator(seen: list[int], cases: int = 1) -> SupervisedEvaluator:
    network = torch.nn.Linear(1, 1)
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), [{"image": torch.zeros(1), "label": torch.zeros(1)}] * cases, network
    )
    evaluator.run = seen.append  # type: ignore[method-assign]
    return evaluator


def trained(handler: EpochValidation, epochs: int) -> None:
    trainer = Engine(lambda engine, batch: None)
    handler.attach(trainer)
    trainer.run([0], max_epochs=epochs)


@pytest.mark.parametrize(
    ("interval", "epochs", "validated"), [(5, 10, [5, 10]), (5, 12, [5, 10, 12]), (36, 1, [1]), (1, 3, [1, 2, 3])]
)
def test_the_last_epoch_is_validated_too(interval: int, epochs: int, validated: list[int], tmp_path: Path) -> None:
    seen: list[int] = []
    trained(EpochValidation(validator(seen), interval, torch.nn.Linear(1, 1), tmp_path / "model.pt"), epochs)
    assert seen == validated
    assert not (tmp_path / "model.pt").exists(), "the best epoch is another handler's"


def test_without_cases_the_last_weights_are_kept(tmp_path: Path) -> None:
    """With the weights that they came from as their parent; an average is kept in their place."""
    network, seen, path = torch.nn.Linear(1, 1, bias=False), [], tmp_path / "model.pt"
    save_weights(network, path, origin="released")
    before = sha256_of(path)

    @contextmanager
    def averaged() -> Any:
        with torch.no_grad():
            network.weight.fill_(0.5)
        yield

    handler = EpochValidation(validator(seen, 0), 5, network, path, average=SimpleNamespace(averaged=averaged))
    trained(handler, 10)
    assert seen == []
    assert torch.load(path, weights_only=True)["weight"].item() == 0.5
    entry = verify(path)
    assert (entry.origin, entry.parent) == ("trained-here", before)


def test_a_process_without_a_share_of_the_cases_validates_with_the_others(tmp_path: Path) -> None:
    seen: list[int] = []
    shares = validator(seen)
    shares.data_loader = DataLoader([0.0], sampler=[])
    assert len(shares.data_loader) == 0
    trained(EpochValidation(shares, 1, torch.nn.Linear(1, 1), tmp_path / "model.pt"), 2)
    assert seen == [1, 2]


def test_one_process_of_several_writes(tmp_path: Path) -> None:
    handler = EpochValidation(validator([], 0), 1, torch.nn.Linear(1, 1), tmp_path / "model.pt", enabled=False)
    trained(handler, 1)
    assert not (tmp_path / "model.pt").exists()


def test_no_interval(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="interval between validations is 0"):
        EpochValidation(validator([]), 0, torch.nn.Linear(1, 1), tmp_path / "model.pt")


@pytest.mark.parametrize("held_out", [True, False])
def test_a_bundle_learns_in_fewer_epochs_than_its_interval(tmp_path: Path, make_pair: Maker, held_out: bool) -> None:
    """As MONAI Label trains: lists in place of a datalist, of images and labels alone, and perhaps none held out."""
    data = small_datalist(tmp_path, make_pair)
    items = [
        {"image": str(tmp_path / "images" / f"case_{n}.nii.gz"), "label": str(tmp_path / "labels" / f"case_{n}.nii.gz")}
        for n in range(2)
    ]
    settings = {**TINY, "device": "cpu", "val_interval": 5}
    plan = train_plan("hippocampus_segmentation", data, tmp_path / "out", settings=settings)
    workflow = plan.workflow()
    workflow.parser["train::dataset::data"] = items
    workflow.parser["validate::dataset::data"] = items[:1] if held_out else []
    workflow.initialize()
    workflow.run()
    assert verify(tmp_path / "out" / "models" / "model.pt").origin == "trained-here"
