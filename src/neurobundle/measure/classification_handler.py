"""A handler that scores the answer for each case of an evaluation and writes what it found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.load.names import case_name
from neurobundle.measure.classification import Threshold
from neurobundle.measure.classification_evaluation import ClassificationEvaluation

logger = logging.getLogger(__name__)

#: What the network's output may be.
PRED_IS = ("logits", "probabilities")


class ClassificationReport:
    """Collects every answer of an evaluator; writes ``per_case.csv`` and ``summary.json`` at the end of its epoch.

    The evaluator decollates its batches; the output of a case holds ``pred`` (C,), and ``label``, its class's number.
    The case is named by ``case`` of the batch's item, or else by its image's file; its subject by ``subject``. A case
    whose output is not finite counts as failed.

    Args:
        output_dir: where to write.
        classes: their names, in the order of the output.
        pred_is: ``logits``, which go through softmax here, or ``probabilities``.
        threshold: on the probability of the second of two classes, or the mapping that it was saved as.

    Raises:
        SettingError: if ``pred_is`` is neither, or the classes or the threshold cannot be.
    """

    def __init__(
        self,
        output_dir: str | Path,
        classes: Sequence[str],
        pred_is: str = "logits",
        threshold: Threshold | Mapping[str, Any] | None = None,
    ) -> None:
        if pred_is not in PRED_IS:
            raise SettingError(
                f"pred_is must be one of {', '.join(PRED_IS)}, got {pred_is!r}{closest(pred_is, PRED_IS)}"
            )
        self.output_dir = Path(output_dir)
        self.classes = list(classes)
        self.pred_is = pred_is
        self.threshold = Threshold.from_json(threshold) if isinstance(threshold, Mapping) else threshold
        self.evaluation = ClassificationEvaluation(self.classes, self.threshold)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget what an earlier evaluation saw."""
        self.evaluation = ClassificationEvaluation(self.classes, self.threshold)

    def collect(self, engine: Engine) -> None:
        """Take the answers of one batch."""
        batch: Any = engine.state.batch
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            case = _case_of(item)
            truth, subject = int(output["label"]), str(item.get("subject") or "")
            pred = torch.as_tensor(output["pred"]).detach().double().cpu()
            if not pred.isfinite().all():
                logger.warning("%s: the network's output is not finite; the case counts as failed", case)
                self.evaluation.add_failed(case, truth, subject)
                continue
            probabilities = pred.softmax(dim=0) if self.pred_is == "logits" else pred
            self.evaluation.add(case, truth, probabilities.numpy(), subject)

    def finish(self, engine: Engine) -> None:
        """Write what was found."""
        self.evaluation.write(self.output_dir)


def _case_of(item: Mapping[str, Any]) -> str:
    if item.get("case"):
        return str(item["case"])
    file = getattr(item.get("image"), "meta", {}).get("filename_or_obj")
    if not file:
        raise InputError(
            "an item of the batch has neither a case nor an image with a file", "Add 'case' to the datalist."
        )
    return case_name(str(file))
