"""Instance and group normalisation as other runtimes compute them exactly.

OpenVINO 2026.4 sums a channel's voxels one after the other in float32 where channels lie beside each other in memory:
over 614,400 voxels that was 2e-4 of the logits, and 6.5e-3 of logits up to 27 (a U-Net at 2 mm). ONNX Runtime 1.20 and
later does so over the voxels of a group: 2.6e-3 over 4 million (a SegResNet, windows of 128 voxels). Means that are
taken axis by axis sum a hundred numbers at a time, and came within 2.5e-5 of float64, for two fifths more time.
OpenVINO makes one mean of several in a row, so something must stand between them.
"""

from __future__ import annotations

import torch
from torch import nn

#: Instance normalisations; a group normalisation is the other kind that is spelled out.
_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class SpelledNorm(nn.Module):
    """An instance or group normalisation by its formula.

    Args:
        weight: of each channel, or None.
        bias: of each channel, or None.
        eps: added to the variance.
        groups: of channels that are normalised together; each by itself if None.
    """

    def __init__(
        self, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float, groups: int | None = None
    ) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.groups = weight, bias, eps, groups

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(batch, channel, *spatial)``, each channel or group of mean 0 and variance 1."""
        together = image if self.groups is None else image.unflatten(1, (self.groups, -1))
        centred = together - mean_by_axis(together)
        out = centred * torch.rsqrt(mean_by_axis(centred * centred) + self.eps)
        out = out if self.groups is None else out.flatten(1, 2)
        shape = (1, -1, *[1] * (image.ndim - 2))
        if self.weight is not None:
            out = out * self.weight.reshape(shape)
        return out if self.bias is None else out + self.bias.reshape(shape)


def mean_by_axis(image: torch.Tensor) -> torch.Tensor:
    """The mean of each channel or group, ``(batch, channel, 1, ...)``, one axis after the other.

    What is above and below 0 goes apart, each through a ``relu`` that changes nothing and keeps the means apart.

    Args:
        image: ``(batch, channel, *spatial)``.

    >>> mean_by_axis(torch.tensor([[[[1.0, -3.0], [4.0, 6.0]]]])).flatten()
    tensor([2.])
    """
    first = image.mean(-1, keepdim=True)
    above, below = first.relu(), (-first).relu()
    for axis in range(image.ndim - 2, 1, -1):
        above, below = above.mean(axis, keepdim=True).relu(), below.mean(axis, keepdim=True).relu()
    return above - below


def spelled_out(network: nn.Module) -> nn.Module:
    """A network with its instance and group normalisations by their formula, in place.

    Running statistics stay as they are.
    """
    for parent in list(network.modules()):
        for name, part in parent.named_children():
            if isinstance(part, _NORMS) and not part.track_running_stats:
                setattr(parent, name, SpelledNorm(part.weight, part.bias, part.eps))
            elif isinstance(part, nn.GroupNorm):
                setattr(parent, name, SpelledNorm(part.weight, part.bias, part.eps, part.num_groups))
    return network
