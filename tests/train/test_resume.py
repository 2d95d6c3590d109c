"""A training that was interrupted and resumed equals one that was not, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from neurobundle.commands.train import train_plan
from neurobundle.errors import WeightsError

from ..helpers import TINY, Maker, small_datalist

BUNDLE = "hippocampus_segmentation"


class Stopped(Exception):
    """Stands for the kill."""


def train(datalist: Path, output: Path, stop_in_epoch: int = 0, **settings: object) -> None:
    plan = train_plan(BUNDLE, datalist, output, settings={**TINY, "device": "cpu", **settings})
    workflow = plan.workflow()
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")

    def stop(engine: Engine) -> None:
        if engine.state.epoch == stop_in_epoch:
            raise Stopped

    trainer.add_event_handler(Events.ITERATION_COMPLETED, stop)
    trainer.run()


def written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def state(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "last.pt", weights_only=True)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_six_epochs_equal_three_and_three(tmp_path: Path, make_pair: Maker, workers: int) -> None:
    datalist = small_datalist(tmp_path, make_pair)
    settings = {"epochs": 6, "val_interval": 2, "num_workers": workers}
    train(datalist, tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        train(datalist, tmp_path / "parts", stop_in_epoch=4, **settings)
    assert state(tmp_path / "parts")["trainer"]["epoch"] == 3
    train(datalist, tmp_path / "parts", resume=True, **settings)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
    assert whole["evaluator"] == parts["evaluator"]
    assert (tmp_path / "whole" / "final.pt").read_bytes() == (tmp_path / "parts" / "final.pt").read_bytes()
    assert whole["lr_scheduler"]["last_epoch"] == parts["lr_scheduler"]["last_epoch"] == 6


def test_nothing_to_resume_starts_at_the_beginning(tmp_path: Path, make_pair: Maker) -> None:
    train(small_datalist(tmp_path, make_pair), tmp_path / "out", resume=True)
    assert state(tmp_path / "out")["trainer"]["epoch"] == 1
    assert (tmp_path / "out" / "models" / "MANIFEST.sha256").exists()
    assert list((tmp_path / "out" / "tensorboard").iterdir())


@pytest.mark.parametrize("content", [b"", b"garbage"], ids=["empty", "garbage"])
def test_a_damaged_state_is_named(tmp_path: Path, make_pair: Maker, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "last.pt").write_bytes(content)
    with pytest.raises(WeightsError, match="this training state is damaged") as caught:
        train(small_datalist(tmp_path, make_pair), tmp_path / "out", resume=True)
    assert caught.value.file.endswith("last.pt")


def test_a_state_of_another_fold_is_refused(tmp_path: Path, make_pair: Maker) -> None:
    """It has seen the cases that this run would be judged on."""
    datalist = small_datalist(tmp_path, make_pair)
    train(datalist, tmp_path / "out")
    with pytest.raises(WeightsError, match="of a run with fold 0, and this run has 1"):
        train(datalist, tmp_path / "out", resume=True, fold=1)


def test_litter_of_a_killed_writer_is_swept(tmp_path: Path, make_pair: Maker) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".last.pt.abc.part").write_bytes(b"half")
    train(small_datalist(tmp_path, make_pair), tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*"))


def test_patience_ends_a_training(tmp_path: Path, make_pair: Maker) -> None:
    """At a learning rate of zero the first epoch stays the best one."""
    train(small_datalist(tmp_path, make_pair), tmp_path / "out", epochs=6, patience=2, learning_rate=0.0)
    assert state(tmp_path / "out")["trainer"]["epoch"] == 3


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(tmp_path: Path, make_pair: Maker) -> None:
    """Kill -9, several times, at moments that no handler chose (faults.md 63)."""
    datalist = small_datalist(tmp_path, make_pair)
    words = [sys.executable, "-m", "neurobundle", "train", BUNDLE, "--data", str(datalist), "--device", "cpu"]
    words += ["--set", "resume=true", *(f"{name}={value}" for name, value in {**TINY, "epochs": 12}.items())]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run([*words, "-o", str(whole)], check=True, capture_output=True)
    kills = 0
    for pause_s in random.Random(0).choices([0.02, 0.1, 0.3, 0.5], k=4):
        child = subprocess.Popen([*words, "-o", str(parts)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        already = (parts / "last.pt").stat().st_mtime if (parts / "last.pt").exists() else 0.0
        while child.poll() is None and not (
            (parts / "last.pt").exists() and (parts / "last.pt").stat().st_mtime > already
        ):
            time.sleep(0.05)
        time.sleep(pause_s)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.wait()
    assert kills, "nothing was killed: give it more epochs"
    subprocess.run([*words, "-o", str(parts)], check=True, capture_output=True)
    assert (whole / "final.pt").read_bytes() == (parts / "final.pt").read_bytes()
