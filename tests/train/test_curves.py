from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from neurobundle.train.curves import SCALARS, read_curves, write_curves


def training(folder: Path, values: dict[str, list[float]], first: int = 1) -> Path:
    """Scalars as EpochScalars writes them: a writer for each epoch."""
    for epoch in range(len(next(iter(values.values())))):
        with SummaryWriter(log_dir=str(folder / SCALARS)) as writer:
            for name, own in values.items():
                writer.add_scalar(name, own[epoch], first + epoch)
    return folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = training(tmp_path, {"train_loss": [3.0, 2.0, 1.0], "learning_rate": [0.5, 0.25, 0.125]})
    with SummaryWriter(log_dir=str(folder / SCALARS)) as writer:
        writer.add_image("a picture", np.zeros((3, 4, 4), np.uint8), 1)
    assert read_curves(folder / SCALARS) == {
        "learning_rate": {1: 0.5, 2: 0.25, 3: 0.125},
        "train_loss": {1: 3.0, 2: 2.0, 3: 1.0},
    }


def test_an_epoch_that_was_run_again_counts_as_it_was_last(tmp_path: Path) -> None:
    """A kill between the scalars and last.pt leaves an epoch's scalars behind."""
    training(tmp_path, {"train_loss": [3.0, 9.0]})
    training(tmp_path, {"train_loss": [2.0, 1.0]}, first=2)
    assert read_curves(tmp_path / SCALARS) == {"train_loss": {1: 3.0, 2: 2.0, 3: 1.0}}


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    """As far as it goes."""
    training(tmp_path, {"train_loss": [3.0, 2.0]})
    last = max((tmp_path / SCALARS).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-7])
    assert read_curves(tmp_path / SCALARS)["train_loss"][1] == 3.0


def test_a_panel_for_losses_and_one_for_metrics(tmp_path: Path) -> None:
    trainings = {
        f"fold {n}": training(tmp_path / str(n), {"train_loss": [3.0 - n, 2.0], "accuracy": [0.5, 0.6 + 0.1 * n]})
        for n in range(2)
    }
    path = write_curves(tmp_path, trainings)
    assert path == tmp_path / "curves.png"
    alone = write_curves(tmp_path / "alone", {"a": training(tmp_path / "b", {"train_loss": [1.0]})})
    assert alone is not None
    with Image.open(path) as two, Image.open(alone) as one:
        assert two.width == 2 * one.width
        assert len(np.unique(np.asarray(two.convert("L")))) > 2


def test_the_same_scalars_give_the_same_bytes(tmp_path: Path) -> None:
    own = {"a": training(tmp_path / "a", {"train_loss": [3.0, 2.0]})}
    one, other = (write_curves(tmp_path / name, own) for name in ("x", "y"))
    assert one is not None
    assert other is not None
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("there", [True, False])
def test_nothing_to_draw(there: bool, tmp_path: Path) -> None:
    if there:
        training(tmp_path, {"learning_rate": [0.5]})
    assert write_curves(tmp_path, {"a": tmp_path}) is None
    assert not (tmp_path / "curves.png").exists()
