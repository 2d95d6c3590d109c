"""What stands on two sides of a split: copies, near copies, and persons.

A *side* is a fold, or the test set. A *copy* has the same voxels, whatever its name, type and compression; a *near
copy* is a shifted, brightened, re-encoded, resized, turned or mirrored one (:mod:`neurobundle.load.likeness`). Ids of
persons are *kin* if they differ by one letter behind their last digit alone: MR029209E and MR029209G. Imports no torch.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from neurobundle.load.datalist import natural
from neurobundle.load.likeness import most_alike, nearly_same
from neurobundle.load.traits import Look

#: Kinds of leaks, in the order in which they are shown.
CASE, COPY, NEAR, PERSON, KIN = "case", "copy", "near-duplicate", "person", "person-suffix"
LEAKS = (CASE, COPY, NEAR, PERSON, KIN)

#: A message names so many cases of a side.
MOST_NAMED = 3

#: Of each of two kin ids so many images are compared, spread evenly.
MOST_COMPARED = 40

_SUFFIX = re.compile(r"(.*[0-9])[-_ ]?[A-Za-z]")


@dataclass(frozen=True)
class Case:
    """A case of a datalist, as far as an audit looks at it.

    Attributes:
        name: its name.
        subject: the person.
        side: ``fold 0``, ``test`` and so on.
        label: its class, if it has one.
        looks: one a file that could be read.
    """

    name: str
    subject: str
    side: str
    label: int | None = None
    looks: tuple[Look, ...] = ()

    def __str__(self) -> str:
        """Its name and where it stands."""
        return f"{self.name} ({self.side})"


@dataclass(frozen=True)
class Leak:
    """Something that stands on two sides.

    Attributes:
        kind: one of :data:`LEAKS`.
        text: what was found, in a sentence without a full stop.
        cases: who is concerned, by name.
        facts: numbers for programs.
        pictures: two files that show it, if there are such.
    """

    kind: str
    text: str
    cases: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Look, ...] = ()


def find_leaks(cases: Sequence[Case]) -> list[Leak]:
    """All leaks between sides.

    Args:
        cases: of the whole datalist.

    Returns:
        By kind, in the order of :data:`LEAKS`.
    """
    finders: tuple[Callable[[Sequence[Case]], list[Leak]], ...] = (same_case, copies, near_copies, same_person, kin)
    return [leak for finder in finders for leak in finder(cases)]


def same_case(cases: Sequence[Case]) -> list[Leak]:
    """Cases of one name that stand in the training section and in the test section."""
    twice = _on_sides(cases, lambda case: [case.name])
    return [
        Leak(CASE, f"{name} stands in {_joined(sorted({c.side for c in its}))}", (str(name),)) for name, its in twice
    ]


def copies(cases: Sequence[Case]) -> list[Leak]:
    """Images of the same voxels on two sides; those of different classes say so."""
    found = []
    for content, its in _on_sides(cases, lambda case: [look.content for look in case.looks]):
        text = f"the same content: {_named(its, str)}"
        labels = {str(case.label) for case in its}
        if len(labels) > 1:
            text += f"; their classes differ: {_joined(sorted(labels))}"
        other = next(case for case in its if case.side != its[0].side)
        shown = tuple(look for case in (its[0], other) for look in case.looks if look.content == content)
        found.append(Leak(COPY, text, tuple(case.name for case in its), {"sha256": content}, shown[:2]))
    return found


def copies_inside(cases: Sequence[Case]) -> int:
    """How many images are copies of one before them on the same side: no leak, and still a waste."""
    seen = [(case.side, content) for case in cases for content in {look.content for look in case.looks}]
    return len(seen) - len(set(seen))


def near_copies(cases: Sequence[Case]) -> list[Leak]:
    """Images on two sides that are nearly the same; a pair of cases is named once, copies are not named again."""
    owners = [(case, look) for case in cases for look in case.looks]
    found: dict[tuple[str, str], Leak] = {}
    pairs = nearly_same([look.view for _, look in owners], [case.side for case, _ in owners])
    for pair in pairs:  # the most alike first
        (one, seen), (other, also) = owners[pair.first], owners[pair.second]
        if seen.content == also.content:
            continue
        turn = f", the second {pair.turn}" if pair.turn else ""
        text = f"{one} and {other}: correlation {pair.correlation:.3f}{turn}"
        facts = {"correlation": round(pair.correlation, 4), "turn": pair.turn}
        found.setdefault((one.name, other.name), Leak(NEAR, text, (one.name, other.name), facts, (seen, also)))
    return list(found.values())


def families(leaks: Iterable[Leak]) -> list[set[str]]:
    """Cases that are linked by leaks, directly or through others; the largest family first.

    >>> links = [Leak(NEAR, "", pair) for pair in (("a", "b"), ("c", "d"), ("b", "e"))]
    >>> [sorted(family) for family in families(links)]
    [['a', 'b', 'e'], ['c', 'd']]
    """
    family: dict[str, set[str]] = {}
    for leak in leaks:
        joined = set(leak.cases).union(*(family.get(case, set()) for case in leak.cases))
        family.update(dict.fromkeys(joined, joined))
    distinct = {id(one): one for one in family.values()}
    return sorted(distinct.values(), key=lambda one: (-len(one), min(one)))


def same_person(cases: Sequence[Case]) -> list[Leak]:
    """Persons with cases on two sides."""
    found = []
    for subject, its in _on_sides(cases, lambda case: [case.subject]):
        sides = sorted({case.side for case in its}, key=natural)
        where = _joined([f"{side} ({_named([c for c in its if c.side == side], lambda c: c.name)})" for side in sides])
        found.append(
            Leak(PERSON, f"{subject} stands in {where}", tuple(c.name for c in its), {"subject": str(subject)})
        )
    return found


def kin(cases: Sequence[Case]) -> list[Leak]:
    """Ids on two sides that differ by a suffix alone, and may be one person; with their most similar images."""
    found = []
    for base, its in _on_sides(cases, lambda case: [base_of(case.subject)]):
        ids = sorted({case.subject for case in its}, key=natural)
        sides = {name: sorted({case.side for case in its if case.subject == name}, key=natural) for name in ids}
        if len(ids) < 2 or len({tuple(side) for side in sides.values()}) < 2:
            continue
        text = f"{_joined([f'{name} ({_joined(sides[name])})' for name in ids])} differ by a suffix alone"
        alike = _most_alike(its)
        facts: dict[str, Any] = {"base": str(base), "subjects": sides}
        if alike is not None:
            one, other, correlation = alike
            facts["correlation"] = round(correlation, 4)
            text += f"; their most similar images: {one[0]} and {other[0]}, correlation {correlation:.3f}"
        shown = (alike[0][1], alike[1][1]) if alike is not None else ()
        found.append(Leak(KIN, text, tuple(case.name for case in its), facts, shown))
    return found


def base_of(subject: str) -> str:
    """An id without the letter behind its last digit.

    >>> base_of("MR029209E"), base_of("sub-07_a"), base_of("100360"), base_of("anna")
    ('MR029209', 'sub-07', '100360', 'anna')
    """
    match = _SUFFIX.fullmatch(subject)
    return match[1] if match else subject


def _most_alike(cases: Sequence[Case]) -> tuple[tuple[Case, Look], tuple[Case, Look], float] | None:
    """The two most similar images of different ids on different sides."""
    by_id: dict[tuple[str, str, int], list[tuple[Case, Look]]] = defaultdict(list)
    for case in cases:
        for look in case.looks:
            by_id[case.subject, case.side, look.view.ndim].append((case, look))
    best: tuple[tuple[Case, Look], tuple[Case, Look], float] | None = None
    groups = [(key, its[:: 1 + (len(its) - 1) // MOST_COMPARED]) for key, its in by_id.items()]
    for n, (ours, first) in enumerate(groups):
        for theirs, second in groups[n + 1 :]:
            if ours[0] == theirs[0] or ours[1] == theirs[1] or ours[2] != theirs[2]:
                continue
            one, other, height = most_alike([look.view for _, look in first], [look.view for _, look in second])
            if best is None or height > best[2]:
                best = first[one], second[other], height
    return best


def _on_sides(
    cases: Sequence[Case], keys_of: Callable[[Case], Iterable[Hashable]]
) -> list[tuple[Hashable, list[Case]]]:
    """What several cases share that stand on two sides or more, and who they are."""
    by_key: dict[Hashable, list[Case]] = defaultdict(list)
    for case in cases:
        for key in dict.fromkeys(keys_of(case)):
            by_key[key].append(case)
    return [(key, its) for key, its in by_key.items() if len({case.side for case in its}) > 1]


def _named(cases: Sequence[Case], how: Callable[[Case], str]) -> str:
    """Some of many cases, and how many more; of as many sides as can be."""
    first = {case.side: n for n, case in reversed([*enumerate(cases)])}
    chosen = sorted(first.values())[:MOST_NAMED]
    chosen += [n for n in range(len(cases)) if n not in chosen][: MOST_NAMED - len(chosen)]
    names = [how(cases[n]) for n in sorted(chosen)]
    left = len(cases) - len(chosen)
    return f"{', '.join(names)} and {left} more" if left else _joined(names)


def _joined(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    >>> _joined(["a", "b", "c"]), _joined(["a"])
    ('a, b and c', 'a')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
