"""A network that answers a class, over the slices of a case.

A *weight* of a slice says how much it counts in its case's answer. Of a network with a mask head it is the share of its
pixels that the head takes for tumour, so that the slices of the tumour decide; of any other network, and of a case of
one slice, it is 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer

from neurobundle.errors import SettingError
from neurobundle.infer.slices import ACROSS

#: The weight of a slice without a pixel of tumour: if no slice of a case has any, all count alike.
LEAST_WEIGHT = 1e-6


class SliceAnswersInferer(Inferer):
    """Logits of each slice of a case, and how much the slice counts.

    Args:
        slices: how many at a time; a mirrored one counts too.
        mirror: also infer each slice mirrored left to right, in the same batch, and give the mean of the two logits.
        mask: the network has a mask head, and is called as ``network(slices, mask=True)`` for both outputs where slices
            are to be weighed against each other.

    Raises:
        SettingError: for fewer than one slice at a time.
    """

    def __init__(self, slices: int = 16, mirror: bool = False, mask: bool = False) -> None:
        super().__init__()
        if slices < 1:
            raise SettingError(f"slices is {slices!r}", "Give 1 or more at a time.")
        self.slices, self.mirror, self.mask = slices, mirror, mask

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Infer all slices.

        Args:
            inputs: ``(batch, channel, column, row, slice)``.
            network: from ``(batch, channel, column, row)`` to logits ``(batch, class)``.
            args: for the network.
            kwargs: for the network.

        Returns:
            ``(batch, class + 1, slice)``: the logits of each class, then the weight.
        """
        batch, depth = inputs.shape[0], inputs.shape[-1]
        # Without the metadata: torch looks at them in every layer, which takes longer than a small layer itself.
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else torch.as_tensor(inputs)
        stack = plain.movedim(-1, 1).flatten(0, 1)
        at_once = max(1, self.slices // 2) if self.mirror else self.slices
        weigh = self.mask and depth > 1  # a third of the time of a small network
        parts = [self._infer(part, network, weigh, *args, **kwargs) for part in stack.split(at_once)]
        answers = torch.cat(parts).unflatten(0, (batch, depth)).movedim(1, -1)
        return MetaTensor(answers).copy_meta_from(inputs) if isinstance(inputs, MetaTensor) else answers

    def _infer(
        self, slices: torch.Tensor, network: Callable[..., Any], weigh: bool, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Logits and weights of some slices, ``(slice, class + 1)``."""
        if not self.mirror:
            return self._once(slices, network, weigh, *args, **kwargs)
        there, back = self._once(torch.cat([slices, slices.flip(ACROSS)]), network, weigh, *args, **kwargs).chunk(2)
        return (there + back) / 2

    @staticmethod
    def _once(
        slices: torch.Tensor, network: Callable[..., Any], weigh: bool, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        if not weigh:
            logits = network(slices, *args, **kwargs).float()
            return torch.cat([logits, torch.ones_like(logits[:, :1])], dim=1)
        logits, outline = network(slices, *args, mask=True, **kwargs)
        share = outline.float().sigmoid().flatten(1).mean(dim=1, keepdim=True)
        return torch.cat([logits.float(), share.clamp_min(LEAST_WEIGHT)], dim=1)


class AnswersInferer(Inferer):
    """The network's answers for a batch of slices, for training.

    Args:
        mask: the network has a mask head; both outputs are given then, ``{"answer": logits, "mask": logits}``.
    """

    def __init__(self, mask: bool = False) -> None:
        super().__init__()
        self.mask = mask

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the network once.

        Args:
            inputs: ``(batch, channel, column, row)``.
            network: to logits ``(batch, class)``.
            args: for the network.
            kwargs: for the network.

        Returns:
            Logits; or ``answer`` ``(batch, class)`` and ``mask`` ``(batch, 1, column, row)``.
        """
        if not self.mask:
            return network(inputs, *args, **kwargs)
        answer, mask = network(inputs, *args, mask=True, **kwargs)
        return {"answer": answer, "mask": mask}
