"""The best scan of a study, for whoever takes one of any sequence.

T1 is preferred; then what :data:`~neurobundle.load.study.choices.TIE_BREAKS` compare, isotropic and smaller voxels
above all. Of two that are alike in all of it, either does: the first by name is taken. What no rule recognised as a
sequence of a whole head is not chosen from, unless a mapping names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from neurobundle.load.study.channels import ANY, CHANNELS
from neurobundle.load.study.choices import TIE_BREAKS, Candidate, Choice, Study, as_good, place_of, source_name
from neurobundle.load.study.sidecar import traits_of_file

#: The channel that is preferred to every other.
PREFERRED = "T1"


def choose_any(study: Study) -> None:
    """Choose the best scan of a study as its channel ``any``, in place; the others are passed over, and told why.

    Args:
        study: of the channel ``any``. What a mapping named of it is all that is chosen from.
    """
    if study.choices:
        named = [study.choices[channel] for channel in (ANY, *CHANNELS) if channel in study.choices]
        taken = [place_of(choice.source) for choice in named]
        rest = [one.choice for one in study.candidates if place_of(one.choice.source) not in taken]
        _settle(study, named[0], [*_with("the mapping names another first", *named[1:]), *rest])
        return
    fit = [_with_traits(one) for one in study.candidates if one.choice.channel]
    rest = [one.choice for one in study.candidates if not one.choice.channel]
    if not fit:
        study.passed_over += rest
        return
    left, lost = fit, list[Choice]()
    for words, value in _COMPARED:
        best = max(map(value, left))
        worse = [one for one in left if not as_good(value(one), best)]
        lost += _with(f"a better one by: {words}", *(one.choice for one in worse))
        left = [one for one in left if as_good(value(one), best)]
    left.sort(key=lambda one: source_name(one.choice.source))
    lost += _with("another is as good", *(one.choice for one in left[1:]))
    over = f"; preferred to {', '.join(choice.name for choice in lost)}" if lost else ""
    _settle(study, replace(left[0].choice, reason=f"{left[0].choice.reason}{over}"), [*lost, *rest])


#: In this order, the larger value wins.
_COMPARED: tuple[tuple[str, Callable[[Candidate], float]], ...] = (
    (TIE_BREAKS[0].words, lambda one: TIE_BREAKS[0].value(one.traits)),
    (PREFERRED, lambda one: one.choice.channel in (PREFERRED, ANY)),
    *((rule.words, lambda one, rule=rule: rule.value(one.traits)) for rule in TIE_BREAKS[1:]),
)


def _settle(study: Study, choice: Choice, others: list[Choice]) -> None:
    study.choices = {ANY: replace(choice, channel=ANY)}
    study.passed_over += others


def _with(why: str, *choices: Choice) -> list[Choice]:
    return [replace(choice, reason=f"{choice.reason}; {why}") for choice in choices]


def _with_traits(one: Candidate) -> Candidate:
    """A candidate with what its header says; it was opened so far only where two fitted one channel."""
    source = one.choice.source
    if not isinstance(source, Path):
        return one
    return one._replace(traits=traits_of_file(source, agrees=one.traits.agrees, look=True))
