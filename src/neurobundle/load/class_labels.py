"""The check of cases that have one class each: is it known, can the image be read, and can the folds teach anything.

A *class datalist* is a datalist whose ``label`` is a class's number, 0 to n - 1, in the order that its ``labels`` name
them. Its ``split`` may say ``leaks``: a sentence on why persons stand in several folds, for a protocol that is shown
beside an honest one; without that sentence they must not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, SettingError
from neurobundle.load.answers import class_number
from neurobundle.load.datalist import ALL_CASES, NOTHING_OUTLINED, Item, load_json
from neurobundle.load.labels import PairFacts, check_pair

#: In a datalist's ``split``: why persons stand in several folds.
LEAKS = "leaks"


def check_classified(
    image: str | Path | Sequence[str | Path],
    label: Any,
    classes: Sequence[str],
    mask: str | Path | int | None = None,
    *,
    case: str = "",
    allow_empty: bool = False,
) -> PairFacts:
    """Read a case that has a class, and refuse what training would choke on.

    Args:
        image: the image, a picture or a volume, or one file a channel.
        label: its class's number.
        classes: the names of all.
        mask: a label map on the image's grid, if there is one; or 0, as in a datalist.
        case: the case's name for the message.
        allow_empty: let channels without a signal pass, but not all of a case.

    Raises:
        InputError: names case, file, label and known classes; or what :func:`neurobundle.load.labels.check_pair` finds.
    """
    first = image if isinstance(image, (str, Path)) else image[0]
    known = isinstance(label, int) and not isinstance(label, bool)
    if not known or class_number(label, classes) is None:
        said = ", ".join(f"{number} {name}" for number, name in enumerate(classes))
        cause = "it has no label" if label is None else f"its label is {label!r}, which is no class's number"
        raise InputError(cause, f"Give one of {said}.", case=case, file=first)
    file = None if mask == NOTHING_OUTLINED else mask
    return check_pair(image, file, case=case, allow_empty=allow_empty)  # type: ignore[arg-type]


def check_class_names_of(datalist: Path, classes: Sequence[str]) -> None:
    """Refuse a datalist whose classes have other names, or another order, than the network's.

    Args:
        datalist: its ``labels`` are compared, if it has any.
        classes: the network's, in the order of its outputs.

    Raises:
        SettingError: if they differ: a 0 would mean one class here and another there.
    """
    stated = load_json(datalist).get("labels")
    if not isinstance(stated, Mapping) or not stated:
        return
    expected = {str(number): name for number, name in enumerate(classes)}
    if {str(number): str(name) for number, name in stated.items()} != expected:
        here, there = (", ".join(f"{number} {name}" for number, name in some.items()) for some in (stated, expected))
        way_out = f"Make it again with the bundle's classes in its order: --classes {','.join(classes)}; or train with"
        way_out += " an overlay that names these classes."
        raise SettingError(f"its labels are {here}, and the bundle's are {there}", way_out, file=datalist)


def check_class_folds(
    items: Sequence[Item], classes: Sequence[str], folds: Sequence[int], datalist: Path
) -> list[InputError]:
    """Find what makes folds useless before anything is trained on them.

    Args:
        items: all of the datalist, with ``label``, ``subject`` and ``fold``; labels are checked elsewhere.
        classes: the names of all.
        folds: those that are held out, one at a time; -1 holds out none.
        datalist: for the message; its ``split`` may say why persons stand in several folds.

    Returns:
        An error for each class that a fold's training cases lack, each fold that holds one class only, and the first
        subject that stands in several folds.
    """
    found: list[InputError] = []
    for fold in folds:
        training = {item["label"] for item in items if item["fold"] != fold}
        held_out = {item["label"] for item in items if item["fold"] == fold}
        where = f"fold {fold}'s training cases hold" if fold != ALL_CASES else "the training cases hold"
        for number, name in enumerate(classes):
            if number not in training:
                found.append(InputError(f"{where} no {name!r}", "Add cases of it, or split by class.", file=datalist))
        if len(held_out) == 1:
            cause = f"fold {fold} holds one class only, {_name(held_out.pop(), classes)}"
            way_out = "Split by class (`neurobundle split --classes ...`), or ask for fewer folds."
            found.append(InputError(cause, way_out, file=datalist))
    return found + _in_several_folds(items, datalist)


def leaks_of(datalist: Path) -> str | None:
    """Why persons stand in several folds of a datalist on purpose; None where it does not say so."""
    split = load_json(datalist).get("split")
    reason = split.get(LEAKS) if isinstance(split, Mapping) else None
    return str(reason) if reason else None


def unnamed_of(datalist: Path) -> list[str]:
    """The cases that name no subject: nobody can say whether the folds share a person of them."""
    entries = load_json(datalist).get("training") or []
    unnamed = [entry for entry in entries if not (isinstance(entry, Mapping) and entry.get("subject"))]
    return [
        str(entry.get("case") or entry.get("image")) if isinstance(entry, Mapping) else str(entry) for entry in unnamed
    ]


def _in_several_folds(items: Sequence[Item], datalist: Path) -> list[InputError]:
    sides: dict[str, set[int]] = defaultdict(set)
    for item in items:
        sides[str(item["subject"])].add(int(item["fold"]))
    shared = [(subject, folds) for subject, folds in sides.items() if len(folds) > 1]
    if not shared or leaks_of(datalist):
        return []
    subject, folds = shared[0]
    more = f", and {len(shared) - 1} more are in several" if len(shared) > 1 else ""
    cause = f"the subject {subject!r} is in the folds {', '.join(map(str, sorted(folds)))}{more}"
    way_out = "Split by subject: a score over folds that share persons is too good."
    return [InputError(cause, way_out, file=datalist)]


def _name(number: Any, classes: Sequence[str]) -> str:
    return repr(classes[number]) if isinstance(number, int) and 0 <= number < len(classes) else repr(number)
