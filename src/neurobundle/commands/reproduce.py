"""``neurobundle reproduce``: a bundle's published numbers, made again from its own record.

The steps of the record (:mod:`neurobundle.commands.record`) are run one after the other, each as a process of its own;
one that was stopped goes on, as the commands do. Then each new summary is *compared* with the published one: a score is
*inside* if the new mean lies in the published 95 % interval. That interval is of cases, not of trainings: two trainings
with other seeds differ by less on many cases, and may differ by more on few.

A *smoke* run proves that the steps run: few cases, a tiny network, one epoch. Its numbers mean nothing.
"""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurobundle.bundle.find import find_bundle
from neurobundle.commands.record import (
    DATALIST,
    RECORD,
    Record,
    Result,
    Scores,
    problems_of,
    published_file,
    read_record,
    scores_of,
)
from neurobundle.commands.results import aligned, mean
from neurobundle.errors import ExitCode, InputError, NeurobundleError, SettingError
from neurobundle.files import require_writable, write_json
from neurobundle.load.datalist import load_json
from neurobundle.measure.outputs import versions

logger = logging.getLogger(__name__)

COMPARISON = "comparison.json"

#: A smoke run has so many cases of each of so many folds of the bundle's own datalist.
SMOKE_CASES, SMOKE_FOLDS = 2, 2

#: A step that ends with one of these has written its results; failed cases count in them as missed.
_WENT_ON = (ExitCode.OK, ExitCode.SOME_FAILED)


@dataclass(frozen=True)
class Difference:
    """One score, published and made again.

    Attributes:
        summary: the published file.
        structure: of it.
        metric: of the structure.
        published: the mean; None where it is not defined.
        interval: of it.
        made: the new mean; None where it is not defined, or was not made.
        difference: new minus published.
        inside: whether the new mean lies in the interval.
    """

    summary: str
    structure: str
    metric: str
    published: float | None
    interval: tuple[float | None, float | None]
    made: float | None
    difference: float | None
    inside: bool


@dataclass
class Reproduction:
    """What :func:`reproduce` found.

    Attributes:
        output: the folder.
        differences: score by score.
        smoke: whether the numbers mean nothing.
        remarks: what else is not as it was published: versions, data.
    """

    output: Path
    differences: list[Difference]
    smoke: bool
    remarks: list[str]

    @property
    def exit_code(self) -> ExitCode:
        """0 if every score is inside, or was not meant to be; 6 else."""
        return ExitCode.OK if self.smoke or all(one.inside for one in self.differences) else ExitCode.AUDIT

    def as_text(self) -> str:
        """A table for a terminal."""
        rows = [["structure", "metric", "published", "again", "difference", "inside"]]
        for one in self.differences:
            shown = mean({"mean": one.published, "interval": list(one.interval)})
            again, apart = (
                "-" if value is None else format(value, form)
                for value, form in ((one.made, ".3f"), (one.difference, "+.3f"))
            )
            rows.append([one.structure, one.metric, shown, again, apart, "yes" if one.inside else "no"])
        lines = [*aligned(rows), *self.remarks]
        if self.smoke:
            lines.append("A smoke run: the steps run, and the numbers mean nothing.")
        return "\n".join(lines)


def run_words(words: list[str]) -> int:
    """Run one of our commands as a process."""
    return subprocess.run([sys.executable, "-m", "neurobundle", *words], check=False).returncode


def checked_record(bundle: str) -> tuple[Path, Record]:
    """A bundle and its record, which agree.

    Raises:
        InputError: if they do not (exit code 6): each way is said.
    """
    folder = find_bundle(bundle)
    record = read_record(folder)
    problems = problems_of(folder, record)
    if problems:
        error = InputError(
            "; ".join(problems), "Publish record and results together: crossval --publish.", file=folder / RECORD
        )
        error.exit_code = ExitCode.AUDIT
        raise error
    return folder, record


def commands_of(folder: Path, record: Record, data: Path | None, output: Path, smoke: bool = False) -> list[list[str]]:
    """The words of each step.

    Args:
        folder: the bundle.
        record: its record.
        data: what ``{data}`` stands for; None if no step needs it.
        output: what ``{out}`` stands for.
        smoke: whether to make the steps short.

    Raises:
        SettingError: if the data are needed and not named, or a folder of theirs is not there.
    """
    if data is None and any("{data}" in word for step in record.steps for word in step.words):
        names = ", ".join(str(source.get("name")) for source in record.data.get("sources", []))
        raise SettingError("the steps need the data", f"Say where they are with --data: {names}.")
    for source in record.data.get("sources", []) if data is not None else []:
        place = data / str(source.get("folder", "")) if data is not None else Path()
        if not place.is_dir():
            raise SettingError(f"the data {source.get('name')!r} are not here", "Name their folder.", file=place)
    datalist = output / "datalist.json" if smoke else folder / DATALIST
    values = {"{bundle}": folder, "{datalist}": datalist, "{data}": data or "", "{out}": output}
    return [step.filled({name: str(value) for name, value in values.items()}, smoke) for step in record.steps]


def reproduce(
    bundle: str,
    output: Path,
    data: Path | None = None,
    *,
    smoke: bool = False,
    run: Callable[[list[str]], int] = run_words,
) -> Reproduction:
    """Run a record's steps and compare what they made with what was published.

    Args:
        bundle: a name or a folder.
        output: gets what the steps write, and ``comparison.json``.
        data: the folder of the data.
        smoke: prove that the steps run.
        run: runs one command, given its words, and returns its exit code.

    Raises:
        SettingError: if the bundle has no record, or the data are not there.
        InputError: if the record does not agree with the bundle.
        NeurobundleError: if a step failed; it has the step's exit code.
    """
    folder, record = checked_record(bundle)
    commands = commands_of(folder, record, data, output, smoke)
    require_writable(output)
    if smoke and (folder / DATALIST).is_file():
        write_json(output / "datalist.json", few_cases(load_json(folder / DATALIST)))
    for words in commands:
        logger.info("neurobundle %s", shlex.join(words))
        code = run(words)
        if code not in _WENT_ON:
            error = NeurobundleError(
                f"the step `neurobundle {shlex.join(words)}` ended with {code}",
                "Mend what it says above, and run this again: it goes on.",
            )
            error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.USAGE
            raise error
    remarks = version_remarks(record)
    differences = []
    for result in record.results:
        made = _read_made(output / result.made)
        differences += compare(result.published, result.scores, scores_of(made))
        remarks += _data_remarks(folder, result, made) if not smoke else []
    report = Reproduction(output, differences, smoke, remarks)
    write_json(output / COMPARISON, _as_json(report, record, commands))
    return report


def compare(summary: str, published: Scores, made: Scores) -> list[Difference]:
    """Score by score; one that was not made again, or is not defined any more, is outside."""
    found = []
    for structure, metrics in published.items():
        for metric, old in metrics.items():
            new = made.get(structure, {}).get(metric, {}).get("mean")
            low, high = old["interval"]
            both = old["mean"] is not None and new is not None
            inside = low <= new <= high if both and None not in (low, high) else new == old["mean"]
            apart = round(new - old["mean"], 6) if both else None
            found.append(Difference(summary, structure, metric, old["mean"], (low, high), new, apart, inside))
    return found


def few_cases(datalist: Mapping[str, Any]) -> dict[str, Any]:
    """A datalist with the first cases of the first folds, for a smoke run; of each class, where cases have one."""
    folds = sorted({int(item["fold"]) for item in datalist["training"] if "fold" in item})[:SMOKE_FOLDS]
    chosen = []
    for fold in folds:
        taken: Counter[int | None] = Counter()
        for item in datalist["training"]:
            label = item.get("label")
            kind = label if isinstance(label, int) else None  # a path is no class
            if item.get("fold") == fold and taken[kind] < SMOKE_CASES:
                taken[kind] += 1
                chosen.append(item)
    return {**({"labels": datalist["labels"]} if "labels" in datalist else {}), "training": chosen}


def version_remarks(record: Record) -> list[str]:
    """Packages that are installed in another version than the record's."""
    here = versions()
    differ = [f"{name} {here[name]}, was {was}" for name, was in record.versions.items() if here.get(name, was) != was]
    return [f"other versions: {'; '.join(differ)}"] if differ else []


def _data_remarks(folder: Path, result: Result, made: Mapping[str, Any]) -> list[str]:
    """Whether the references are voxel for voxel those that the published numbers were made on."""
    old = json.loads(published_file(folder, result).read_bytes()).get("sha256", {}).get("references")
    new = made.get("sha256", {}).get("references")
    differ = None not in (old, new) and old != new
    return [f"{result.published}: the references are not those that it was made on"] if differ else []


def _read_made(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError("the steps did not leave this summary", "Mend the record's `made`.", file=path) from error
    return made


def _as_json(report: Reproduction, record: Record, commands: list[list[str]]) -> dict[str, Any]:
    return {
        "bundle": record.bundle,
        "version": record.version,
        "smoke": report.smoke,
        "commands": [f"neurobundle {shlex.join(words)}" for words in commands],
        "differences": [asdict(one) for one in report.differences],
        "all_inside": all(one.inside for one in report.differences),
        "remarks": report.remarks,
        "versions": versions(),
    }
