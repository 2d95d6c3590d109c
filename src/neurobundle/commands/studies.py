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
from neurobundle.commands.sources import log_registrations, registering
from neurobundle.errors import InputError
from neurobundle.export.nifti import save_volume
from neurobundle.files import require_writable, write_json
from neurobundle.load.gate import STRICT, Policy, refuse, warn
from neurobundle.load.study import Place, Study, find_studies, read_study
from neurobundle.load.survey import Item
from neurobundle.prepare.alignment import notice

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
    register: bool = False,
) -> CheckReport:
    """What would be chosen for each channel of each study, and why, and whether it could be used.

    Scans that look misaligned are warned of, which takes about half a second a channel.

    Args:
        paths: folders and files.
        channels: those that are wanted; aliases count.
        mapping: a file that says which scan is which channel.
        missing: whether a study that lacks a channel is refused.
        policy: what the gate allows.
        progress: wraps the list of studies.
        register: try the registrations that a run with ``--register`` would do, instead of warning.

    Raises:
        NoInputError: if a path holds no scan.
        SettingError: if a channel is unknown, the mapping cannot be used, or there is nothing to register.
        MissingPackageError: if SimpleITK is to register and is not installed.
    """
    place = registering(channels) if register else notice
    studies = [study for path in paths for study in find_studies(path, channels, mapping)]
    return CheckReport([_judged(study, missing, policy, place) for study in progress(studies)], [])


def _judged(study: Study, missing: Missing, policy: Policy, place: Place) -> Item:
    """A study, read as a run would read it."""
    facts = {
        "chosen": [choice.as_json() for choice in study.choices.values()],
        "passed_over": [choice.as_json() for choice in study.passed_over],
    }
    item = Item(study.case, study.folder, "study", study.layout, study.judge(missing), facts)
    if not item.verdict.refusals:
        try:
            scan = read_study(study, study.channels, missing=missing, policy=policy, place=place)
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
        chosen: which scan became each channel, why, what was done to its grid, and its registration.
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
    register: bool = False,
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
        register: bring each channel onto the first by a rigid registration, in the one resampling.

    Returns:
        What was done; the same is in ``<output>/conversion.json``. A study that is refused is logged in one line, and
        the others go on.

    Raises:
        NoInputError: if the path holds no scan.
        SettingError: if a channel is unknown, the mapping cannot be used, or there is nothing to register.
        MissingPackageError: if SimpleITK is to register and is not installed.
        EnvironmentFault: if the output cannot be written.
    """
    place = registering(channels) if register else None
    studies, out = find_studies(path, channels, mapping), Path(output)
    require_writable(out)
    report = StudiesReport(out, [])
    for study in progress(studies):
        report.cases.append(_convert(study, out, missing, policy, place))
        write_json(out / REPORT_NAME, {"neurobundle": __version__, "cases": [asdict(case) for case in report.cases]})
    return report


def _convert(study: Study, out: Path, missing: Missing, policy: Policy, place: Place | None) -> StudyEntry:
    entry = StudyEntry(study.case, passed_over=[choice.as_json() for choice in study.passed_over])
    targets = {name: out / study.case / f"{study.case}_{name}.nii.gz" for name in study.channels}
    inputs = _files(study)
    try:
        if replaced := [path.name for path in targets.values() if path.resolve() in inputs]:
            cause = f"{', '.join(replaced)} would be replaced by what is made from it"
            raise InputError(cause, "Choose another folder with -o.", file=out / study.case)
        scan = read_study(study, study.channels, missing=missing, policy=policy, place=place)
    except InputError as error:
        # What an earlier conversion left under these names is not what this input gives.
        for path in targets.values():
            if path.resolve() not in inputs:
                path.unlink(missing_ok=True)
        logger.error("ERROR %s", error.for_case(study.case))
        entry.error = f"{error.cause}. {error.way_out}".strip()
        return entry
    log_registrations(study.case, scan.chosen)
    for channel, data in zip(scan.channels, scan.data, strict=True):
        save_volume(targets[channel], data, scan.affine, form_code=scan.form_code, units=scan.units)
        entry.outputs[channel] = targets[channel].relative_to(out).as_posix()
    entry.status, entry.chosen = "ok", list(scan.chosen)
    entry.missing, entry.warnings = list(scan.missing), list(scan.warnings)
    return entry


def _files(study: Study) -> set[Path]:
    """The NIfTI files that a study was found in, links followed."""
    choices = [*study.choices.values(), *study.passed_over]
    return {choice.source.resolve() for choice in choices if isinstance(choice.source, Path)}
