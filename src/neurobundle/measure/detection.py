"""Scores of predicted boxes: average precision, precision and recall at a stated score, and FROC.

*Hit*, *false* and *missed* boxes are defined in :mod:`.matching`. So a box of the wrong class is false, and a second
one on a box that is found already as well. A *failed* image has no prediction: its boxes are missed, and it is not
among the images that false positives are counted by. What it might have had of those nobody knows, so read precision
beside ``n_failed``. A class without a reference box has blank scores and is in no mean.

*Average precision* is the mean, over the recalls 0, .01, ... 1, of the highest precision at that recall or above
(COCO's 101 points). Boxes of equal score are taken together, so that the order of the images cannot matter; COCO's own
evaluation takes them one by one. *FROC* is the sensitivity at a number of false positives an image, on straight lines
between the points of the curve, and that of its last point beyond it (as MONAI's and CAMELYON 16's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neurobundle.errors import InputError, SettingError
from neurobundle.load.answers import check_class_names
from neurobundle.measure.matching import Hits, match
from neurobundle.measure.matching import ImageBoxes as ImageBoxes
from neurobundle.measure.matching import iou_matrix as iou_matrix
from neurobundle.measure.ranking import last_of_equals
from neurobundle.measure.resampling import BOOTSTRAP_SAMPLES, draw_subjects, interval_of, number, ratio

#: COCO's limits of the IoU and its recalls. Divided, so that 7 of 10 is exactly the recall .70.
COCO_LIMITS = tuple(k / 100 for k in range(50, 100, 5))
COCO_RECALLS = np.arange(101) / 100

#: False positives an image at which FROC is read; those of MONAI and of CAMELYON 16.
FROC_AT = (0.25, 0.5, 1, 2, 4, 8)

#: Bootstrap samples for the intervals of average precision, which takes long; the others have 2,000.
AP_SAMPLES = 300


def average_precision(images: Sequence[ImageBoxes], iou: float = 0.5) -> dict[int, float]:
    """The average precision of each class that has a reference box.

    Args:
        images: all of them; one without boxes counts by its false positives.
        iou: a box is found from this IoU on.

    Returns:
        Class to average precision, in [0, 1]; 0 where nothing was predicted.

    >>> box = [[0, 0, 2, 2]]
    >>> average_precision([ImageBoxes("a", box, [0], box, [0], [0.9]), ImageBoxes("b", box, [0], [], [], [])])
    {0: 0.504950495049505}
    """
    numbers = sorted({int(k) for image in images for k in image.truth_classes[image.counted]})
    once = np.ones(len(images))
    return {k: float(_precisions(match(images, k, [iou]), once)[0]) for k in numbers}


def score_detection(
    images: Sequence[ImageBoxes],
    class_names: Sequence[str],
    iou_threshold: float = 0.5,
    score_threshold: float = 0.5,
    froc_at: Sequence[float] = FROC_AT,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything that ``summary.json`` says of a detection.

    Args:
        images: all of them, each once.
        class_names: c names.
        iou_threshold: a box is found from this IoU on, for precision, recall, F1 and FROC.
        score_threshold: boxes count from this score on, for precision, recall and F1.
        froc_at: numbers of false positives an image.
        seed: of the resampling.

    Returns:
        Ready for JSON, null where undefined: counts; means with their intervals over samples of subjects (2,000 for
        precision, recall and F1, 300 for average precision); scores per class; FROC. Precision, recall, F1 and FROC
        are those of the boxes of all classes together; ``map50`` and ``map50_95`` are means over classes.

    Raises:
        SettingError: if there is no class, a name stands twice, or a threshold cannot be.
        InputError: if a class has no name, an image comes twice, or images differ in their number of axes.
    """
    check_class_names(class_names)
    check_settings(iou_threshold, score_threshold, froc_at)
    _check_images(images, class_names)
    hits = [match(images, k, (*COCO_LIMITS, iou_threshold)) for k in range(len(class_names))]
    counts = np.array([_counts(one, score_threshold) for one in hits]).reshape(len(class_names), len(images), 3)
    return {
        "task": "detection",
        "n_images": len(images),
        "n_boxes": int(counts[..., 0].sum()),
        "n_failed": sum(image.failed for image in images),
        "classes": list(class_names),
        "iou_threshold": iou_threshold,
        "score_threshold": score_threshold,
        **_means_with_intervals(images, hits, counts, seed),
        "per_class": {name: _of_class(hits[k], counts[k]) for k, name in enumerate(class_names)},
        "froc": _froc(hits, sum(not image.failed for image in images), froc_at),
    }


def count_boxes(
    images: Sequence[ImageBoxes], n_classes: int, iou_threshold: float = 0.5, score_threshold: float = 0.5
) -> np.ndarray:
    """How many reference boxes each image has, how many are found, and how many false ones there are.

    Returns:
        (images, 3) whole numbers.

    >>> image = ImageBoxes("a", [[0, 0, 2, 2], [5, 5, 6, 6]], [0, 0], [[0, 0, 2, 2]], [0], [0.9])
    >>> count_boxes([image], n_classes=1).tolist()
    [[2, 1, 0]]
    """
    counts = [_counts(match(images, k, [iou_threshold]), score_threshold) for k in range(n_classes)]
    return np.sum(counts, axis=0)


def _precisions(hits: Hits, weights: np.ndarray) -> np.ndarray:
    """(t,): the average precision at each limit, each image counted so often; NaN if there is nothing to find."""
    n = weights @ hits.n_truth
    if n == 0:
        return np.full(len(hits.hit), np.nan)
    last = last_of_equals(hits.score)
    found = np.cumsum(hits.hit * weights[hits.image], axis=1)[:, last]
    false = np.cumsum(hits.false * weights[hits.image], axis=1)[:, last]
    precision = np.divide(found, found + false, out=np.zeros_like(found), where=found > 0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = [
        np.append(row, 0)[np.searchsorted(recall, COCO_RECALLS)] for row, recall in zip(best, found / n, strict=True)
    ]
    return np.mean(reached, axis=1)


def _mean_precisions(hits: Sequence[Hits], weights: np.ndarray) -> tuple[float, float]:
    """``map50`` and ``map50_95``; NaN if there is nothing to find."""
    table = np.array([_precisions(one, weights)[: len(COCO_LIMITS)] for one in hits])
    table = table[np.isfinite(table[:, 0])]
    return (float(table[:, 0].mean()), float(table.mean())) if len(table) else (np.nan, np.nan)


def _counts(hits: Hits, score_threshold: float) -> np.ndarray:
    """(images, 3): boxes to find, found, and false, at the last limit."""
    kept = hits.score >= score_threshold
    n = len(hits.n_truth)
    found = np.bincount(hits.image[kept & hits.hit[-1]], minlength=n)
    false = np.bincount(hits.image[kept & hits.false[-1]], minlength=n)
    return np.stack([hits.n_truth, found, false], axis=1)


def _shares(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 from counts (..., 3); NaN where undefined."""
    there, found, false = np.moveaxis(counts, -1, 0)
    return {
        "precision": ratio(found, found + false),
        "recall": ratio(found, there),
        "f1": ratio(2 * found, there + found + false),
    }


def _means_with_intervals(
    images: Sequence[ImageBoxes], hits: Sequence[Hits], counts: np.ndarray, seed: int
) -> dict[str, Any]:
    pooled = counts.sum(axis=0)
    means = dict(zip(("map50", "map50_95"), _mean_precisions(hits, np.ones(len(images))), strict=True))
    means |= {name: float(value) for name, value in _shares(pooled.sum(axis=0)).items()}
    samples = {name: np.full(1, np.nan) for name in means}
    if len(images):
        drawn, index = draw_subjects([image.subject or image.image for image in images], BOOTSTRAP_SAMPLES, seed)
        of_subject = np.zeros((drawn.shape[1], 3))
        np.add.at(of_subject, index, pooled)
        samples |= _shares(drawn @ of_subject)
        precisions = np.array([_mean_precisions(hits, row[index]) for row in drawn[:AP_SAMPLES]]).reshape(-1, 2)
        samples |= {"map50": precisions[:, 0], "map50_95": precisions[:, 1]}
    return {name: {"mean": number(value), "interval": interval_of(samples[name])} for name, value in means.items()}


def _of_class(hits: Hits, counts: np.ndarray) -> dict[str, Any]:
    n, _, _ = counts.sum(axis=0)
    precisions = _precisions(hits, np.ones(len(hits.n_truth)))[: len(COCO_LIMITS)]
    shares = {name: float(value) if n else np.nan for name, value in _shares(counts.sum(axis=0)).items()}
    scores = {"ap50": float(precisions[0]), "ap50_95": float(precisions.mean()), **shares}
    return {"n_boxes": int(n), **{name: number(value) for name, value in scores.items()}}


def _froc(hits: Sequence[Hits], n_answered: int, froc_at: Sequence[float]) -> dict[str, Any]:
    """The sensitivity at numbers of false positives an image, at the last limit."""
    n = sum(int(one.n_truth.sum()) for one in hits)
    at = [float(value) for value in froc_at]
    if n == 0:
        return {"false_positives_per_image": at, "sensitivity": [None] * len(at), "score": None}
    score = np.concatenate([one.score for one in hits])
    order = np.argsort(-score, kind="stable")
    last = last_of_equals(score[order])
    found = np.cumsum(np.concatenate([one.hit[-1] for one in hits])[order])[last] / n
    false = np.cumsum(np.concatenate([one.false[-1] for one in hits])[order])[last] / max(n_answered, 1)
    # Where the curve rises straight up, np.interp reads its top.
    sensitivity = np.interp(at, np.append(0, false), np.append(0, found))
    return {
        "false_positives_per_image": at,
        "sensitivity": [number(value) for value in sensitivity],
        "score": number(sensitivity.mean()),
    }


def check_settings(iou_threshold: float, score_threshold: float, froc_at: Sequence[float] = FROC_AT) -> None:
    """Refuse settings of :func:`score_detection` that make no sense.

    Raises:
        SettingError: naming the setting.
    """
    if not 0 < iou_threshold <= 1:
        raise SettingError(f"iou_threshold must be in (0, 1], got {iou_threshold!r}", "0.5 is usual; 0.1 in 3D.")
    if not np.isfinite(score_threshold):
        raise SettingError(f"score_threshold must be a finite number, got {score_threshold!r}", "0.5 is usual.")
    if not len(froc_at) or not all(np.isfinite(value) and value >= 0 for value in froc_at):
        raise SettingError(f"froc_at must be numbers of 0 or more, got {list(froc_at)}", f"Usual are {FROC_AT}.")


def _check_images(images: Sequence[ImageBoxes], class_names: Sequence[str]) -> None:
    names: set[str] = set()
    axes: dict[int, str] = {}
    for image in images:
        if image.image in names:
            raise InputError("the image was given twice", "Give each once, under a name of its own.", case=image.image)
        names.add(image.image)
        for k in (*image.truth_classes, *image.classes):
            if not 0 <= k < len(class_names):
                cause = f"there is no class {k}; there are {len(class_names)}: {', '.join(class_names)}"
                raise InputError(cause, "Name all classes, and count them from 0.", case=image.image)
        for boxes in (image.truth_boxes, image.boxes):
            if len(boxes):
                axes.setdefault(boxes.shape[1] // 2, image.image)
    if len(axes) > 1:
        cause = f"its boxes are 3D, and those of {axes[2]} are 2D"
        raise InputError(cause, "Score 2D and 3D images apart.", case=axes[3])
