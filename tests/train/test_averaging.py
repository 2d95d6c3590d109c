"""An average of numbers that a reader can work out."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from neurobundle.errors import SettingError
from neurobundle.train import AveragedWeights, TrainingState


def layer(value: float) -> torch.nn.Linear:
    one = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(one.weight, value)
    return one


def steps(network: torch.nn.Linear, averages: AveragedWeights, values: list[float]) -> None:
    """A training whose optimizer sets the weight to these values, one after the other."""

    def step(engine: Engine, value: float) -> None:
        torch.nn.init.constant_(network.weight, value)

    trainer = Engine(step)
    averages.attach(trainer)
    trainer.run(values)


def seen_by(evaluator_body: list[float], network: torch.nn.Linear) -> Engine:
    return Engine(lambda engine, batch: evaluator_body.append(network.weight.item()))


def test_the_first_iteration_is_copied_then_a_half_is_kept() -> None:
    """1, then 2 of 11 kept (the second of ten, (1 + 1) / (10 + 1)): 1 * 2 / 11 + 3 * 9 / 11 = 29 / 11."""
    network, seen = layer(0.0), []
    averages = AveragedWeights(network, seen_by(seen, network), decay=0.9)
    steps(network, averages, [1.0, 3.0])
    with averages.averaged():
        assert network.weight.item() == pytest.approx(29 / 11)
    assert network.weight.item() == 3.0


def test_after_many_iterations_the_decay_holds() -> None:
    network = layer(0.0)
    averages = AveragedWeights(network, Engine(lambda engine, batch: None), decay=0.5)
    steps(network, averages, [4.0] * 30 + [8.0])
    with averages.averaged():
        assert network.weight.item() == pytest.approx(6.0)


def test_an_evaluator_sees_the_average_and_the_training_goes_on_with_its_own() -> None:
    network, seen = layer(0.0), []
    evaluator = seen_by(seen, network)
    steps(network, AveragedWeights(network, evaluator, decay=0.9), [1.0, 3.0])
    evaluator.run([0])
    assert seen == [pytest.approx(29 / 11)]
    assert network.weight.item() == 3.0


def test_before_the_first_iteration_the_network_is_its_own() -> None:
    network, seen = layer(2.0), []
    evaluator = seen_by(seen, network)
    AveragedWeights(network, evaluator).attach(Engine(lambda engine, batch: None))
    evaluator.run([0])
    assert seen == [2.0]


def test_an_evaluator_that_fails_gives_the_weights_back() -> None:
    network = layer(0.0)

    def fail(engine: Engine, batch: int) -> None:
        raise RuntimeError("no such case")

    evaluator = Engine(fail)
    steps(network, AveragedWeights(network, evaluator, decay=0.9), [1.0, 3.0])
    with pytest.raises(RuntimeError, match="no such case"):
        evaluator.run([0])
    assert network.weight.item() == 3.0


def test_decay_0_follows_the_weights() -> None:
    network = layer(0.0)
    averages = AveragedWeights(network, Engine(lambda engine, batch: None), decay=0.0)
    steps(network, averages, [1.0, 3.0, 7.0])
    with averages.averaged():
        assert network.weight.item() == 7.0


def test_a_saved_average_goes_on_where_it_was() -> None:
    values = [1.0, 3.0, 2.0, 5.0]
    whole, network = layer(0.0), layer(0.0)
    averages = AveragedWeights(whole, Engine(lambda engine, batch: None), decay=0.9)
    steps(whole, averages, values)
    first = AveragedWeights(network, Engine(lambda engine, batch: None), decay=0.9)
    steps(network, first, values[:2])
    second = AveragedWeights(network, Engine(lambda engine, batch: None), decay=0.9)
    second.load_state_dict(first.state_dict())
    steps(network, second, values[2:])
    with averages.averaged(), second.averaged():
        assert network.weight.item() == whole.weight.item()


def test_the_training_state_keeps_it_and_the_final_weights_are_averaged(tmp_path: Path) -> None:
    network = layer(0.0)
    averages = AveragedWeights(network, Engine(lambda engine, batch: None), decay=0.9)
    steps(network, averages, [1.0, 3.0])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    state = TrainingState(
        tmp_path / "last.pt",
        tmp_path / "final.pt",
        resume=True,
        network=network,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        evaluator=SimpleNamespace(state=SimpleNamespace(best_metric=0.0, best_metric_epoch=-1)),
        average=averages,
    )
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1, iteration=2))
    state.save(engine)
    state.finish(engine)
    final = torch.load(tmp_path / "final.pt", weights_only=True)
    assert final["weight"].item() == pytest.approx(29 / 11, rel=1e-3)
    assert network.weight.item() == 3.0
    averages.load_state_dict({})
    state.restore(engine)
    with averages.averaged():
        assert network.weight.item() == pytest.approx(29 / 11)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_means_nothing(decay: float) -> None:
    with pytest.raises(SettingError, match="0 to 1"):
        AveragedWeights(layer(0.0), Engine(lambda engine, batch: None), decay)
