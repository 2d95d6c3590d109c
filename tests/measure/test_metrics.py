"""The scores as MONAI metrics and ignite handlers."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.metrics import DiceMetric, HausdorffDistanceMetric

from neurobundle.errors import InputError, SettingError
from neurobundle.measure import SegmentationMetric, SegmentationMetricHandler


def one_voxel(*places: tuple[int, int, int]) -> torch.Tensor:
    labels = torch.zeros(1, 1, 6, 6, 6)
    for place in places:
        labels[(0, 0, *place)] = 1
    return labels


def test_a_label_map() -> None:
    metric = SegmentationMetric("hd95_mm", {1: "lesion"}, spacing_mm=(1, 1, 3))
    metric(one_voxel((1, 1, 1)), one_voxel((1, 1, 2)))
    assert metric.aggregate().item() == 3


def test_the_spacing_comes_with_the_reference() -> None:
    truth = MetaTensor(one_voxel((1, 1, 2)), affine=torch.diag(torch.tensor([1.0, 1, 4, 1])))
    metric = SegmentationMetric("hd_mm", {1: "lesion"})
    metric(one_voxel((1, 1, 1)), truth)
    assert metric.aggregate().item() == 4
    metric.reset()
    metric([one_voxel((1, 1, 1))[0]], [truth[0]])  # as an evaluator gives them: decollated
    assert metric.aggregate().item() == 4


def test_channels_without_the_background() -> None:
    rng = torch.Generator().manual_seed(0)
    prediction, reference = (
        torch.nn.functional.one_hot(torch.randint(0, 3, (2, 5, 5, 5), generator=rng)) for _ in "ab"
    )
    pair = [labels.permute(0, 4, 1, 2, 3).float() for labels in (prediction, reference)]
    ours, monai = SegmentationMetric("dice"), DiceMetric(include_background=False)
    ours(*pair)
    monai(*pair)
    assert ours.aggregate().item() == pytest.approx(monai.aggregate().item())
    assert ours.aggregate("none").shape == (2, 2)
    assert ours.aggregate("mean_batch").shape == (2,)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.filterwarnings("ignore:the (ground truth|prediction) of class 0 is all 0")
def test_a_miss_counts_here_and_not_in_monai() -> None:
    """Why this exists: an all-missed set is 0 for MONAI's Hausdorff metric, which is the best that there is."""
    nothing, truth = one_voxel(), one_voxel((1, 1, 1))
    monai = HausdorffDistanceMetric(include_background=True, percentile=95)
    monai(nothing, truth)
    value = monai.aggregate().item()
    assert value == 0 or not math.isfinite(value)
    ours = SegmentationMetric("hd95_mm", {1: "lesion"})
    ours(nothing, truth)
    assert ours.aggregate().item() == pytest.approx(math.sqrt(3 * 36))


def test_a_false_alarm_counts_here_and_not_in_monai() -> None:
    nothing, found = one_voxel(), one_voxel((1, 1, 1))
    monai, ours = DiceMetric(include_background=True), SegmentationMetric("dice", {1: "lesion"})
    for metric in (monai, ours):
        metric(one_voxel((2, 2, 2)), one_voxel((2, 2, 2)))
        metric(found, nothing)
    assert monai.aggregate().item() == 1
    assert ours.aggregate().item() == 0.5


@pytest.mark.parametrize("metric", ["dice", "hd95_mm", "nsd"])
def test_nothing_but_empties_is_no_score(metric: str) -> None:
    """Not 0, which of a distance would be perfect."""
    scores = SegmentationMetric(metric, {1: "lesion"})
    scores(one_voxel(), one_voxel())
    assert math.isnan(scores.aggregate().item())
    assert math.isnan(scores.aggregate("mean_batch").item())


def test_empty_in_both_is_in_no_mean() -> None:
    metric = SegmentationMetric("dice", {1: "lesion"})
    metric(one_voxel(), one_voxel())
    metric(one_voxel((1, 1, 1)), one_voxel((1, 1, 1)))
    assert metric.aggregate().item() == 1


def test_a_config_names_the_handler() -> None:
    parser = ConfigParser(
        {
            "imports": ["$import monai"],
            "metric": {
                "_target_": "neurobundle.measure.SegmentationMetricHandler",
                "metric": "nsd",
                "structures": {1: "lesion"},
                "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
            },
        }
    )
    parser.parse()
    handler = parser.get_parsed_content("metric")
    assert isinstance(handler, SegmentationMetricHandler)
    engine = Engine(lambda engine, batch: [{"pred": one_voxel((1, 1, 1))[0], "label": one_voxel((1, 1, 2))[0]}])
    handler.attach(engine, "nsd")
    engine.run([0], max_epochs=1)
    assert engine.state.metrics["nsd"] == 1


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(SettingError, match="no metric 'dise'"):
        SegmentationMetric("dise")
    with pytest.raises(SettingError, match="by structures"):
        SegmentationMetric("dice")(one_voxel(), one_voxel())
    with pytest.raises(InputError, match="shape"):
        SegmentationMetric("dice", {1: "a"})(one_voxel(), one_voxel()[..., :3])
    with pytest.raises(InputError, match="nothing was scored"):
        SegmentationMetric("dice", {1: "a"}).aggregate()
