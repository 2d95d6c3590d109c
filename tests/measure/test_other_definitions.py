"""What docs/concepts/metrics.md says of surface-distance, held against it."""

from __future__ import annotations

import numpy as np
import pytest
import surface_distance
from scipy import ndimage

from neurobundle.measure.surface import surface_distances

# It imports scipy's filters by a name that scipy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")


def rough(seed: int) -> np.ndarray:
    """A lump with a rough surface; two seeds agree but for their noise."""
    shape = (40, 40, 40)
    grid = np.indices(shape) - 20
    both, own = (ndimage.gaussian_filter(np.random.default_rng(n).normal(size=shape), 2) for n in (0, seed))
    return np.sqrt((grid**2).sum(axis=0)) + 3 * both / both.std() + own / own.std() < 12


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 3)])
def test_its_distances_are_smaller_and_its_share_is_larger(spacing: tuple[float, ...]) -> None:
    """Its surface runs between voxels, and half a voxel of disagreement is none."""
    prediction, reference = rough(1), rough(2)
    ours = surface_distances(prediction, reference, spacing)
    theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    hd95 = surface_distance.compute_robust_hausdorff(theirs, 95)
    assd = float(np.mean(surface_distance.compute_average_surface_distance(theirs)))
    nsd = surface_distance.compute_surface_dice_at_tolerance(theirs, 1)
    assert 0 <= ours.hd95_mm - hd95 < 1.2
    assert 0 < ours.assd_mm - assd < 1
    assert 0 < nsd - ours.nsd(1) < 0.25


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_a_shifted_box_is_as_far_for_both(shift: int) -> None:
    box = np.zeros((30, 20, 20), bool)
    box[4:12, 5:15, 5:15] = True
    moved = np.roll(box, shift, axis=0)
    theirs = surface_distance.compute_surface_distances(box, moved, (2, 1, 1))
    assert surface_distances(moved, box, (2, 1, 1)).hd_mm == 2 * shift
    assert surface_distance.compute_robust_hausdorff(theirs, 100) == 2 * shift
