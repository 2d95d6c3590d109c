"""Studies as channels, for who wants to see or keep them: ``check --channels`` and ``convert --channels``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from neurobundle import __version__
from neurobundle.commands.check import CheckReport
from neurobundle.commands.convert import REPORT_NAME, Conversion
from neurobundle.errors import InputError
from neurobundle.export.nifti import save_volume
from neurobundle.files import require_writable, write_json
from neurobundle.load.gate import STRICT, Policy, refuse, warn
from neurobundle.load.study import Study, find_studies, read_study
from neurobundle.load.survey import Item

logger = logging.getLogger(__name__)

Missing = Literal["refuse", "fill"]
Progress = Callable[[list[Study]], Iterable[Study]]


def check_studies(
    paths: Sequence[str | Path],
    channels: Sequence[str],
    mapping: Path | None = None,
    missing: Missing = "refuse",
    policy: Policy = STRICT,
    progress: Progress = lambda studies: studies,
) -> CheckReport:
    """What would be chosen for each channel of each study, and why, and whether it could be used.

    Args:
        paths: folders and files.
        channels: those that are wanted; aliases count.
        mapping: a file that says which scan is which channel.
        missing: whether a study that lacks a channel is refused.
        policy: what the gate allows.
        progress: wraps the list of studies.

    Raises:
        NoInputError: if a path holds no scan.
        SettingError: if a channel is unknown, or the mapping cannot be used.
    """
    studies = [study for path in paths for study in find_studies(path, channels, mapping)]
    return CheckReport([_judged(study, missing, policy) for study in progress(studies)], [])


def _judged(study: Study, missing: Missing, policy: Policy) -> Item:
    """A study, read as a run would read it."""
    facts = {
        "chosen": [choice.as_json() for choice in study.choices.values()],
        "passed_over": [choice.as_json() for choice in study.passed_over],
    }
    item = Item(study.case, study.folder, "study", study.layout, study.judge(missing), facts)
    if not item.verdict.refusals:
        try:
            scan = read_study(study, study.channels, missing=missing, policy=policy)
        except InputError as error:
            item.verdict.add(refuse("study", error.cause, error.way_out, error.file))
        else:
            item.facts["chosen"] = list(scan.chosen)
            known = set(item.verdict.warnings)
            item.verdict.extend(warn("study", text) for text in scan.warnings if text not in known)
    return item


@dataclass
class StudyEntry:
    """How one study ended; an entry of ``conversion.json``.

    Attributes:
        case: its name.
        status: ``ok`` or ``failed``.
        outputs: channel -> file, relative to the output folder.
        chosen: which scan became each channel, why, and what was done to its grid.
        passed_over: what did not, and why.
        missing: channels that were filled with zeros.
        warnings: what was noticed and did not stop it.
        error: cause and way out; empty if it was written.
    """

    case: str
    status: str = "failed"
    outputs: dict[str, str] = field(default_factory=dict)
    chosen: list[dict[str, Any]] = field(default_factory=list)
    passed_over: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class StudiesReport(Conversion):
    """All studies of one conversion."""

    output: Path
    cases: list[StudyEntry]


def convert_studies(
    path: str | Path,
    output: str | Path,
    channels: Sequence[str],
    mapping: Path | None = None,
    missing: Missing = "refuse",
    policy: Policy = STRICT,
    progress: Progress = lambda studies: studies,
) -> StudiesReport:
    """Write the channels of each study on one grid, ``<output>/<case>/<case>_<channel>.nii.gz``.

    Args:
        path: a DICOM study, a BIDS or BraTS folder, a folder whose names say sequences, or a mapping file.
        output: made if need be.
        channels: those that are wanted, the first of which gives the grid; aliases count.
        mapping: a file that says which scan is which channel.
        missing: ``refuse`` a study that lacks a channel, or ``fill`` it with zeros.
        policy: what the gate allows.
        progress: wraps the list of studies, as tqdm does.

    Returns:
        What was done; the same is in ``<output>/conversion.json``. A study that is refused is logged in one line, and
        the others go on.

    Raises:
        NoInputError: if the path holds no scan.
        SettingError: if a channel is unknown, or the mapping cannot be used.
        EnvironmentFault: if the output cannot be written.
    """
    studies, out = find_studies(path, channels, mapping), Path(output)
    require_writable(out)
    report = StudiesReport(out, [])
    for study in progress(studies):
        report.cases.append(_convert(study, out, missing, policy))
        write_json(out / REPORT_NAME, {"neurobundle": __version__, "cases": [asdict(case) for case in report.cases]})
    return report


def _convert(study: Study, out: Path, missing: Missing, policy: Policy) -> StudyEntry:
    entry = StudyEntry(study.case, passed_over=[choice.as_json() for choice in study.passed_over])
    try:
        scan = read_study(study, study.channels, missing=missing, policy=policy)
    except InputError as error:
        logger.error("ERROR %s", error.for_case(study.case))
        entry.error = f"{error.cause}. {error.way_out}".strip()
        return entry
    for channel, data in zip(scan.channels, scan.data, strict=True):
        path = out / study.case / f"{study.case}_{channel}.nii.gz"
        save_volume(path, data, scan.affine, form_code=scan.form_code, units=scan.units)
        entry.outputs[channel] = path.relative_to(out).as_posix()
    entry.status, entry.chosen = "ok", list(scan.chosen)
    entry.missing, entry.warnings = list(scan.missing), list(scan.warnings)
    return entry
