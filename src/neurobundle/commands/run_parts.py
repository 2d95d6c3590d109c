"""Small parts of ``neurobundle run`` that its kinds share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import nibabel as nib
import numpy as np

from neurobundle.bundle.entries import CaseResult
from neurobundle.export.pictures import View
from neurobundle.prepare.locate import HEAD_LABELS

#: Millimetres of image around the structures in a picture's second row.
ZOOM_MARGIN_MM = 18.0


@contextlib.contextmanager
def timed(result: CaseResult, step: str) -> Iterator[None]:
    """Around a step of a case: its seconds go into the entry."""
    started = time.perf_counter()
    yield
    result.timing[step] = round(time.perf_counter() - started, 3)


def mirrored(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """An array flipped along the axis that runs left to right; its affine stays, so it lies in the same box."""
    axis = int(np.flatnonzero(nib.orientations.io_orientation(affine)[:, 0] == 0)[0])
    return np.ascontiguousarray(np.flip(array, axis))


def close_ups(view: View) -> list[View]:
    """One close-up a side, left and right, so that both outlines can be judged."""
    sides = []
    for values in HEAD_LABELS.values():
        labels = np.where(np.isin(view.labels, list(values.values())), view.labels, 0)
        if labels.any():
            sides.append(View(view.image, labels, view.spacing_mm).zoom(ZOOM_MARGIN_MM))
    return sides
