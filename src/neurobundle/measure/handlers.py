"""Ignite handlers that an ``evaluate.yaml`` names: each scores what an evaluator predicts, and writes its report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ignite.engine import Engine, Events

from neurobundle.errors import NeurobundleError
from neurobundle.export.nifti import as_integers, save_label_map
from neurobundle.load.gate import LABEL
from neurobundle.load.names import case_name
from neurobundle.load.scan import Scan, read_scan
from neurobundle.measure.calibration import DILATION_MM
from neurobundle.measure.evaluation import SegmentationEvaluation
from neurobundle.measure.lesions import lesion_rule

logger = logging.getLogger(__name__)


class SegmentationReport:
    """Scores every case of an evaluation; writes ``per_case.csv``, ``summary.json`` and ``report.html`` at its end.

    The evaluator's output holds ``pred``, a label map ``(1, i, j, k)`` on the native grid, and ``label``, whose
    metadata names the reference's file; both are compared there, as a user would compare two files.

    Args:
        output_dir: where to write.
        structures: ``{1: "front"}`` or ``{"WT": [1, 2, 3]}``.
        tolerances_mm: NSD's tolerances; the first is the column ``nsd``.
        lesions: settings of :class:`neurobundle.measure.LesionRule`, ``{dilation: 3, ignored_ml: 0.05}``; ``{}`` for
            its defaults; null scores no lesions.
        probability_key: where the evaluator's output has probabilities ``(class or structure, i, j, k)`` on the native
            grid; null measures no calibration.
        probabilities: ``classes`` or ``structures``: what those are of.
        region_mm: calibration is measured over the reference's foreground and what lies so near to it.
        save_label_maps: also write ``predictions/<case>_seg.nii.gz``.
        pictures: draw each case for the report.
    """

    def __init__(
        self,
        output_dir: str | Path,
        structures: Mapping[Any, Any],
        tolerances_mm: float | Sequence[float] = 1.0,
        lesions: Mapping[str, Any] | None = None,
        probability_key: str | None = None,
        probabilities: Literal["classes", "structures"] = "classes",
        region_mm: float = DILATION_MM,
        save_label_maps: bool = False,
        pictures: bool = True,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.probability_key = probability_key
        self.save_label_maps = save_label_maps
        rule = None if lesions is None else lesion_rule(lesions)
        self.evaluation = SegmentationEvaluation(
            structures, tolerances_mm, rule, pictures=pictures, probabilities=probabilities, region_mm=region_mm
        )

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Forget what an earlier evaluation saw."""
        self.evaluation.clear()

    def collect(self, engine: Engine) -> None:
        """Score the cases of one batch."""
        batch: Any = engine.state.batch
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            file = Path(str(output["label"].meta["filename_or_obj"]))
            case = str(item.get("case") or case_name(file))
            reference = read_scan(file, LABEL)
            prediction = as_integers(output["pred"][0].cpu().numpy())
            image = self._image(item) if self.evaluation.draws else None
            self.evaluation.add(
                case,
                prediction,
                np.asarray(reference.data),
                reference.affine,
                image=image.data if image is not None and image.data.shape == prediction.shape else None,
                probabilities=output[self.probability_key].cpu().numpy() if self.probability_key else None,
                subject=str(item.get("subject") or case),
            )
            if self.save_label_maps:
                path = self.output_dir / "predictions" / f"{case}_seg.nii.gz"
                save_label_map(path, prediction, reference.affine, reference.form_code, reference.units)

    def finish(self, engine: Engine) -> None:
        """Write what was found."""
        self.evaluation.write(self.output_dir)

    @staticmethod
    def _image(item: Mapping[str, Any]) -> Scan | None:
        """The first channel as it is on disk; None where it cannot be drawn."""
        name = getattr(item.get("image"), "meta", {}).get("filename_or_obj")
        try:
            return read_scan(str(name)) if name else None
        except NeurobundleError as error:
            logger.info("no picture: %s", error)
            return None
