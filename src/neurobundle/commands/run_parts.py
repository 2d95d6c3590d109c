"""Small parts of ``neurobundle run`` that its kinds share."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from neurobundle.bundle.entries import CaseResult
from neurobundle.commands.sources import Source
from neurobundle.errors import NeurobundleError
from neurobundle.export.pictures import View
from neurobundle.load.scan import Scan
from neurobundle.prepare.locate import HEAD_LABELS

#: Millimetres of image around the structures in a picture's second row.
ZOOM_MARGIN_MM = 18.0


#: The rest of a case, after the network: draws and writes its results.
Rest = Callable[[], None]


@dataclass
class Case:
    """A case on its way through a run.

    Attributes:
        source: what it is made from. Its files of the run's own lie in a folder of the case.
        result: its entry, as far as it is known.
        scan: what was read; None if it was not, or is no longer needed.
        error: what stopped it, as an error of ours.
        rest: what is left to be done when the network is done; None if nothing is.
        finished: whether there was nothing to do: ``result`` is an earlier run's.
    """

    source: Source
    result: CaseResult
    scan: Scan | None = None
    error: NeurobundleError | None = None
    rest: Rest | None = None
    finished: bool = False

    def clear(self) -> None:
        """Remove the case's folder."""
        shutil.rmtree(self.source.work, ignore_errors=True)


@contextlib.contextmanager
def timed(result: CaseResult, step: str) -> Iterator[None]:
    """Around a part of a step of a case: its seconds are added to the step's in the entry."""
    started = time.perf_counter()
    yield
    _add(result, step, started)


@contextlib.contextmanager
def clocked(result: CaseResult) -> Iterator[None]:
    """Around all that is done for a case: its seconds are added to those of the case, whatever is raised."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _add(result, "seconds", started)


def _add(result: CaseResult, step: str, started: float) -> None:
    result.timing[step] = round(result.timing.get(step, 0.0) + time.perf_counter() - started, 3)


def move(file: Path, folder: Path) -> Path:
    """Move a file into a folder of the same file system, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    return file.rename(folder / file.name)


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
