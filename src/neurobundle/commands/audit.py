"""``neurobundle audit``: does anything stand on two sides of a split, and can a class be told without looking?

A *leak* is what stands on two sides (:mod:`neurobundle.train.leaks`): a score over such folds is too good. A *confound*
is a class that can be told from where its images come from (:mod:`neurobundle.measure.confounds`): a score may be true,
and still be one of the wrong thing. A *gap* is a class that a side, or the whole datalist, has no case of. Leaks decide
the exit code; confounds and gaps do where that is asked for. Imports no torch.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurobundle.errors import ExitCode, InputError, NoInputError, SettingError, closest, exit_code
from neurobundle.load.class_labels import leaks_of
from neurobundle.load.datalist import Item, load_json, natural, read_datalist
from neurobundle.load.likeness import NEARLY_SAME
from neurobundle.load.traits import Look, Trait, look_at
from neurobundle.measure.confounds import CONFOUNDED, LEAST_PERSONS, Confound, confounds
from neurobundle.train.leaks import LEAKS, NEAR, Case, Leak, copies_inside, families, find_leaks

logger = logging.getLogger(__name__)

CONFOUND, GAP = "confound", "class-missing"

#: Keys of an entry that say where it comes from.
SOURCE_KEYS = ("source", "site", "scanner", "institution", "dataset")

#: The trait that is the folder which a file lies in.
FOLDER = "folder"

#: Of each kind so many are printed; a file has them all.
MOST_SHOWN = 20

TRAINING, TEST = "training", "test"

Progress = Callable[[list[Any]], Iterable[Any]]


@dataclass
class AuditReport:
    """What an audit found.

    Attributes:
        cases: all, with what was read of them.
        leaks: what stands on two sides.
        confounds: what each trait says of each class, the most telling first.
        gaps: sentences on classes that are missing somewhere.
        notes: sentences on what counts as nothing.
        failed: files that cannot be read, and labels that are none.
        classes: number to name; empty where cases have no class.
        allowed: kinds of leaks that do not count.
        strict: whether confounds and gaps count.
    """

    cases: list[Case]
    leaks: list[Leak] = field(default_factory=list)
    confounds: list[Confound] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: list[InputError] = field(default_factory=list)
    classes: dict[int, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()
    strict: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """6 if anything was found that counts; else as of any command, 3 or 4 if files failed."""
        told = bool(self.gaps) or any(confound.found for confound in self.confounds)
        if any(leak.kind not in self.allowed for leak in self.leaks) or (self.strict and told):
            return ExitCode.AUDIT
        bad = {error.case for error in self.failed}
        return exit_code(case.name not in bad for case in self.cases)

    def found(self) -> list[tuple[str, str]]:
        """Kind and sentence of everything that was found, leaks first."""
        said = [(leak.kind, leak.text) for leak in self.leaks]
        said += [(CONFOUND, self.sentence(confound)) for confound in self.confounds if confound.found]
        return said + [(GAP, text) for text in self.gaps]

    def sentence(self, confound: Confound) -> str:
        """What a confound means."""
        ours, others = (
            f"{value:g}" if isinstance(value, float) else str(value)
            for value in (confound.typical, confound.typical_of_others)
        )
        return (
            f"class {self.classes[confound.label]!r} can be told from the {confound.trait} alone: balanced accuracy"
            f" {confound.accuracy:.3f} ({confound.low:.3f} to {confound.high:.3f}), 0.5 is chance;"
            f" {ours} in the class, {others} in the others"
        )

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        leaks = [{"kind": k.kind, "text": k.text, "cases": list(k.cases), **k.facts} for k in self.leaks]
        judged = [
            {
                "class": self.classes[row.label],
                "trait": row.trait,
                "balanced_accuracy": round(row.accuracy, 4),
                "interval": [round(row.low, 4), round(row.high, 4)],
                "typical": row.typical,
                "typical_of_others": row.typical_of_others,
                "found": row.found,
            }
            for row in self.confounds
        ]
        return {
            "n_cases": len(self.cases),
            "sides": dict(sorted(Counter(case.side for case in self.cases).items())),
            "n_subjects": len({case.subject for case in self.cases}),
            "classes": {str(number): name for number, name in self.classes.items()},
            "leaks": leaks,
            "confounds": judged,
            "gaps": self.gaps,
            "notes": self.notes,
            "failed": [{"case": error.case, "error": error.brief()} for error in self.failed],
            "thresholds": {"near_duplicate": NEARLY_SAME, "confound": CONFOUNDED, "least_persons": LEAST_PERSONS},
            "allowed": sorted(self.allowed),
            "strict": self.strict,
            "exit_code": int(self.exit_code),
        }


def audit(
    path: str | Path,
    dataset_dir: str | Path | None = None,
    *,
    allow: Collection[str] = (),
    strict: bool = False,
    progress: Progress = lambda items: items,
) -> AuditReport:
    """Read every image of a datalist once, and look for leaks between its sides and for confounded classes.

    A file that cannot be read is logged, in one line, and the others go on. Label maps are not read.

    Args:
        path: the datalist, with folds, a test section, or both.
        dataset_dir: what its paths are relative to; its own folder if None.
        allow: kinds of leaks that are reported and do not count.
        strict: whether confounds and gaps count.
        progress: wraps the list of cases, as tqdm does.

    Raises:
        SettingError: if the file is no datalist, all cases are on one side, or a kind is unknown.
        NoInputError: if it has no cases.
    """
    for kind in allow:
        if kind not in LEAKS:
            raise SettingError(f"there is no leak {kind!r}{closest(kind, LEAKS)}", f"Kinds: {', '.join(LEAKS)}.")
    content = load_json(path)
    items = _items(Path(path), dataset_dir)
    classes, failed = _classes(content, items)
    bad = {error.case for error in failed}
    report = AuditReport([], failed=failed, classes=classes, allowed=frozenset(allow), strict=strict)
    for side, item in progress(items):
        looks, problems = _looks(item)
        report.failed += problems
        label = item.get("label") if classes and item["case"] not in bad else None
        report.cases.append(Case(str(item["case"]), str(item["subject"]), side, label, tuple(looks)))
    for error in report.failed:
        logger.error("ERROR %s", error)
    report.leaks = find_leaks(report.cases)
    report.notes = _notes(content, items, report, leaks_of(Path(path)))
    if classes:
        report.gaps = _gaps(report.cases, classes)
        _judge_classes(report, [item for _, item in items])
    return report


def write_audit(report: AuditReport, folder: Path) -> None:
    """Write ``audit.json`` and ``audit.html``.

    Raises:
        EnvironmentFault: if they cannot be written.
    """
    from neurobundle.commands.audit_page import write_audit_page
    from neurobundle.files import write_json

    write_json(folder / "audit.json", report.as_json())
    write_audit_page(report, folder / "audit.html")


def as_lines(report: AuditReport) -> list[str]:
    """The report for people, and its count at the end."""
    lines: list[str] = []
    found = report.found()
    for kind in dict.fromkeys(kind for kind, _ in found):
        texts = [text for other, text in found if other == kind]
        lines += [f"FOUND {kind} {text}." for text in texts[:MOST_SHOWN]]
        if len(texts) > MOST_SHOWN:
            lines.append(f"FOUND {kind} {len(texts) - MOST_SHOWN} more; -o DIR writes them all.")
    lines += [f"note: {note}" for note in report.notes]
    counts = Counter(kind for kind, _ in found)
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing found"
    sides = len({case.side for case in report.cases})
    failed = f", {len(report.failed)} failed" if report.failed else ""
    return [*lines, f"{len(report.cases)} cases on {sides} sides: {said}{failed}."]


def _items(path: Path, dataset_dir: str | Path | None) -> list[tuple[str, Item]]:
    """The entries of both sections, each with its side."""
    training = read_datalist(path, TRAINING, dataset_dir, check_files=False)
    test = read_datalist(path, TEST, dataset_dir, required=False, check_files=False)
    if not training and not test:
        raise NoInputError("the datalist has no cases", "Make it again: neurobundle split DATA.", file=path)
    dealt = any("fold" in item for item in training)
    if dealt:
        read_datalist(path, TRAINING, dataset_dir, need_fold=True, check_files=False)
    items = [(f"fold {item['fold']}" if dealt else TRAINING, item) for item in training]
    items += [(TEST, item) for item in test]
    sides = {side for side, _ in items}
    if len(sides) < 2:
        cause = f"all {len(items)} cases are on one side, {sides.pop()}: there is nothing to compare"
        raise SettingError(cause, "Deal them to folds: neurobundle split DATA -o datalist.json --folds 5.", file=path)
    return items


def _classes(content: Mapping[str, Any], items: Sequence[tuple[str, Item]]) -> tuple[dict[int, str], list[InputError]]:
    """The classes of a datalist whose labels are numbers, none for another; and the cases whose label is no class."""
    labels = [item.get("label") for _, item in items]
    given = sorted({label for label in labels if isinstance(label, int)})
    if not given:
        return {}, []
    stated = content.get("labels")
    named = isinstance(stated, Mapping) and bool(stated) and all(str(key).isdigit() for key in stated)
    names = stated if isinstance(stated, Mapping) and named else {n: f"class {n}" for n in given if n >= 0}
    classes = {int(key): str(name) for key, name in names.items()}
    known = ", ".join(f"{number} {name}" for number, name in classes.items())
    failed = []
    for _, item in items:
        label = item.get("label")
        if label not in classes:
            cause = "it has no class" if label is None else f"its label {label!r} is no class's number"
            error = InputError(cause, f"Give one of {known}.", case=str(item["case"]), file=_files(item)[0])
            failed.append(error)
    return classes, failed


def _looks(item: Item) -> tuple[list[Look], list[InputError]]:
    """What was learned of a case's images, and which cannot be read."""
    looks, problems, files = [], [], _files(item)
    for file in files:
        try:
            # A channel that a study lacks is a file of zeros, and like every other such file.
            looks.append(look_at(file, allow_empty=len(files) > 1))
        except InputError as error:
            problems.append(error)
            error.for_case(str(item["case"]))
    seen = [look for look in looks if not look.empty]
    if looks and not seen and not problems:
        cause = "there is no signal in any channel"
        problems.append(InputError(cause, "Take it out of the datalist.", case=str(item["case"]), file=files[0]))
    return seen, problems


def _files(item: Item) -> list[Path]:
    return [Path(name) for name in (item["image"] if isinstance(item["image"], list) else [item["image"]])]


def _notes(
    content: Mapping[str, Any], items: Sequence[tuple[str, Item]], report: AuditReport, reason: str | None
) -> list[str]:
    """What is worth a sentence and counts as nothing."""
    notes = []
    entries = [entry for section in (TRAINING, TEST) for entry in content.get(section) or ()]
    nobody = sum(not (isinstance(entry, dict) and entry.get("subject")) for entry in entries)
    if nobody:
        notes.append(f"{nobody} of {len(items)} cases name no subject; each counts as a person of its own.")
    inside = copies_inside(report.cases)
    if inside:
        notes.append(f"{inside} images are copies of another one on their own side; that is no leak.")
    alike = families(leak for leak in report.leaks if leak.kind == NEAR)
    if len(alike) < sum(leak.kind == NEAR for leak in report.leaks):
        notes.append(
            f"the near-duplicates are {len(alike)} families of {sum(map(len, alike))} cases,"
            f" the largest of {len(alike[0])}."
        )
    if reason:
        notes.append(f"the datalist says that it leaks on purpose: {reason.rstrip('.')}.")
    return notes


def _gaps(cases: Sequence[Case], classes: Mapping[int, str]) -> list[str]:
    """Classes that no case has, and those that a side lacks."""
    there = {case.label for case in cases}
    gaps = [f"no case is of class {name!r}" for number, name in classes.items() if number not in there]
    for side in sorted({case.side for case in cases}, key=natural):
        on_side = {case.label for case in cases if case.side == side}
        lacking = [name for number, name in classes.items() if number in there and number not in on_side]
        gaps += [f"{side} has no case of class {name!r}" for name in lacking]
    return gaps


def _judge_classes(report: AuditReport, items: Sequence[Item]) -> None:
    """Ask each trait of the cases' first images what it says of each class."""
    pairs = [(case, item) for case, item in zip(report.cases, items, strict=True) if case.label is not None]
    pairs = [(case, item) for case, item in pairs if case.looks]
    rows = [
        {**case.looks[0].traits, **{key: str(item[key]) for key in SOURCE_KEYS if key in item}} for case, item in pairs
    ]
    labels = [case.label for case, _ in pairs if case.label is not None]
    folders = [str(case.looks[0].path.parent) for case, _ in pairs]
    # Folders that are the classes themselves are how many data sets are stored, and say nothing of the source.
    if len(set(zip(folders, labels, strict=True))) > max(len(set(folders)), len(set(labels))):
        for row, folder in zip(rows, folders, strict=True):
            row[FOLDER] = Path(folder).name
    names = dict.fromkeys(name for row in rows for name in row)
    traits: dict[str, list[Trait | None]] = {name: [row.get(name) for row in rows] for name in names}
    report.confounds, few = confounds(traits, labels, [case.subject for case, _ in pairs])
    if few:
        said = ", ".join(repr(report.classes[label]) for label in few)
        report.notes.append(
            f"of fewer than {LEAST_PERSONS} persons, so whether they can be told from a trait was not asked: {said}."
        )
