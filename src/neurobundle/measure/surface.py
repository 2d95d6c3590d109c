"""Distances between the surfaces of two masks, and what is read off them: HD95, HD, ASSD, NSD.

The *edge* of a mask is its voxels that have a neighbour across a face outside it; outside the image is outside. The
*directed distances* of a mask are those from each of its edge voxels to the nearest edge voxel of the other mask,
between voxel centres, in mm. Definitions are MONAI's (``monai.metrics``, 1.6); docs/concepts/metrics.md compares
others.

All structures of a case share one crop and one search for edges. Most edge voxels of a good prediction lie on the
other edge or some voxels from it, so they are looked up: is there an edge one step away, then the next larger step, and
so on. What has no edge within ``NEIGHBOURS`` steps asks a tree.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from neurobundle.errors import InputError
from neurobundle.measure.regions import codes_of, foreground_box

Array = npt.NDArray[Any]
Distances = npt.NDArray[np.float64]

#: Steps that are looked up before the tree is asked: 4 mm about a voxel of 1 x 1 x 3 mm.
NEIGHBOURS = 110
#: Points in a leaf of the tree; building it costs more than asking it, so it is neither balanced nor compact.
LEAF = 32
#: Distances that differ by less are one step, in mm.
SAME_MM = 1e-9
#: A voxel at the tolerance counts as within it, whatever the last bits of its distance say.
TOLERANCE_SLACK_MM = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """Directed distances between two surfaces, in mm, in no particular order.

    Attributes:
        from_prediction: of each edge voxel of the prediction.
        from_reference: of each edge voxel of the reference. If one mask is empty, the other's are infinite.
    """

    from_prediction: Distances
    from_reference: Distances

    @property
    def hd_mm(self) -> float:
        """Hausdorff distance: the largest of all; NaN if both masks are empty."""
        return self.percentile_mm(100)

    @property
    def hd95_mm(self) -> float:
        """The larger of both directed 95th percentiles; NaN if both masks are empty."""
        return self.percentile_mm(95)

    def percentile_mm(self, percentile: float) -> float:
        """The larger of both directed percentiles, interpolated linearly.

        Args:
            percentile: 0 to 100.
        """
        return max((_percentile(one, percentile) for one in self._both() if len(one)), default=math.nan)

    @property
    def assd_mm(self) -> float:
        """Average symmetric surface distance: the mean over both together; NaN if both masks are empty."""
        count = sum(map(len, self._both()))
        return float(sum(one.sum() for one in self._both()) / count) if count else math.nan

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice: the share of both edges within a tolerance; NaN if both masks are empty.

        Args:
            tolerance_mm: a distance equal to it is within it.
        """
        count = sum(map(len, self._both()))
        near = sum(int(np.count_nonzero(one <= tolerance_mm + TOLERANCE_SLACK_MM)) for one in self._both())
        return near / count if count else math.nan

    def _both(self) -> tuple[Distances, Distances]:
        return self.from_prediction, self.from_reference


def surface_distances(prediction: Array, reference: Array, spacing_mm: Sequence[float]) -> SurfaceDistances:
    """Directed distances between two masks.

    Args:
        prediction: mask ``(i, j, k)`` or ``(i, j)``.
        reference: mask of the same shape.
        spacing_mm: voxel sizes, one an axis.

    Raises:
        InputError: if shapes or spacing do not fit.
    """
    found, there = (np.asarray(mask).astype(bool, copy=False).view(np.uint8) for mask in (prediction, reference))
    return structure_distances(found, there, [(1,)], spacing_mm)[0]


def structure_distances(
    prediction: Array, reference: Array, structures: Sequence[Sequence[int]], spacing_mm: Sequence[float]
) -> list[SurfaceDistances]:
    """Directed distances of several structures of two label maps, in one pass over the voxels.

    Args:
        prediction: label map ``(i, j, k)`` or ``(i, j)``.
        reference: label map of the same shape.
        structures: the values of each; eight at most.
        spacing_mm: voxel sizes, one an axis.

    Raises:
        InputError: if shapes or spacing do not fit.
    """
    spacing = _check(prediction, reference, spacing_mm)
    box = foreground_box(prediction, reference)
    if box is None:
        return [SurfaceDistances(np.empty(0), np.empty(0)) for _ in structures]
    steps = _steps(tuple(spacing))
    edges = [_edges(_padded(codes_of(labels[box], structures), steps.reach)) for labels in (prediction, reference)]
    return [_distances(edges, np.uint8(1 << bit), steps) for bit in range(len(structures))]


class _Steps:
    """Steps from a voxel to its neighbours, nearest first, in groups of one distance."""

    def __init__(self, spacing_mm: tuple[float, ...]) -> None:
        self.spacing = np.asarray(spacing_mm)
        # A ball of NEIGHBOURS voxels; its radius from its volume, or area.
        ball = {1: 2.0, 2: math.pi, 3: 4 * math.pi / 3}[len(spacing_mm)]
        radius = (NEIGHBOURS * float(np.prod(self.spacing)) / ball) ** (1 / len(spacing_mm))
        radius = max(radius, float(self.spacing.min()))
        self.reach = tuple(max(1, int(radius // size)) for size in spacing_mm)
        grid = np.meshgrid(*[np.arange(-n, n + 1) for n in self.reach], indexing="ij")
        offsets = np.stack([axis.ravel() for axis in grid], axis=1)
        mm = np.sqrt(((offsets * self.spacing) ** 2).sum(axis=1))
        order = np.argsort(mm, kind="stable")
        order = order[mm[order] <= radius + SAME_MM]
        self.offsets, self.mm = offsets[order], mm[order]
        self.starts = np.flatnonzero(np.diff(self.mm, prepend=-1.0) > SAME_MM)

    def groups(self, shape: tuple[int, ...]) -> list[tuple[float, Array]]:
        """Each distance with its steps as differences of flat indices of an array of a shape."""
        flat = self.offsets @ np.array([int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))])
        parts = np.split(flat, self.starts[1:])
        return [(float(self.mm[start]), part) for start, part in zip(self.starts, parts, strict=True)]


@functools.lru_cache(maxsize=64)
def _steps(spacing_mm: tuple[float, ...]) -> _Steps:
    return _Steps(spacing_mm)


class _Edges:
    """The edge voxels of a label map: their codes as a padded volume, and where they are."""

    def __init__(self, codes: npt.NDArray[np.uint8]) -> None:
        self.shape = codes.shape
        self.codes = codes.ravel()
        self.where = np.flatnonzero(self.codes != 0)
        self.bits = self.codes[self.where]

    def of(self, bit: np.uint8) -> Array:
        """Flat indices of one structure's edge."""
        return self.where[(self.bits & bit) != 0]

    def points(self, where: Array, spacing: Array) -> Array:
        """Flat indices as places in mm."""
        return np.stack(np.unravel_index(where, self.shape), axis=1) * spacing


def _padded(codes: npt.NDArray[np.uint8], reach: Sequence[int]) -> npt.NDArray[np.uint8]:
    padded = np.zeros([n + 2 * pad for n, pad in zip(codes.shape, reach, strict=True)], np.uint8)
    padded[tuple(slice(pad, -pad) for pad in reach)] = codes
    return padded


def _edges(codes: npt.NDArray[np.uint8]) -> _Edges:
    """Codes of the edges of all structures; ``codes`` is padded by one voxel of 0 at least."""
    inner = (slice(1, -1),) * codes.ndim
    around = codes[inner].copy()
    for axis in range(codes.ndim):
        for side in (slice(None, -2), slice(2, None)):
            around &= codes[(*inner[:axis], side, *inner[axis + 1 :])]
    edges = np.zeros_like(codes)
    edges[inner] = codes[inner] & ~around
    return _Edges(edges)


def _distances(edges: Sequence[_Edges], bit: np.uint8, steps: _Steps) -> SurfaceDistances:
    first, second = (one.of(bit) for one in edges)
    if not (len(first) and len(second)):
        return SurfaceDistances(np.full(len(first), np.inf), np.full(len(second), np.inf))
    groups = steps.groups(edges[0].shape)
    return SurfaceDistances(
        _directed(edges[1], first, second, bit, groups, steps.spacing),
        _directed(edges[0], second, first, bit, groups, steps.spacing),
    )


def _directed(
    other: _Edges, here: Array, there: Array, bit: np.uint8, groups: Sequence[tuple[float, Array]], spacing: Array
) -> Distances:
    """The distance from each point ``here`` to the nearest one ``there``, which are the edge ``bit`` of ``other``."""
    found: list[Distances] = []
    for mm, steps in groups:
        if not len(here):
            break
        seen = other.codes[here + steps[0]]
        for step in steps[1:]:
            seen |= other.codes[here + step]
        hit = (seen & bit) != 0
        count = int(np.count_nonzero(hit))
        if count:
            found.append(np.full(count, mm))
            here = here[~hit]
    if len(here):
        tree = cKDTree(other.points(there, spacing), leafsize=LEAF, balanced_tree=False, compact_nodes=False)
        found.append(tree.query(other.points(here, spacing))[0])
    return np.concatenate(found)


def _percentile(values: Distances, percentile: float) -> float:
    # numpy interpolates between two infinities to NaN.
    return math.inf if np.isinf(values[0]) else float(np.percentile(values, percentile))


def _check(prediction: Array, reference: Array, spacing_mm: Sequence[float]) -> list[float]:
    if prediction.shape != reference.shape or prediction.ndim not in (2, 3):
        raise InputError(
            f"the prediction has the shape {prediction.shape} and the reference {reference.shape}",
            "Give two label maps of one 2D or 3D grid.",
        )
    spacing = [float(size) for size in spacing_mm]
    if len(spacing) != prediction.ndim or not all(math.isfinite(size) and size > 0 for size in spacing):
        raise InputError(f"the spacing is {spacing} mm", "Give one voxel size above 0 for each axis.")
    return spacing
