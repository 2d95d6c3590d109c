"""A run that met a number that is none stops before the weights have it, and keeps what it met."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer

from neurobundle.errors import InputError
from neurobundle.train import GradientGuard


def infinite(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Its value is finite, 0; its slope at 0 is not."""
    return ((value - value.detach()) ** 2).sum().sqrt()


def not_a_number(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return value.sum() * torch.nan


def train(loss: object, folder: Path | None, batches: int = 1) -> torch.nn.Linear:
    """One epoch of a layer of one weight, 2, on batches whose image is 3."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 2.0)
    image = MetaTensor(torch.tensor([[3.0]]), meta={"filename_or_obj": "DOE^JANE/scan.nii"})
    batch = {"image": image, "label": torch.tensor([[1.0]]), "case": ["anna"]}
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[batch] * batches,
        network=layer,
        optimizer=torch.optim.SGD(layer.parameters(), lr=1.0),
        loss_function=loss,
        train_handlers=[GradientGuard(layer, max_norm=1.0, output_dir=folder)],
    )
    trainer.logger.disabled = True
    try:
        trainer.run()
    finally:
        assert torch.isfinite(layer.weight).all()
    return layer


@pytest.mark.parametrize(("loss", "what"), [(not_a_number, "loss is nan"), (infinite, "gradient is nan")])
def test_the_batch_is_kept_and_named(loss: object, what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{what} at epoch 1, iteration 1") as caught:
        train(loss, tmp_path / "out")
    assert caught.value.case == "anna"
    (kept,) = (tmp_path / "out").iterdir()
    assert caught.value.file == str(kept)
    content = torch.load(kept, weights_only=True)
    assert content["image"].item() == 3.0
    assert content["label"].item() == 1.0
    assert content["pred"].item() == 6.0
    assert (content["case"], content["epoch"], content["iteration"]) == ("anna", 1, 1)
    assert type(content["image"]) is torch.Tensor
    assert b"JANE" not in kept.read_bytes()


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="loss is nan") as caught:
        train(not_a_number, None)
    assert not caught.value.file
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_hides_no_cause(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "out").write_text("a file in the folder's place")
    with pytest.raises(InputError, match="loss is nan"):
        train(not_a_number, tmp_path / "out")
    assert "could not be kept" in caplog.text


def test_a_sound_run_keeps_nothing_and_learns(tmp_path: Path) -> None:
    """The gradient of the prediction's sum is 3, clipped to 1: the weight goes from 2 to 1 to 0."""
    layer = train(lambda value, target: value.sum(), tmp_path / "out", batches=2)
    assert layer.weight.item() == pytest.approx(0.0, abs=1e-5)
    assert not (tmp_path / "out").exists()
