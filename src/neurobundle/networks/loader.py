"""The handler by which a config gets its weights: an inference, an evaluation, or a training that begins with some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.nn.parallel import DataParallel, DistributedDataParallel

from neurobundle.networks.weights import load_weights

#: The weights that a bundle runs with, unless somebody says otherwise.
MODEL_NAME = "model.pt"


def weights_names(folder: str | Path) -> list[str]:
    """The names of a bundle's weights, ``model.pt`` first: what a user may choose from.

    Args:
        folder: ``models/``; one that is not there has none.
    """
    names = sorted(path.name for path in Path(folder).glob("*.pt"))
    return sorted(names, key=lambda name: name != MODEL_NAME)


class WeightsLoader:
    """Loads weights into a network when an engine starts; once, however often the engine runs.

    MONAI's ``CheckpointLoader`` loads whatever fits; this one checks the file's sha256 against the manifest beside
    it, and refuses weights that load in part or are not finite.

    Args:
        path: the weights.
        network: where they go; may be wrapped for several processes.
        average: :class:`neurobundle.train.AveragedWeights` that begins with them, in a training.
        unless: a training state that the run goes on from: where this file is, nothing is loaded.

    Raises:
        WeightsError: at the engine's start; see :func:`neurobundle.networks.load_weights`.
    """

    def __init__(
        self,
        path: str | Path,
        network: torch.nn.Module,
        average: Any = None,
        unless: str | Path | None = None,
    ) -> None:
        self.path = Path(path)
        self.network = network.module if isinstance(network, DataParallel | DistributedDataParallel) else network
        self.average = average
        self.unless = None if unless is None else Path(unless)
        self.loaded = False

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load, the first time."""
        if self.loaded or (self.unless is not None and self.unless.exists()):
            return
        load_weights(self.network, self.path)
        if self.average is not None:
            self.average.begin()
        self.loaded = True
