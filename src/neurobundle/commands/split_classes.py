"""``neurobundle split`` on cases that have one class each: folds by person, each with its share of every class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from neurobundle.commands.split import begin_report, case_row, default_rule, metadata_of, take_out
from neurobundle.errors import InputError, SettingError
from neurobundle.load.answers import check_class_names
from neurobundle.load.class_folders import FoundClasses, find_class_folders, find_class_table, read_class_list
from neurobundle.load.class_labels import LEAKS, check_class_folds, check_classified
from neurobundle.load.datalist import NOTHING_OUTLINED, Item, write_datalist
from neurobundle.load.labels import PairFacts
from neurobundle.load.likeness import NEARLY_SAME
from neurobundle.load.names import unique_case_names
from neurobundle.load.pairs import Pair, volumes
from neurobundle.load.traits import look_at
from neurobundle.train.folds import Split, describe, make_folds
from neurobundle.train.grouping import group_cases, not_in_table
from neurobundle.train.leaks import Case, families, near_copies
from neurobundle.train.stratify import deal_by_class

logger = logging.getLogger(__name__)

#: What a datalist says that was dealt case by case.
LEAKING = "cases were dealt one by one, so persons stand in several folds"


def split_classes(
    data: str | Path,
    output: str | Path,
    *,
    column: str | None = None,
    table: str | Path | None = None,
    classes: str | None = None,
    folds: int = 5,
    group_by: str | None = None,
    subjects: str | Path | None = None,
    seed: int = 0,
    test_share: float = 0.0,
    merge_duplicates: bool = False,
    merge_near_duplicates: bool = False,
    leak: bool = False,
    no_finding: Mapping[str, Path] | None = None,
    relative_to_data: bool = False,
    name: str | None = None,
    progress: Callable[[list[Pair]], Iterable[Pair]] | None = None,
) -> dict[str, Any]:
    """Find the cases, check each, deal them to folds by class and person, and write the datalist.

    A case, row or file that is refused is logged, in one line each, and left out; the others go on.

    Args:
        data: a folder with a folder a class; or, with ``column``, with a table and its images.
        output: the datalist to write.
        column: the table's column with the class.
        table: the table; ``index.csv`` of the folder if None.
        classes: ``VALUE[=NAME],...`` in the order of their numbers; all, in the alphabet's order, if None.
        folds: number of folds.
        group_by: a rule of :mod:`neurobundle.train.grouping`; if None, ``subject`` where the table names persons.
        subjects: the table of ``column:NAME``.
        seed: what the order of the groups is drawn from.
        test_share: share of the cases held out as test set; whole groups, of any class.
        merge_duplicates: whether groups that share content or a subject become one.
        merge_near_duplicates: whether groups with images that are nearly the same become one as well
            (:mod:`neurobundle.load.likeness`).
        leak: deal case by case though it is known whose they are, and write into the datalist that it leaks: for a
            protocol that is shown beside an honest one.
        no_finding: a folder of images for each class that is added to the others, behind them. Nothing is to be
            outlined in these images (their ``mask`` is 0), each counts as a person of its own, and every case has its
            folder's name as ``source``.
        relative_to_data: whether paths in the datalist are relative to the data folder.
        name: the data set's name in the datalist; the folder's if None.
        progress: wraps the list of cases that are checked, as tqdm does.

    Returns:
        As :func:`neurobundle.commands.split.split`; ``label_values`` are the numbers of the classes.

    Raises:
        NoInputError: if there is nothing in the folder.
        SettingError: if a setting cannot be used or does not fit the data.
        InputError: if the table cannot be used, or groups share content or a subject and are not merged.
        EnvironmentFault: if the datalist cannot be written.
    """
    if Path(output).is_dir():
        raise SettingError("the output is a folder, not a file", "Give a name such as datalist.json.", file=output)
    found = _find(Path(data), column, table, classes)
    source_of = _add_folders(found, Path(data), no_finding) if no_finding else {}
    rule = group_by or default_rule(found)
    facts, problems = _check_all(found, progress)
    problems += take_out(facts, not_in_table(found.pairs, rule, subjects))
    report = begin_report(found, [*found.problems, *problems], facts)
    report["label_values"] = sorted(found.labels)
    good = [pair for pair in found.pairs if pair.case in facts]
    if not good:
        return report
    known = _with_families(good, rule, subjects, facts) if merge_near_duplicates else facts
    deal = _deal_leaking if leak else _deal
    dealt = deal(
        good,
        rule,
        found.class_of,
        subjects_file=subjects,
        n_folds=folds,
        seed=seed,
        test_share=test_share,
        merge_duplicates=merge_duplicates or merge_near_duplicates,
        facts=known,
    )
    metadata = metadata_of(name or Path(data).resolve().name, found, dealt, facts, [])
    metadata["split"] |= {LEAKS: LEAKING} if leak else {}
    metadata["split"] |= {"near_duplicates": NEARLY_SAME} if merge_near_duplicates else {}
    training, test = ([_entry(item, found.class_of, source_of) for item in items] for items in dealt.items())
    write_datalist(output, training, test, metadata, base_dir=data if relative_to_data else None)
    for problem in check_class_folds(training, list(found.labels.values()), range(folds), Path(output)):
        logger.warning("WARNING %s", problem)
    report.update(datalist=str(output), passed=list(dealt.groups))
    report["cases"] = [case_row(case, dealt) for case in dealt.groups] + report["cases"]
    said = [describe(dealt, dropped=len(report["failed"])), *_by_class(found, dealt), *([_LOUD] if leak else [])]
    return {**report, "description": f"{found.layout} layout: {' '.join(said)} Written: {output}"}


_LOUD = f"THIS SPLIT LEAKS: {LEAKING}."


def _find(data: Path, column: str | None, table: str | Path | None, classes: str | None) -> FoundClasses:
    names = read_class_list(classes) if classes else None
    if column is None:
        return find_class_folders(data, names)
    return find_class_table(data, column, names, Path(table) if table else None)


def _add_folders(found: FoundClasses, data: Path, folders: Mapping[str, Path]) -> dict[str, tuple[str, bool]]:
    """Each folder's images as one more class.

    Returns:
        For each case the name of its folder, and whether nothing is to be outlined in it.
    """
    check_class_names([*found.labels.values(), *folders])
    persons = any(pair.subject for pair in found.pairs)
    pairs = [(pair, found.class_of[pair.case], data, False) for pair in found.pairs]
    for name, folder in folders.items():
        found.labels[len(found.labels)] = name
        images = volumes(folder)
        if not images:
            what = "holds no image" if folder.is_dir() else "is not there"
            cause = f"the folder of the class {name!r} {what}"
            found.problems.append(InputError(cause, "Add its images, or leave the class out.", file=folder))
        pairs += [(Pair("", image), len(found.labels) - 1, folder, True) for image in images]
    names = unique_case_names(pair.images[0] for pair, *_ in pairs)
    found.pairs, found.class_of, sources = [], {}, {}
    for pair, number, folder, nothing in pairs:
        case = names[pair.images[0]]
        whose = case if nothing and persons else pair.subject
        found.pairs.append(replace(pair, case=case, subject=whose))
        found.class_of[case], sources[case] = number, (folder.resolve().name, nothing)
    return sources


def _with_families(
    pairs: list[Pair], rule: str, subjects: str | Path | None, facts: Mapping[str, PairFacts]
) -> dict[str, PairFacts]:
    """Facts in which images of two groups that are nearly the same share a hash, by which the groups become one."""
    groups = group_cases(pairs, rule, subjects)
    cases = []
    for pair in pairs:
        looks = [look_at(path, allow_empty=len(pair.images) > 1) for path in pair.images]
        seen = tuple(look for look in looks if not look.empty)
        cases.append(Case(pair.case, "", groups[pair.case], looks=seen))
    known = dict(facts)
    for family in families(near_copies(cases)):
        name = f"like {min(family)}"
        for case in family:
            known[case] = replace(known[case], image_hashes=(*known[case].image_hashes, name))
    return known


def _deal(pairs: list[Pair], rule: str, class_of: Mapping[str, int], **how: Any) -> Split:
    """Whole groups, each fold with its share of every class."""
    dealt = make_folds(pairs, group_by=rule, **how)
    groups = {case: dealt.groups[case] for case in dealt.folds}
    dealt.folds = deal_by_class(groups, class_of, dealt.n_folds, dealt.seed)
    return dealt


def _deal_leaking(
    pairs: list[Pair], rule: str, class_of: Mapping[str, int], subjects_file: str | Path | None, **how: Any
) -> Split:
    """Case by case, though the rule says whose they are; that stands in the datalist."""
    persons = group_cases(pairs, rule, subjects_file)
    dealt = _deal([replace(pair, subject=None) for pair in pairs], "case", class_of, **how)
    dealt.subjects |= persons
    return dealt


def _check_all(
    found: FoundClasses, progress: Callable[[list[Pair]], Iterable[Pair]] | None
) -> tuple[dict[str, PairFacts], list[InputError]]:
    names = list(found.labels.values())
    facts: dict[str, PairFacts] = {}
    problems: list[InputError] = []
    for pair in progress(found.pairs) if progress else found.pairs:
        try:
            facts[pair.case] = check_classified(
                pair.images, found.class_of[pair.case], names, pair.label, case=pair.case
            )
        except InputError as error:
            problems.append(error)
    return facts, problems


def _entry(item: Item, class_of: Mapping[str, int], source_of: Mapping[str, tuple[str, bool]]) -> Item:
    """An entry with its class; what was its label map is its mask; and its source, if there are several."""
    mask = {"mask": item["label"]} if "label" in item else {}
    source, nothing = source_of.get(item["case"], ("", False))
    mask |= {"mask": NOTHING_OUTLINED} if nothing else {}
    return {**item, "label": class_of[item["case"]], **mask, **({"source": source} if source else {})}


def _by_class(found: FoundClasses, dealt: Split) -> list[str]:
    """How many cases of each class the folds have."""
    counts = Counter((dealt.folds[case], found.class_of[case]) for case in dealt.folds)
    parts = [
        f"{name} {', '.join(str(counts[fold, number]) for fold in range(dealt.n_folds))}"
        for number, name in found.labels.items()
    ]
    return [f"By class: {'; '.join(parts)}."]
