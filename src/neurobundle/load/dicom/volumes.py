"""One volume of a series: what it is, what the gate says of it, and its voxels.

Pixels are read file by file, in one pass, straight into their slot; a file with several volumes is read once where they
are wanted together. Only now is it known whether two slices at one place are copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from neurobundle.errors import InputError
from neurobundle.load import checks
from neurobundle.load.dicom.facts import Facts
from neurobundle.load.dicom.frames import Plane
from neurobundle.load.gate import STRICT, Finding, Level, Policy, Verdict, warn
from neurobundle.load.scan import Scan

_SAME_GRID = "Read them one by one."


@dataclass(frozen=True, eq=False)
class DicomVolume:
    """One volume of a DICOM series, its pixels unread.

    Attributes:
        key: its name: ``series-0004-1a2b3c4d``, with a suffix where its series was several volumes.
        series_key: the name of its series.
        stack_key: the name that it shares with the other times of its time series; its own key if it is of none.
        series_number: as the scanner counts; None if the header does not say.
        facts: how it was acquired.
        shape: (i, j, k): columns, rows, slices.
        affine: (4, 4), voxel index to RAS+ mm; NaN if the geometry is refused.
        files: all that its pixels come from, each once.
        verdict: what the gate says of its headers.
        slots: the planes at each k; none where a slice is missing, several where there are duplicates.
    """

    key: str
    series_key: str
    stack_key: str
    series_number: int | None
    facts: Facts
    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    files: tuple[Path, ...]
    verdict: Verdict
    slots: tuple[tuple[Plane, ...], ...] = field(repr=False)

    def judge(self, policy: Policy = STRICT) -> Verdict:
        """The verdict, with what a policy allows turned into warnings."""
        return Verdict([_allowed(finding, policy) for finding in self.verdict.findings])

    def read(self, policy: Policy = STRICT) -> Scan:
        """The volume as a scan.

        Args:
            policy: ``allow_gaps`` fills missing slices, ``spatial_dims`` 2 lets a single slice pass, ``nonfinite`` as
                in the gate.

        Returns:
            Data ``(i, j, k)``, i along a row of pixels, j along a column, k along the normal; its affine is RAS+.

        Raises:
            InputError: for the first finding that refuses; if two slices at one place differ; if the pixels cannot be
                read, are not finite, or show nothing.
        """
        verdict = self.judge(policy)
        verdict.require(self.files[0])
        verdict.add(checks.check_memory(int(np.prod(self.shape, dtype=np.int64)) * 4, self.files[0]))
        verdict.require(self.files[0])
        (data,), notes = _fill([self], policy.real_world)
        verdict.add(*notes, *checks.check_voxels(data, policy, self.files[0]))
        verdict.require(self.files[0])
        return Scan(data, self.affine, tuple(verdict.warnings))


def time_series(volumes: Sequence[DicomVolume]) -> dict[str, list[DicomVolume]]:
    """The time series among volumes: stack key -> the volumes of all times, in their order.

    Args:
        volumes: of one study.
    """
    series: dict[str, list[DicomVolume]] = {}
    for volume in volumes:
        if volume.facts.time_index is not None:
            series.setdefault(volume.stack_key, []).append(volume)
    return {key: sorted(all_, key=lambda v: v.facts.time_index or 0) for key, all_ in series.items() if len(all_) > 1}


def read_series_4d(volumes: Sequence[DicomVolume], policy: Policy = STRICT) -> Scan:
    """Volumes on one grid as one scan, each file read once.

    Args:
        volumes: such as one of :func:`time_series`, in the order of the fourth axis.
        policy: as for :meth:`DicomVolume.read`.

    Returns:
        Data ``(i, j, k, volume)``.

    Raises:
        InputError: if one of them is refused, or lies on another grid than the first.
    """
    if not volumes:
        raise InputError("there are no volumes", "Choose those of one series.")
    first, verdict = volumes[0], Verdict()
    for volume in volumes:
        mine = volume.judge(policy)
        mine.require(volume.files[0])
        verdict.extend(finding for finding in mine.findings if finding not in verdict.findings)
        if volume.shape != first.shape or not np.allclose(volume.affine, first.affine, rtol=0, atol=1e-3):
            cause = f"volume {volume.key} lies on another grid than {first.key}"
            raise InputError(cause, _SAME_GRID, file=volume.files[0])
    needed = int(np.prod(first.shape, dtype=np.int64)) * 8 * len(volumes)
    verdict.add(checks.check_memory(needed, first.files[0]))
    verdict.require(first.files[0])
    arrays, notes = _fill(volumes, policy.real_world)
    data = np.stack(arrays, axis=-1)
    verdict.add(*notes, *checks.check_voxels(data, policy, first.files[0]))
    verdict.require(first.files[0])
    return Scan(data, first.affine, tuple(dict.fromkeys(verdict.warnings)))


def _allowed(finding: Finding, policy: Policy) -> Finding:
    if finding.check == "missing_slices" and policy.allow_gaps:
        cause = f"{finding.cause}; filled by linear interpolation"
        return replace(finding, level=Level.WARN, cause=cause, way_out="")
    if finding.check == "one_slice" and policy.spatial_dims == 2:
        return replace(finding, level=Level.OK)
    return finding


def _fill(volumes: Sequence[DicomVolume], real_world: bool) -> tuple[list[npt.NDArray[Any]], list[Finding]]:
    """The voxels of volumes, and what their pixels showed."""
    from neurobundle.load.dicom.pixels import read_pixels

    wanted: dict[Path, list[tuple[int, int, Plane]]] = {}
    for n, volume in enumerate(volumes):
        for k, planes in enumerate(volume.slots):
            for plane in planes:
                wanted.setdefault(plane.file, []).append((n, k, plane))
    fillers = [_Filler(volume) for volume in volumes]
    for file, pixels in zip(wanted, read_pixels(list(wanted), real_world=real_world), strict=True):
        for n, k, plane in wanted[file]:
            fillers[n].put(k, plane, _cut(pixels, plane))
    return [filler.finish() for filler in fillers], [note for filler in fillers for note in filler.notes()]


def _cut(pixels: npt.NDArray[Any], plane: Plane) -> npt.NDArray[Any]:
    """One slice, (row, column), out of a file's pixels, (frame, row, column)."""
    ends = (plane.first_row + plane.rows, plane.first_column + plane.columns)
    if plane.frame >= len(pixels) or ends[0] > pixels.shape[1] or ends[1] > pixels.shape[2]:
        frames, rows, columns = pixels.shape
        cause = f"it has {frames} frames of {rows} x {columns} pixels, its header says otherwise"
        raise InputError(cause, "Export the series again.", file=plane.file)
    return pixels[plane.frame, plane.first_row : ends[0], plane.first_column : ends[1]]


class _Filler:
    """The voxels of one volume, while its slices come in."""

    def __init__(self, volume: DicomVolume) -> None:
        self.shape = volume.shape
        self.data: npt.NDArray[Any] | None = None
        self.filled: set[int] = set()
        self.copies = 0

    def put(self, k: int, plane: Plane, pixels: npt.NDArray[Any]) -> None:
        """Put a slice, (row, column), into its slot; a second one there must be the same."""
        if self.data is None:
            # Slices lie together in memory, as they come.
            self.data = np.zeros(self.shape, pixels.dtype, order="F")
        kind = np.result_type(self.data, pixels)
        if kind != self.data.dtype:
            self.data = self.data.astype(kind, order="F")
        if k not in self.filled:
            self.data[:, :, k] = pixels.T
            self.filled.add(k)
        elif np.array_equal(self.data[:, :, k], pixels.T, equal_nan=kind.kind == "f"):
            self.copies += 1
        else:
            cause = f"two slices lie at one place and differ: slice {k + 1} of {self.shape[2]}"
            way_out = "Find out which of the two is right, and take the other out."
            raise InputError(cause, way_out, file=plane.file)

    def finish(self) -> npt.NDArray[Any]:
        """The voxels, missing slices filled by linear interpolation between their neighbours."""
        assert self.data is not None
        there = sorted(self.filled)
        for before, after in pairwise(there):
            low, high = (self.data[:, :, k].astype(np.float64) for k in (before, after))
            for k in range(before + 1, after):
                share = (k - before) / (after - before)
                between = low * (1 - share) + high * share
                self.data[:, :, k] = between if self.data.dtype.kind == "f" else np.round(between)
        return self.data

    def notes(self) -> list[Finding]:
        """What is said of copies that were dropped."""
        if not self.copies:
            return []
        slices = "1 slice was" if self.copies == 1 else f"{self.copies} slices were"
        return [warn("duplicates", f"{slices} there twice, pixel for pixel; the copies were dropped")]
