"""Fine-tuning schedules: what learns when, and that a resumed training equals an uninterrupted one, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.bundle import ConfigParser
from monai.data import Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch import nn
from torch.utils.data import DataLoader

from neurobundle.errors import SettingError, WeightsError
from neurobundle.networks.blocks import blocks_of
from neurobundle.networks.classifier import Classifier, classifier
from neurobundle.train import AveragedWeights, ReseedHandler
from neurobundle.train.finetune import (
    BlockwiseFineTuning,
    FineTuningState,
    FreezeBlocks,
    GradualUnfreezing,
    Schedule,
    layer_decay_groups,
)

from ..test_how_to import blocks, run_all

Make = Callable[[nn.Module, torch.optim.Optimizer, Engine], Schedule | None]


def network() -> Classifier:
    torch.manual_seed(0)
    return classifier("resnet18", 1, 2, size="tiny", dropout=0.2)


class Small(nn.Module):
    """Three blocks of a convolution with its norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        for before, after in ((1, 2), (2, 3), (3, 4)):
            steps += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*steps)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, 2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(image))

    def chain(self) -> list[tuple[str, nn.Module]]:
        return list(self.trunk.named_children())

    def heads(self) -> list[nn.Module]:
        return [self.head]


def small() -> Small:
    torch.manual_seed(0)
    return Small()


def learning(net: nn.Module) -> list[str]:
    """Blocks all of whose parameters learn; the others have none that does."""
    names = []
    for block in blocks_of(net):
        flags = {parameter.requires_grad for parameter in block.parameters}
        assert len(flags) == 1, f"{block.name} learns in part"
        names += [block.name] if flags == {True} else []
    return names


def at(schedule: Schedule, epoch: int) -> None:
    engine = Engine(lambda engine, batch: None)
    engine.state.epoch = epoch
    schedule(engine)


BLOCKS = ["conv1", "layer1", "layer2", "layer3", "layer4", "head"]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        (1, ["head"]),
        (3, ["layer3", "layer4", "head"]),
        (6, BLOCKS),
        (["head", "conv1"], ["conv1", "head"]),
        ([1, 6], ["conv1", "head"]),
    ],
)
def test_frozen_blocks(train: Any, expected: list[str]) -> None:
    net = network()
    at(FreezeBlocks(net, train), 1)
    assert learning(net) == expected


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (0, "has 6 blocks, and 0 are to learn"),
        (7, "has 6 blocks, and 7"),
        ([], "no block learns"),
        (["layre4"], "did you mean 'layer4'"),
        ([7], "no block 7"),
    ],
)
def test_blocks_that_there_are_not(train: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        FreezeBlocks(network(), train)


def test_one_block_more_after_every_two_epochs() -> None:
    net = network()
    schedule = GradualUnfreezing(net, every=2)
    counts = []
    for epoch in range(1, 14):
        at(schedule, epoch)
        counts.append(len(learning(net)))
    assert counts == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    at(GradualUnfreezing(net, every=1, first=4), 2)
    assert learning(net) == BLOCKS[1:]


@pytest.mark.parametrize("settings", [{"every": 0}, {"every": 1, "first": 0}, {"every": 1, "first": 7}])
def test_gradual_settings_that_cannot_be(settings: dict[str, int]) -> None:
    with pytest.raises(SettingError):
        GradualUnfreezing(network(), **settings)


def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As MONAI's trainer does: the network is switched to training, and gradients become zeros, not None."""
    net.train()
    optimizer.zero_grad(set_to_none=False)
    net(torch.randn(4, 1, 32, 32)).square().sum().backward()
    optimizer.step()


def test_a_frozen_block_keeps_weights_and_statistics() -> None:
    """Even with momentum and weight decay from a step before it was frozen, and a network switched to training."""
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.1)
    step(net, optimizer)
    at(FreezeBlocks(net, 2), 1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    step(net, optimizer)
    step(net, optimizer)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in before if name.startswith(("trunk.layer4", "head"))} == changed


def test_an_unfrozen_norm_gathers_again() -> None:
    net = network()
    norm = net.trunk.bn1
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    at(FreezeBlocks(net, 1), 1)
    step(net, optimizer)
    assert not norm.training
    at(FreezeBlocks(net, 6), 2)
    step(net, optimizer)
    assert norm.training
    assert int(norm.num_batches_tracked) == 1


def test_an_evaluation_is_in_eval_mode_whatever_learns() -> None:
    net = network()
    at(FreezeBlocks(net, 6), 1)
    net.eval()
    net(torch.randn(2, 1, 32, 32))
    assert int(net.trunk.bn1.num_batches_tracked) == 0


def test_learning_rates_fall_by_the_decay_from_block_to_block() -> None:
    """The head's is 0.8, and each block before it has half of the next one's."""
    net = network()
    groups = layer_decay_groups(nn.DataParallel(net), 0.8, 0.5)
    assert [(group["name"], group["lr"]) for group in groups] == list(
        zip(BLOCKS[::-1], [0.8, 0.4, 0.2, 0.1, 0.05, 0.025], strict=True)
    )
    optimizer = torch.optim.AdamW(groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(net.parameters()))
    for decay in (0.0, 1.5):
        with pytest.raises(SettingError, match="decay is"):
            layer_decay_groups(net, 0.1, decay)


class Given(Metric):
    """The key metric of each validation is read from a list by its epoch; or the network's own accuracy."""

    def __init__(self, values: list[float] | None, engine: list[Engine]) -> None:
        self.values, self.engine = values, engine
        super().__init__(output_transform=lambda output: output)

    def reset(self) -> None:
        self.right: list[float] = []

    def update(self, output: Any) -> None:
        self.right += [float(item["pred"].argmax() == item["label"]) for item in output]

    def compute(self) -> float:
        if self.values is None:
            return sum(self.right) / len(self.right)
        return self.values[self.engine[0].state.epoch - 1]


def train(
    folder: Path, make: Make, epochs: int, resume: bool = False, stop: int = 0, values: list[float] | None = None
) -> tuple[Small, SupervisedTrainer, Schedule | None]:
    """A few epochs on eight images, as a train.yaml has it; ``stop`` is the epoch that is broken off in its middle."""
    net = small()
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    data = Dataset(
        [{"image": image, "label": torch.tensor(n % 2)} for n, image in enumerate(images)], lambda item: item
    )
    # Adam remembers what was frozen, and would move it.
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    trainers: list[Engine] = []
    evaluator = SupervisedEvaluator(
        torch.device("cpu"), DataLoader(data, 4), net, key_val_metric={"key": Given(values, trainers)}
    )
    schedule = make(net, optimizer, evaluator)
    state = FineTuningState(
        folder / "last.pt",
        folder / "final.pt",
        resume,
        net,
        optimizer,
        scheduler,
        evaluator,
        schedule=schedule,
    )
    handlers = [ReseedHandler(0, data), ValidationHandler(1, evaluator), LrScheduleHandler(scheduler), state]
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        epochs,
        DataLoader(data, 4, shuffle=True),
        net,
        optimizer,
        nn.CrossEntropyLoss(),
        train_handlers=handlers,
    )
    trainers.append(trainer)

    @trainer.on(Events.ITERATION_COMPLETED)
    def kill(engine: Engine) -> None:
        if engine.state.epoch == stop:
            raise KeyboardInterrupt

    trainer.run()
    return net, trainer, schedule


SCHEDULES: dict[str, Make] = {
    "none": lambda net, optimizer, evaluator: None,
    "head": lambda net, optimizer, evaluator: FreezeBlocks(net, 1),
    "gradual": lambda net, optimizer, evaluator: GradualUnfreezing(net, every=1),
    "blockwise": lambda net, optimizer, evaluator: BlockwiseFineTuning(net, optimizer, evaluator, epochs=1),
    "deeper": lambda net, optimizer, evaluator: BlockwiseFineTuning(net, optimizer, evaluator, epochs=3, first=2),
}


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_four_epochs_equal_two_and_two(name: str, tmp_path: Path) -> None:
    """The run is killed in its third epoch, and goes on in another process's stead."""
    make = SCHEDULES[name]
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, _, _ = train(tmp_path / "whole", make, 4)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", make, 4, stop=3)
    assert torch.load(tmp_path / "parts" / "last.pt", weights_only=True)["trainer"]["epoch"] == 2
    parts, _, _ = train(tmp_path / "parts", make, 4, resume=True)
    assert learning(whole) == learning(parts)
    for name_, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name_]), name_
    assert (tmp_path / "whole" / "final.pt").read_bytes() == (tmp_path / "parts" / "final.pt").read_bytes()
    one, other = (torch.load(tmp_path / part / "last.pt", weights_only=True) for part in ("whole", "parts"))
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for key, moments in one["optimizer"]["state"].items():
        assert all(torch.equal(moments[part], other["optimizer"]["state"][key][part]) for part in moments)


@pytest.mark.parametrize("name", ["none", "gradual", "blockwise"])
def test_a_state_of_another_schedule_is_refused(name: str, tmp_path: Path) -> None:
    train(tmp_path, SCHEDULES["head"], 1)
    with pytest.raises(WeightsError, match="of a run with schedule FreezeBlocks, and this run has") as caught:
        train(tmp_path, SCHEDULES[name], 2, resume=True)
    assert "give another output folder" in caught.value.way_out


def blockwise(epochs: int = 2, patience: int | None = None, first: int = 1) -> Make:
    return lambda net, optimizer, evaluator: BlockwiseFineTuning(net, optimizer, evaluator, epochs, patience, first)


def test_the_best_depth_and_its_weights_are_kept(tmp_path: Path) -> None:
    """Two epochs a depth: .5 .6 | .7 .65 | .2 .3: the best is depth 2 at epoch 3, after which nothing is kept."""
    seen = []

    def make(net: nn.Module, optimizer: torch.optim.Optimizer, evaluator: Engine) -> Schedule:
        def note(engine: Engine) -> None:
            seen.append({name: value.clone() for name, value in net.state_dict().items()})

        evaluator.add_event_handler(Events.COMPLETED, note)
        return blockwise()(net, optimizer, evaluator)  # type: ignore[return-value]

    net, _, schedule = train(tmp_path, make, 6, values=[0.5, 0.6, 0.7, 0.65, 0.2, 0.3])
    assert isinstance(schedule, BlockwiseFineTuning)
    assert (schedule.best_depth, schedule.best_epoch, schedule.best) == (2, 3, 0.7)
    assert all(torch.equal(value, seen[2][name]) for name, value in net.state_dict().items())
    saved = torch.load(tmp_path / "final.pt", weights_only=True)
    assert torch.equal(saved["head.2.weight"], net.head[2].weight.half())


def depths(folder: Path, make: Make, epochs: int, values: list[float]) -> tuple[list[int], SupervisedTrainer]:
    """How many blocks learned in each epoch."""
    counts: list[int] = []

    def counted(net: nn.Module, optimizer: torch.optim.Optimizer, evaluator: Engine) -> Schedule | None:
        evaluator.add_event_handler(Events.STARTED, lambda: counts.append(len(learning(net))))
        return make(net, optimizer, evaluator)

    _, trainer, _ = train(folder, counted, epochs, values=values)
    return counts, trainer


def test_a_depth_lasts_its_epochs_and_the_last_one_ends_the_training(tmp_path: Path) -> None:
    counts, trainer = depths(tmp_path, blockwise(1), 20, [0.1 * n for n in range(20)])
    assert counts == [1, 2, 3, 4]
    assert trainer.state.epoch == 4


def test_a_training_that_ends_before_the_last_depth_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    depths(tmp_path / "long", blockwise(1), 4, [0.1, 0.2, 0.3, 0.4])
    assert "give it more epochs" not in caplog.text
    depths(tmp_path / "short", blockwise(2), 3, [0.1, 0.2, 0.3])
    assert "it ended at depth 2 of 4: give it more epochs" in caplog.text


def test_patience_ends_a_depth(tmp_path: Path) -> None:
    """No better than the depth's first epoch for two epochs: the next one. A rise within a depth keeps it going."""
    counts, _ = depths(
        tmp_path, blockwise(9, patience=2, first=2), 12, [0.5, 0.4, 0.4, 0.1, 0.2, 0.3, 0.2, 0.2, *[0.9] * 4]
    )
    assert counts == [2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4]


def test_each_depth_begins_with_the_best_weights_and_a_fresh_optimizer(tmp_path: Path) -> None:
    begun: list[tuple[int, bool]] = []

    def make(net: nn.Module, optimizer: torch.optim.Optimizer, evaluator: Engine) -> Schedule:
        class Watched(BlockwiseFineTuning):
            def _deepen(self, engine: Engine) -> None:
                super()._deepen(engine)
                same = all(torch.equal(value, self.best_weights[n]) for n, value in net.state_dict().items())
                begun.append((len(optimizer.state), same))

        return Watched(net, optimizer, evaluator, epochs=1)

    train(tmp_path, make, 3, values=[0.9, 0.5, 0.4])
    assert begun == [(0, True)] * 3


def test_a_metric_that_is_no_number_is_no_best(tmp_path: Path) -> None:
    _, _, schedule = train(tmp_path, blockwise(2), 2, values=[math.nan, 0.1])
    assert isinstance(schedule, BlockwiseFineTuning)
    assert (schedule.best, schedule.best_epoch) == (0.1, 2)


def test_a_depth_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="depth 1 ended at epoch 1 without a validation"):
        train(tmp_path, blockwise(1), 2, values=[math.nan, 0.1])


def test_a_finished_training_stays_finished(tmp_path: Path) -> None:
    """It went through all depths before its last epoch; resumed, it trains no further, and its weights stay."""
    values = [0.5, 0.9, 0.1, 0.2, 0.1, 0.1, 1.0, 1.0]
    first, _, _ = train(tmp_path, blockwise(1), 8, values=values)
    before = (tmp_path / "final.pt").read_bytes()
    again, _, _ = train(tmp_path, blockwise(1), 8, resume=True, values=values)
    assert (tmp_path / "final.pt").read_bytes() == before
    assert torch.load(tmp_path / "last.pt", weights_only=True)["trainer"]["epoch"] == 4
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"epochs": 1, "patience": 0}, {"epochs": 1, "first": 9}])
def test_blockwise_settings_that_cannot_be(settings: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(SettingError):
        train(tmp_path, blockwise(**settings), 1)  # type: ignore[arg-type]


def test_blockwise_fine_tuning_of_an_average_is_refused(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    evaluator: Any = Engine(lambda engine, batch: None)
    with pytest.raises(SettingError, match="average of weights"):
        FineTuningState(
            *(tmp_path / "last.pt", tmp_path / "final.pt", False, net, optimizer, None, evaluator),
            average=AveragedWeights(net, evaluator),
            schedule=BlockwiseFineTuning(net, optimizer, evaluator, 1),
        )


PAGE = "docs/concepts/fine-tuning.md"


def test_the_schedules_of_the_page() -> None:
    """Each snippet, by MONAI's own parser."""
    net = network()
    made = []
    for text in blocks(PAGE, "yaml"):
        parser = ConfigParser({**yaml.safe_load(text), "network": net, "learning_rate": 0.1})
        if "BlockwiseFineTuning" in text:
            parser["optimizer"] = torch.optim.SGD(net.parameters(), lr=0.1)
            parser["validate"] = {"evaluator": Engine(lambda engine, batch: None)}
        made.append(parser.get_parsed_content("optimizer" if text.startswith("optimizer") else "schedule"))
    assert [type(one) for one in made[:3]] == [FreezeBlocks, GradualUnfreezing, BlockwiseFineTuning]
    assert [group["lr"] for group in made[3].param_groups[:3]] == pytest.approx([0.1, 0.075, 0.05625])


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_page(tmp_path: Path) -> None:
    (script,) = blocks(PAGE, "python")
    made = "import torch\nimages = torch.zeros(2, 1, 64, 64)\n"
    (tmp_path / "script.py").write_text(f"{made}{script}assert mask.shape == images.shape and logits.shape == (2, 3)\n")
    run_all([*blocks(PAGE), "python script.py"], tmp_path)
