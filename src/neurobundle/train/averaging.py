"""An exponential moving average of the weights, which validates and is saved in their place.

The optimizer goes on with its own weights; the *average* follows them, and is less noisy: at any moment about as good
as after a decay of the learning rate, so that a training may be ended early.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim.swa_utils import AveragedModel

from neurobundle.errors import SettingError
from neurobundle.train.handlers import unwrap


class AveragedWeights:
    """Averages the weights after each iteration; an evaluator sees the average.

    In the first iterations the average forgets faster, so that it does not remember the random start; after
    :meth:`begin` it does not, since that start is worth remembering. Give it to
    :class:`neurobundle.train.TrainingState`, which attaches and saves it.

    Args:
        network: whose weights to follow; may be wrapped for several processes.
        evaluator: while it runs, the network has the averaged weights.
        decay: what the average keeps of itself at each iteration, at most; 0 follows the weights themselves.

    Raises:
        SettingError: for a decay outside 0 to 1.
    """

    def __init__(self, network: torch.nn.Module, evaluator: Engine, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise SettingError(f"decay is {decay}", "Give one from 0 to 1, without 1.")
        self.network, self.evaluator, self.decay = unwrap(network), evaluator, decay
        self.average: AveragedModel | None = None
        self.own: dict[str, torch.Tensor] | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, and with the evaluator."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        self.evaluator.add_event_handler(Events.STARTED, self.put_in)
        self.evaluator.add_event_handler(Events.COMPLETED, self.take_out)
        self.evaluator.add_event_handler(Events.EXCEPTION_RAISED, self._taken_out_for)

    def update(self, engine: Engine) -> None:
        """Follow the weights by one iteration; the first one is copied."""
        if self.average is None:
            self.average = self._started()
        self.average.update_parameters(self.network)

    def begin(self) -> None:
        """Begin with the weights that the network has now, as if it had had them for long."""
        self.average = self._started()
        # So many iterations on, the decay is the whole one: (1 + n) / (10 + n) = decay.
        self.average.n_averaged.fill_(max(1, math.ceil((10 * self.decay - 1) / (1 - self.decay))))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the averaged weights inside the block."""
        self.put_in()
        try:
            yield
        finally:
            self.take_out()

    def put_in(self, engine: Engine | None = None) -> None:
        """Give the network the averaged weights, if there are any yet; its own are kept."""
        if self.average is None or self.own is not None:
            return
        self.own = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.module.state_dict())

    def take_out(self, engine: Engine | None = None) -> None:
        """Give the network its own weights back."""
        if self.own is not None:
            self.network.load_state_dict(self.own)
            self.own = None

    def state_dict(self) -> dict[str, Any]:
        """The average, or nothing before the first iteration."""
        return {} if self.average is None else dict(self.average.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        self.average = None
        if state:
            self.average = self._started()
            self.average.load_state_dict(state)

    def _started(self) -> AveragedModel:
        @torch.no_grad()
        def follow(average: Sequence[torch.Tensor], own: Sequence[torch.Tensor], seen: torch.Tensor | int) -> None:
            count = int(seen)
            decay = min(self.decay, (1 + count) / (10 + count))
            for one, other in zip(average, own, strict=True):
                if one.is_floating_point():
                    one.lerp_(other.to(one.dtype), 1 - decay)
                else:
                    one.copy_(other)

        return AveragedModel(self.network, multi_avg_fn=follow, use_buffers=True)

    def _taken_out_for(self, engine: Engine, error: Exception) -> None:
        self.take_out()
        raise error
