"""The logits of an evaluation's cases, kept in files, so that a temperature can be tried without the network.

A case's *logits* are what its network gave, on the network's grid, before any temperature; its *reference* is the label
map there. Both are of one crop, and its voxel sizes are kept with them. They are stored in half precision: 11 bits of
each logit, two bytes, which moves no probability by more than .003 while logits are below 16.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import InputError, NoInputError
from neurobundle.files import write_atomic
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.names import case_name
from neurobundle.measure.regions import whole_numbers

SUFFIX = ".npz"


@dataclass(frozen=True)
class CaseLogits:
    """One case as its network saw it.

    Attributes:
        logits: ``(class or structure, i, j[, k])``, float32.
        reference: label map ``(i, j[, k])``, whole numbers.
        spacing_mm: voxel sizes.
    """

    logits: np.ndarray
    reference: np.ndarray
    spacing_mm: tuple[float, ...]


def write_logits(path: Path, case: CaseLogits) -> Path:
    """Write one case, atomically.

    Args:
        path: the final name.
        case: logits beyond what half precision holds are clipped.

    Raises:
        InputError: if a logit is not finite.
        EnvironmentFault: if it cannot be written.
    """
    if not np.isfinite(case.logits).all():
        way_out = "The network's output is broken; look at its input and at mixed precision."
        raise InputError("a logit is not a finite number", way_out, case=path.name.removesuffix(SUFFIX))
    most = float(np.finfo(np.float16).max)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        logits=np.clip(case.logits, -most, most).astype(np.float16),
        reference=case.reference,
        spacing_mm=np.asarray(case.spacing_mm, dtype=float),
    )
    return write_atomic(path, buffer.getvalue())


def read_logits(path: Path) -> CaseLogits:
    """Read what :func:`write_logits` wrote.

    Raises:
        NoInputError: if it is not there.
        InputError: if it is no such file.
    """
    if not path.is_file():
        raise NoInputError("there is no such file", "Run the command again; it goes on where it was.", file=path)
    try:
        with np.load(path, allow_pickle=False) as found:
            logits, reference = found["logits"].astype(np.float32), found["reference"]
            spacing = tuple(float(size) for size in found["spacing_mm"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(
            f"it holds no logits ({error})", "Delete the fold's folder, and run again.", file=path
        ) from error
    return CaseLogits(logits, reference, spacing)


class LogitsRecorder:
    """An ignite handler of an evaluator: writes each case's logits before anything is done to them.

    Args:
        folder: gets ``<case>.npz``.
        keys: of the logits and of the label map, both on the network's grid.
    """

    def __init__(self, folder: str | Path, keys: tuple[str, str] = ("pred", "label")) -> None:
        self.folder, self.keys = Path(folder), keys

    def attach(self, engine: Any) -> None:
        """Register with an evaluator, between its network and its postprocessing."""
        from monai.engines.utils import IterationEvents

        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self.collect)

    def collect(self, engine: Any) -> None:
        """Write the cases of one batch."""
        logits, labels = (engine.state.output[key] for key in self.keys)
        for n in range(len(logits)):
            label = labels[n]
            grid = tuple(logits[n].shape[1:])
            spacing = voxel_sizes_mm(np.asarray(label.affine))[: len(grid)]
            reference = whole_numbers(np.asarray(label[0].cpu()), "the reference")
            if reference.shape != grid:
                cause = f"its logits are on a grid of {grid} voxels, and its label map on one of {reference.shape}"
                raise InputError(
                    cause, "Give both the same preparation.", case=self._case(engine.state.batch, n, label)
                )
            found = CaseLogits(np.asarray(logits[n].float().cpu()), reference, tuple(map(float, spacing)))
            write_logits(self.folder / f"{self._case(engine.state.batch, n, label)}{SUFFIX}", found)

    @staticmethod
    def _case(batch: Mapping[str, Any], n: int, label: Any) -> str:
        """As :class:`neurobundle.measure.SegmentationReport` calls it."""
        return str(batch["case"][n]) if "case" in batch else case_name(Path(str(label.meta["filename_or_obj"])))
