"""How sure a network is of a voxel, and of a case. Nothing here knows the truth.

*Predictive entropy* is that of a voxel's probabilities. Of the members of an ensemble it is the entropy of their mean,
and has two parts: the mean of the members' own entropies, and their *mutual information*, which is 0 where all members
say the same, however unsure they are. All three are divided by the largest entropy that there is, the logarithm of the
number of classes (of a region: log 2), so that they reach from 0, certain, to 1, every class alike, for any number of
classes.

Regions that overlap have one entropy each, and a voxel has that of its least certain region. Their mean would fall with
each region that is far away and certain.

The *case score* orders cases by the error that is expected of them.

Source: Gal 2016, *Uncertainty in deep learning*; Houlsby et al. 2011 (arXiv:1112.5745).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, cast

import torch

from neurobundle.errors import InputError, SettingError, closest

Activation = Literal["softmax", "sigmoid"]
ACTIVATIONS = ("softmax", "sigmoid")

#: Of a sigmoid nothing is nearer to 0 or 1 than the spacing of float32 below 1, so that a logit stays within 16.6.
_CLOSEST = 2.0**-24


def checked_activation(name: str) -> Activation:
    """The name of an activation that there is.

    Raises:
        SettingError: for any other.
    """
    if name not in ACTIVATIONS:
        cause = f"activation must be softmax or sigmoid, got {name!r}{closest(str(name), ACTIVATIONS)}"
        raise SettingError(cause, "softmax is for classes, sigmoid for regions that overlap.")
    return cast(Activation, name)


def probabilities_of(
    logits: torch.Tensor, activation: Activation = "softmax", temperature: float = 1.0
) -> torch.Tensor:
    """The probabilities of logits.

    Args:
        logits: ``(class, ...)``.
        activation: ``softmax`` or ``sigmoid``.
        temperature: divides the logits.

    Returns:
        ``(class, ...)``, float32.
    """
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    return scaled.softmax(dim=0) if activation == "softmax" else scaled.sigmoid()


def logits_of(probabilities: torch.Tensor, activation: Activation = "softmax") -> torch.Tensor:
    """Logits whose probabilities are these: log p of softmax, log p - log (1 - p) of sigmoid.

    Args:
        probabilities: ``(class, ...)`` float32; clipped to what float32 holds: a softmax's log p is not below -87.3,
            the logarithm of its smallest normal number; a sigmoid's logit is within 16.6 of 0.
        activation: ``softmax`` or ``sigmoid``.
    """
    if activation == "softmax":
        return probabilities.clamp_min(torch.finfo(torch.float32).tiny).log()
    return probabilities.logit(eps=_CLOSEST)


def entropies(probabilities: torch.Tensor, activation: Activation = "softmax") -> torch.Tensor:
    """The entropy of each distribution over the largest that it can have.

    Args:
        probabilities: ``(class, ...)``; what rounding put outside 0 to 1 is clipped.
        activation: ``softmax``: the classes are one distribution; ``sigmoid``: each region is one.

    Returns:
        0 (certain) to 1 (all alike), ``(1, ...)`` or ``(region, ...)``.

    Raises:
        InputError: for a softmax of one class, which is always certain.

    >>> entropies(torch.tensor([[0.5, 1.0], [0.5, 0.0]])).tolist()
    [[1.0, 0.0]]
    >>> entropies(torch.tensor([[0.5, 1.0], [0.0, 0.5]]), "sigmoid").tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    inside = probabilities.clamp(0, 1)
    if activation == "sigmoid":
        return torch.special.entr(inside).add_(torch.special.entr(1 - inside)).div_(math.log(2)).clamp_(0, 1)
    if len(inside) < 2:
        raise InputError("there is one class only", "Of one region, use the activation sigmoid.")
    total = torch.zeros_like(inside[0])
    for p in inside:  # class by class: of 33 on a head one at a time
        total += torch.special.entr(p)
    return (total / math.log(len(inside))).clamp_(0, 1)[None]


def predictive_entropy(probabilities: torch.Tensor, activation: Activation = "softmax") -> torch.Tensor:
    """How uncertain each voxel is: its entropy, or that of its least certain region.

    Args:
        probabilities: ``(class, ...)``; of an ensemble the mean.
        activation: ``softmax`` or ``sigmoid``.

    Returns:
        0 to 1, ``(...)``.

    >>> predictive_entropy(torch.tensor([[0.5, 1.0], [0.0, 1.0]]), "sigmoid").tolist()
    [1.0, 0.0]
    """
    return entropies(probabilities, activation).amax(dim=0)


def mutual_information(
    mean: torch.Tensor, members_entropies: torch.Tensor, activation: Activation = "softmax"
) -> torch.Tensor:
    """How far the members of an ensemble disagree, in the unit of the entropy.

    Args:
        mean: of the members' probabilities, ``(class, ...)``.
        members_entropies: the mean of what :func:`entropies` gives of each.
        activation: ``softmax`` or ``sigmoid``.

    Returns:
        0 (all say the same) to 1, ``(...)``; of regions that of the one in which they disagree most.

    >>> one, other = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
    >>> mutual_information((one + other) / 2, (entropies(one) + entropies(other)) / 2).tolist()
    [1.0]
    """
    return (entropies(mean, activation) - members_entropies).clamp_min(0).amax(dim=0)


def structure_masks(logits: torch.Tensor, activation: Activation = "softmax") -> Iterator[torch.Tensor]:
    """Where each structure is predicted, one after the other: each class but the first, or each region.

    Args:
        logits: ``(class, ...)``, or probabilities of softmax.
        activation: ``softmax`` (the largest wins, the lower class of two alike) or ``sigmoid`` (above 0).
    """
    if activation == "sigmoid":
        yield from (region > 0 for region in logits)
    else:
        labels = logits.argmax(dim=0)
        yield from (labels == value for value in range(1, len(logits)))


def expected_dice(probabilities: torch.Tensor, mask: torch.Tensor) -> float:
    """The Dice that a predicted structure can be expected to have, if its probabilities mean what they say.

    That is 2 sum(p within it) / (sum(p) + its voxels), its soft Dice with its own probabilities. Of a structure that is
    predicted nowhere it is 1 - the largest p: its Dice is 1 if the truth is empty too, and 0 else. Networks expect too
    much of themselves (docs/concepts/inference.md): it orders cases, and is no promise.

    Args:
        probabilities: of the structure, ``(...)``.
        mask: where it is predicted, ``(...)``.

    Returns:
        0 to 1.

    >>> expected_dice(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([True, True, False]))  # 2 x 1.5 / (1.5 + 2)
    0.8571428571428571
    """
    count = int(mask.sum())
    if not count:
        return 1 - float(probabilities.max())
    within, everywhere = (float(p.double().sum()) for p in (probabilities[mask], probabilities))
    return 2 * within / (everywhere + count)


def case_score(logits: torch.Tensor, activation: Activation = "softmax", temperature: float = 1.0) -> float:
    """One number a case: the error that is expected of it, 1 - the mean of its structures' expected Dice.

    It needs no members and no spacing. How well it orders cases, how far it is off, and what else was tried stands in
    docs/concepts/inference.md.

    Args:
        logits: ``(class, ...)`` on the network's grid; of an ensemble those of the mean.
        activation: ``softmax`` or ``sigmoid``.
        temperature: divides the logits; it changes no label.

    Returns:
        0 (certain) to 1. For active learning the cases with the largest are the next ones to label.
    """
    probabilities = probabilities_of(logits, activation, temperature)
    shares = probabilities if activation == "sigmoid" else probabilities[1:]
    dice = [expected_dice(p, mask) for p, mask in zip(shares, structure_masks(logits, activation), strict=True)]
    return 1 - sum(dice) / len(dice)
