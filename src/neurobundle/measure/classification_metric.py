"""A score of a classification as MONAI's kind of metric, for a training's validation.

In a config::

    key_val_metric:
      balanced_accuracy:
        _target_: monai.handlers.IgniteMetricHandler
        metric_fn:
          _target_: neurobundle.measure.ClassificationMetric
          metric: balanced_accuracy
        output_transform: $monai.handlers.from_engine(['pred', 'label'])
        save_details: false

With ``metric: nll`` and the name ``val_loss``, among ``additional_metrics``, it is the validation's loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric

from neurobundle.errors import NoInputError, SettingError, closest
from neurobundle.measure.calibration import SMALLEST_PROBABILITY
from neurobundle.measure.classification import MEANS, mean_scores, predict

#: The mean negative log-probability of the true class, in nats: what cross-entropy without weights is.
NLL = "nll"


class ClassificationMetric(CumulativeIterationMetric):
    """One of the means of :mod:`neurobundle.measure.classification`, over all cases of an epoch.

    Predictions are probabilities (B, C), after softmax, or one-hot; labels are one-hot (B, C) or class numbers, (B, 1)
    or (B,). Decollated lists hold the same for one case each: (C,), and (C,), (1,) or a number. A case whose
    prediction is NaN counts as failed, which is as bad as the worst answer.

    Args:
        metric: ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``mcc``, ``macro_auroc`` or ``macro_auprc``; or
            ``nll``, of which less is better, so that it is no key metric.

    Raises:
        SettingError: if the metric is unknown.
    """

    def __init__(self, metric: str = "balanced_accuracy") -> None:
        super().__init__()
        known = (*MEANS, NLL)
        if metric not in known:
            raise SettingError(f"there is no metric {metric!r}{closest(metric, known)}", f"One of {', '.join(known)}.")
        self.metric = metric

    def aggregate(self) -> torch.Tensor:
        """The metric over all cases since :meth:`reset`, a tensor without dimensions; NaN where it is undefined.

        Raises:
            NoInputError: if there was no case.
        """
        buffers = self.get_buffer()
        if buffers is None:
            raise NoInputError(f"{self.metric} needs a case and saw none", "Check the validation's datalist.")
        probabilities, truth = (buffer.cpu().numpy() for buffer in buffers)
        if self.metric == NLL:
            return torch.tensor(_nll(probabilities, truth[:, 0]), dtype=torch.float32)
        predicted = predict(probabilities)
        scores = mean_scores(truth[:, 0], predicted, probabilities.shape[1], probabilities)
        return torch.tensor(scores[self.metric], dtype=torch.float32)

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """MONAI decollates class numbers to Python's, which its own version of this cannot take."""
        labels = None if y is None else torch.stack([torch.as_tensor(label).reshape(-1) for label in y])
        return self._compute_tensor(torch.stack([torch.as_tensor(row) for row in y_pred]), labels)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> list[torch.Tensor]:
        """What is kept of a batch: probabilities (B, C), NaN throughout where one is, and classes (B, 1)."""
        if y_pred.ndim != 2 or y_pred.shape[1] < 2:
            raise SettingError(
                f"predictions must be (cases, two classes or more), got {tuple(y_pred.shape)}",
                "Of one logit make two probabilities; of an image's features pool first.",
            )
        if y is None:
            raise SettingError(f"{self.metric} needs labels, and there are none")
        probabilities = y_pred.detach().float().clone()
        failed = probabilities.isnan().any(dim=1)
        if not ((probabilities[~failed] >= 0) & (probabilities[~failed] <= 1)).all():
            raise SettingError(
                "predictions must lie in [0, 1]", "Put Activationsd(softmax=True) into the postprocessing."
            )
        probabilities[failed] = math.nan
        return [probabilities, class_numbers(y, y_pred.shape).to(y_pred.device)]


def _nll(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Of (n, C) and (n,); a failed case, NaN throughout, gave its class the least that there is."""
    of_truth = np.nan_to_num(probabilities[np.arange(len(truth)), truth], nan=0.0)
    return float(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)).mean(dtype=float))


def class_numbers(y: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Labels of any of the accepted forms as class numbers.

    Args:
        y: one-hot (B, C), or numbers (B, 1) or (B,).
        shape: (B, C).

    Returns:
        (B, 1) int64.

    Raises:
        SettingError: if they are neither, or no class.
    """
    n, n_classes = shape
    if tuple(y.shape) == (n, n_classes):
        if not (((y == 0) | (y == 1)).all() and (y.sum(dim=1) == 1).all()):
            raise SettingError("labels (cases, classes) must be one-hot: one 1 a row, the rest 0")
        return y.argmax(dim=1, keepdim=True)
    if tuple(y.shape) not in ((n,), (n, 1)):
        raise SettingError(f"labels must be {(n, n_classes)}, {(n, 1)} or {(n,)}, got {tuple(y.shape)}")
    numbers = y.reshape(n, 1)
    if not ((numbers == numbers.round()) & (numbers >= 0) & (numbers < n_classes)).all():
        raise SettingError(f"labels must be whole numbers from 0 to {n_classes - 1}, got {numbers.flatten().tolist()}")
    return numbers.long()
