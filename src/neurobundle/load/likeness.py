"""Which images are nearly the same: shifted, brightened, re-encoded, resized, turned or mirrored copies.

A *view* is an image averaged onto a small grid: 64 x 64 cells of a slice, 32 x 32 x 32 of a volume in RAS+ order. Its
*spectrum* is the Fourier transform of the view without what is flat and what is finer than a cell, of unit energy; so
brightness and contrast do not count. The *shift correlation* of two spectra is the largest correlation that any shift
of one view gives with the other: the peak of their cross-correlation. A view's *fingerprint* is the amplitudes of its
low frequencies, which a shift leaves as they are, each against the mean of those as low: what all heads have in common
is out of it then. Fingerprints are compared all with all, in one product of matrices, and only those that agree are
shifted over each other. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import nibabel as nib
import numpy as np
import numpy.typing as npt

#: Cells along each axis of a view, by the number of its axes.
VIEW_CELLS = {2: 64, 3: 32}

#: Frequencies of a fingerprint: below so many cycles a view, by the number of axes.
FINGERPRINT_CYCLES = {2: 12, 3: 6}

#: A spectrum is what a Gaussian of the first width keeps and one of the second takes away, in cells, by axes.
BAND_CELLS = {2: (1.0, 4.0), 3: (1.0, 3.0)}

#: Fingerprints that correlate by less are of different images. A shifted, brightened or re-encoded slice of CE-MRI
#: correlates by .96 or more with itself, one turned by 2 degrees by .86; of the pairs of persons .05 % reach this.
CANDIDATE = 0.6

#: From this shift correlation on, two images count as nearly the same. Of 2.4 million pairs of slices of different
#: persons in CE-MRI the most alike have .94 (docs/concepts/leakage.md).
NEARLY_SAME = 0.95

#: Fingerprints compared, and spectra shifted, at once.
_ROWS, _PAIRS = 512, 128

#: A turn of a slice, as quarters of a circle and whether it is mirrored before; the opposite turns have the same
#: amplitudes, since a half turn leaves them as they are.
_TURNS = ((0, False), (0, True), (1, False), (1, True))

_TURN_WORDS = {
    (0, False): "",
    (2, False): "turned by 180 degrees",
    (0, True): "mirrored left to right",
    (2, True): "mirrored top to bottom",
    (1, False): "turned by 90 degrees",
    (3, False): "turned by 270 degrees",
    (1, True): "mirrored and turned by 90 degrees",
    (3, True): "mirrored and turned by 270 degrees",
}

Array = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Likeness:
    """Two images that are nearly the same.

    Attributes:
        first: number of the one.
        second: number of the other, the larger.
        correlation: of their views, shifted over each other.
        turn: how the second was turned to agree; empty if it was not.
    """

    first: int
    second: int
    correlation: float
    turn: str = ""


def view_of(image: npt.NDArray[np.generic], affine: npt.ArrayLike | None = None) -> Array:
    """An image on a small grid, each cell the mean over what it covers.

    Args:
        image: ``(row, column)``, or ``(i, j, k)``; an axis of length 1 is left out.
        affine: (4, 4) of a volume; with it the axes are put into RAS+ order.

    Returns:
        (64, 64) or (32, 32, 32).

    >>> view_of(np.eye(128))[:2, :2]
    array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)
    """
    data = np.asarray(image)
    if affine is not None and data.ndim == 3:
        data = nib.apply_orientation(data, nib.io_orientation(np.asarray(affine, float)))
    data = np.squeeze(data) if data.ndim == 3 and 1 in data.shape else data
    view = data.astype(np.float32)
    for axis in range(view.ndim):
        weights = _shares(view.shape[axis], VIEW_CELLS[view.ndim])
        view = np.moveaxis(np.tensordot(weights, view, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(view)


def nearly_same(
    views: Sequence[Array], sides: Sequence[object], least: float = NEARLY_SAME, turns: bool = True
) -> list[Likeness]:
    """The pairs of images on different sides whose views are nearly the same.

    Slices are compared with slices and volumes with volumes; a view of one value is like none.

    Args:
        views: what :func:`view_of` gave.
        sides: of each; pairs of one side are not compared.
        least: the shift correlation from which on a pair counts.
        turns: whether slices are also compared after turns by 90 degrees and mirrored.

    Returns:
        The most alike first, each pair once.
    """
    _, numbers = np.unique([str(side) for side in sides], return_inverse=True)
    best: dict[tuple[int, int], Likeness] = {}
    for axes in VIEW_CELLS:
        index = np.array([n for n, view in enumerate(views) if view.ndim == axes and np.ptp(view) > 0], dtype=int)
        if len(index) < 2:
            continue
        grids = np.stack([views[n] for n in index])
        for found in _alike(grids, numbers[index], least, turns and axes == 2):
            pair = int(index[found.first]), int(index[found.second])
            if pair not in best or best[pair].correlation < found.correlation:
                best[pair] = Likeness(*pair, found.correlation, found.turn)
    return sorted(best.values(), key=lambda pair: (-pair.correlation, pair.first, pair.second))


def most_alike(firsts: Sequence[Array], seconds: Sequence[Array]) -> tuple[int, int, float]:
    """The two of two sets of views whose shift correlation is the largest.

    Args:
        firsts: views of one shape, at least one.
        seconds: of the same shape, at least one.

    Returns:
        The number of the one, of the other, and the correlation; views of one value have 0 with all.
    """
    ours, theirs = spectra_of(np.stack(firsts)), spectra_of(np.stack(seconds))
    rows = np.array([(n, m) for n in range(len(ours)) for m in range(len(theirs))])
    heights = np.concatenate([shift_correlations(ours[part[:, 0]], theirs[part[:, 1]]) for part in _parts(rows)])
    top = int(np.argmax(heights))
    return int(rows[top, 0]), int(rows[top, 1]), float(heights[top])


def spectra_of(views: Array) -> Spectrum:
    """The band of each view's Fourier transform, of unit energy; zero for a view of one value.

    Args:
        views: (n, 64, 64) or (n, 32, 32, 32).

    Returns:
        (n, 64, 33) or (n, 32, 32, 17).
    """
    axes = views.ndim - 1
    cells = VIEW_CELLS[axes]
    squared = _radii(cells, axes) ** 2
    fine, coarse = (np.exp(-2 * np.pi**2 * width**2 * squared / cells**2) for width in BAND_CELLS[axes])
    band = (fine - coarse).astype(np.float32)
    spectra = np.fft.rfftn(views - views.mean(axis=tuple(range(1, axes + 1)), keepdims=True), axes=range(1, axes + 1))
    spectra = (spectra * band).astype(np.complex64)
    energy = (_weights(cells) * np.abs(spectra) ** 2).sum(axis=tuple(range(1, axes + 1)), keepdims=True)
    return np.divide(spectra, np.sqrt(energy), out=np.zeros_like(spectra), where=energy > 0)


def shift_correlations(ours: Spectrum, theirs: Spectrum) -> Array:
    """The shift correlation of each pair, to half a cell.

    Args:
        ours: (n, 64, 33) or (n, 32, 32, 17).
        theirs: the same; or one alone, which is compared with each.

    Returns:
        (n,) in [0, 1].
    """
    product = ours * np.conj(theirs)
    axes = tuple(range(1, product.ndim))
    cells = product.shape[1]
    finer = np.zeros((len(product), *[2 * cells] * (len(axes) - 1), cells + 1), np.complex64)
    low = np.r_[0 : cells // 2, -cells // 2 : 0]
    corners = np.ix_(np.arange(len(product)), *[low] * (len(axes) - 1), np.arange(product.shape[-1]))
    finer[corners] = product
    peaks = np.fft.irfftn(finer, s=[2 * cells] * len(axes), axes=axes).max(axis=axes)
    return (peaks * (2 * cells) ** len(axes)).astype(np.float32)


def fingerprints_of(spectra: Spectrum) -> Array:
    """The amplitudes of low frequencies, each against the mean of its radius, of unit length.

    Args:
        spectra: (n, 64, 33) or (n, 32, 32, 17).

    Returns:
        (n, f) float32; the product of two is their correlation.
    """
    axes = spectra.ndim - 1
    cycles, cells = FINGERPRINT_CYCLES[axes], spectra.shape[1]
    low = np.r_[0:cycles, -cycles + 1 : 0]
    corners = [*[low] * (axes - 1), np.arange(cycles)]
    # The root brings the strong and the weak frequencies of a head nearer to each other.
    amplitudes = np.sqrt(np.abs(spectra[np.ix_(np.arange(len(spectra)), *corners)])).reshape(len(spectra), -1)
    ring = np.rint(_radii(cells, axes)[np.ix_(*corners)]).astype(int).ravel()
    same = (ring[:, None] == np.arange(ring.max() + 1)).astype(np.float32)
    means = amplitudes @ (same / np.maximum(same.sum(axis=0), 1))
    prints = amplitudes - means[:, ring]
    length = np.linalg.norm(prints, axis=1, keepdims=True)
    return np.divide(prints, length, out=np.zeros_like(prints), where=length > 0).astype(np.float32)


def _alike(views: Array, sides: npt.NDArray[np.intp], least: float, turns: bool) -> Iterator[Likeness]:
    """Pairs of views on different sides, one turn after the other; a pair may come more than once."""
    spectra = spectra_of(views)
    prints = fingerprints_of(spectra)
    for quarters, mirrored in _TURNS if turns else _TURNS[:1]:
        others = fingerprints_of(spectra_of(_turned(views, quarters, mirrored))) if quarters or mirrored else prints
        pairs = _candidates(prints, others, sides)
        for half in (0, 2) if turns else (0,):
            for part in _parts(pairs):
                turned = _turned(views[part[:, 1]], quarters + half, mirrored)
                heights = shift_correlations(spectra[part[:, 0]], spectra_of(turned))
                for (first, second), height in zip(part.tolist(), heights.tolist(), strict=True):
                    if height >= least:
                        yield Likeness(first, second, height, _TURN_WORDS[quarters + half, mirrored])


def _candidates(prints: Array, others: Array, sides: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """(p, 2) pairs on different sides, the smaller number first, whose fingerprints agree."""
    found = [np.empty((0, 2), np.intp)]
    for start in range(0, len(prints), _ROWS):
        rows = slice(start, start + _ROWS)
        alike = (prints[rows] @ others.T >= CANDIDATE) & (sides[rows, None] != sides[None])
        found.append(np.argwhere(np.triu(alike, 1 + start)) + np.array([start, 0]))
    return np.concatenate(found)


def _turned(views: Array, quarters: int, mirrored: bool) -> Array:
    views = views[:, :, ::-1] if mirrored else views
    return np.rot90(views, quarters, axes=(1, 2)) if quarters else views


def _parts(rows: npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    for start in range(0, len(rows), _PAIRS):
        yield rows[start : start + _PAIRS]


@lru_cache(maxsize=64)
def _shares(size: int, cells: int) -> Array:
    """(cells, size) which share of a cell's value each voxel of an axis gives."""
    edges = np.arange(cells + 1) * size / cells
    voxels = np.arange(size)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    return (np.clip(overlap, 0, None) * cells / size).astype(np.float32)


def _radii(cells: int, axes: int) -> npt.NDArray[np.float64]:
    """Distance of each frequency of a real transform from zero, in cycles a view."""
    full, half = np.fft.fftfreq(cells, 1 / cells), np.fft.rfftfreq(cells, 1 / cells)
    return np.sqrt(sum(grid**2 for grid in np.meshgrid(*[full] * (axes - 1), half, indexing="ij", sparse=True)))


def _weights(cells: int) -> Array:
    """How often each frequency of the last axis stands in the whole transform: once at both ends, else twice."""
    weights = np.full(cells // 2 + 1, 2, np.float32)
    weights[[0, -1]] = 1
    return weights
