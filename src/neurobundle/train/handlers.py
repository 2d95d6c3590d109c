"""Ignite handlers that a ``train.yaml`` names.

A training is *resumed* when it goes on from the full state that the last epoch left in ``last.pt``. Chance is drawn
anew at each epoch's start from (seed, epoch, rank), so that a resumed training equals an uninterrupted one, bit for
bit on a CPU. *Best weights* are those of the epoch with the highest key metric on the validation cases; *final
weights* are those of the last epoch, which no validation chose.
"""

from __future__ import annotations

import contextlib
import io
import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.engines import Workflow
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

from neurobundle.errors import EnvironmentFault, InputError, WeightsError
from neurobundle.files import sweep, write_atomic
from neurobundle.networks.manifest import sha256_of
from neurobundle.networks.weights import save_weights

logger = logging.getLogger(__name__)

#: Multiplied with the epoch so that neighbouring seeds share no stream (a prime above any number of epochs).
EPOCH_STRIDE = 1_000_003


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """The seed of one epoch on one process, below 2**32 as numpy asks.

    >>> epoch_seed(0, 1, 0) == epoch_seed(0, 1, 0), epoch_seed(0, 1, 0) == epoch_seed(0, 2, 0)
    (True, False)
    """
    return int(np.random.SeedSequence([seed, epoch * EPOCH_STRIDE, rank]).generate_state(1)[0])


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class ReseedHandler:
    """Seeds Python, numpy, torch and the transforms from (seed, epoch, rank) at each epoch's start.

    Args:
        seed: the run's seed.
        dataset: a dataset whose ``transform`` is a MONAI transform.
    """

    def __init__(self, seed: int, dataset: Any) -> None:
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Reseed for the epoch that starts now."""
        seed = epoch_seed(self.seed, engine.state.epoch, _rank())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        set_random_state = getattr(self.dataset.transform, "set_random_state", None)
        if set_random_state is not None:
            set_random_state(seed=seed)


class GradientGuard:
    """Clips the gradient's norm, and stops the run where it or the loss is not finite.

    Args:
        network: whose gradients to clip.
        max_norm: largest L2 norm over all parameters.
        output_dir: where the batch that stopped the run is kept, to be looked at; None keeps none.

    Raises:
        InputError: at the first iteration whose loss or gradient is NaN or infinite; names the cases of the batch, and
            its file: ``torch.load(file)`` gives image, label, what the network said, and the loss, without metadata.
    """

    def __init__(self, network: torch.nn.Module, max_norm: float, output_dir: str | Path | None = None) -> None:
        self.network = network
        self.max_norm = max_norm
        self.output_dir = None if output_dir is None else Path(output_dir)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check_loss)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def check_loss(self, engine: Engine) -> None:
        """Stop before the backward pass of a loss that is no number: that batch is to blame, on whatever process."""
        output: Any = engine.state.output
        loss = output[CommonKeys.LOSS].detach()
        if not bool(torch.isfinite(loss)):
            self._stop(engine, f"the loss is {float(loss)}")

    def __call__(self, engine: Engine) -> None:
        """Clip after the backward pass, before the optimizer's step."""
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        if not bool(torch.isfinite(norm)):
            self._stop(engine, f"the gradient is {float(norm)}")

    def _stop(self, engine: Engine, what: str) -> None:
        raise InputError(
            f"{what} at epoch {engine.state.epoch}, iteration {engine.state.iteration}",
            "Look at these images and labels, or lower learning_rate.",
            case=_cases(engine.state.batch),
            file=_keep_batch(engine, self.output_dir) if self.output_dir else None,
        )


def _cases(batch: Any) -> str:
    cases = batch.get("case", []) if isinstance(batch, Mapping) else []
    return ",".join(str(case) for case in cases)


def _keep_batch(engine: Engine, folder: Path) -> Path | None:
    """Write what an iteration has so far, as plain tensors: no path, no header. None where it cannot be written."""
    state = engine.state
    name = f"bad-batch-epoch{state.epoch}-iteration{state.iteration}-process{_rank()}.pt"
    output: Mapping[Any, Any] = state.output if isinstance(state.output, Mapping) else {}
    tensors = {str(key): value for key, value in output.items() if isinstance(value, torch.Tensor)}
    kept = {key: value.detach().as_subclass(torch.Tensor).cpu() for key, value in tensors.items()}
    buffer = io.BytesIO()
    torch.save({**kept, "case": _cases(state.batch), "epoch": state.epoch, "iteration": state.iteration}, buffer)
    try:
        return write_atomic(folder / name, buffer.getvalue())
    except EnvironmentFault as fault:
        logger.warning("WARNING the batch could not be kept: %s", fault)
        return None


class EarlyStop:
    """Ends the training when the key metric has not risen for some epochs.

    It keeps no state of its own: the evaluator remembers its best epoch, and :class:`TrainingState` saves that.

    Args:
        evaluator: the validation engine.
        patience: epochs without a new best after which to stop; None never stops.
    """

    def __init__(self, evaluator: Workflow, patience: int | None) -> None:
        self.evaluator = evaluator
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Stop the trainer if its patience is spent."""
        if self.patience is None:
            return
        best: int = self.evaluator.state.best_metric_epoch
        if best >= 0 and engine.state.epoch - best >= self.patience:
            logger.info("no better epoch than %d for %d epochs: stopping", best, self.patience)
            engine.terminate()


class BestWeights:
    """Saves the network at each new best key metric, with its line in ``MANIFEST.sha256``.

    Attach it to the evaluator.

    Args:
        network: may be wrapped for several processes.
        path: ``<ckpt_dir>/model.pt``.
        enabled: false on all processes but one.
    """

    def __init__(self, network: torch.nn.Module, path: str | Path, enabled: bool = True) -> None:
        self.network = network
        self.path = Path(path)
        self.enabled = enabled
        self.parent: str | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        if self.enabled:
            # MONAI Label trains on from the file that is replaced here: that file is the parent.
            self.parent = sha256_of(self.path) if self.path.exists() else None
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        """Save if this epoch is the best so far."""
        if engine.state.best_metric_epoch == engine.state.epoch:
            save_weights(unwrap(self.network), self.path, origin="trained-here", parent=self.parent)


class TrainingState:
    """Saves all that a training needs to go on, after each epoch, and restores it where asked.

    The file holds model, optimizer, scheduler, the trainer's and the evaluator's counters and the best metric; its
    format is a plain dictionary of tensors and numbers that loads with ``weights_only=True``. Attach it last, so
    that it sees the epoch's validation.

    Args:
        path: ``last.pt``; outside ``models/``, since MONAI Label offers every file there.
        final_weights: where the last epoch's weights go when the training is complete.
        resume: whether to go on from ``path``; a first run without the file starts at the beginning.
        network: may be wrapped for several processes.
        optimizer: its state is saved.
        lr_scheduler: its state is saved.
        evaluator: its best metric and epoch are saved.
        identity: what a state must share with the run that goes on from it: the fold, for instance, since a state of
            another fold has seen this one's validation cases.
        average: :class:`neurobundle.train.AveragedWeights`, attached and saved as well; the final weights are then the
            average.
        enabled: false on all processes but one, which then read but never write.
    """

    def __init__(
        self,
        path: str | Path,
        final_weights: str | Path,
        resume: bool,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: torch.optim.lr_scheduler.LRScheduler,
        evaluator: Workflow,
        identity: Mapping[str, Any] | None = None,
        average: Any = None,
        enabled: bool = True,
    ) -> None:
        self.identity = dict(identity or {})
        self.path, self.final_weights, self.resume, self.enabled = Path(path), Path(final_weights), resume, enabled
        self.network = network
        self.evaluator = evaluator
        self.parts: dict[str, Any] = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.average = average
        if average is not None:
            self.parts["average"] = average

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.average is not None:
            self.average.attach(engine)
        if self.resume:
            engine.add_event_handler(Events.STARTED, self.restore)
        if self.enabled:
            sweep(self.path)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
            engine.add_event_handler(Events.COMPLETED, self.finish)

    def save(self, engine: Engine) -> None:
        """Write ``last.pt``."""
        state = {
            "model": unwrap(self.network).state_dict(),
            **{name: part.state_dict() for name, part in self.parts.items()},
            "identity": self.identity,
            "trainer": {"epoch": engine.state.epoch, "iteration": engine.state.iteration},
            "evaluator": {
                "best_metric": float(self.evaluator.state.best_metric),
                "best_metric_epoch": int(self.evaluator.state.best_metric_epoch),
            },
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.path, buffer.getvalue())

    def restore(self, engine: Engine) -> None:
        """Go on from ``last.pt``, if it is there."""
        if not self.path.exists():
            logger.info("nothing to resume at %s: starting at the first epoch", self.path)
            return
        state = self._read()
        unwrap(self.network).load_state_dict(state["model"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        engine.state.epoch = state["trainer"]["epoch"]
        engine.state.iteration = state["trainer"]["iteration"]
        self.evaluator.state.best_metric = state["evaluator"]["best_metric"]
        self.evaluator.state.best_metric_epoch = state["evaluator"]["best_metric_epoch"]
        logger.info("resumed after epoch %d from %s", engine.state.epoch, self.path)

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise WeightsError(
                f"this training state is damaged ({self.path.stat().st_size} bytes; {type(error).__name__})",
                "Delete it to start at the first epoch, or restore it from a copy.",
                file=self.path,
            ) from error
        missing = {"model", "trainer", "evaluator", "identity", *self.parts} - set(state)
        if missing:
            raise WeightsError(
                f"this is no training state: it lacks {sorted(missing)}",
                "Point output_dir at the run to resume.",
                file=self.path,
            )
        for name, value in self.identity.items():
            if state["identity"].get(name) != value:
                raise WeightsError(
                    f"this state is of a run with {name} {state['identity'].get(name)}, and this run has {value}",
                    "Resume with the same settings, or give another output folder.",
                    file=self.path,
                )
        return state

    def finish(self, engine: Engine) -> None:
        """Write the final weights."""
        with contextlib.nullcontext() if self.average is None else self.average.averaged():
            save_weights(unwrap(self.network), self.final_weights, origin="trained-here")


def unwrap(network: torch.nn.Module) -> torch.nn.Module:
    """The network inside ``DistributedDataParallel``, or the network itself."""
    inner = getattr(network, "module", network)
    return inner if isinstance(inner, torch.nn.Module) else network
