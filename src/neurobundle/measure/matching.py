"""Which predicted boxes find which reference boxes.

A *box* is a row of corners, (x1, y1, x2, y2) or (x1, y1, z1, x2, y2, z2), in pixels or mm. The *IoU* of two boxes is
their common area (volume) over that of both together. In each image and class the predicted boxes, the highest score
first, each take that free reference box of their class with which their IoU is largest, if it is not below a limit. A
predicted box that takes one is a *hit*, any other is *false*; a reference box that nobody takes is *missed*. A
predicted box that takes none but lies on an *ignored* reference box does not count at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurobundle.errors import InputError


@dataclass(frozen=True)
class ImageBoxes:
    """The boxes of one image. Lists become arrays.

    Attributes:
        image: its name.
        truth_boxes: (m, 4) or (m, 6) reference boxes.
        truth_classes: (m,) numbers of their classes.
        boxes: (n, 4) or (n, 6) predicted boxes.
        classes: (n,) numbers of their classes.
        scores: (n,) how sure each is.
        subject: the person; the image is its own if blank.
        failed: there is no prediction, so that all reference boxes are missed.
        ignored: (m,) bool, reference boxes that need not be found (COCO's ``iscrowd`` and ``ignore``); none if None.

    Raises:
        InputError: naming the image, if lengths differ, a number is not finite, a corner is on the wrong side, or a
            failed image has predictions.
    """

    image: str
    truth_boxes: np.ndarray
    truth_classes: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    subject: str = ""
    failed: bool = False
    ignored: np.ndarray | None = None

    def __post_init__(self) -> None:
        truth_boxes = _boxes(self.truth_boxes, "reference", self.image)
        boxes = _boxes(self.boxes, "predicted", self.image)
        if len(truth_boxes) and len(boxes) and truth_boxes.shape[1] != boxes.shape[1]:
            cause = f"its reference boxes have {truth_boxes.shape[1]} numbers and its predicted ones {boxes.shape[1]}"
            raise InputError(cause, "Give both in 2D, or both in 3D.", case=self.image)
        if self.failed and len(boxes):
            raise InputError("it failed and has predicted boxes", "It can only be one of both.", case=self.image)
        ignored = [False] * len(truth_boxes) if self.ignored is None else self.ignored
        checked = {
            "truth_boxes": truth_boxes,
            "truth_classes": _column(self.truth_classes, int, len(truth_boxes), "reference class", self.image),
            "boxes": boxes,
            "classes": _column(self.classes, int, len(boxes), "predicted class", self.image),
            "scores": _column(self.scores, float, len(boxes), "score", self.image),
            "ignored": _column(ignored, bool, len(truth_boxes), "mark 'ignored'", self.image),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def counted(self) -> np.ndarray:
        """(m,) bool: reference boxes that shall be found."""
        return ~np.asarray(self.ignored, dtype=bool)


@dataclass(frozen=True)
class Hits:
    """The predicted boxes of one class over many images, the highest score first.

    Attributes:
        image: (n,) which image each is in.
        score: (n,).
        hit: (t, n) whether it found a reference box, at each of t limits of the IoU.
        false: (t, n) whether it is a false one; neither for one on an ignored box.
        n_truth: (images,) reference boxes that shall be found.
    """

    image: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    false: np.ndarray
    n_truth: np.ndarray


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The IoU of each box with each; 0 where both have no area.

    Args:
        a: (n, 4) or (n, 6) corners.
        b: (m, 4) or (m, 6) corners.

    Returns:
        (n, m) in [0, 1].

    >>> iou_matrix(np.array([[0, 0, 2, 2]]), np.array([[0, 0, 2, 1], [5, 5, 6, 6]])).tolist()
    [[0.5, 0.0]]
    """
    common = _common(a, b)
    together = _size(a)[:, None] + _size(b)[None] - common
    return np.divide(common, together, out=np.zeros_like(common), where=together > 0)


def match(images: Sequence[ImageBoxes], number: int, limits: Sequence[float]) -> Hits:
    """Match the boxes of one class in every image.

    Args:
        images: all of them.
        number: the class.
        limits: t limits of the IoU, above 0; an IoU that equals one is enough.
    """
    found = [_match_image(image, number, limits) for image in images]
    score = np.concatenate([np.empty(0), *(scores for scores, _, _ in found)])
    order = np.argsort(-score, kind="stable")
    nothing = np.empty((len(limits), 0), dtype=bool)
    return Hits(
        np.repeat(np.arange(len(images)), [len(scores) for scores, _, _ in found])[order],
        score[order],
        np.concatenate([nothing, *(hit for _, hit, _ in found)], axis=1)[:, order],
        np.concatenate([nothing, *(false for _, _, false in found)], axis=1)[:, order],
        np.array([((image.truth_classes == number) & image.counted).sum() for image in images], dtype=int),
    )


def _match_image(image: ImageBoxes, number: int, limits: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Scores (n,), hits (t, n) and false ones (t, n) of one class, the highest score first."""
    own = np.flatnonzero(image.classes == number)
    own = own[np.argsort(-image.scores[own], kind="stable")]
    there = image.truth_classes == number
    wanted, unwanted = image.truth_boxes[there & image.counted], image.truth_boxes[there & ~image.counted]
    boxes = image.boxes[own]
    overlap = iou_matrix(boxes, wanted) if len(wanted) and len(own) else np.zeros((len(own), len(wanted)))
    hit = np.array([_take(overlap, limit) for limit in limits]).reshape(len(limits), len(own))
    inside = _share_inside(boxes, unwanted)
    return image.scores[own], hit, ~hit & (inside[None] < np.asarray(limits)[:, None])


def _take(overlap: np.ndarray, limit: float) -> np.ndarray:
    """Which rows (predicted boxes) get a column (reference box) of their own, the first row choosing first."""
    free = overlap.copy()
    hit = np.zeros(len(overlap), dtype=bool)
    for row in np.flatnonzero((overlap >= limit).any(axis=1)):
        # Of equal ones the last, as COCO's own evaluation does.
        best = free.shape[1] - 1 - int(free[row, ::-1].argmax())
        if free[row, best] >= limit:
            hit[row] = True
            free[:, best] = -1
    return hit


def _share_inside(boxes: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """(n,) the largest share of each box that one ignored box covers; what COCO compares for ``iscrowd``."""
    if not len(boxes) or not len(ignored):
        return np.zeros(len(boxes))
    common, size = _common(boxes, ignored), _size(boxes)[:, None]
    return np.divide(common, size, out=np.zeros_like(common), where=size > 0).max(axis=1)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m): the area or volume that each box shares with each."""
    d = a.shape[1] // 2
    low = np.maximum(a[:, None, :d], b[None, :, :d])
    high = np.minimum(a[:, None, d:], b[None, :, d:])
    return np.clip(high - low, 0, None).prod(axis=2, dtype=float)


def _size(boxes: np.ndarray) -> np.ndarray:
    d = boxes.shape[1] // 2
    return (boxes[:, d:] - boxes[:, :d]).prod(axis=1, dtype=float)


def _boxes(values: Any, what: str, image: str) -> np.ndarray:
    boxes = np.asarray(values, dtype=float)
    if not boxes.size:
        return np.empty((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6):
        cause = f"its {what} boxes have the shape {boxes.shape}"
        raise InputError(cause, "Give (n, 4) corners in 2D, or (n, 6) in 3D.", case=image)
    d = boxes.shape[1] // 2
    # NaN fails the comparison too.
    wrong = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, d:] >= boxes[:, :d]).all(axis=1))
    if wrong.any():
        raise InputError(
            f"its {what} box {boxes[wrong][0].tolist()} is none",
            "Give finite corners, first all the lower ones, then all the upper ones.",
            case=image,
        )
    return boxes


def _column(values: Any, kind: type, n: int, what: str, image: str) -> np.ndarray:
    column: np.ndarray = np.asarray(values, dtype=kind)
    if column.size == n == 0:
        return column.reshape(0)
    if column.shape != (n,):
        raise InputError(f"there are {n} boxes and {column.shape} of a {what}", "Give one a box.", case=image)
    if kind is float and not np.isfinite(column).all():
        raise InputError(f"a {what} is not finite", "Leave such boxes out.", case=image)
    return column
