"""Instance normalisation as OpenVINO computes it exactly.

OpenVINO 2026.4 sums a channel's voxels one after the other in float32 where channels lie beside each other in memory:
over 614,400 voxels that was 2e-4 of the logits, and 6.5e-3 of logits up to 27 (a U-Net at 2 mm). Means that are taken
axis by axis sum a hundred numbers at a time, and came within 2.5e-5 of float64, for two fifths more time. OpenVINO
makes one mean of several in a row, so something must stand between them.
"""

from __future__ import annotations

import torch
from torch import nn

#: Those that an instance normalisation is spelled out for.
_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


class SpelledNorm(nn.Module):
    """An instance normalisation by its formula.

    Args:
        weight: of each channel, or None.
        bias: of each channel, or None.
        eps: added to the variance.
    """

    def __init__(self, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = weight, bias, eps

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(batch, channel, *spatial)``, each channel of mean 0 and variance 1."""
        centred = image - mean_by_axis(image)
        out = centred * torch.rsqrt(mean_by_axis(centred * centred) + self.eps)
        shape = (1, -1, *[1] * (image.ndim - 2))
        if self.weight is not None:
            out = out * self.weight.reshape(shape)
        return out if self.bias is None else out + self.bias.reshape(shape)


def mean_by_axis(image: torch.Tensor) -> torch.Tensor:
    """The mean of each channel, ``(batch, channel, 1, ...)``, one axis after the other.

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
    """A network with its instance normalisations by their formula, in place; running statistics stay as they are."""
    for parent in list(network.modules()):
        for name, part in parent.named_children():
            if isinstance(part, _NORMS) and not part.track_running_stats:
                setattr(parent, name, SpelledNorm(part.weight, part.bias, part.eps))
    return network
