"""The 2D ResU-Net of slices: counted by hand where that can be done."""

import pytest
import torch
from torch import nn

from neurobundle.errors import SettingError
from neurobundle.networks.slice_unet import FILTERS, SliceBlock, SliceUNet, slice_unet


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_block_is_counted_by_hand() -> None:
    """4 to 8 channels: norms 2 x 4 and 2 x 8, convolutions of 9, squeezed to 2 channels and back, a shortcut of 1."""
    norms, convolutions = 2 * 4 + 2 * 8, 9 * 4 * 8 + 9 * 8 * 8
    weighing, shortcut = (8 * 2 + 2) + (2 * 8 + 8), 4 * 8
    assert count(SliceBlock(4, 8, stride=2)) == norms + convolutions + weighing + shortcut


def test_a_block_of_equal_channels_has_no_shortcut_to_learn() -> None:
    assert count(SliceBlock(4, 4)) == 2 * 4 * 2 + 2 * 9 * 4 * 4 + (4 * 2 + 2) + (2 * 4 + 4)


def test_the_tiny_network_is_counted_by_hand() -> None:
    """Stem, three blocks down, two up, and the classes."""
    down, up = 326 + 962 + 3714, 1066 + 294
    assert count(slice_unet(1, 1, "tiny")) == 36 + down + up + (2 * 4 + 4 + 1)


def test_the_full_network_is_as_large_as_the_papers() -> None:
    """1,210,513 parameters are reported by Vajiram et al. 2022."""
    assert count(slice_unet(1, 1)) == 1_254_753
    assert abs(count(slice_unet(1, 1)) / 1_210_513 - 1) < 0.05
    assert FILTERS["full"] == (8, 16, 32, 64, 128, 256)


def test_unshuffling_costs_a_stem_and_a_head() -> None:
    """Four channels come in instead of one, and four go out."""
    assert count(slice_unet(1, 1, unshuffle=2)) - count(slice_unet(1, 1)) == 3 * 8 * 9 + 3 * (8 + 1)


@pytest.mark.parametrize("unshuffle", [1, 2])
@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (9, 13), (33, 70)])
def test_a_slice_of_any_size_keeps_it(shape: tuple[int, int], unshuffle: int) -> None:
    logits = slice_unet(3, 2, "tiny", unshuffle).eval()(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 2, *shape)


def test_a_slice_grows_by_its_edge() -> None:
    """What the network adds to make a multiple is what a user would add by hand."""
    network, image = slice_unet(1, 1, "tiny").eval(), torch.randn(1, 1, 9, 14)
    by_hand = nn.functional.pad(image, (0, 2, 0, 3), mode="replicate")
    assert torch.equal(network(image), network(by_hand)[..., :9, :14])


def test_logits_are_not_squashed() -> None:
    """A threshold lives in postprocess alone: what it gives is no probability yet."""
    torch.manual_seed(0)
    logits = slice_unet(1, 1, "tiny").train()(10 * torch.randn(4, 1, 32, 32))
    assert logits.min() < 0


def test_it_learns() -> None:
    """Two boxes by heart, in a few steps."""
    torch.manual_seed(0)
    network = slice_unet(1, 1, "tiny", unshuffle=2)
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    image = torch.zeros(2, 1, 16, 16)
    image[0, :, 4:8, 2:9] = image[1, :, 9:12, 9:15] = 1.0
    losses = []
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(network(image), image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4
    logits, inside = network(image).detach(), image > 0
    assert logits[inside].mean() > logits[~inside].mean() + 2


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(SettingError, match="did you mean 'tiny'"):
        slice_unet(1, 1, "tiyn")


@pytest.mark.parametrize(("filters", "unshuffle"), [((8,), 1), ((8, 1), 1), ((8, 16), 0)])
def test_a_network_that_is_none_is_refused(filters: tuple[int, ...], unshuffle: int) -> None:
    with pytest.raises(SettingError):
        SliceUNet(1, 1, filters, unshuffle)


@pytest.mark.parametrize("shape", [(64, 64), (50, 75)])
def test_torchscript_gives_the_same(shape: tuple[int, int]) -> None:
    """Scripted, not traced: slices of another size than the first one are grown and cut back as well."""
    network = slice_unet(1, 1, "tiny", 2).eval()
    image = torch.randn(1, 1, *shape)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network)(image), network(image))
