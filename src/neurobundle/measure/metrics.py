"""The scores as MONAI metrics, for the validation of a training and for anybody's loop.

They keep the miss policy: MONAI's own leave a missed structure out of the Hausdorff distance, and a false alarm on an
empty reference out of Dice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.handlers.ignite_metric import IgniteMetricHandler
from monai.metrics.metric import CumulativeIterationMetric
from monai.metrics.utils import do_metric_reduction
from monai.utils.enums import MetricReduction

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.overlap import joint_counts, overlap_of
from neurobundle.measure.regions import Structures, as_structures, values_of, whole_numbers
from neurobundle.measure.segmentation import DISTANCES, SHARES, score_case

#: What :class:`SegmentationMetric` can be asked for.
METRICS = (*SHARES, *DISTANCES)
#: Those that need no distances.
OVERLAPS = tuple(name for name in SHARES if name != "nsd")


class SegmentationMetric(CumulativeIterationMetric):
    """One score of each structure, accumulated over cases.

    Called with predictions and references ``(batch, 1, i, j[, k])`` that are label maps, or ``(batch, channel, ...)``
    of 0 and 1, a channel a class or a structure. ``aggregate`` gives the mean over structures and cases, without the
    empty ones.

    Args:
        metric: ``dice``, ``iou``, ``sensitivity``, ``precision``, ``nsd``, ``hd95_mm``, ``hd_mm`` or ``assd_mm``.
        structures: for label maps: ``{1: "front"}`` or ``{"WT": [1, 2, 3]}``.
        include_background: for channels: whether the first one is a structure too.
        spacing_mm: voxel sizes; if None, those of the reference's metadata, or 1 where it has none.
        tolerance_mm: NSD's.
        reduction: of ``aggregate``, as MONAI names it: ``mean``, ``mean_batch``, ``none`` ...

    Raises:
        SettingError: for an unknown metric.
        InputError: at a call, if shapes do not fit.
    """

    def __init__(
        self,
        metric: str = "dice",
        structures: Mapping[Any, Any] | None = None,
        include_background: bool = False,
        spacing_mm: Sequence[float] | None = None,
        tolerance_mm: float = 1.0,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__()
        if metric not in METRICS:
            raise SettingError(f"there is no metric {metric!r}", f"It is one of {', '.join(METRICS)}.")
        self.metric = metric
        self.structures = None if structures is None else as_structures(structures)
        self.include_background = include_background
        self.spacing_mm = spacing_mm
        self.tolerance_mm = tolerance_mm
        self.reduction = reduction

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **_: Any) -> torch.Tensor:
        if y is None or y_pred.shape != y.shape or y.ndim not in (4, 5):
            raise InputError(
                f"predictions have the shape {tuple(y_pred.shape)}, references {None if y is None else tuple(y.shape)}",
                "Give both as (batch, channel, i, j) or (batch, channel, i, j, k).",
            )
        spacing = self._spacing(y)
        pairs = zip(y_pred.detach().cpu().numpy(), y.detach().cpu().numpy(), strict=True)
        rows = [self._values(*pair, spacing) for pair in pairs]
        return torch.tensor(rows, dtype=torch.float32, device=y_pred.device)

    def _values(self, prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float]) -> list[float]:
        if len(reference) == 1:
            if self.structures is None:
                raise SettingError("label maps are scored by structures", "Name them: structures={1: 'front'}.")
            return self._of_maps(prediction[0], reference[0], self.structures, spacing)
        first = 0 if self.include_background else 1
        channels = zip(prediction[first:], reference[first:], strict=True)
        return [self._of_maps(found > 0, there > 0, {"channel": (1,)}, spacing)[0] for found, there in channels]

    def _of_maps(
        self, prediction: np.ndarray, reference: np.ndarray, structures: Structures, spacing: Sequence[float]
    ) -> list[float]:
        if self.metric not in OVERLAPS:
            scores = score_case(prediction, reference, structures, spacing, self.tolerance_mm)
            return [score.value(self.metric) for score in scores]
        found, there = whole_numbers(prediction, "the prediction"), whole_numbers(reference, "the reference")
        values = values_of(structures)
        counts = joint_counts(found, there, values)
        return [float(getattr(overlap_of(counts, values, own), self.metric)) for own in structures.values()]

    def _spacing(self, reference: torch.Tensor) -> list[float]:
        if self.spacing_mm is not None:
            return [float(size) for size in self.spacing_mm]
        ndim = reference.ndim - 2
        pixdim = getattr(reference, "pixdim", None)
        if pixdim is None:
            return [1.0] * ndim
        return [float(size) for size in np.atleast_2d(np.asarray(pixdim))[0][:ndim]]

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """The score over all cases so far; NaN where nothing but empty structures was seen.

        Args:
            reduction: instead of the one given at first.
        """
        data = self.get_buffer()
        if not isinstance(data, torch.Tensor):
            raise InputError("nothing was scored yet", "Call it with predictions and references first.")
        reduced, counted = do_metric_reduction(data.clone(), reduction or self.reduction)
        return torch.where(counted > 0, reduced, torch.nan)


class SegmentationMetricHandler(IgniteMetricHandler):
    """:class:`SegmentationMetric` as an ignite metric that a config names.

    Args:
        metric: as there.
        structures: as there.
        include_background: as there.
        spacing_mm: as there.
        tolerance_mm: as there.
        output_transform: gives predictions and references: ``$monai.handlers.from_engine(['pred', 'label'])``.
        save_details: keep each case's scores in ``engine.state.metric_details``.
    """

    def __init__(
        self,
        metric: str = "dice",
        structures: Mapping[Any, Any] | None = None,
        include_background: bool = False,
        spacing_mm: Sequence[float] | None = None,
        tolerance_mm: float = 1.0,
        output_transform: Callable[..., Any] = lambda x: x,
        save_details: bool = True,
    ) -> None:
        metric_fn = SegmentationMetric(metric, structures, include_background, spacing_mm, tolerance_mm)
        super().__init__(metric_fn=metric_fn, output_transform=output_transform, save_details=save_details)
