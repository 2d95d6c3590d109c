"""A 2D network over the slices of a volume."""

import pytest
import torch

from neurobundle.errors import SettingError
from neurobundle.infer.slices import SlicesInferer


def test_each_slice_alone() -> None:
    """The network sees two axes, and each slice comes back in its place."""
    seen = []

    def network(slices: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(slices.shape))
        return 2 * slices

    volume = torch.arange(2 * 3 * 5, dtype=torch.float32).reshape(1, 1, 2, 3, 5)
    assert torch.allclose(SlicesInferer(slices=4)(volume, network), 2 * volume)
    assert seen == [(4, 1, 2, 3), (1, 1, 2, 3)]


def test_one_slice() -> None:
    picture = torch.randn(1, 1, 7, 9, 1)
    assert torch.allclose(SlicesInferer()(picture, lambda x: x + 1), picture + 1)


def test_windows_of_a_slice() -> None:
    """Windows smaller than the slice, or larger: what does not depend on neighbours does not depend on windows."""
    volume = torch.randn(1, 2, 10, 12, 3)
    for window in ((4, 6), (16, 16)):
        assert torch.allclose(SlicesInferer(window)(volume, lambda x: 3 * x), 3 * volume, atol=1e-5)


def test_mirroring_is_the_mean_of_two() -> None:
    """A network that says 1 in the first column says one half at both ends."""

    def first_column(slices: torch.Tensor) -> torch.Tensor:
        found = torch.zeros_like(slices)
        found[:, :, 0] = 1.0
        return found

    found = SlicesInferer(mirror=True)(torch.zeros(1, 1, 4, 3, 2), first_column)
    assert torch.allclose(found[0, 0, :, 1, 1], torch.tensor([0.5, 0.0, 0.0, 0.5]))


def test_mirroring_makes_no_difference_between_sides() -> None:
    """The mirror image of a slice has the mirror image of its logits, whatever the network."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    volume = torch.randn(1, 1, 8, 6, 2)
    inferer = SlicesInferer(mirror=True)
    assert torch.allclose(inferer(volume.flip(2), network).flip(2), inferer(volume, network), atol=1e-6)


def test_a_window_of_three_sizes_is_refused() -> None:
    with pytest.raises(SettingError, match="two sizes"):
        SlicesInferer((4, 4, 4))
