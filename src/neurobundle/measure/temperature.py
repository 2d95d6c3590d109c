"""One number that makes a network's probabilities honest, and changes no answer.

The *temperature* divides the logits before softmax or sigmoid (Guo et al., ICML 2017): above 1 it makes the network
less sure, below 1 more so. It is fitted on validation cases by the negative log-likelihood (NLL). It must never be
fitted on the cases that are then reported: their calibration would be that of a number which has seen the answers.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurobundle.errors import InputError, SettingError

logger = logging.getLogger(__name__)

#: Where a temperature is looked for.
LOWEST, HIGHEST = 0.05, 20.0

#: How near the logarithm of the temperature is found.
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes:
        value: what logits are divided by.
        nll_before: mean NLL of the validation samples at temperature 1, in nats.
        nll_after: the same at ``value``; never larger.
        n: validation samples.
    """

    value: float
    nll_before: float
    nll_after: float
    n: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.value) and self.value > 0):
            raise SettingError(f"the temperature is {self.value}", "Give a number above 0; 1 changes nothing.")

    def apply(self, logits: Any) -> Any:
        """Logits of the same shape, an array or a tensor, divided; the largest stays the largest.

        >>> Temperature(2.0, 1.0, 0.5, 10).apply(np.array([2.0, 4.0])).tolist()
        [1.0, 2.0]
        """
        return logits / self.value


def fit_temperature(
    logits: np.ndarray, reference: np.ndarray, class_axis: int = 0, weights: np.ndarray | None = None
) -> Temperature:
    """Fit the temperature on samples (voxels or answers) of VALIDATION cases only.

    The NLL is convex in 1 / temperature, so it has one valley along the logarithm that is searched.

    Args:
        logits: with classes ``(C, ...)``, or ``(n, C)`` with ``class_axis=1``; or one logit a sample, of a sigmoid, in
            the reference's own shape. Join several cases into one array first.
        reference: true classes, whole numbers 0 to C - 1 ``(...)``; 0 and 1 for a sigmoid.
        class_axis: where the classes are.
        weights: how much each sample counts, in the reference's shape, not negative; all alike if None.

    Returns:
        The temperature, .05 to 20. A value at either end is warned of: the samples do not determine it.

    Raises:
        InputError: if shapes or classes do not fit, a logit is not finite, there are fewer than two samples, or their
            weights are none.
    """
    from scipy.optimize import minimize_scalar

    scores, truth = _samples(np.asarray(logits), np.asarray(reference), class_axis)
    shares = _shares(weights, np.asarray(reference).shape)

    def nll(log_temperature: float) -> float:
        return _nll(scores, truth, math.exp(log_temperature), shares)

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    found = minimize_scalar(nll, bounds=bounds, method="bounded", options={"xatol": TOLERANCE})
    before, value, after = nll(0.0), math.exp(float(found.x)), float(found.fun)
    if after >= before:
        value, after = 1.0, before
    if not LOWEST * 1.01 < value < HIGHEST / 1.01:
        logger.warning(
            "the temperature ended at %.3g, an end of its range: %d validation samples do not determine it",
            value,
            len(truth),
        )
    return Temperature(value, before, after, len(truth))


def _samples(logits: np.ndarray, reference: np.ndarray, class_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits ``(C, n)`` whose largest is 0, and true classes ``(n,)``, or an error."""
    if logits.shape == reference.shape:
        logits, class_axis = np.stack([np.zeros_like(logits), logits]), 0
    shape = list(logits.shape)
    classes = shape.pop(class_axis) if -len(shape) <= class_axis < len(shape) else 0
    if classes < 2 or tuple(shape) != reference.shape:
        cause = f"the logits {logits.shape} do not fit the reference {reference.shape}"
        way_out = (
            "Give logits (classes, ...) and classes (...), or one logit a sample; class_axis says where classes are."
        )
        raise InputError(cause, way_out)
    scores, truth = np.moveaxis(logits, class_axis, 0).reshape(classes, -1), reference.reshape(-1)
    if len(truth) < 2:
        raise InputError(f"a temperature cannot be fitted on {len(truth)} samples", "Give more validation cases.")
    if truth.dtype.kind not in "iub" or truth.min() < 0 or truth.max() >= classes:
        cause = f"the reference holds {truth.dtype} values from {truth.min()} to {truth.max()}"
        raise InputError(cause, f"Give classes as whole numbers from 0 to {classes - 1}.")
    if not np.isfinite(scores).all():
        raise InputError("a logit is not a finite number", "Look at that case's input and at mixed precision.")
    scores = scores.astype(np.result_type(scores, np.float32))
    return scores - scores.max(axis=0), truth.astype(np.intp)


def _shares(weights: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """What share each sample has of the mean ``(n,)``, or an error."""
    if weights is None:
        return None
    given = np.asarray(weights, dtype=float)
    if given.shape != shape or not np.isfinite(given).all() or given.min() < 0 or not given.sum() > 0:
        cause = f"weights of the shape {given.shape} do not fit a reference {shape}, or are not above 0 in sum"
        raise InputError(cause, "Give each sample one weight of 0 or more.")
    shares: np.ndarray = given.reshape(-1) / given.sum()
    return shares


def _nll(scores: np.ndarray, truth: np.ndarray, temperature: float, shares: np.ndarray | None) -> float:
    """Mean negative log-likelihood; the largest logit of each sample is 0, so no exponential overflows."""
    scaled = scores / temperature
    of_truth = np.take_along_axis(scaled, truth[None], axis=0)[0]
    losses = np.log(np.exp(scaled).sum(axis=0)) - of_truth
    return float(losses.mean(dtype=float) if shares is None else losses @ shares)
