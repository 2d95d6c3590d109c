"""How far surface distances by another definition lie from ours, on the same pairs of masks.

Ours are MONAI's and MetricsReloaded's: distances between the centres of edge voxels. The package surface-distance
(DeepMind) puts surface elements between voxels and weights them by area. The table is that of docs/concepts/metrics.md.

Pairs: a *rough tumour*, two lumps that agree but for the noise on their surfaces (five seeds), and published
hippocampi, each against itself with its surface moved in and out by a smooth noise of 1 mm, as a segmentation errs.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage
from study import arguments, number, read, report, table

from neurobundle import geometry
from neurobundle.measure.surface import surface_distances

with warnings.catch_warnings():
    # It imports scipy's filters by a name that scipy has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    import surface_distance

Pair = tuple[np.ndarray, np.ndarray]
#: Measure -> ours, theirs; distances in mm.
Scores = dict[str, tuple[float, float]]
SEEDS, SPACINGS = range(1, 6), ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0))
#: Every so many hippocampi, and the noise on their surfaces: its deviation and its smoothness, mm.
STRIDE, NOISE_MM, SMOOTH_MM = 20, 1.0, 2.0
TOLERANCE_MM = 1.0
MEASURES = ("hd95", "assd", "nsd")


def rough_tumour(seed: int) -> Pair:
    """Two lumps of 24 voxels across with rough surfaces."""
    shape = (40, 40, 40)
    radius = np.sqrt(((np.indices(shape) - 20) ** 2).sum(axis=0))
    both, *own = (ndimage.gaussian_filter(np.random.default_rng(n).normal(size=shape), 2) for n in (0, seed, seed + 50))
    first, second = (radius + 3 * both / both.std() + one / one.std() < 12 for one in own)
    return first, second


def erring(reference: np.ndarray, spacing_mm: np.ndarray, seed: int) -> np.ndarray:
    """A mask whose surface was moved by noise."""
    inside, outside = (ndimage.distance_transform_edt(part, sampling=spacing_mm) for part in (reference, ~reference))
    noise = np.random.default_rng(seed).normal(size=reference.shape)
    noise = ndimage.gaussian_filter(noise, SMOOTH_MM / spacing_mm)
    return outside - inside < NOISE_MM * noise / noise.std()


def both(
    prediction: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, ...]
) -> dict[str, tuple[float, float]]:
    """Both definitions of a pair."""
    ours = surface_distances(prediction, reference, spacing_mm)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing_mm)
    return {
        "hd95": (ours.hd95_mm, float(surface_distance.compute_robust_hausdorff(theirs, 95))),
        "assd": (ours.assd_mm, float(np.mean(surface_distance.compute_average_surface_distance(theirs)))),
        "nsd": (
            ours.nsd(TOLERANCE_MM),
            float(surface_distance.compute_surface_dice_at_tolerance(theirs, TOLERANCE_MM)),
        ),
    }


def of_tumours(seeds: range, spacing_mm: tuple[float, ...]) -> dict[str, Any]:
    """Of the rough tumour, over seeds."""
    return _gathered([both(*rough_tumour(seed), spacing_mm) for seed in seeds])


def of_hippocampi(data: Path, stride: int) -> dict[str, Any]:
    """Of published hippocampi, whole: both parts together."""
    found = []
    for seed, path in enumerate(sorted((data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[::stride]):
        labels, affine = read(path)
        reference, sizes = np.pad(labels > 0, 4), geometry.voxel_sizes_mm(affine)
        found.append(both(erring(reference, sizes, seed), reference, tuple(float(size) for size in sizes)))
    return _gathered(found)


def _gathered(found: list[Scores]) -> dict[str, Any]:
    """Per measure the means, and the smallest and the largest difference, ours less theirs."""
    row: dict[str, Any] = {"pairs": len(found)}
    for measure in MEASURES:
        values = np.array([one[measure] for one in found])
        apart = values[:, 0] - values[:, 1]
        row[measure] = [float(value) for value in (*values.mean(axis=0), apart.min(), apart.max())]
    return row


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    """As the page has it."""
    lines = []
    for what, row in rows.items():
        cells = []
        for measure in MEASURES:
            ours, theirs, low, high = (number(value, 2) for value in row[measure])
            cells.append(f"{ours}, {theirs} ({low} to {high})")
        lines.append([what, str(row["pairs"]), *cells])
    table(["masks", "pairs", "HD95, mm", "ASSD, mm", f"NSD at {TOLERANCE_MM:g} mm"], lines)


def main() -> None:
    """The table; with ``--small``, fewer pairs."""
    options = arguments(__doc__ or "")
    seeds = SEEDS[:2] if options.small else SEEDS
    rows = {f"rough tumour, {' x '.join(f'{s:g}' for s in size)} mm": of_tumours(seeds, size) for size in SPACINGS}
    rows["hippocampi, surface moved by 1 mm"] = of_hippocampi(options.data, STRIDE * (4 if options.small else 1))
    write_table(rows)
    report("other_definitions", {"rows": rows})


if __name__ == "__main__":
    main()
