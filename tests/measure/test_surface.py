"""Surface distances: counted by hand, closed forms, MONAI as the oracle."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from neurobundle.errors import InputError
from neurobundle.measure.surface import structure_distances, surface_distances

ONE_MM = (1.0, 1.0, 1.0)


def box(shape: Sequence[int], low: Sequence[int], high: Sequence[int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_two_voxels() -> None:
    distances = surface_distances(box((5, 5, 5), (1, 1, 1), (2, 2, 2)), box((5, 5, 5), (1, 1, 3), (2, 2, 4)), (1, 1, 2))
    assert distances.from_prediction.tolist() == distances.from_reference.tolist() == [4.0]
    assert (distances.hd_mm, distances.hd95_mm, distances.assd_mm) == (4, 4, 4)
    assert (distances.nsd(3.9), distances.nsd(4)) == (0, 1)


def test_a_voxel_more() -> None:
    """Edges of two and of one voxel; three distances: 0, 1 and 0."""
    distances = surface_distances(box((1, 1, 4), (0, 0, 1), (1, 1, 3)), box((1, 1, 4), (0, 0, 1), (1, 1, 2)), ONE_MM)
    assert sorted(distances.from_prediction) == [0, 1]
    assert distances.from_reference.tolist() == [0]
    assert distances.hd95_mm == pytest.approx(0.95)
    assert distances.assd_mm == pytest.approx(1 / 3)
    assert distances.nsd(0) == pytest.approx(2 / 3)


def test_the_inside_is_no_edge() -> None:
    cube = box((7, 7, 7), (1, 1, 1), (6, 6, 6))
    assert len(surface_distances(cube, cube, ONE_MM).from_prediction) == 5**3 - 3**3


def test_outside_the_image_is_outside() -> None:
    whole = np.ones((4, 4, 4), bool)
    assert len(surface_distances(whole, whole, ONE_MM).from_reference) == 4**3 - 2**3


def test_in_a_slice_an_edge_has_four_neighbours() -> None:
    square = box((7, 7), (1, 1), (6, 6))
    shifted = box((7, 7), (1, 2), (6, 7))
    distances = surface_distances(square, shifted, (1.0, 0.5))
    assert len(distances.from_prediction) == 16
    assert distances.hd_mm == 0.5


def test_nested_boxes_have_a_closed_form() -> None:
    """Faces d apart: from the outer box the corners are farthest, from the inner one everything is d away."""
    outer, inner = box((30, 30, 30), (5, 5, 5), (25, 25, 25)), box((30, 30, 30), (8, 8, 8), (22, 22, 22))
    distances = surface_distances(outer, inner, (1, 1, 2))
    assert distances.from_reference.min() == 3
    assert distances.hd_mm == pytest.approx(math.sqrt(3**2 + 3**2 + 6**2))


def test_shifted_spheres_have_a_closed_form() -> None:
    """Two balls of one radius, a shift apart: the poles are as far as the shift, and no point is farther."""
    grid = np.stack(np.meshgrid(*[np.arange(60)] * 3, indexing="ij"))
    first, second = (
        ((grid - np.array([25, 30, at])[:, None, None, None]) ** 2).sum(axis=0) <= 15**2 for at in (28, 34)
    )
    assert surface_distances(first, second, ONE_MM).hd_mm == pytest.approx(6, abs=0.5)


def test_an_empty_mask_is_infinitely_far() -> None:
    one, none = box((4, 4, 4), (1, 1, 1), (2, 2, 2)), np.zeros((4, 4, 4), bool)
    for first, second in ((one, none), (none, one)):
        distances = surface_distances(first, second, ONE_MM)
        assert (distances.hd95_mm, distances.hd_mm, distances.assd_mm) == (math.inf, math.inf, math.inf)
        assert distances.nsd(1) == 0
    nothing = surface_distances(none, none, ONE_MM)
    assert all(math.isnan(value) for value in (nothing.hd95_mm, nothing.assd_mm, nothing.nsd(1)))


def test_a_tolerance_is_reached_whatever_the_last_bits_say() -> None:
    """Three steps of 0.1 mm are not 0.3 in binary."""
    first, second = box((6, 1, 1), (1, 0, 0), (2, 1, 1)), box((6, 1, 1), (4, 0, 0), (5, 1, 1))
    assert surface_distances(first, second, (0.1, 1, 1)).nsd(0.3) == 1


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((4, 4, 5), ONE_MM), ((4, 4, 4), (1, 1)), ((4, 4, 4), (1, 0, 1)), ((4, 4, 4), (1, math.nan, 1))],
    ids=["shape", "two-sizes", "zero", "nan"],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], spacing: Sequence[float]) -> None:
    with pytest.raises(InputError, match=r"shape|spacing"):
        surface_distances(np.ones((4, 4, 4), bool), np.ones(shape, bool), spacing)


def test_regions_that_overlap_share_one_pass() -> None:
    rng = np.random.default_rng(0)
    prediction, reference = (rng.integers(0, 4, (9, 8, 7)).astype(np.uint8) for _ in range(2))
    regions = [(1, 2, 3), (1, 3), (3,)]
    together = structure_distances(prediction, reference, regions, (1, 2, 3))
    for values, distances in zip(regions, together, strict=True):
        alone = surface_distances(np.isin(prediction, values), np.isin(reference, values), (1, 2, 3))
        assert np.array_equal(np.sort(distances.from_prediction), np.sort(alone.from_prediction))
        assert np.array_equal(np.sort(distances.from_reference), np.sort(alone.from_reference))


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_order_in_memory_does_not_matter(order: Any) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.random((6, 7, 8)) > 0.7 for _ in range(2))
    expected = surface_distances(first, second, (1, 2, 3)).assd_mm
    turned = surface_distances(np.asarray(first, order=order)[::-1], np.ascontiguousarray(second)[::-1], (1, 2, 3))
    assert turned.assd_mm == pytest.approx(expected)


# --- MONAI as the oracle ---------------------------------------------------------------------------------------------


def of_monai(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance: float) -> list[float]:
    first, second = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
    kind: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        # MONAI 1.6.1 passes an argument of its own that it has deprecated.
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        found = (
            compute_hausdorff_distance(first, second, percentile=95, **kind),
            compute_hausdorff_distance(first, second, **kind),
            compute_average_surface_distance(first, second, symmetric=True, **kind),
            compute_surface_dice(first, second, class_thresholds=[tolerance], **kind),
        )
    return [float(value) for value in found]


def of_ours(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance: float) -> list[float]:
    distances = surface_distances(prediction, reference, spacing)
    return [distances.hd95_mm, distances.hd_mm, distances.assd_mm, distances.nsd(tolerance)]


@st.composite
def mask_pairs(draw: st.DrawFn, ndim: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Two masks that are not empty: noise, boxes, specks or single voxels, at the borders as well."""
    shape = tuple(draw(st.integers(1, 12)) for _ in range(ndim))
    masks = []
    for _ in range(2):
        rng = np.random.default_rng(draw(st.integers(0, 2**20)))
        mask = rng.random(shape) < draw(st.sampled_from([0.02, 0.3, 0.7, 1.0]))
        if draw(st.booleans()):
            sides = [sorted((draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1)))) for n in shape]
            mask = box(shape, [a for a, _ in sides], [b + 1 for _, b in sides])
        mask[tuple(int(rng.integers(n)) for n in shape)] = True
        masks.append(mask)
    return masks[0], masks[1]


SPACINGS = st.tuples(*[st.sampled_from([0.4, 0.5, 0.9375, 1.0, 1.2, 3.0, 6.0])] * 3)


@given(mask_pairs(), SPACINGS, st.sampled_from([0.45, 1.1, 2.05]))
def test_monai_gives_the_same(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...], tolerance: float
) -> None:
    assert of_ours(*pair, spacing, tolerance) == pytest.approx(of_monai(*pair, spacing, tolerance), abs=1e-3)


@pytest.mark.slow
@given(mask_pairs(ndim=2), SPACINGS, st.sampled_from([0.45, 1.1]))
def test_monai_gives_the_same_in_a_slice(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...], tolerance: float
) -> None:
    assert of_ours(*pair, spacing[:2], tolerance) == pytest.approx(of_monai(*pair, spacing[:2], tolerance), abs=1e-3)


@pytest.mark.parametrize("gap", [0, 1, 2, 3, 5, 9, 30], ids="{} voxels apart".format)
def test_near_and_far_give_the_same_as_monai(gap: int) -> None:
    """Steps that are looked up, and points that the tree is asked for."""
    first, second = box((60, 20, 20), (3, 3, 3), (12, 15, 15)), box((60, 20, 20), (3 + gap, 4, 3), (12 + gap, 17, 15))
    for spacing in (ONE_MM, (0.5, 1.0, 6.0)):
        assert of_ours(first, second, spacing, 1.01) == pytest.approx(of_monai(first, second, spacing, 1.01), abs=1e-3)


@given(mask_pairs(), SPACINGS)
def test_both_ways_round_are_the_same(pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, ...]) -> None:
    assert of_ours(pair[0], pair[1], spacing, 1.0) == pytest.approx(of_ours(pair[1], pair[0], spacing, 1.0))
