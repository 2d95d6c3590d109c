"""Whose images are learned from and whose judge: folds by person, which a store remembers.

Who was once held out is never learned from, and the other way round, however many labels come and go: a score before
and after a training would else compare what was seen with what was not. A store remembers images, not persons: what a
hospital calls these is compared in memory, and never written. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from neurobundle.files import write_json
from neurobundle.load.datalist import Item
from neurobundle.networks.manifest import read_manifest, sha256_of

FOLDS_NAME = "folds.json"

#: The fold that is held out, and the order in which the first persons come to folds: of one person nothing is held
#: out, of two one.
HELD_OUT = 0
_ORDER = (1, HELD_OUT, 2, 3, 4)

BOTH_SIDES = "Its person was learned from once and held out once, and can be neither."


def read_folds(store: Path) -> dict[str, int]:
    """Image id to fold, of all that were ever in a lesson.

    Args:
        store: its folder.
    """
    file = store / FOLDS_NAME
    return {str(case): int(fold) for case, fold in json.loads(file.read_bytes()).items()} if file.exists() else {}


def deal(items: Sequence[Item], store: Path, others: Mapping[str, str] | None = None) -> set[str]:
    """Give each entry its ``fold``: all of a person's the same, and the one that the store remembers.

    Where labels are classes, the persons of each class are dealt by themselves.

    Args:
        items: with ``case``, ``subject`` and, for classes, a number as ``label``; changed in place.
        store: the store's folder; which image has which fold is written there.
        others: image to person, of those that have a fold and are no entry now.

    Returns:
        The cases of persons who turn out to have been on both sides. They have no fold.
    """
    known, contradicted = read_folds(store), set()
    persons: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        persons[str(item["subject"])].append(item)
    cases: dict[str, list[str]] = {person: [str(item["case"]) for item in of] for person, of in persons.items()}
    for case, person in (others or {}).items():
        if person in cases:
            cases[person].append(case)
    size = Counter((_class(item), known[str(item["case"])]) for item in items if item["case"] in known)
    for person, of in persons.items():
        kind = _class(of[0])
        before = {known[case] for case in cases[person] if case in known}
        if HELD_OUT in before and len(before) > 1:
            contradicted |= {str(item["case"]) for item in of}
            continue
        fold = min(before) if before else _smallest(size, kind)
        for item in of:
            item["fold"] = fold
            size[_class(item), fold] += item["case"] not in known
            known[str(item["case"])] = fold
    write_json(store / FOLDS_NAME, dict(sorted(known.items())))
    return contradicted


def _smallest(size: Counter[tuple[int | None, int]], kind: int | None) -> int:
    return min(_ORDER, key=lambda fold: size[kind, fold])


def _class(item: Item) -> int | None:
    label = item.get("label")
    return label if isinstance(label, int) else None


def united(items: Iterable[Item]) -> list[Item]:
    """The entries, where those that share a file's content are one person's, over any number of steps.

    Args:
        items: with ``case``, ``subject`` and ``image``.
    """
    owner: dict[str, str] = {}
    same: dict[str, str] = {}

    def first(person: str) -> str:
        while person in same:
            person = same[person]
        return person

    entries = list(items)
    for item in entries:
        files = item["image"] if isinstance(item["image"], list) else [item["image"]]
        for digest in map(sha256_of, files):
            own, other = first(str(item["subject"])), first(owner.setdefault(digest, str(item["subject"])))
            if own != other:
                same[own] = other
    return [{**item, "subject": first(str(item["subject"]))} for item in entries]


def without_persons(items: Iterable[Item]) -> list[Item]:
    """The entries, each person called by their first case: what a training writes names its subjects."""
    called: dict[str, str] = {}
    return [{**item, "subject": called.setdefault(str(item["subject"]), str(item["case"]))} for item in items]


def learned_from(bundle: Path, store: Path) -> set[str]:
    """The cases that trainings in a store may have seen: none, if the bundle's weights are those it came with.

    Args:
        bundle: the store's copy.
        store: its folder.
    """
    entry = read_manifest(bundle / "models").get("model.pt")
    if entry is None or entry.origin != "trained-here":
        return set()
    return {case for case, fold in read_folds(store).items() if fold != HELD_OUT}
