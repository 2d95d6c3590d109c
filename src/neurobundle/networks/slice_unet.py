"""The 2D ResU-Net of the brain tumour literature, for slices: residual, with squeeze-and-excitation.

A *level* is what has one resolution: level 0 that of the slice, each further one half of the one before. On each
level of the way down and of the way up stands a *block*: norm, activation and convolution twice (pre-activation), its
channels weighed by squeeze-and-excitation, plus what came in. On the way up, and on the levels of many channels, the
first convolution of a block has one pixel, since most of the parameters would lie there.

With filters of 8 to 256 and back there are 1,254,753 parameters for one channel and one region; the network that
Vajiram et al. (2022) report has 1,210,513. Level 0 takes most of the time. To *unshuffle* a slice makes each square of
2 x 2 pixels one pixel of four times the channels, and the logits go the opposite way (sub-pixel convolution): a quarter
of the time at the same pixels in and out.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from monai.networks.blocks import ChannelSELayer
from torch import nn

from neurobundle.errors import SettingError, closest

#: Filters per level. ``tiny`` is for smoke tests: it learns, but not well.
FILTERS: dict[str, tuple[int, ...]] = {"full": (8, 16, 32, 64, 128, 256), "tiny": (4, 8, 16)}

#: Squeeze-and-excitation squeezes channels to this share (Hu et al. 2018 have 16, for wider layers); two at least.
SQUEEZE = 8

#: Levels of more channels choose among them by a convolution of one pixel.
MOST_WIDE = 64


class SliceBlock(nn.Module):
    """A pre-activation residual block with squeeze-and-excitation.

    Args:
        in_channels: channels that come in.
        out_channels: channels that go out.
        kernel: edge of the first convolution, 1 or 3; the second one has 3.
        stride: 2 halves the resolution.

    Source: He et al. 2016 (10.1007/978-3-319-46493-0_38), Hu et al. 2018 (10.1109/CVPR.2018.00745, through MONAI's
    ``ChannelSELayer``).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.weigh = ChannelSELayer(2, out_channels, r=min(SQUEEZE, out_channels // 2))
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """From ``(batch, in_channels, i, j)`` to ``(batch, out_channels, i, j)``, or half of i and j."""
        found = self.conv1(F.relu(self.norm1(features)))
        found = self.conv2(F.relu(self.norm2(found)))
        return self.weigh(found) + self.shortcut(features)


class SliceUNet(nn.Module):
    """A U-Net of :class:`SliceBlock`, for slices of any size.

    A slice whose sides are no multiple of ``2 ** (levels - 1)`` grows by copies of its edge, and is cut back.

    Args:
        in_channels: image channels.
        out_channels: regions or classes.
        filters: channels per level, level 0 first; two levels or more.
        unshuffle: edge of the square of pixels that becomes one pixel of level 0; 1 leaves the slice as it is.

    Raises:
        SettingError: for fewer than two levels, a level of fewer than two channels, or a square without a pixel.

    Source: sub-pixel convolution: Shi et al. 2016 (10.1109/CVPR.2016.207).
    """

    def __init__(self, in_channels: int, out_channels: int, filters: tuple[int, ...], unshuffle: int = 1) -> None:
        super().__init__()
        if len(filters) < 2 or min(filters) < 2:
            raise SettingError(f"filters are {list(filters)}", "Give two levels or more, of two channels or more.")
        if unshuffle < 1:
            raise SettingError(f"unshuffle is {unshuffle!r}", "1 leaves the slice as it is.")
        self.unshuffle, self.multiple = unshuffle, unshuffle * 2 ** (len(filters) - 1)
        self.stem = nn.Conv2d(in_channels * unshuffle**2, filters[0], 3, padding=1, bias=False)
        down = [SliceBlock(filters[0], filters[0])]
        for above, own in itertools.pairwise(filters):
            down.append(SliceBlock(above, own, 3 if own <= MOST_WIDE else 1, stride=2))
        self.down = nn.ModuleList(down)
        upwards = itertools.pairwise(filters[::-1])
        self.up = nn.ModuleList([SliceBlock(below + own, own, 1) for below, own in upwards])
        classes = nn.Conv2d(filters[0], out_channels * unshuffle**2, 1)
        self.head = nn.Sequential(nn.BatchNorm2d(filters[0]), nn.ReLU(), classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From ``(batch, in_channels, i, j)`` to logits ``(batch, out_channels, i, j)``."""
        rows, columns = image.shape[2], image.shape[3]
        right, below = -columns % self.multiple, -rows % self.multiple
        grown = F.pad(image, [0, right, 0, below], mode="replicate") if right + below > 0 else image
        features = self.stem(F.pixel_unshuffle(grown, self.unshuffle))
        kept: list[torch.Tensor] = []
        for block in self.down:
            features = block(features)
            kept.append(features)
        for n, block in enumerate(self.up):
            across = kept[len(kept) - 2 - n]
            features = block(torch.cat([F.interpolate(features, scale_factor=2.0), across], dim=1))
        return F.pixel_shuffle(self.head(features), self.unshuffle)[..., :rows, :columns]


def slice_unet(in_channels: int, out_channels: int, size: str = "full", unshuffle: int = 1) -> SliceUNet:
    """The 2D ResU-Net with squeeze-and-excitation, in a size that has a name.

    Args:
        in_channels: image channels.
        out_channels: regions, which may overlap, or classes.
        size: ``full`` or ``tiny`` (the keys of :data:`FILTERS`).
        unshuffle: 2 takes a quarter of the time; see :class:`SliceUNet`.

    Returns:
        A network from ``(batch, in_channels, i, j)`` to logits ``(batch, out_channels, i, j)``.

    Raises:
        SettingError: for an unknown size.

    Source: Vajiram et al. 2022, ResU-Net; Zhang et al. 2018 (10.1109/LGRS.2018.2802944), pre-activation.

    >>> sum(parameter.numel() for parameter in slice_unet(1, 1).parameters())
    1254753
    """
    if size not in FILTERS:
        raise SettingError(
            f"network_size must be one of {sorted(FILTERS)}, got {size!r}{closest(size, FILTERS)}",
            "Change network_size.",
        )
    return SliceUNet(in_channels, out_channels, FILTERS[size], unshuffle)
