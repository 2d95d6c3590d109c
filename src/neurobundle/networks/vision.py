"""Packages that stand on torchvision, on a machine whose torch has no CUDA.

The registry's *torchvision* is the CUDA build. Beside a CPU build of torch its compiled operators do not load, and its
import ends with ``operator torchvision::nms does not exist``; timm and open_clip fail with it. All that the import
asks for is that two operators have a name, so they are given one, written in Python, and the import is repeated. Where
the compiled ones load, nothing is changed. Decoding of images stays unavailable there; pillow does it here.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from typing import Any

import torch

from neurobundle.errors import require

_MISSING = "torchvision::nms does not exist"

#: What torchvision's import describes to torch: suppression of boxes, and (from 0.28 on) of quantised ones.
_OPERATORS = ("nms", "qnms")

#: Keeps the operators registered as long as the process lives.
_library: torch.library.Library | None = None


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Non-maximum suppression: of boxes that overlap, the one of the highest score stays.

    Args:
        boxes: ``(box, 4)``: x1, y1, x2, y2.
        scores: ``(box,)``.
        iou_threshold: a box goes if its intersection over union with a better one is larger.

    Returns:
        Indices of those that stay, the highest score first; empty for no box.

    >>> boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1.5], [5, 5, 6, 6]])
    >>> nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5).tolist()
    [1, 2]
    """
    left = scores.argsort(descending=True, stable=True)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        low, high = torch.maximum(boxes[best, :2], boxes[left, :2]), torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (high - low).clamp_min(0).prod(dim=1)
        left = left[shared <= iou_threshold * (areas[best] + areas[left] - shared)]
    return torch.stack(kept) if kept else scores.new_zeros(0, dtype=torch.long)


def import_on_torchvision(module: str, *, extra: str, feature: str) -> Any:
    """Import a package that imports torchvision.

    Args:
        module: the module to import, with dots if need be.
        extra: the extra of ours that installs it.
        feature: what the user asked for, as the beginning of a sentence.

    Raises:
        MissingPackageError: if it is not installed.
    """
    with warnings.catch_warnings():
        # torchvision says at its import that it cannot decode images there; nothing here asks it to.
        warnings.filterwarnings("ignore", message="Failed to load image Python extension", category=UserWarning)
        if importlib.util.find_spec("torchvision") is not None:
            _import_torchvision()
        return require(module, extra=extra, feature=feature)


def operators_are_missing(error: Exception) -> bool:
    """Whether this is what torchvision's import ends with where its compiled operators do not load."""
    return _MISSING in str(error)


def name_the_operators() -> None:
    """Give torch the operators that torchvision's import asks for; once, however often it is called."""
    global _library
    if _library is None:
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name in _OPERATORS:
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for kind in ("CPU", "CUDA"):
            _library.impl("nms", nms, kind)


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if not operators_are_missing(error):
            raise
        name_the_operators()
        importlib.import_module("torchvision")
