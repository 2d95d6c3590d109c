"""An image and its mirror images."""

import pytest
import torch

from neurobundle.errors import SettingError
from neurobundle.infer import MirroredInferer


def first_of_each_axis(image: torch.Tensor) -> torch.Tensor:
    """A network that says 8 in the first voxel of all axes, whatever it sees."""
    found = torch.zeros_like(image)
    found[:, :, 0, 0, 0] = 8.0
    return found


@pytest.mark.parametrize(
    ("axes", "corners"),
    [((), {(0, 0, 0): 8}), ((0,), {(0, 0, 0): 4, (2, 0, 0): 4}), ((1,), {(0, 0, 0): 4, (0, 3, 0): 4})],
)
def test_the_mean_of_both(axes: tuple[int, ...], corners: dict) -> None:
    found = MirroredInferer(axes=axes)(torch.zeros(1, 1, 3, 4, 5), first_of_each_axis)
    assert {tuple(place): value for *place, value in table(found)} == corners


def test_two_axes_are_four_images() -> None:
    found = MirroredInferer(axes=(0, 2))(torch.zeros(1, 1, 3, 4, 5), first_of_each_axis)
    corners = {(0, 0, 0): 2, (2, 0, 0): 2, (0, 0, 4): 2, (2, 0, 4): 2}
    assert {tuple(place): value for *place, value in table(found)} == corners


def table(found: torch.Tensor) -> list[list[int]]:
    return [[*place[2:], int(found[tuple(place)])] for place in found.nonzero().tolist()]


def test_what_looks_at_a_voxel_alone_stays() -> None:
    image = torch.randn(2, 3, 4, 5, 6)
    assert torch.allclose(MirroredInferer(axes=(0, 1, 2))(image, lambda x: x), image)


@pytest.mark.parametrize("axes", [(3,), (0, 0), (-1,)])
def test_axes_that_are_none(axes: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="axes are"):
        MirroredInferer(axes=axes)
