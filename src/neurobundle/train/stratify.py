"""Deal groups to folds so that each fold has its share of every class. Imports no torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from neurobundle.errors import SettingError
from neurobundle.train.folds import shuffling_key


def deal_by_class(groups: Mapping[str, str], classes: Mapping[str, int], n_folds: int, seed: int = 0) -> dict[str, int]:
    """Deal whole groups, the largest first, each to the fold that has the least of its classes.

    How much a fold has of a class is its share of the class's cases, weighted by the group's own cases of it; of equal
    folds the one with the fewest cases is taken, then the first. Groups of one size go in an order that is drawn from
    the seed and each group's name, so the same cases and seed give the same folds on every machine.

    Args:
        groups: the group of each case.
        classes: the class of each of these cases.
        n_folds: how many.
        seed: a whole number.

    Returns:
        The fold of each case.

    Raises:
        SettingError: if there are fewer groups than folds.

    >>> groups = {"a1": "anna", "a2": "anna", "b": "bert", "c": "carl", "d": "dora"}
    >>> deal_by_class(groups, {"a1": 0, "a2": 0, "b": 0, "c": 1, "d": 1}, 2)  # anna goes first, bert to the other fold
    {'a1': 0, 'a2': 0, 'b': 1, 'c': 0, 'd': 1}
    """
    sizes: dict[str, Counter[int]] = defaultdict(Counter)
    for case, group in groups.items():
        sizes[group][classes[case]] += 1
    if len(sizes) < n_folds:
        raise SettingError(f"{n_folds} folds need {n_folds} groups or more, there are {len(sizes)}", "Ask for fewer.")
    total = Counter(classes[case] for case in groups)
    loads: list[Counter[int]] = [Counter() for _ in range(n_folds)]
    fold_of: dict[str, int] = {}

    def burden(group: str, fold: int) -> tuple[float, int, int]:
        shares = sum(count * loads[fold][number] / total[number] for number, count in sorted(sizes[group].items()))
        return shares, loads[fold].total(), fold

    for group in sorted(sizes, key=lambda group: (-sizes[group].total(), shuffling_key(f"{seed}:{group}"))):
        fold = min(range(n_folds), key=lambda fold: burden(group, fold))
        fold_of[group] = fold
        loads[fold] += sizes[group]
    return {case: fold_of[group] for case, group in groups.items()}
