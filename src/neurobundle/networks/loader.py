"""The handler by which an inference or evaluation config gets its weights."""

from __future__ import annotations

from pathlib import Path

import torch
from ignite.engine import Engine, Events

from neurobundle.networks.weights import load_weights


class WeightsLoader:
    """Loads weights into a network when an engine starts; once, however often the engine runs.

    MONAI's ``CheckpointLoader`` loads whatever fits; this one checks the file's sha256 against the manifest beside
    it, and refuses weights that load in part or are not finite.

    Args:
        path: the weights.
        network: where they go.

    Raises:
        WeightsError: at the engine's start; see :func:`neurobundle.networks.load_weights`.
    """

    def __init__(self, path: str | Path, network: torch.nn.Module) -> None:
        self.path = Path(path)
        self.network = network
        self.loaded = False

    def attach(self, engine: Engine) -> None:
        """Register with an engine."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Load, the first time."""
        if not self.loaded:
            load_weights(self.network, self.path)
            self.loaded = True
