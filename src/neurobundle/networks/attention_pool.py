"""One answer for a bag of slices, by attention that is learned.

A *bag* is what has one answer together: the slices of a person. Each slice is a row of *features*, what a classifier's
head sees. Its *score* is a number that a small network makes of its features; the softmax of the scores over the bag
are *shares*, and the bag's features are the mean of its slices', each by its share. The scores are gated: one layer
says what speaks for a slice, another how much of it counts.

All scores are 0 at first, so a new pool gives the plain mean, and training departs from there.

Source: Ilse, Tomczak & Welling 2018, attention-based deep multiple instance learning (ICML, arXiv:1802.04712).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from neurobundle.errors import InputError, SettingError

#: Numbers inside the network that makes scores.
HIDDEN = 64


class AttentionPool(nn.Module):
    """From the features of the slices of bags to those of the bags.

    Args:
        features: how many a slice has.
        hidden: numbers inside the network that makes scores.

    Raises:
        SettingError: if either is below 1.
    """

    def __init__(self, features: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        if features < 1 or hidden < 1:
            raise SettingError(f"features is {features!r} and hidden {hidden!r}", "Give 1 or more of each.")
        self.content = nn.Linear(features, hidden)
        self.gate = nn.Linear(features, hidden)
        # A constant added to all scores of a bag changes no share, so there is no bias.
        self.score = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, bags: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pool each bag.

        Args:
            bags: ``(bag, slice, feature)``; smaller bags are filled up with anything finite.
            present: ``(bag, slice)`` bools, false where a bag was filled up.

        Returns:
            Features ``(bag, feature)``, and shares ``(bag, slice)`` that sum to 1 in each bag and are 0 where nothing
            is present.

        Raises:
            InputError: if a bag has no slice; not looked at in a scripted network, which gives NaN for it.
        """
        if not torch.jit.is_scripting() and not bool(present.any(dim=1).all()):
            number = int((~present.any(dim=1)).nonzero()[0])
            raise InputError(f"bag {number} has no slice", "Leave it out: nothing can be said of it.")
        scores = self.score(torch.tanh(self.content(bags)) * torch.sigmoid(self.gate(bags)))[..., 0]
        shares = scores.masked_fill(~present, float("-inf")).softmax(dim=1)
        return (shares[..., None] * bags).sum(dim=1), shares


class AttentionAnswers(nn.Module):
    """From bags to one row of logits each: an :class:`AttentionPool`, then a linear layer.

    Args:
        features: how many a slice has.
        classes: how many there are.
        hidden: of the pool.

    Raises:
        SettingError: if any is below 1.
    """

    def __init__(self, features: int, classes: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        if classes < 1:
            raise SettingError(f"classes is {classes!r}", "Give 1 or more.")
        self.pool = AttentionPool(features, hidden)
        self.fc = nn.Linear(features, classes)

    def forward(self, bags: torch.Tensor, present: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer each bag.

        Args:
            bags: ``(bag, slice, feature)``, as for :class:`AttentionPool`.
            present: ``(bag, slice)`` bools.

        Returns:
            Logits ``(bag, class)``, and shares ``(bag, slice)``.

        Raises:
            InputError: if a bag has no slice.
        """
        pooled, shares = self.pool(bags, present)
        return self.fc(pooled), shares


def pad_bags(bags: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Bags of unequal size as one tensor, filled up with 0.

    Args:
        bags: ``(slice, feature)`` each.

    Returns:
        ``(bag, slice, feature)``, and ``(bag, slice)`` bools, true for slices of a bag.

    Raises:
        InputError: if there is no bag, or their features are not as many.

    >>> bags, present = pad_bags([torch.ones(1, 4), torch.ones(3, 4)])
    >>> tuple(bags.shape), present.tolist()
    ((2, 3, 4), [[True, False, False], [True, True, True]])
    """
    widths = {tuple(bag.shape[1:]) for bag in bags}
    if len(widths) != 1 or any(bag.ndim != 2 for bag in bags):
        cause = f"the bags have the shapes {[tuple(bag.shape) for bag in bags]}"
        raise InputError(cause, "Give one bag or more, each (slice, feature), with as many features.")
    sizes = torch.tensor([len(bag) for bag in bags], device=bags[0].device)
    filled = nn.utils.rnn.pad_sequence(list(bags), batch_first=True)
    return filled, torch.arange(filled.shape[1], device=filled.device) < sizes[:, None]
