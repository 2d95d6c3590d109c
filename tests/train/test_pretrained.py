"""A training that begins with given weights: the network has them, and so has the average."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from neurobundle.errors import WeightsError
from neurobundle.networks import WeightsLoader
from neurobundle.networks.weights import save_weights
from neurobundle.train import AveragedWeights, TrainingState

from .test_averaging import layer


def weights(folder: Path, value: float) -> Path:
    save_weights(layer(value), folder / "given.pt", origin="released")
    return folder / "given.pt"


def training(network: torch.nn.Linear, average: AveragedWeights, steps: list[float], *more: object) -> Engine:
    """The optimizer sets the weight to each number, one after the other; handlers are attached as a config's are."""

    def step(engine: Engine, value: float) -> None:
        seen.append(network.weight.item())
        torch.nn.init.constant_(network.weight, value)

    seen: list[float] = []
    engine = Engine(step)
    engine.seen = seen  # type: ignore[attr-defined]
    for handler in (*more, average):
        handler.attach(engine)  # type: ignore[attr-defined]
    engine.run(steps)
    return engine


def averages(network: torch.nn.Linear, decay: float = 0.5) -> AveragedWeights:
    return AveragedWeights(network, Engine(lambda engine, batch: None), decay)


def test_the_first_step_has_them_and_the_average_remembers_them(tmp_path: Path) -> None:
    """8 is loaded; after steps to 4 and 2, half is kept each time: (8 + 4) / 2 = 6, then (6 + 2) / 2 = 4."""
    network = layer(0.0)
    average = averages(network)
    loader = WeightsLoader(weights(tmp_path, 8.0), network, average)
    engine = training(network, average, [4.0, 2.0], loader)
    assert engine.seen == [8.0, 4.0]  # type: ignore[attr-defined]
    with average.averaged():
        assert network.weight.item() == pytest.approx(4.0)


@pytest.mark.parametrize("decay", [0.0, 0.05, 0.5, 0.9, 0.999])
def test_the_average_begins_with_its_whole_decay(decay: float) -> None:
    """It does not forget the given weights faster than it will forget others."""
    network = layer(8.0)
    average = averages(network, decay)
    average.begin()
    torch.nn.init.constant_(network.weight, 0.0)
    average.update(Engine(lambda engine, batch: None))
    with average.averaged():
        assert network.weight.item() == pytest.approx(8.0 * decay, abs=1e-4)


def test_an_evaluation_before_the_first_step_sees_them() -> None:
    network = layer(8.0)
    average = averages(network)
    average.begin()
    torch.nn.init.constant_(network.weight, 1.0)
    with average.averaged():
        assert network.weight.item() == 8.0


def state(folder: Path, network: torch.nn.Linear, average: AveragedWeights, resume: bool = True) -> TrainingState:
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return TrainingState(
        folder / "last.pt",
        folder / "final.pt",
        resume=resume,
        network=network,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        evaluator=SimpleNamespace(state=SimpleNamespace(best_metric=0.0, best_metric_epoch=-1)),  # type: ignore[arg-type]
        average=average,
    )


def test_a_run_that_resumes_has_its_own_weights_and_average(tmp_path: Path) -> None:
    """Even where the given file is gone: a run that goes on does not read it."""
    first = layer(0.0)
    average = averages(first)
    loader = WeightsLoader(weights(tmp_path, 8.0), first, average)
    engine = training(first, average, [4.0], loader)
    state(tmp_path, first, average).save(engine)
    (tmp_path / "given.pt").unlink()

    network = layer(1.0)
    average = averages(network)
    again = WeightsLoader(tmp_path / "given.pt", network, average, unless=tmp_path / "last.pt")
    resumed = state(tmp_path, network, average)
    engine = Engine(lambda engine, value: None)
    again.attach(engine)
    resumed.attach(engine)
    resumed.restore(engine)
    again(engine)
    assert network.weight.item() == 4.0
    with average.averaged():
        assert network.weight.item() == pytest.approx(6.0)


def test_a_run_that_was_never_stopped_loads_them(tmp_path: Path) -> None:
    """``resume`` is on from the first start, when there is nothing yet to go on from."""
    network = layer(0.0)
    average = averages(network)
    loader = WeightsLoader(weights(tmp_path, 8.0), network, average, unless=tmp_path / "last.pt")
    loader.attach(engine := Engine(lambda engine, value: None))
    state(tmp_path, network, average).attach(engine)
    loader(engine)
    assert network.weight.item() == 8.0


def test_a_network_of_several_processes_is_unwrapped(tmp_path: Path) -> None:
    inner = layer(0.0)
    WeightsLoader(weights(tmp_path, 8.0), torch.nn.DataParallel(inner))(Engine(lambda engine, value: None))
    assert inner.weight.item() == 8.0


def test_weights_that_are_not_the_listed_ones_stop_the_training(tmp_path: Path) -> None:
    path = weights(tmp_path, 8.0)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    network = layer(0.0)
    average = averages(network)
    with pytest.raises(WeightsError):
        training(network, average, [4.0], WeightsLoader(path, network, average))
    assert math.isclose(network.weight.item(), 0.0)
