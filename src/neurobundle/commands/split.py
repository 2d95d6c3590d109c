"""``neurobundle split``: from a folder of images and labels to a datalist with folds by subject."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from neurobundle import __version__
from neurobundle.errors import InputError, SettingError
from neurobundle.load.datalist import write_datalist
from neurobundle.load.labels import PairFacts, check_pair
from neurobundle.load.layouts import find_pairs
from neurobundle.load.pairs import FoundPairs, Pair
from neurobundle.train.folds import Split, describe, make_folds
from neurobundle.train.grouping import not_in_table

logger = logging.getLogger(__name__)


def split(
    data: str | Path,
    output: str | Path,
    *,
    folds: int = 5,
    group_by: str | None = None,
    layout: str = "auto",
    images: str | Path | None = None,
    labels: str | Path | None = None,
    subjects: str | Path | None = None,
    seed: int = 0,
    test_share: float = 0.0,
    label_values: Collection[int] | None = None,
    merge_duplicates: bool = False,
    relative_to_data: bool = False,
    name: str | None = None,
    progress: Callable[[list[Pair]], Iterable[Pair]] | None = None,
) -> dict[str, Any]:
    """Find the pairs, check each, deal them to folds, and write the datalist.

    A pair or file that is refused is logged, in one line each, and left out; the others go on.

    Args:
        data: the data folder.
        output: the datalist to write.
        folds: number of folds.
        group_by: a rule of :mod:`neurobundle.train.grouping`; if None, ``subject`` where the layout names subjects,
            else it must be given, since a wrong guess flatters every number that follows.
        layout: one of :data:`neurobundle.load.layouts.LAYOUTS`, or ``auto``.
        images: the images' folder, if the layout does not say.
        labels: the labels' folder, likewise.
        subjects: the table of ``column:NAME``.
        seed: what the order of the groups is drawn from.
        test_share: share of the cases held out as test set.
        label_values: the values that a label map may have; those of the layout's dataset.json if None, else any.
        merge_duplicates: whether groups that share content or a subject become one.
        relative_to_data: whether paths in the datalist are relative to the data folder, for a datalist that is shipped
            apart from the data and read with ``dataset_dir``; else they are relative to the datalist.
        name: the data set's name in the datalist; the folder's if None.
        progress: wraps the list of pairs that are checked, as tqdm does.

    Returns:
        ``datalist`` (the file, or None if no case passed), ``layout``, ``passed`` (cases), ``failed`` (a dict of
        ``case``, ``file``, ``error`` each), ``cases`` (an entry per case: ``case``, ``subject``, ``fold`` or
        ``"test"``, ``passed``), ``label_values`` (those seen), ``description`` (sentences).

    Raises:
        NoInputError: if there is nothing in the folder.
        SettingError: if a setting cannot be used or does not fit the data.
        InputError: if groups share content or a subject and are not merged.
        EnvironmentFault: if the datalist cannot be written.
    """
    if Path(output).is_dir():
        raise SettingError("the output is a folder, not a file", "Give a name such as datalist.json.", file=output)
    found = find_pairs(data, images=images, labels=labels, layout=layout)
    rule = group_by or default_rule(found)
    known = label_values if label_values is not None else (set(found.labels) or None)
    facts, problems = check_all(found.pairs, known, progress)
    problems += take_out(facts, not_in_table(found.pairs, rule, subjects))
    report = begin_report(found, [*found.problems, *problems], facts)
    good = [pair for pair in found.pairs if pair.case in facts]
    if not good:
        return report
    dealt = make_folds(
        good,
        folds,
        rule,
        seed,
        subjects_file=subjects,
        test_share=test_share,
        merge_duplicates=merge_duplicates,
        facts=facts,
    )
    metadata = metadata_of(name or Path(data).resolve().name, found, dealt, facts, report["label_values"])
    write_datalist(output, *dealt.items(), metadata, base_dir=data if relative_to_data else None)
    report.update(datalist=str(output), passed=list(dealt.groups))
    report["cases"] = [case_row(case, dealt) for case in dealt.groups] + report["cases"]
    said = describe(dealt, dropped=len(report["failed"]))
    return {**report, "description": f"{found.layout} layout: {said} Written: {output}"}


def check_all(
    pairs: list[Pair],
    known_labels: Collection[int] | None,
    progress: Callable[[list[Pair]], Iterable[Pair]] | None = None,
) -> tuple[dict[str, PairFacts], list[InputError]]:
    """Check each pair.

    Returns:
        Case to what was learned, for those that passed, and an error for each of the others.
    """
    facts: dict[str, PairFacts] = {}
    problems: list[InputError] = []
    for pair in progress(pairs) if progress else pairs:
        try:
            facts[pair.case] = check_pair(pair.images, pair.label or "", known_labels, case=pair.case)
        except InputError as error:
            problems.append(error)
    return facts, problems


def take_out(facts: dict[str, PairFacts], problems: list[InputError]) -> list[InputError]:
    """Take the cases of problems out of those that passed.

    Returns:
        The problems of cases that had none before.
    """
    return [problem for problem in problems if facts.pop(problem.case, None) is not None]


def data_digest(dealt: Split, facts: Mapping[str, PairFacts]) -> str:
    """One sha256 over all cases and their content, by which others see that they have the same data."""
    digest = hashlib.sha256()
    for case in sorted(dealt.groups):
        digest.update("\n".join([case, *facts[case].image_hashes, facts[case].label_hash or "-", ""]).encode())
    return digest.hexdigest()


def default_rule(found: FoundPairs) -> str:
    """``subject``, where the layout names all subjects.

    Raises:
        SettingError: where it does not: a wrong guess would flatter every number that follows.
    """
    if found.pairs and all(pair.subject for pair in found.pairs):
        return "subject"
    raise SettingError(
        f"the layout {found.layout} does not say which cases are one person's",
        "Give --group-by blocks:N, regex:PATTERN or column:NAME; --group-by case if each case is another person.",
    )


def begin_report(found: FoundPairs, problems: list[InputError], facts: Mapping[str, PairFacts]) -> dict[str, Any]:
    """The report as it stands before anything is dealt; each problem is logged."""
    for problem in problems:
        logger.error("ERROR %s", problem)
    failed = [{"case": p.case, "file": p.file, "error": f"{p.cause}. {p.way_out}".strip()} for p in problems]
    return {
        "datalist": None,
        "layout": found.layout,
        "passed": [],
        "failed": failed,
        "cases": [{"case": entry["case"], "passed": False} for entry in failed],
        "label_values": sorted({value for fact in facts.values() for value in fact.values}),
        "description": f"No case passed, {len(failed)} were refused; no datalist was written.",
    }


def case_row(case: str, dealt: Split) -> dict[str, Any]:
    """A report's entry of a case that was dealt."""
    side: int | str = dealt.folds.get(case, "test")
    return {"case": case, "passed": True, "subject": dealt.subjects[case], "fold": side}


def metadata_of(
    title: str, found: FoundPairs, dealt: Split, facts: Mapping[str, PairFacts], values: list[int]
) -> dict[str, Any]:
    """The head of the datalist: how it was made, without a path, a date or a machine's name."""
    names = {value: "background" if value == 0 else f"label {value}" for value in values} | found.labels
    labels = {str(value): name for value, name in sorted(names.items())}
    channels = {"modality": dict(enumerate(found.channels))} if found.channels else {}
    how = {
        "folds": dealt.n_folds,
        "group_by": dealt.group_by,
        "seed": dealt.seed,
        "groups": len(set(dealt.groups.values())),
        "merged": dealt.merged,
        "left_out": len(found.problems) + len(found.pairs) - len(dealt.groups),
        "data_sha256": data_digest(dealt, facts),
        "description": describe(dealt),
        "neurobundle": __version__,
    }
    return {"name": title, "labels": labels, **channels, "split": how}
