"""Fine-tuning schedules: which blocks of a network learn at which epoch.

A *block* is part of a network that is frozen and unfrozen as one (:mod:`neurobundle.networks.blocks`). A *frozen* block
keeps its weights, and its batch norms keep their statistics. The *depth* of a fine-tuning is how many blocks learn,
counted from the head: at depth 1 the head alone.

A schedule is given to :class:`FineTuningState`, which attaches it before all that it does itself and saves what the
schedule remembers, so that a resumed training equals an uninterrupted one. Schedules decide at an epoch's start, after
the state was restored.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Workflow
from torch import nn

from neurobundle.errors import SettingError, closest
from neurobundle.networks.blocks import Block, blocks_of
from neurobundle.train.handlers import TrainingState, unwrap

logger = logging.getLogger(__name__)

#: Norms that gather statistics while they train.
_GATHERING = nn.modules.batchnorm._BatchNorm


def train_only(blocks: Sequence[Block], learning: Sequence[bool]) -> None:
    """Freeze and unfreeze blocks, in place.

    Args:
        blocks: all blocks of a network.
        learning: whether each of them learns.
    """
    for block, learns in zip(blocks, learning, strict=True):
        for parameter in block.parameters:
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None  # an optimizer passes over it then: no weight decay, no momentum


def keep_statistics(network: nn.Module) -> None:
    """Have each batch norm of a frozen block run in eval mode, whenever somebody switches the network to training."""
    for module in network.modules():
        if isinstance(module, _GATHERING) and module.affine:
            module.register_forward_pre_hook(_frozen_in_eval)


def _frozen_in_eval(module: nn.Module, inputs: Any) -> None:
    if module.training and not any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
        module.eval()


def layer_decay_groups(network: nn.Module, learning_rate: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, each block with a lower learning rate than the one behind it.

    Args:
        network: may be wrapped for several processes.
        learning_rate: of the head.
        decay: the factor from one block to the one before it; 1 gives all the same.

    Returns:
        One group a block, the head first, so that what logs the first group's rate logs the head's.

    Raises:
        SettingError: for a decay outside of (0, 1].

    Source: Clark et al. 2020, ELECTRA (arXiv 2003.10555); Bao et al. 2022, BEiT (arXiv 2106.08254).

    >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    >>> [group["lr"] for group in layer_decay_groups(network, 0.8, 0.5)]
    [0.8, 0.4, 0.2]
    """
    if not 0 < decay <= 1:
        raise SettingError(f"decay is {decay}", "Give a factor above 0, 1 at most; 0.75 is usual.")
    blocks = blocks_of(unwrap(network))
    return [
        {"params": block.parameters, "lr": learning_rate * decay**below, "name": block.name}
        for below, block in enumerate(reversed(blocks))
    ]


class Schedule:
    """What the schedules share: they act at each epoch's start, and remember nothing.

    Args:
        network: may be wrapped for several processes.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = unwrap(network)
        self.blocks = blocks_of(self.network)
        keep_statistics(self.network)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Freeze and unfreeze for the epoch that starts now."""
        train_only(self.blocks, self.learning_at(engine.state.epoch))

    def learning_at(self, epoch: int) -> list[bool]:
        """Whether each block learns in an epoch; the first epoch is 1."""
        raise NotImplementedError

    def last(self, depth: int) -> list[bool]:
        """That the last blocks learn, and no others."""
        return [len(self.blocks) - n <= depth for n in range(len(self.blocks))]

    def checked(self, depth: int) -> int:
        """A depth that the network has.

        Raises:
            SettingError: if it has not.
        """
        if not 1 <= depth <= len(self.blocks):
            raise SettingError(
                f"the network has {len(self.blocks)} blocks, and {depth} are to learn", f"Give 1 to {len(self.blocks)}."
            )
        return depth

    def state_dict(self) -> dict[str, Any]:
        """What the schedule remembers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what it remembered."""


class FreezeBlocks(Schedule):
    """Some blocks learn, the others never do.

    Args:
        network: may be wrapped for several processes.
        train: how many blocks learn, counted from the head (1 is the head alone), or their names and numbers; the
            first block's number is 1.

    Raises:
        SettingError: for a block that there is not, or if none learns.
    """

    def __init__(self, network: nn.Module, train: int | Sequence[int | str] = 1) -> None:
        super().__init__(network)
        if isinstance(train, int):
            self.learning = self.last(self.checked(train))
        else:
            chosen = {self._index(which) for which in train}
            self.learning = [n in chosen for n in range(len(self.blocks))]
        if not any(self.learning):
            raise SettingError("no block learns", "Name one, or a number of blocks from 1 on.")

    def learning_at(self, epoch: int) -> list[bool]:
        """The same in each epoch."""
        return self.learning

    def _index(self, which: int | str) -> int:
        names = [block.name for block in self.blocks]
        if which in names:
            return names.index(str(which))
        if isinstance(which, int) and 1 <= which <= len(names):
            return which - 1
        near = closest(str(which), names)
        raise SettingError(f"there is no block {which!r}{near}", f"Blocks 1 to {len(names)}: {', '.join(names)}.")


class GradualUnfreezing(Schedule):
    """The head learns first; then one block more after every so many epochs.

    Args:
        network: may be wrapped for several processes.
        every: epochs from one block to the next.
        first: blocks that learn from the start.

    Raises:
        SettingError: for fewer than one epoch, or blocks that there are not.

    Source: Howard and Ruder 2018, ULMFiT (10.18653/v1/P18-1031).
    """

    def __init__(self, network: nn.Module, every: int, first: int = 1) -> None:
        super().__init__(network)
        if every < 1:
            raise SettingError(f"every is {every}", "Give one epoch or more.")
        self.every, self.first = every, self.checked(first)

    def learning_at(self, epoch: int) -> list[bool]:
        """As many of the last blocks as the epoch's number allows."""
        return self.last(self.first + (epoch - 1) // self.every)


class BlockwiseFineTuning(Schedule):
    """From the last block to the first, one depth after the other, watched on validation cases.

    Each depth begins with the best weights found until then and a fresh optimizer, and is trained for so many epochs,
    or until its patience is spent. After the last depth the training ends. Its network has the best weights then, so
    that the final weights are those of the best depth: **validation cases chose them**, and scores of these cases are
    optimistic. Higher is better.

    Args:
        network: may be wrapped for several processes.
        optimizer: its state is cleared with each depth.
        evaluator: the validation engine; its key metric is watched.
        epochs: of one depth.
        patience: epochs of a depth without a new best of this depth after which the next one begins; None waits for
            the depth's last epoch.
        first: the depth to begin with; 1 is the head alone.

    Raises:
        SettingError: for fewer than one epoch, or a depth that there is not; at the end of a depth, if none of its
            epochs was validated.

    Source: Swati et al. 2019 (10.1016/j.compmedimag.2019.05.001).
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        evaluator: Workflow,
        epochs: int,
        patience: int | None = None,
        first: int = 1,
    ) -> None:
        super().__init__(network)
        if epochs < 1 or (patience is not None and patience < 1):
            raise SettingError(f"epochs is {epochs} and patience {patience}", "Give one epoch or more.")
        self.optimizer, self.evaluator, self.epochs, self.patience = optimizer, evaluator, epochs, patience
        self.depth = self.checked(first)
        self.begun = 0  # epochs before this depth
        self.here = -math.inf  # the best of this depth
        self.here_epoch = 0
        self.best, self.best_depth, self.best_epoch = -math.inf, 0, 0
        self.best_weights: dict[str, torch.Tensor] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after what validates."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.judge)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def __call__(self, engine: Engine) -> None:
        """Freeze and unfreeze for the epoch that starts now; a training that went through all depths ends."""
        super().__call__(engine)
        if self.depth > len(self.blocks):
            engine.terminate()

    def learning_at(self, epoch: int) -> list[bool]:
        """The blocks of the depth that was reached."""
        return self.last(self.depth)

    def judge(self, engine: Engine) -> None:
        """Remember the best weights, and go one depth further where it is time."""
        epoch = engine.state.epoch
        metric = self._metric_of(epoch)
        if metric > self.here:
            self.here, self.here_epoch = metric, epoch
        if metric > self.best:
            self.best, self.best_depth, self.best_epoch = metric, self.depth, epoch
            self.best_weights = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        spent = self.patience is not None and self.here_epoch and epoch - self.here_epoch >= self.patience
        if spent or epoch - self.begun >= self.epochs:
            self._deepen(engine)

    def finish(self, engine: Engine) -> None:
        """Give the network the best weights."""
        if self.best_weights:
            self.network.load_state_dict(self.best_weights)
            logger.info("best depth %d, epoch %d: %.4f", self.best_depth, self.best_epoch, self.best)
        if self.depth <= len(self.blocks):
            logger.warning("WARNING it ended at depth %d of %d: give it more epochs", self.depth, len(self.blocks))

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule is, and the best weights."""
        return {name: getattr(self, name) for name in _REMEMBERED}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name in _REMEMBERED:
            setattr(self, name, state[name])
        device = next(self.network.parameters()).device
        self.best_weights = {name: value.to(device) for name, value in self.best_weights.items()}

    def _metric_of(self, epoch: int) -> float:
        """The key metric of an epoch; minus infinity if it was not validated, or gave no number."""
        if self.evaluator.state.epoch != epoch:
            return -math.inf
        metric = float(self.evaluator.state.metrics[str(self.evaluator.state.key_metric_name)])
        return -math.inf if math.isnan(metric) else metric

    def _deepen(self, engine: Engine) -> None:
        if self.here == -math.inf:
            raise SettingError(
                f"depth {self.depth} ended at epoch {engine.state.epoch} without a validation",
                "Make val_interval no longer than the epochs of a depth.",
            )
        logger.info("depth %d: %.4f at epoch %d", self.depth, self.here, self.here_epoch)
        self.network.load_state_dict(self.best_weights)
        self.optimizer.state.clear()
        self.depth += 1
        self.begun, self.here, self.here_epoch = engine.state.epoch, -math.inf, 0
        if self.depth > len(self.blocks):
            engine.terminate()


_REMEMBERED = ("depth", "begun", "here", "here_epoch", "best", "best_depth", "best_epoch", "best_weights")


class FineTuningState(TrainingState):
    """:class:`neurobundle.train.TrainingState` of a training with a schedule, which it attaches, saves and restores.

    Args:
        args: as for the training state.
        schedule: one of this module; None is a training in which all blocks learn.
        settings: as for the training state.

    Raises:
        SettingError: for block-wise fine-tuning of averaged weights.
    """

    def __init__(self, *args: Any, schedule: Schedule | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        if self.average is not None and isinstance(schedule, BlockwiseFineTuning):
            raise SettingError(
                "block-wise fine-tuning goes back to the best weights, which an average of weights knows nothing of",
                "Train without the average, or with another schedule.",
            )
        self.schedule = schedule
        # A state of another schedule remembers other things.
        self.identity["schedule"] = None if schedule is None else type(schedule).__name__
        if schedule is not None:
            self.parts["schedule"] = schedule

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, the schedule first."""
        if self.schedule is not None:
            self.schedule.attach(engine)
        super().attach(engine)
