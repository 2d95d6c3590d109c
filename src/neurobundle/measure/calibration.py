"""Whether probabilities mean what they say, in one case.

A *sample* is what is answered once: a voxel, or a whole case in classification. Its *answer* is the class of the
largest probability (the first of equals), and its *confidence* is that probability. A *gap* is how far the mean
confidence of a bin's samples is from the share of them that are right; a network is *calibrated* where there is none.
*Uncertainty* is the entropy of a sample's probabilities, divided by the largest that it can have, log C.

Everything is measured over a *region*: by default the reference's foreground dilated by 5 mm, because the far
background is easy and would make any network look calibrated.

Definitions: expected and largest calibration error with bins of equal width, Guo et al., ICML 2017; bins of equal mass,
Nixon et al., CVPR workshops 2019 (there over all classes, here over the answers); Brier, 1950, over all classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.selective import error_auroc

#: Bins of the confidence, over 0 to 1 (Guo et al. 2017).
BINS = 15

#: How far the region reaches beyond the reference's foreground.
DILATION_MM = 5.0

#: A voxel whose distance is the dilation but for rounding is within it.
DISTANCE_TOLERANCE_MM = 1e-6

#: In the log-probability nothing is below this, so that one certain error costs 16.1 nats and not infinity.
SMALLEST_PROBABILITY = 1e-7

#: How far outside 0 to 1 a probability, and how far off 1 their sum, may be by rounding (half precision included).
RANGE_TOLERANCE = 1e-4
SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class CaseCalibration:
    """How calibrated the probabilities of one case are.

    Attributes:
        case: the case's id.
        structure: the structure's name, or ``all`` for a softmax over all classes.
        n: samples in the region.
        ece: mean gap over bins of equal width, weighted by their samples.
        ace: the same over bins of equal mass.
        mce: the largest gap of a bin of equal width.
        brier: mean over samples of the squared error, summed over classes; 0 to 2.
        nll: mean negative log-probability of the true class, in nats.
        uncertainty: mean normalised entropy, 0 to 1.
        error_auroc: how well the samples' uncertainty finds the wrong ones; NaN if all are right or all are wrong.
        counts: samples in each bin of equal width.
        confidence: their mean confidence; NaN where there are none.
        accuracy: the share of them that are right; NaN where there are none.
    """

    case: str
    structure: str
    n: int
    ece: float
    ace: float
    mce: float
    brier: float
    nll: float
    uncertainty: float
    error_auroc: float
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


def case_calibration(
    probabilities: np.ndarray,
    reference: np.ndarray,
    region: np.ndarray | None = None,
    case: str = "",
    structure: str = "all",
    bins: int = BINS,
) -> CaseCalibration:
    """Measure the calibration of one case; in classification, of the answers of all cases together, ``(C, n)``.

    Bins of equal width are closed on the right, as in Guo et al.: ``(0, 1/15], (1/15, 2/15], ... (14/15, 1]``, so a
    confidence of exactly 1 is in the last. Bins of equal mass part the samples, sorted by confidence, into runs whose
    lengths differ by at most one, the longer ones first. Samples of equal confidence may fall on both sides of a
    border; each of them then counts with their common accuracy, so that the result does not depend on their order.

    Args:
        probabilities: ``(C, ...)`` after softmax, of at least two classes; see :func:`binary_probabilities`.
        reference: classes 0 to C - 1, whole numbers ``(...)``.
        region: mask ``(...)``; everything if None. Nothing outside it is looked at.
        case: the case's id.
        structure: copied into the result.
        bins: how many.

    Raises:
        InputError: if shapes differ, the region is empty, a probability is none, or a class is not there.

    >>> one = case_calibration(np.array([[0.9, 0.9], [0.1, 0.1]]), np.array([0, 1]))
    >>> round(one.ece, 3), round(one.brier, 3)  # confidence 0.9, accuracy 0.5
    (0.4, 0.82)
    """
    samples, truth = _inside(probabilities, reference, region, case)
    confidence = samples.max(axis=0)
    right = samples.argmax(axis=0) == truth
    entropy = normalised_entropy(samples)
    of_truth = np.take_along_axis(samples, truth[None], axis=0)[0]
    counts, sure, good = _equal_width(confidence, right, bins)
    gaps = np.abs(sure - good)
    return CaseCalibration(
        case=case,
        structure=structure,
        n=len(truth),
        ece=float(np.nansum(gaps * counts) / len(truth)),
        ace=_equal_mass_error(confidence, right, bins),
        mce=float(np.nanmax(gaps)),
        brier=sum(float(np.square(p - (truth == c)).mean(dtype=float)) for c, p in enumerate(samples)),
        nll=float(-np.log(np.maximum(of_truth, SMALLEST_PROBABILITY)).mean(dtype=float)),
        uncertainty=float(entropy.mean(dtype=float)),
        error_auroc=error_auroc(entropy, ~right),
        counts=tuple(counts.tolist()),
        confidence=tuple(sure.tolist()),
        accuracy=tuple(good.tolist()),
    )


def binary_probabilities(p: np.ndarray) -> np.ndarray:
    """The probabilities of outside and inside a structure, from the sigmoid of its logit.

    Args:
        p: probability of inside ``(...)``.

    Returns:
        ``(2, ...)``; the reference is then its mask as 0 and 1.

    >>> binary_probabilities(np.array([0.25])).tolist()
    [[0.75], [0.25]]
    """
    inside = np.asarray(p)
    return np.stack([1 - inside, inside])


def normalised_entropy(probabilities: np.ndarray) -> np.ndarray:
    """The entropy of each sample's probabilities over its largest value, log C.

    Args:
        probabilities: ``(C, ...)``, at least two classes; what rounding put outside 0 to 1 is clipped.

    Returns:
        0 (certain) to 1 (all classes alike), ``(...)``.

    Raises:
        InputError: if there is one class only.

    >>> normalised_entropy(np.array([[0.5, 1.0], [0.5, 0.0]])).tolist()
    [1.0, 0.0]
    """
    from scipy.special import entr

    values = np.asarray(probabilities)
    if len(values) < 2:
        raise InputError(
            "there are probabilities of one class only", "Of one structure's sigmoid, use binary_probabilities."
        )
    total = np.zeros(values.shape[1:], dtype=np.result_type(values, np.float32))
    for p in values:
        total += entr(np.clip(p, 0, 1))
    return np.clip(total / math.log(len(values)), 0, 1)


def dilated_region(
    reference_foreground: np.ndarray, spacing_mm: Sequence[float], by_mm: float = DILATION_MM
) -> np.ndarray:
    """The voxels whose centre is within a distance of the foreground's: Euclidean, in mm.

    Args:
        reference_foreground: mask ``(i, j[, k])``.
        spacing_mm: voxel sizes.
        by_mm: the distance.

    Returns:
        A mask of the same shape, the foreground included; empty for an empty foreground.

    Raises:
        SettingError: if the distance is negative, or there is not one positive voxel size an axis.
    """
    from scipy.ndimage import distance_transform_edt, find_objects

    mask = np.asarray(reference_foreground, dtype=bool)
    spacing = np.asarray(spacing_mm, dtype=float)
    if spacing.shape != (mask.ndim,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        cause = f"the voxel sizes are {tuple(spacing_mm)} mm for a mask of {mask.ndim} axes"
        raise SettingError(cause, "Give one size above 0 an axis.")
    if not (math.isfinite(by_mm) and by_mm >= 0):
        raise SettingError(f"the region is dilated by {by_mm} mm", "Give a number of 0 or more.")
    result = np.zeros(mask.shape, dtype=bool)
    found = find_objects(mask.astype(np.uint8))
    if not found:
        return result
    margin = np.ceil(by_mm / spacing).astype(int)
    box = tuple(slice(max(part.start - m, 0), part.stop + m) for part, m in zip(found[0], margin, strict=True))
    result[box] = distance_transform_edt(~mask[box], sampling=spacing) <= by_mm + DISTANCE_TOLERANCE_MM
    return result


def _inside(
    probabilities: np.ndarray, reference: np.ndarray, region: np.ndarray | None, case: str
) -> tuple[np.ndarray, np.ndarray]:
    """The region's samples ``(C, n)``, clipped to 0 to 1, and their true classes ``(n,)``, or an error."""
    scores, classes = np.asarray(probabilities), np.asarray(reference)
    where = np.ones(classes.shape, dtype=bool) if region is None else np.asarray(region, dtype=bool)
    if scores.shape[1:] != classes.shape or where.shape != classes.shape:
        cause = f"probabilities {scores.shape}, reference {classes.shape} and region {where.shape} do not fit"
        raise InputError(cause, "Give (classes, ...), (...) and (...) on one grid.", case=case)
    if len(scores) < 2:
        way_out = "Give those of all classes; of one structure's sigmoid, use binary_probabilities."
        raise InputError("there are probabilities of one class only", way_out, case=case)
    if not where.any():
        way_out = "Leave the case out of the calibration, or give a region."
        raise InputError("the region has no voxel", way_out, case=case)
    samples, truth = scores[:, where], classes[where]
    if samples.dtype not in (np.float32, np.float64):
        samples = samples.astype(np.float32)
    _check_samples(samples, truth, case)
    return np.clip(samples, 0, 1), truth.astype(np.intp)


def _check_samples(samples: np.ndarray, truth: np.ndarray, case: str) -> None:
    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        way_out = "The network's output is broken there; look at its input and at mixed precision."
        raise InputError("a probability is not a finite number", way_out, case=case)
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        cause = f"probabilities reach from {low:.4g} to {high:.4g}"
        raise InputError(cause, "Give probabilities, not logits: apply softmax or sigmoid first.", case=case)
    sums = samples.sum(axis=0)
    worst = float(sums[np.abs(sums - 1).argmax()])
    if abs(worst - 1) > SUM_TOLERANCE:
        way_out = "Apply softmax; of structures that overlap, measure one at a time with binary_probabilities."
        raise InputError(f"the probabilities of a voxel sum to {worst:.4g}, not to 1", way_out, case=case)
    if truth.dtype.kind not in "iub":
        raise InputError(f"the reference holds {truth.dtype} values", "Give classes as whole numbers.", case=case)
    if truth.min() < 0 or truth.max() >= len(samples):
        cause = f"the reference holds the classes {truth.min()} to {truth.max()}, and there are {len(samples)}"
        raise InputError(cause, "Number the reference's classes as the network does, from 0.", case=case)


def _equal_width(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, mean confidence and accuracy of each bin of equal width, closed on the right."""
    index = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    means = [
        np.divide(np.bincount(index, values, bins), counts, out=np.full(bins, np.nan), where=counts > 0)
        for values in (confidence, right)
    ]
    return counts, means[0], means[1]


def _equal_mass_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """The mean gap over bins of equal mass, weighted by their samples."""
    order = np.argsort(confidence)
    ranked = confidence[order].astype(float)
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    sizes = np.diff(starts, append=len(ranked))
    shared = np.repeat(np.add.reduceat(right[order].astype(float), starts) / sizes, sizes)
    gaps = [abs(part.sum()) for part in np.array_split(ranked - shared, bins)]
    return float(sum(gaps) / len(ranked))
