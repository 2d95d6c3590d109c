"""When a training looks at its validation cases, and what it keeps where it has none."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from monai.handlers import ValidationHandler

from neurobundle.errors import SettingError
from neurobundle.networks.manifest import sha256_of
from neurobundle.networks.weights import save_weights
from neurobundle.train.handlers import unwrap

logger = logging.getLogger(__name__)


class EpochValidation(ValidationHandler):
    """As MONAI's ``ValidationHandler``, but the last epoch is validated too, whatever the interval.

    Where there is no validation case, nothing is validated, and the last epoch's weights are saved in place of the
    best: MONAI Label holds out a fifth of the labelled images, which is none of one or two, and a training that saves
    no weights has taught it nothing.

    Args:
        validator: the validation engine.
        interval: epochs between two validations.
        network: may be wrapped for several processes.
        path: where :class:`neurobundle.train.BestWeights` saves: ``<ckpt_dir>/model.pt``.
        average: :class:`neurobundle.train.AveragedWeights`: what is saved is then the average.
        enabled: false on all processes but one: they validate, and never write.

    Raises:
        SettingError: for an interval below 1.
    """

    def __init__(
        self,
        validator: Evaluator,
        interval: int,
        network: torch.nn.Module,
        path: str | Path,
        average: Any = None,
        enabled: bool = True,
    ) -> None:
        if interval < 1:
            raise SettingError(f"the interval between validations is {interval!r}", "Give 1 or more epochs.")
        super().__init__(interval, validator, epoch_level=True)
        batches: Any = validator.data_loader
        # Of all processes together: one that has no share validates with the others, which wait for it.
        self.has_cases = len(getattr(batches, "dataset", batches)) > 0
        self.network, self.path, self.average, self.enabled = network, Path(path), average, enabled
        self.parent: str | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.has_cases:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)
        elif self.enabled:
            logger.warning("WARNING there is no validation case: %s will be the last epoch's weights", self.path.name)
            self.parent = sha256_of(self.path) if self.path.exists() else None
            engine.add_event_handler(Events.COMPLETED, self.keep)

    def __call__(self, engine: Engine) -> None:
        """Validate, if it is time."""
        if engine.state.epoch % self.interval == 0 or engine.state.epoch == engine.state.max_epochs:
            super().__call__(engine)

    def keep(self, engine: Engine) -> None:
        """Save the weights as they are."""
        with contextlib.nullcontext() if self.average is None else self.average.averaged():
            save_weights(unwrap(self.network), self.path, origin="trained-here", parent=self.parent)
