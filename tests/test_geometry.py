"""Matrices with answers that can be counted by hand."""

import numpy as np
import pytest

from neurobundle import geometry


def test_a_voxel_of_one_by_two_by_three_mm():
    """Size and volume are read off the columns, whatever their order and sign."""
    affine = np.array([[0, 2, 0, 5], [-1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    assert geometry.voxel_sizes_mm(affine).tolist() == [1, 2, 3]
    assert geometry.voxel_volume_mm3(affine) == 6
    assert geometry.extents_mm((10, 10, 10), affine).tolist() == [10, 20, 30]


def test_the_volume_of_a_sheared_voxel():
    """Shearing a cube keeps its volume, though an edge grows longer."""
    affine = np.eye(4)
    affine[0, 1] = 1
    assert geometry.voxel_volume_mm3(affine) == 1
    assert geometry.voxel_sizes_mm(affine)[1] == pytest.approx(2**0.5)


def test_corners_of_a_row_of_three():
    assert np.unique(geometry.corners_mm((3, 1, 1), np.diag([2, 1, 1, 1])), axis=0).tolist() == [[0, 0, 0], [4, 0, 0]]


@pytest.mark.parametrize(("shift_mm", "same"), [(0, True), (0.0009, True), (0.0011, False), (-1, False)])
def test_same_grid_at_its_tolerance(shift_mm, same):
    moved = np.eye(4)
    moved[2, 3] = shift_mm
    assert geometry.same_grid((4, 4, 4), np.eye(4), (4, 4, 4), moved) is same


def test_other_shape_is_another_grid():
    assert not geometry.same_grid((4, 4, 4), np.eye(4), (4, 4, 5), np.eye(4))


def test_a_small_turn_shows_at_the_corners():
    """A grid turned by a hundredth of a degree has the same centre voxel, but not the same corners."""
    angle = np.radians(0.01)
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert not geometry.same_grid((200, 200, 200), np.eye(4), (200, 200, 200), turned)


def test_the_rotation_of_a_turned_and_stretched_matrix():
    """Stretching first and turning after leaves the turn."""
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    assert np.allclose(geometry.rotation_of(turn @ np.diag([2.0, 3, 4])), turn)


def test_a_mirror_has_no_rotation():
    with pytest.raises(ValueError, match="determinant"):
        geometry.rotation_of(np.diag([-1, 1, 1, 1]))


def test_a_grid_about_a_point_has_it_in_its_middle():
    affine = geometry.grid_about([10, 20, 30], np.eye(3), (4, 5, 6), 2.0)
    assert geometry.centre_mm((4, 5, 6), affine).tolist() == [10, 20, 30]
    assert geometry.voxel_sizes_mm(affine).tolist() == [2, 2, 2]
