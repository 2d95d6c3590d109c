"""What the cases of a run are made from.

A *source* is what one case is made from: a NIfTI file, or a study of which rules chose the channels. It knows the
case's name, how to be read, which files the bundle's config then opens, and by what name it may be spoken of. *Salted
names* are for files whose names say who the person is: the case is called by hex digits, and nothing that the run
opens, logs or writes has the file's name or folder in it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neurobundle.bundle import fingerprint
from neurobundle.errors import InputError, NeurobundleError, SettingError, require
from neurobundle.export.nifti import save_volume
from neurobundle.load.gate import STRICT, Policy
from neurobundle.load.scan import Scan, read_scan
from neurobundle.load.study import Choice, Place, Study, channels_named, read_study
from neurobundle.load.study.channels import ANY

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a bundle wants of its inputs, and what the user allows.

    Attributes:
        channels: the bundle's, in its order; empty if its metadata name none that the rules know.
        reference: the channel whose grid it is; the first if None.
        mapping: a file that says which scan is which channel.
        missing: what becomes of a study that lacks a channel.
        policy: of the gate.
        place: places each scan of a study next to the reference; None leaves them where their headers say.
        pictures: the bundle takes PNG and JPEG slices, where a folder holds no volume.
    """

    channels: tuple[str, ...] = ()
    reference: str | None = None
    mapping: Path | None = None
    missing: Literal["refuse", "fill"] = "refuse"
    policy: Policy = STRICT
    place: Place | None = None
    pictures: bool = False


def registering(channels: Sequence[str]) -> Place:
    """What ``--register`` asks for, before any case is touched.

    Args:
        channels: those that are wanted.

    Raises:
        SettingError: if there is but one, so that nothing can be registered, or one is unknown.
        MissingPackageError: if SimpleITK is not installed.
    """
    names = channels_named(channels) if channels else ()
    if len(names) < 2:
        raise SettingError(
            f"--register brings the scans of a study together, and the channels here are: {', '.join(names) or 'none'}",
            "Leave --register out, or name several channels of a study.",
        )
    require("SimpleITK", extra="head", feature="Registering the scans of a study")
    from neurobundle.prepare.study_registration import place

    return place


def log_registrations(case: str, chosen: Iterable[Mapping[str, Any]]) -> None:
    """A line for each scan that was registered, at the level that ``--verbose`` shows.

    Args:
        case: its name.
        chosen: the channels' entries, as ``StudyScan.chosen`` gives them.
    """
    for entry in chosen:
        if "registration" in entry:
            logger.info("%s: %s: %s", case, entry["channel"], entry["registration"]["reason"])


def registrations_in_words(chosen: Iterable[Mapping[str, Any]]) -> str:
    """One line about the registrations of all cases of a command; empty if there was none.

    Args:
        chosen: the channels' entries of all cases, as ``StudyScan.chosen`` gives them.

    >>> moved = {"registration": {"accepted": True, "moved_mm": 8.66}}
    >>> registrations_in_words([moved, {"registration": {"accepted": False, "moved_mm": 0.0}}, {"channel": "T1"}])
    'registered: 2 scans; 1 moved, by up to 8.7 mm; 1 stayed where the header says'
    """
    done = [entry["registration"] for entry in chosen if "registration" in entry]
    moved = [one["moved_mm"] for one in done if one["accepted"]]
    if not done:
        return ""
    parts = [f"registered: {len(done)} scan{'s' * (len(done) != 1)}"]
    if moved:
        parts.append(f"{len(moved)} moved, by up to {max(moved):.1f} mm")
    if len(moved) < len(done):
        parts.append(f"{len(done) - len(moved)} stayed where the header says")
    return "; ".join(parts)


@dataclass
class Source:
    """What one case is made from: a NIfTI file.

    Attributes:
        case: names its outputs.
        path: the user's file, or a link to it that does not tell its name.
        shown: how reports and messages call it; empty if it is not to be named.
        wanted: by the bundle and the user.
        work: a folder of the run's own.
        says: what the file's name says that it is, if that is not what the bundle wants; empty else.
        opened: the files that the config opens, one a channel, once the source was read.
        study: which scans were chosen and passed over, for the report.
    """

    case: str
    path: Path
    shown: str
    wanted: Wanted
    work: Path
    says: str = ""
    opened: list[Path] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """The fingerprint of its content; empty if it is not there, which reading it will say better."""
        return fingerprint.of_input(self.path) if self.path.exists() else ""

    def person(self) -> str:
        """Whose scan it is, as far as its layout says; the case if it does not. Never to be written."""
        return self.case

    def read(self) -> Scan:
        """The scan; what the config opens then is what the gate let pass.

        Raises:
            InputError: if the gate refuses it, or its name says that it is another sequence than the bundle wants, or
                the scans of a study are to be registered and this is one file.
        """
        if self.wanted.place is not None:
            way_out = "Give the folder of its study, or leave --register out."
            raise InputError("this is one file, and --register brings the scans of a study together", way_out)
        self._refuse_another_sequence()
        scan = read_scan(self.path, self.wanted.policy)
        # Where the user allowed something, the config's own reader would still refuse the file itself.
        allowed = self.wanted.policy != STRICT
        self.opened = [self._written("", scan.data, scan)] if allowed else [self.path]
        return scan

    def _refuse_another_sequence(self) -> None:
        if self.says:
            known = "scans" if self.wanted.channels == (ANY,) else ", ".join(self.wanted.channels)
            raise InputError(
                f"{self.says}, and this bundle knows {known} only",
                "Give the right scan, or rename the file if the name is wrong.",
            )

    def _written(self, channel: str, data: Any, scan: Any) -> Path:
        path = self.work / f"{self.case}{channel and '-' + channel}.nii"
        return save_volume(path, data, scan.affine, form_code=scan.form_code, units=scan.units)

    def censored(self, error: NeurobundleError, work: Path) -> NeurobundleError:
        """An error that names this source as it may be named, and no file that is gone when the run is over.

        Args:
            error: changed in place.
            work: the run's own folder.
        """
        error.case = self.case
        error.cause, error.way_out = (
            self.spoken(text).replace(f"{work}{os.sep}", "") for text in (error.cause, error.way_out)
        )
        if not self.shown or work in Path(error.file).parents:
            error.file = self.shown
        return error

    def spoken(self, text: str) -> str:
        """A text in which the path that was opened is the case's name, if the source is not to be named."""
        return text if self.shown else text.replace(str(self.path), self.case)


@dataclass
class StudySource(Source):
    """What one case is made from: a study, of which rules chose the channels.

    Attributes:
        found: the study.
    """

    found: Study | None = None

    def digest(self) -> str:
        """The fingerprint of the chosen files, with their channels."""
        assert self.found is not None
        digests = []
        for channel, choice in self.found.choices.items():
            files = [choice.source] if isinstance(choice.source, Path) else choice.source.files
            digests.append((channel, choice.name, sorted(fingerprint.of_input(path) for path in files)))
        return fingerprint.of_value(digests) if digests else ""

    def person(self) -> str:
        """The subject of the layout; of DICOM a hash of what the headers call the patient."""
        assert self.found is not None
        if self.found.layout != "dicom":
            return self.found.subject
        from neurobundle.load.dicom import patient_in

        files = [file for choice in self.found.choices.values() for file in getattr(choice.source, "files", ())]
        return (patient_in(files[0]) if files else "") or self.case

    def read(self) -> Scan:
        """The reference's scan; all channels then lie on its grid, in files of the run's own.

        Raises:
            InputError: if the gate refuses a scan, a channel is missing, two scans fit it, or a scan cannot be
                registered where that is asked for.
        """
        assert self.found is not None
        wanted = self.wanted
        self._say(self.found.choices.values(), self.found.passed_over)
        scan = read_study(self.found, wanted.channels, wanted.reference, wanted.missing, wanted.policy, wanted.place)
        log_registrations(self.case, scan.chosen)
        self.study |= {"chosen": self._hidden(scan.chosen), "missing": list(scan.missing)}
        named = zip(wanted.channels, scan.data, strict=True)
        self.opened = [self._written(channel, data, scan) for channel, data in named]
        shown = wanted.channels.index(wanted.reference) if wanted.reference else 0
        return Scan(scan.data[shown], scan.affine, scan.warnings, scan.form_code, scan.units)

    def _say(self, chosen: Iterable[Choice], passed_over: Iterable[Choice]) -> None:
        """Note the choices, so that a study that is refused says too what was there."""
        self.study = {
            "chosen": self._hidden(choice.as_json() for choice in chosen),
            "passed_over": self._hidden(choice.as_json() for choice in passed_over),
        }

    def _hidden(self, choices: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Choices as the report may show them; the key of a DICOM volume tells nobody's name."""
        if self.shown or (self.found is not None and self.found.layout == "dicom"):
            return list(choices)
        return [{name: value for name, value in choice.items() if name != "source"} for choice in choices]

    def spoken(self, text: str) -> str:
        """A text that names no file of the study, if it is not to be named."""
        if self.shown or self.found is None:
            return text
        names = {str(self.found.folder)}
        for choice in [*self.found.choices.values(), *self.found.passed_over]:
            if isinstance(choice.source, Path):
                names |= {str(choice.source), choice.source.name, choice.name}
            else:
                # Messages name no DICOM file but by its whole path; "1" alone would be found in every number.
                names |= {str(path) for path in choice.source.files}
        longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        return re.sub(rf"(?<![\w.-])(?:{longest_first})(?![\w-])", "a file", text)
