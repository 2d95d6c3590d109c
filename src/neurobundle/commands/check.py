"""``neurobundle check``: what the gate says of files, folders, DICOM studies and datalists, before anything runs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurobundle.errors import ExitCode, InputError, NoInputError, exit_code
from neurobundle.load.datalist import Item as Entry
from neurobundle.load.datalist import load_json, read_datalist
from neurobundle.load.datasets import set_findings
from neurobundle.load.gate import STRICT, Finding, Level, Policy, Verdict, refuse
from neurobundle.load.labels import check_pair, read_volume
from neurobundle.load.survey import Item, survey

#: A table for people shows good files too, up to so many.
MOST_GOOD_ROWS = 40

#: The end of a longer name is shown.
LONGEST_NAME = 80

Progress = Callable[[list[Any]], Iterable[Any]]


@dataclass
class CheckReport:
    """What a check found.

    Attributes:
        items: a row per file, DICOM volume or case.
        findings: what is wrong with them together.
        set_aside: why files were not looked at, and how many.
    """

    items: list[Item]
    findings: list[Finding]
    set_aside: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> ExitCode:
        """3 or 4 if files are refused; 6 if each is good and they are not together."""
        code = exit_code(item.verdict.level is not Level.REFUSE for item in self.items)
        if code is ExitCode.OK and Verdict(self.findings).level is Level.REFUSE:
            return ExitCode.AUDIT
        return code

    def as_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "files": [
                {
                    "name": item.name,
                    "role": item.role,
                    "kind": item.kind,
                    "level": item.verdict.level.value,
                    "facts": item.facts,
                    "findings": [_as_json(finding) for finding in item.verdict.findings],
                }
                for item in self.items
            ],
            "findings": [_as_json(finding) for finding in self.findings],
            "set_aside": dict(sorted(self.set_aside.items())),
            "levels": {level.value: self.count(level) for level in Level},
            "exit_code": int(self.exit_code),
        }

    def count(self, level: Level) -> int:
        """How many rows end with a level."""
        return sum(item.verdict.level is level for item in self.items)


def check(
    paths: Sequence[str | Path],
    policy: Policy = STRICT,
    progress: Progress = lambda items: items,
    known_labels: Collection[int] | None = None,
) -> CheckReport:
    """Judge everything under some paths, each file and all together.

    Args:
        paths: files and folders.
        policy: what is allowed beyond the default.
        progress: wraps the list of what is to be read.
        known_labels: the values that label maps may have; any whole numbers if None.

    Raises:
        NoInputError: if nothing there is an image.
    """
    found = survey(paths, policy, progress, known_labels)
    by_file = {str(item.file): item for item in found.items}
    together = []
    for finding in set_findings(found):
        if finding.level is Level.REFUSE and finding.file in by_file:
            by_file[finding.file].verdict.add(finding)
        else:
            together.append(finding)
    return CheckReport(found.items, together, found.set_aside)


def check_datalist(
    path: Path,
    dataset_dir: Path | None = None,
    known_labels: Collection[int] | None = None,
    progress: Progress = lambda items: items,
) -> CheckReport:
    """Judge a data set for training: each pair, and the folds.

    Args:
        path: the datalist.
        dataset_dir: what its paths are relative to; its own folder if None.
        known_labels: the values that a label map may have; those that the datalist names if None, else any.
        progress: wraps the list of cases.

    Raises:
        SettingError: if the file is no datalist.
        NoInputError: if it has no cases.
    """
    from neurobundle.train.folds import audit_folds

    stated = load_json(path).get("labels")
    if known_labels is None and isinstance(stated, dict) and all(str(key).isdigit() for key in stated):
        known_labels = {int(key) for key in stated}
    training = read_datalist(path, "training", dataset_dir, check_files=False)
    entries = [*training, *read_datalist(path, "test", dataset_dir, required=False, check_files=False)]
    if not entries:
        way_out = "Make it again: neurobundle split DATA -o datalist.json."
        raise NoInputError("the datalist has no cases", way_out, file=path)
    items = [_case(entry, known_labels) for entry in progress(entries)]
    findings = []
    if training and all("fold" in entry for entry in training):
        refused = {item.name for item in items if item.verdict.level is Level.REFUSE}
        # Where a file is missing, contents cannot be compared; subjects can.
        whole = all(path.exists() for entry in entries for path in _files(entry))
        problems = [error for error in audit_folds(path, dataset_dir, read_files=whole) if error.case not in refused]
        findings = [refuse("folds", error.cause, error.way_out, error.file) for error in problems]
    return CheckReport(items, findings)


def _files(entry: Entry) -> list[Path]:
    images = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    return [Path(name) for name in (*images, *([entry["label"]] if isinstance(entry.get("label"), str) else ()))]


def _case(entry: Entry, known_labels: Collection[int] | None) -> Item:
    image, label = entry["image"], entry.get("label")
    facts: dict[str, Any] = {"subject": entry["subject"], "fold": entry.get("fold")}
    item = Item(str(entry["case"]), _files(entry)[0], "pair", "case", Verdict(), facts)
    try:
        if isinstance(label, str):
            pair = check_pair(image, label, known_labels, case=item.name)
            item.facts |= {"shape": list(pair.shape), "labels": sorted(pair.values)}
        else:
            volumes = [read_volume(path) for path in _files(entry)]
            item.facts["shape"] = list(volumes[0].data.shape)
    except InputError as error:
        item.verdict.add(refuse("pair", error.cause, error.way_out, error.file))
    return item


def as_table(report: CheckReport, *, everything: bool = False) -> str:
    """The report for people: a row per file, what is wrong under it, and a last line with the counts.

    Args:
        report: what was found.
        everything: also the rows of good files where there are many.
    """
    good = report.count(Level.OK)
    shown = [
        item for item in report.items if everything or good <= MOST_GOOD_ROWS or item.verdict.level is not Level.OK
    ]
    rows = [[item.verdict.level.value, _short(item.name), *_columns(item.facts)] for item in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row, item in zip(rows, shown, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [
            f"    {choice['channel']} is {choice['source']}: {choice['why']}" for choice in item.facts.get("chosen", ())
        ]
        lines += [
            f"    registration of {choice['channel']}: {choice['registration']['reason']}"
            for choice in item.facts.get("chosen", ())
            if "registration" in choice
        ]
        lines += [f"    not {choice['source']}: {choice['why']}" for choice in item.facts.get("passed_over", ())]
        lines += [f"    {_where(finding, item)}{_sentence(finding)}" for finding in item.verdict.findings]
    if len(shown) < len(report.items):
        lines.append(f"ok      {len(report.items) - len(shown)} more (--all lists them)")
    lines += [f"{finding.level.value:<6}  {_sentence(finding)}" for finding in report.findings]
    if report.set_aside:
        aside = ", ".join(f"{count} {why}" for why, count in sorted(report.set_aside.items()))
        lines.append(f"set aside: {aside}")
    counts = [f"{report.count(level)} {word}" for level, word in _WORDS.items() if report.count(level)]
    return "\n".join([*lines, f"{len(report.items)} checked: {', '.join(counts)}"])


_WORDS = {Level.OK: "ok", Level.WARN: "with warnings", Level.REFUSE: "refused"}


def as_json_text(report: CheckReport) -> str:
    """The report as JSON text."""
    return json.dumps(report.as_json(), indent=2)


def _columns(facts: dict[str, Any]) -> list[str]:
    """Shape, voxel, axes, type and range as a table shows them; empty where unknown."""
    shape = "x".join(map(str, facts.get("shape", ())))
    voxel = "x".join(f"{size:g}" for size in facts.get("voxel_mm", ()))
    numbers = f"{facts['min']:.4g}..{facts['max']:.4g}" if "min" in facts else ""
    if "labels" in facts:
        numbers = f"{len(facts['labels'])} labels"
    texts = [str(facts.get(key, "")) for key in ("axes", "type", "forms")]
    return [shape, f"{voxel} mm" if voxel else "", *texts, numbers]


def _short(name: str) -> str:
    """A name that keeps the table a table: on one line, and not longer than :data:`LONGEST_NAME`."""
    line = name.encode("unicode_escape").decode() if any(ord(c) < 32 for c in name) else name
    return line if len(line) <= LONGEST_NAME else f"...{line[3 - LONGEST_NAME :]}"


def _where(finding: Finding, item: Item) -> str:
    """The file that a finding about a volume of many files is about."""
    many = item.kind in ("dicom", "case") and finding.file and Path(finding.file) != item.file
    return f"{_short(Path(finding.file).name)}: " if many else ""


def _sentence(finding: Finding) -> str:
    return f"{finding.cause}. {finding.way_out}".strip()


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "level": finding.level.value,
        "cause": finding.cause,
        "way_out": finding.way_out,
        "file": finding.file,
    }
