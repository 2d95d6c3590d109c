"""Above which case score a case is flagged for a person, and what that costs and saves.

A case is *flagged* if its score, its uncertainty, is above a threshold; the others are *kept*. Cases of one score are
flagged together or not at all. The threshold is chosen by one of two rules: the most uncertain tenth is flagged; or, if
a Dice is wanted, as few as possible so that the mean Dice of those kept reaches it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurobundle.errors import InputError, SettingError
from neurobundle.measure.resampling import number
from neurobundle.measure.selective import risk_coverage

#: The share of the cases that is flagged where no Dice is wanted.
FLAGGED_SHARE = 0.1


@dataclass(frozen=True)
class Flag:
    """A threshold of the case score.

    Attributes:
        above: cases whose score is above it are flagged.
        reached: whether those kept have the Dice that is wanted, where it was chosen; where no threshold gives it, the
            most uncertain tenth is flagged. True if none is wanted.
    """

    above: float
    reached: bool


def choose_flag(scores: Sequence[float], dice: Sequence[float], wanted_dice: float | None = None) -> Flag:
    """Choose the threshold on cases that are in no test set.

    Args:
        scores: ``(n,)`` the uncertainty of each case, finite.
        dice: ``(n,)`` its mean Dice over structures, finite.
        wanted_dice: the mean that those kept should have; if None the most uncertain tenth is flagged, rounded down.

    Raises:
        InputError: if there is no case, or a number is not finite.
        SettingError: if the wanted Dice is none.

    >>> choose_flag([1, 2, 3, 4], [0.9, 0.8, 0.7, 0.2], wanted_dice=0.8)
    Flag(above=3.0, reached=True)
    >>> choose_flag(range(10), [0.9] * 10)
    Flag(above=8.0, reached=True)
    """
    uncertain, overlap = np.asarray(scores, dtype=float), np.asarray(dice, dtype=float)
    if not (len(uncertain) and np.isfinite(uncertain).all() and np.isfinite(overlap).all()):
        raise InputError("there is no case with a score and a Dice to choose on", "Give it validation cases.")
    tenth = float(np.sort(uncertain)[len(uncertain) - 1 - math.floor(FLAGGED_SHARE * len(uncertain))])
    if wanted_dice is None:
        return Flag(tenth, True)
    if not 0 < wanted_dice <= 1:
        raise SettingError(f"the wanted Dice is {wanted_dice!r}", "Give a number above 0 and up to 1.")
    curve = risk_coverage(uncertain, 1 - overlap)
    # Rounding must not lose a Dice of exactly the wanted one.
    good = np.flatnonzero(curve.risk <= 1 - wanted_dice + 1e-9)
    if not len(good):
        return Flag(tenth, False)
    return Flag(float(np.unique(uncertain)[good[-1]]), True)


def judge_flag(flagged: Sequence[bool], dice: Sequence[float]) -> dict[str, Any]:
    """What a threshold did to cases that it was not chosen on, ready for JSON.

    Args:
        flagged: ``(n,)``.
        dice: ``(n,)``.

    >>> judge_flag([True, False, False], [0.2, 0.8, 0.9])
    {'flagged': 0.333333, 'dice_kept': 0.85, 'dice_flagged': 0.2}
    """
    away, overlap = np.asarray(flagged, dtype=bool), np.asarray(dice, dtype=float)
    kept, gone = (overlap[part].mean() if part.any() else math.nan for part in (~away, away))
    return {"flagged": number(float(away.mean())), "dice_kept": number(kept), "dice_flagged": number(gone)}


def rule_in_words(flag: Flag, wanted_dice: float | None) -> str:
    """How the threshold was chosen, as a part of a sentence."""
    if wanted_dice is None:
        return "flag_above leaves the most uncertain tenth above it"
    if not flag.reached:
        return f"no threshold gives a Dice of {wanted_dice:g}, so flag_above leaves the most uncertain tenth above it"
    return f"flag_above keeps as many as have a mean Dice of {wanted_dice:g}"
