"""A channel on another's grid: what lies in a place before lies there afterwards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from neurobundle.geometry import apply, centre_mm, grid_about
from neurobundle.load.study.regrid import onto_grid, shared_parts

#: The middle of the ball, mm, not on any grid's voxel.
MIDDLE = np.array([3.3, -7.1, 12.4])


def ball(shape: tuple[int, ...], affine: np.ndarray, radius_mm: float = 9.0) -> np.ndarray:
    """A ball about :data:`MIDDLE` with an edge 4 mm wide, so that voxels weigh by how much of it they hold."""
    places = apply(affine, np.stack(np.indices(shape), axis=-1))
    return np.clip((radius_mm + 2 - np.linalg.norm(places - MIDDLE, axis=-1)) / 4, 0, 1).astype(np.float32)


def middle_of(data: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return apply(affine, (np.indices(data.shape) * data).reshape(3, -1).sum(axis=1) / data.sum())


def oblique(
    angles: tuple[float, float, float], shape: tuple[int, ...], sizes: tuple[float, ...], flip: bool
) -> np.ndarray:
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine = grid_about((2, -5, 10), rotation, shape)
    affine[:3, :3] = rotation @ np.diag([-sizes[0] if flip else sizes[0], *sizes[1:]])
    affine[:3, 3] = np.array([2, -5, 10]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


ANGLES = st.tuples(*[st.floats(-180, 180) for _ in range(3)])


@settings(max_examples=25)
@given(there=ANGLES, here=ANGLES, flip=st.booleans())
def test_a_ball_stays_in_its_place(there: tuple, here: tuple, flip: bool) -> None:
    """On the reference's grid, oblique and mirrored or not, its centre is within 0.1 mm."""
    shape, reference_shape = (44, 44, 30), (40, 44, 48)
    affine = oblique(there, shape, (1.0, 1.0, 1.5), flip)
    reference = oblique(here, reference_shape, (1.1, 1.0, 0.9), not flip)
    out = onto_grid(ball(shape, affine), affine, reference_shape, reference)
    assert out.shape == reference_shape
    assert out.dtype == np.float32
    assert np.linalg.norm(middle_of(out, reference) - MIDDLE) < 0.1


def test_a_known_ramp() -> None:
    """Linear in space stays linear: each voxel has the x of its own place."""
    ramp = np.broadcast_to(2.0 * np.arange(10, dtype=np.float32)[:, None, None], (10, 4, 4)).copy()
    reference = np.eye(4)
    reference[0, 3] = 3.0
    out = onto_grid(ramp, np.diag([2.0, 1.0, 1.0, 1.0]), (5, 4, 4), reference)
    assert np.allclose(out[:, 2, 2], [3, 4, 5, 6, 7])


def test_a_sheared_grid() -> None:
    """Gantry tilt's shear is no hindrance."""
    sheared = np.eye(4)
    sheared[1, 2] = 0.2
    ramp = np.broadcast_to(np.arange(12, dtype=np.float32)[None, :, None], (6, 12, 6)).copy()
    out = onto_grid(ramp, sheared, (6, 12, 6), np.eye(4))
    assert out[3, 6, 5] == pytest.approx(6 - 0.2 * 5)


def test_thick_slices_reach_to_their_faces() -> None:
    """A voxel is as thick as its slice: thin slices near the outer faces are filled, beyond them is zero."""
    thick, thin = np.diag([1.0, 1.0, 6.0, 1.0]), np.eye(4)
    thin[2, 3] = -4.5
    out = onto_grid(np.ones((4, 4, 3), np.float32), thick, (4, 4, 22), thin)
    # Slices at 0, 6 and 12 mm are 6 mm thick: from -3 to 15 mm.
    assert np.array_equal(np.flatnonzero(out[2, 2]) - 4.5, np.arange(-2.5, 15))


def test_the_same_grid_is_the_same_array() -> None:
    data = np.ones((3, 4, 5), np.float32)
    assert onto_grid(data, np.eye(4), (3, 4, 5), np.eye(4)) is data


def test_twice_gives_the_same() -> None:
    shape = (20, 21, 22)
    affine = oblique((10, 20, 30), shape, (1.0, 1.0, 2.0), False)
    data = ball(shape, affine)
    one, two = (onto_grid(data, affine, (30, 30, 30), np.eye(4)) for _ in range(2))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    ("x_mm", "shared"), [(0, 1.0), (4, 0.6), (5, 0.5), (10, 0.0), (40, 0.0)], ids=lambda value: str(value)
)
def test_shared_part(x_mm: float, shared: float) -> None:
    """Two cubes of 10 mm; neither's order matters."""
    away = np.eye(4)
    away[0, 3] = x_mm
    cube = (10, 10, 10)
    for pair in ((cube, away, cube, np.eye(4)), (cube, np.eye(4), cube, away)):
        assert shared_parts(*pair) == pytest.approx((shared, shared), abs=1 / 32)


def test_axial_slab_in_a_sagittal_head() -> None:
    """A thick-sliced scan of the brain in a large field of view with a neck: all of it is shared."""
    head = oblique((0, 0, 0), (176, 256, 256), (1.0, 1.0, 1.0), False)
    slab = oblique((5, 0, 0), (200, 200, 24), (0.8, 0.8, 5.0), False)
    shared, covered = shared_parts((200, 200, 24), slab, (176, 256, 256), head)
    assert shared > 0.95
    assert covered < 0.3
    assert np.allclose(centre_mm((200, 200, 24), slab), centre_mm((176, 256, 256), head))
