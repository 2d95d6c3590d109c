from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine

from neurobundle.errors import InputError
from neurobundle.train import EarlyStop, GradientGuard, ReseedHandler
from neurobundle.train.handlers import epoch_seed, unwrap
from neurobundle.train.tensorboard import PIXELS_A_VOXEL, _column, _masks


def test_seeds_differ_by_epoch_rank_and_run() -> None:
    seeds = {epoch_seed(run, epoch, rank) for run in range(3) for epoch in range(50) for rank in range(4)}
    assert len(seeds) == 3 * 50 * 4


def test_an_epoch_draws_the_same_however_much_was_drawn_before() -> None:
    drawn = []
    for before in (0, 5):
        torch.rand(before)
        engine = SimpleNamespace(state=SimpleNamespace(epoch=3))
        ReseedHandler(0, SimpleNamespace(transform=None))(engine)
        drawn.append(torch.rand(4))
    assert torch.equal(*drawn)


def test_a_gradient_is_clipped() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.grad = torch.full((1, 1), 30.0)
    GradientGuard(layer, max_norm=12.0)(Engine(lambda engine, batch: None))
    assert layer.weight.grad.item() == pytest.approx(12.0)


def test_a_nan_gradient_stops_the_run_and_names_the_cases() -> None:
    layer = torch.nn.Linear(1, 1)
    layer.weight.grad = torch.full((1, 1), float("nan"))
    engine = Engine(lambda engine, batch: None)
    engine.state.batch = {"case": ["anna", "otto"]}
    with pytest.raises(InputError, match="gradient is nan") as caught:
        GradientGuard(layer, max_norm=1.0)(engine)
    assert caught.value.case == "anna,otto"


@pytest.mark.parametrize(("epoch", "stopped"), [(6, False), (7, True)])
def test_patience_is_counted_from_the_best_epoch(epoch: int, stopped: bool) -> None:
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = epoch
    EarlyStop(SimpleNamespace(state=SimpleNamespace(best_metric_epoch=2)), patience=5)(engine)
    assert engine.should_terminate is stopped


def test_unwrap() -> None:
    inner = torch.nn.Linear(1, 1)
    assert unwrap(inner) is inner
    assert unwrap(torch.nn.DataParallel(inner)) is inner


def test_the_grid_shows_both_structures_with_the_front_at_the_left() -> None:
    image = torch.rand(1, 4, 6, 5)
    label = torch.zeros(3, 4, 6, 5)
    label[1, 2, 4:] = 1
    column = _column(image, _masks(label, 1), _masks(torch.zeros_like(label), 1))
    tinted = (column[0] - column[2])[: column.shape[1] // 2] > 0.2
    assert column.shape == (3, 2 * 5 * PIXELS_A_VOXEL, 6 * PIXELS_A_VOXEL)
    assert tinted[:, : 2 * PIXELS_A_VOXEL].all()
    assert not tinted[:, 2 * PIXELS_A_VOXEL :].any()


def test_the_grid_takes_label_maps_regions_and_classes() -> None:
    maps = torch.tensor([0, 1, 3]).reshape(1, 3, 1, 1)
    assert _masks(maps, 1).flatten(1).tolist() == [[False, True, False], [False] * 3, [False, False, True]]
    assert _masks(torch.zeros(1, 3, 1, 1), 1).shape == (1, 3, 1, 1)
    channels = torch.tensor([[1, 1], [0, 1]]).reshape(2, 2, 1, 1)
    assert _masks(channels, 0).flatten(1).tolist() == [[True, True], [False, True]]
    assert _masks(channels, 1).flatten(1).tolist() == [[False, True]]
