"""Learning without labels: squares are cut out of a slice, and the network fills them in from what is around them.

A *whole* slice is what the squares were cut out of; a pixel is *hidden* where the two differ. The mask head's one
channel is the network's guess of the grey values, and hidden pixels alone count: no class and no mask is read. What
the backbone and the mask head have learned there is where a classifier can begin
(:func:`neurobundle.networks.load_foreign`).

Sources: Pathak et al. 2016, context encoders (10.1109/CVPR.2016.278); absolute differences on hidden pixels alone as
in Xie et al. 2022, SimMIM (10.1109/CVPR52688.2022.00943).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.metrics import CumulativeIterationMetric
from monai.utils import CommonKeys
from torch import nn

from neurobundle.errors import NoInputError, SettingError

#: The key of the slice before the squares were cut out.
WHOLE = "whole"


def prepare_reconstruction(
    batch: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Slices with holes, and targets, of a batch: a trainer's ``prepare_batch``.

    Args:
        batch: ``image`` and ``whole``, both ``(batch, 1, column, row)``.
        device: where they go.
        non_blocking: as in torch.
        kwargs: for ``Tensor.to``.

    Returns:
        The slices with holes, and ``(batch, 2, column, row)``: the whole slice, and 1 where it is hidden.

    Raises:
        SettingError: for slices of several channels, of which a mask head can guess but one.
    """

    def moved(value: Any) -> torch.Tensor:
        tensor = torch.as_tensor(value).to(device=device, non_blocking=non_blocking, **kwargs)
        return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor

    image, whole = moved(batch[CommonKeys.IMAGE]), moved(batch[WHOLE])
    if image.shape[1] != 1:
        raise SettingError(
            f"a slice has {image.shape[1]} channels, and a mask head guesses one",
            "Pre-train on slices of one channel: --set in_channels=1.",
        )
    return image, torch.cat([whole, (image != whole).to(whole.dtype)], dim=1)


class FillInInferer(Inferer):
    """The grey values that a network with a mask head guesses."""

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call the network once.

        Args:
            inputs: ``(batch, 1, column, row)``, with holes.
            network: called with ``mask=True`` for both outputs, of which the second is taken.
            args: for the network.
            kwargs: for the network.

        Returns:
            ``(batch, 1, column, row)``.
        """
        return network(inputs, *args, mask=True, **kwargs)[1]


class HiddenLoss(nn.Module):
    """The mean absolute difference of guess and slice over the hidden pixels, in float32."""

    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, a number; 0 where nothing is hidden.

        Args:
            pred: ``(batch, 1, column, row)``.
            target: as :func:`prepare_reconstruction` gives it.
        """
        error, _, hidden = _sums(pred, target)
        return error.sum() / hidden.sum().clamp_min(1)


class FilledIn(CumulativeIterationMetric):
    """How much of the hidden grey values a network knows: 1 for all of them, 0 for no more than their mean.

    1 - (sum of absolute differences) / (sum of absolute grey values), over all hidden pixels of an epoch. Slices have a
    mean of 0 (z-score), so that filling holes with 0 gives 0. More is better; below 0 is worse than not to guess.
    """

    def aggregate(self) -> torch.Tensor:
        """The share over all cases since ``reset``, a tensor without dimensions.

        Raises:
            NoInputError: if there was no case, or nothing was hidden.
        """
        sums = self.get_buffer()
        error, grey = (0.0, 0.0) if sums is None else sums.double().sum(dim=0).tolist()
        if grey == 0:
            raise NoInputError("no hidden pixel was seen", "Check the validation's datalist, and the holes.")
        return torch.tensor(1 - error / grey)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Absolute differences and grey values of each case, summed, ``(batch, 2)``."""
        if y is None:
            raise SettingError("what is hidden is not known", "Give the target that prepare_reconstruction makes.")
        error, grey, _ = _sums(y_pred.detach(), y)
        return torch.stack([error, grey], dim=1)


def _sums(pred: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each case ``(batch,)``: absolute differences, absolute grey values, and how many pixels are hidden."""
    whole, hidden = target.float().split(1, dim=1)
    parts = ((pred.float() - whole).abs() * hidden, whole.abs() * hidden, hidden)
    return parts[0].sum(dim=(1, 2, 3)), parts[1].sum(dim=(1, 2, 3)), parts[2].sum(dim=(1, 2, 3))
