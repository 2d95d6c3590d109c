"""What is seen of a training while it runs: scalars, and one grid of slices an epoch, in TensorBoard and the log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

logger = logging.getLogger(__name__)

#: Cases in the grid: enough to see a pattern, few enough to see them.
GRID_CASES = 6
PIXELS_A_VOXEL = 4


class EpochScalars:
    """Writes an engine's metrics, its mean loss and the learning rate, once an epoch, to TensorBoard and to the log.

    Args:
        log_dir: where the event files go; several handlers may share it.
        optimizer: adds the learning rate, if given.
        enabled: false on all processes but one.
    """

    def __init__(
        self, log_dir: str | Path, optimizer: torch.optim.Optimizer | None = None, enabled: bool = True
    ) -> None:
        self.log_dir = str(log_dir)
        self.optimizer = optimizer
        self.enabled = enabled
        self.losses: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        if self.enabled:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def collect(self, engine: Engine) -> None:
        """Remember this iteration's loss, if it has one."""
        output = engine.state.output
        if isinstance(output, list) and output and "loss" in output[0]:
            self.losses.append(float(output[0]["loss"]))

    def __call__(self, engine: Engine) -> None:
        """Write the epoch's scalars."""
        scalars = {name: float(value) for name, value in engine.state.metrics.items()}
        if self.losses:
            scalars["train_loss"] = sum(self.losses) / len(self.losses)
            self.losses.clear()
        if self.optimizer is not None:
            scalars["learning_rate"] = float(self.optimizer.param_groups[0]["lr"])
        shown = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        logger.info("%s epoch %d: %s", type(engine).__name__, engine.state.epoch, shown)
        with _writer(self.log_dir) as writer:
            for name, value in scalars.items():
                writer.add_scalar(name, value, engine.state.epoch)


class TensorBoardImageGrid:
    """Writes one picture an epoch: the slice of most label of the first cases, truth above prediction.

    Attach it to a trainer or an evaluator whose output holds ``image``, ``label`` and ``pred``: both label maps, or
    both a channel a class or region.

    Args:
        log_dir: where the event files go.
        enabled: false on all processes but one.
        include_background: for channels: whether the first one is shown too, as it is for regions.
    """

    def __init__(self, log_dir: str | Path, enabled: bool = True, include_background: bool = False) -> None:
        self.log_dir = str(log_dir)
        self.enabled = enabled
        self.first = 0 if include_background else 1
        self.columns: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        if self.enabled:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def collect(self, engine: Engine) -> None:
        """Keep a column of the grid while it has room."""
        outputs: Any = engine.state.output
        for output in outputs:
            if len(self.columns) < GRID_CASES:
                self.columns.append(
                    _column(output["image"], *(_masks(output[key], self.first) for key in ("label", "pred")))
                )

    def __call__(self, engine: Engine) -> None:
        """Write the grid."""
        if not self.columns:
            return
        height = max(column.shape[1] for column in self.columns)
        padded = [torch.nn.functional.pad(c, (1, 1, 0, height - c.shape[1])) for c in self.columns]
        with _writer(self.log_dir) as writer:
            writer.add_image(
                f"{type(engine).__name__}: truth above prediction", torch.cat(padded, dim=2), engine.state.epoch
            )
        self.columns.clear()


def _masks(classes: torch.Tensor, first: int) -> torch.Tensor:
    """Which of the classes a voxel belongs to, ``(class, i, j, k)``, without the background."""
    if len(classes) > 1:
        return classes[first:] > 0.5
    highest = max(1, int(classes.max()))
    return torch.stack([classes[0] == number for number in range(1, highest + 1)])


def _column(image: torch.Tensor, label: torch.Tensor, pred: torch.Tensor) -> torch.Tensor:
    """One case as ``(3, 2h, w)`` in [0, 1]: a sagittal slice, superior up, anterior left, with the classes tinted."""
    i = int(label.sum(dim=(0, 2, 3)).argmax())
    grey = image[0, i].float()
    low, high = grey.aminmax()
    grey = (grey - low) / (high - low).clamp(min=1e-6)
    tints = torch.tensor([[1.0, 0.3, 0.2], [0.2, 0.6, 1.0], [0.4, 1.0, 0.3]], device=grey.device)
    rows = []
    for masks in (label, pred):
        rgb = grey.expand(3, -1, -1).clone()
        for index, mask in enumerate(masks[:, i]):
            rgb[:, mask] = 0.5 * rgb[:, mask] + 0.5 * tints[index % len(tints)][:, None]
        rows.append(rgb.transpose(1, 2).flip(1, 2))
    column = torch.cat(rows, dim=1).cpu()
    return column.repeat_interleave(PIXELS_A_VOXEL, dim=1).repeat_interleave(PIXELS_A_VOXEL, dim=2)


def _writer(log_dir: str):  # type: ignore[no-untyped-def]
    """A writer for one write, closed at once, so that a killed run leaves whole event files."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(log_dir=log_dir)
