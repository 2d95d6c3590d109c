"""Split cases into folds by group, and prove that nothing stands on two sides.

A *group* is what stays together: a person, a block of ids, a site. A *side* is a fold or the held-out test set. Two
cases have the *same content* if any image, or any label map that is not empty, has the same voxels, however it is
compressed, typed or named (:func:`neurobundle.load.labels.content_hash`). Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.load.datalist import Item, natural, read_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.labels import PairFacts, content_hash, read_volume
from neurobundle.load.pairs import Pair
from neurobundle.train.grouping import group_cases

#: The side that no fold is.
TEST = "test"

#: A description names so many groups that were merged; of more it counts them.
MOST_NAMED = 40

#: Hashes of a case's content: of each image, and of its label if that is not empty.
Content = tuple[str, ...]


@dataclass
class Split:
    """Cases on their sides.

    Attributes:
        folds: case to fold; the cases of the test set are not in it.
        test: the cases held out.
        groups: case to group, after merging.
        subjects: case to subject: the layout's, else the group.
        pairs: case to pair.
        n_folds: number of folds.
        group_by: the rule.
        seed: what the order of the groups was drawn from.
        merged: for each union of groups that ``merge_duplicates`` made, the groups it was made of.
    """

    folds: dict[str, int]
    test: list[str]
    groups: dict[str, str]
    subjects: dict[str, str]
    pairs: dict[str, Pair]
    n_folds: int
    group_by: str
    seed: int
    merged: list[list[str]] = field(default_factory=list)

    def items(self) -> tuple[list[Item], list[Item]]:
        """The entries of the datalist's ``training`` and ``test``."""
        entries = {case: self._entry(case) for case in self.pairs}
        training = [{**entries[case], "fold": fold} for case, fold in self.folds.items()]
        return training, [entries[case] for case in self.test]

    def _entry(self, case: str) -> Item:
        pair = self.pairs[case]
        image = [str(path) for path in pair.images] if isinstance(pair.image, tuple) else str(pair.image)
        label = {"label": str(pair.label)} if pair.label is not None else {}
        return {"case": case, "subject": self.subjects[case], "image": image, **label}


def make_folds(
    pairs: Sequence[Pair],
    n_folds: int = 5,
    group_by: str = "subject",
    seed: int = 0,
    *,
    subjects_file: str | Path | None = None,
    test_share: float = 0.0,
    merge_duplicates: bool = False,
    facts: Mapping[str, PairFacts] | None = None,
) -> Split:
    """Deal groups to folds so that the folds have nearly the same number of cases.

    The largest group goes first, each to the fold with the fewest cases; groups of one size go in an order that is
    drawn from the seed and each group's name, so the same cases and seed give the same folds on every machine.

    Args:
        pairs: the cases, each with a name of its own.
        n_folds: number of folds, 2 or more.
        group_by: ``subject``, ``case``, ``blocks:N``, ``regex:PATTERN`` or ``column:NAME``.
        seed: a whole number.
        subjects_file: the table of ``column:NAME``.
        test_share: the share of cases to hold out as a test set, whole groups, in [0, 1).
        merge_duplicates: whether groups that share content or a subject become one group, or are refused.
        facts: what the check of each pair learned; without it the files are read here.

    Raises:
        SettingError: if a setting cannot be used, the rule does not fit, or there are fewer groups than folds.
        InputError: if groups share a file's content or a subject; both files are named.
    """
    _check_settings(n_folds, test_share)
    by_case = {pair.case: pair for pair in sorted(pairs, key=lambda pair: natural(pair.case))}
    if len(by_case) != len(pairs):
        twice = Counter(pair.case for pair in pairs).most_common(1)[0][0]
        raise SettingError("two cases have this name", "Rename one of them.", case=twice)
    groups = group_cases(list(by_case.values()), group_by, subjects_file)
    content = {case: _content_of(pair, (facts or {}).get(case)) for case, pair in by_case.items()}
    subjects = {case: pair.subject for case, pair in by_case.items() if pair.subject is not None}
    merged: list[list[str]] = []
    if merge_duplicates:
        groups, merged = _merge(groups, content, subjects)
    else:
        problems = shared_between(groups, content, subjects, _first_files(by_case.values()), "groups")
        if problems:
            raise problems[0]
    test_groups = _draw_test(groups, test_share, seed)
    fold_of_group = _deal({case: group for case, group in groups.items() if group not in test_groups}, n_folds, seed)
    return Split(
        folds={case: fold_of_group[group] for case, group in groups.items() if group not in test_groups},
        test=[case for case, group in groups.items() if group in test_groups],
        groups=groups,
        subjects={case: subjects.get(case, group) for case, group in groups.items()},
        pairs=by_case,
        n_folds=n_folds,
        group_by=group_by,
        seed=seed,
        merged=merged,
    )


def audit_folds(
    path: str | Path, base_dir: str | Path | None = None, *, read_files: bool = True
) -> list[NeurobundleError]:
    """Check an existing datalist: no subject and no content in two folds, or in a fold and the test set.

    Args:
        path: the datalist file.
        base_dir: what its paths are relative to; its own folder if None.
        read_files: whether to read and hash the files; without, only subjects are compared.

    Returns:
        What was found, worst first to read: a subject, or two files; a file that cannot be read is a finding. Empty
        means that the split is sound.

    Raises:
        SettingError: if the file is no datalist with folds.
        InputError: if files are missing and ``read_files`` is true.
    """
    training = read_datalist(path, "training", base_dir, need_fold=True, check_files=read_files)
    test = read_datalist(path, TEST, base_dir, required=False, check_files=read_files)
    items = {item["case"]: item for item in training}
    sides = {item["case"]: f"fold {item['fold']}" for item in training}
    problems: list[NeurobundleError] = []
    for item in test:
        if item["case"] in items:
            cause = f"it is in 'training' ({sides[item['case']]}) and in 'test'"
            problems.append(InputError(cause, "Take one out.", case=item["case"], file=path))
            continue
        items[item["case"]], sides[item["case"]] = item, TEST
    content: dict[str, Content] = {}
    for case, item in items.items() if read_files else ():
        try:
            content[case] = _content_of(_pair_of(item))
        except InputError as error:
            problems.append(error.for_case(case))
    subjects = {case: str(item["subject"]) for case, item in items.items()}
    files = _first_files(_pair_of(item) for item in items.values())
    return problems + list(shared_between(sides, content, subjects, files, "sides"))


def shared_between(
    sides: Mapping[str, str],
    content: Mapping[str, Content],
    subjects: Mapping[str, str],
    files: Mapping[str, str],
    what: str,
) -> list[InputError]:
    """An error for each subject, and each file's content, that stands on two sides.

    Args:
        sides: case to its side or group.
        content: case to the hashes of its files.
        subjects: case to subject, where known.
        files: case to the file that a message names.
        what: the word for the sides in the message.
    """
    problems: dict[tuple[str, str], InputError] = {}
    for kind, keys in (("subject", {case: (s,) for case, s in subjects.items()}), ("content", content)):
        for key, cases in _by_key(keys).items():
            other = next((case for case in cases[1:] if sides[case] != sides[cases[0]]), None)
            if other is None or (cases[0], other) in problems:
                continue
            first = cases[0]
            said = f"the subject {key!r} is" if kind == "subject" else "the same content is"
            cause = f"{said} in two {what}: {first} ({files[first]}, {sides[first]}) and {other} ({sides[other]})"
            way_out = "Merge them with --merge-duplicates, or take one out."
            problems[first, other] = InputError(cause, way_out, case=other, file=files[other])
    return list(problems.values())


def describe(split: Split, dropped: int = 0) -> str:
    """What a split did, in sentences.

    Args:
        split: the split.
        dropped: number of files or cases that were left out before.
    """
    counts = Counter(split.folds.values())
    training = {split.groups[case] for case in split.folds}
    per_fold = ", ".join(str(counts[fold]) for fold in range(split.n_folds))
    said = [
        f"{len(split.folds)} cases in {len(training)} groups ({split.group_by}) dealt to {split.n_folds} folds"
        f" with {per_fold} cases (seed {split.seed})."
    ]
    if split.test:
        held = len({split.groups[case] for case in split.test})
        said.append(f"{len(split.test)} cases in {held} groups held out as test set.")
    if split.merged:
        number = sum(map(len, split.merged))
        which = "; ".join(" + ".join(union) for union in split.merged)
        many = f"{number} groups became {len(split.merged)}, the largest of {max(map(len, split.merged))}"
        said.append(f"Merged because of shared content or subject: {which if number <= MOST_NAMED else many}.")
    said.append("No group and no file content stands on two sides.")
    if dropped:
        said.append(f"{dropped} left out, each named above.")
    return " ".join(said)


def _check_settings(n_folds: int, test_share: float) -> None:
    if n_folds < 2:
        raise SettingError(f"the number of folds must be 2 or more, got {n_folds!r}", "5 is usual.")
    if not 0 <= test_share < 1:
        raise SettingError(f"the test share must be in [0, 1), got {test_share!r}", "0.2 holds out a fifth.")


def _content_of(pair: Pair, facts: PairFacts | None = None) -> Content:
    if facts is not None:
        return (*facts.image_hashes, *([facts.label_hash] if facts.label_hash else ()))
    hashes = [content_hash(read_volume(path).data) for path in pair.images]
    if pair.label is not None:
        label = read_volume(pair.label, LABEL).data
        hashes += [content_hash(label)] if label.any() else []
    return tuple(hashes)


def _pair_of(item: Mapping[str, Any]) -> Pair:
    image = item["image"]
    images = tuple(map(Path, image)) if isinstance(image, list) else Path(image)
    label = item.get("label")
    return Pair(str(item["case"]), images, Path(label) if isinstance(label, str) else None)


def _first_files(pairs: Iterable[Pair]) -> dict[str, str]:
    return {pair.case: str(pair.images[0]) for pair in pairs}


def _by_key(keys: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Key to the cases that have it."""
    cases: dict[str, list[str]] = defaultdict(list)
    for case, its in keys.items():
        for key in dict.fromkeys(its):
            cases[key].append(case)
    return cases


def _merge(
    groups: Mapping[str, str], content: Mapping[str, Content], subjects: Mapping[str, str]
) -> tuple[dict[str, str], list[list[str]]]:
    """Unite the groups that share content or a subject; a union is called by its first group."""
    parent = {group: group for group in groups.values()}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    for keys in (content, {case: (subject,) for case, subject in subjects.items()}):
        for cases in _by_key(keys).values():
            first, *others = sorted({root(groups[case]) for case in cases}, key=natural)
            parent.update(dict.fromkeys(others, first))
    unions: dict[str, list[str]] = defaultdict(list)
    for group in parent:
        unions[root(group)].append(group)
    merged = [sorted(union, key=natural) for union in unions.values() if len(union) > 1]
    return {case: root(group) for case, group in groups.items()}, merged


def _draw_test(groups: Mapping[str, str], share: float, seed: int) -> set[str]:
    """Groups in drawn order, each taken if it brings the number of cases nearer to the share."""
    target, taken, chosen = share * len(groups), 0, set()
    sizes = Counter(groups.values())
    for group in sorted(sizes, key=lambda group: shuffling_key(f"{TEST}:{seed}:{group}")):
        if abs(taken + sizes[group] - target) < abs(taken - target):
            chosen.add(group)
            taken += sizes[group]
    if share > 0 and not chosen:
        smallest = min(sizes.values(), default=0)
        cause = f"a test share of {share:g} is {target:.1f} cases, and the smallest group has {smallest}"
        raise SettingError(cause, "Give a larger share, or 0.")
    return chosen


def _deal(groups: Mapping[str, str], n_folds: int, seed: int) -> dict[str, int]:
    """Group to fold: the largest first, to the fold with the fewest cases (Graham 1969, longest processing time)."""
    sizes = Counter(groups.values())
    if len(sizes) < n_folds:
        raise SettingError(
            f"{n_folds} folds need {n_folds} groups or more, there are {len(sizes)}: {', '.join(sorted(sizes)[:5])}",
            "Ask for fewer folds, or group more finely.",
        )
    loads, folds = [0] * n_folds, {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], shuffling_key(f"{seed}:{group}"))):
        fold = loads.index(min(loads))
        folds[group] = fold
        loads[fold] += sizes[group]
    return folds


def shuffling_key(text: str) -> str:
    """A random-looking order that depends on nothing but the text: not on Python's version, nor on other groups."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
