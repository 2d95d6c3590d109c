"""Matrices along axes, and cubic B-splines, on numbers that a reader can work out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.prepare.separable import along_axes, along_axis, spline_basis


def test_weights_sum_to_one_and_know_their_place() -> None:
    """At a knot a cubic B-spline has the weights 1, 4 and 1 sixths."""
    basis = spline_basis(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), 5)
    assert basis.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    assert basis[0].tolist() == pytest.approx([1 / 6, 4 / 6, 1 / 6, 0, 0])
    assert basis[1].tolist() == pytest.approx([0, 1 / 6, 4 / 6, 1 / 6, 0])
    assert basis[2].tolist() == pytest.approx([0, 0, 1 / 6, 4 / 6, 1 / 6])


@given(st.integers(2, 3), st.data())
def test_a_matrix_along_an_axis_is_numpys(ndim: int, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 5), min_size=ndim, max_size=ndim))
    axis = data.draw(st.integers(0, ndim - 1))
    rng = np.random.default_rng(0)
    image, matrix = rng.random(shape), rng.random((3, shape[axis]))
    expected = np.moveaxis(np.tensordot(matrix, image, (1, axis)), 0, axis)
    np.testing.assert_allclose(along_axis(torch.from_numpy(image), torch.from_numpy(matrix), axis), expected)


def test_the_first_axes_stay() -> None:
    """Two images of 2 x 3 ones: a sum along the one axis, and twice the sum along the other."""
    found = along_axes(torch.ones(2, 2, 3), [torch.ones(1, 2), torch.full((4, 3), 2.0)])
    assert torch.equal(found, torch.full((2, 1, 4), 12.0))


def test_transposed_matrices_go_the_other_way() -> None:
    """What a lattice spreads over voxels, and what voxels give to its points, are each other's transposes."""
    rng = np.random.default_rng(0)
    bases = [torch.from_numpy(rng.normal(size=(size, 4))) for size in (5, 6, 7)]
    volume, lattice = torch.from_numpy(rng.normal(size=(5, 6, 7))), torch.from_numpy(rng.normal(size=(4, 4, 4)))
    given_ = along_axes(volume, [basis.T for basis in bases])
    assert float((volume * along_axes(lattice, bases)).sum()) == pytest.approx(float((given_ * lattice).sum()))
