"""What the cases of a run are made from.

A *source* is what one case is made from: a NIfTI file, or a study of which rules chose the channels. It knows the
case's name, how to be read, which files the bundle's config then opens, and by what name it may be spoken of. *Salted
names* are for files whose names say who the person is: the case is called by hex digits, and nothing that the run
opens, logs or writes has the file's name or folder in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neurobundle.bundle import fingerprint
from neurobundle.errors import InputError, NeurobundleError, NoInputError
from neurobundle.export.nifti import save_volume
from neurobundle.load.gate import STRICT, Policy
from neurobundle.load.inputs import find_images
from neurobundle.load.names import is_nifti_name, unique_case_names
from neurobundle.load.scan import Scan, is_dicom, read_scan
from neurobundle.load.study import Choice, Study, find_studies, read_study
from neurobundle.load.study.filenames import recognise_name
from neurobundle.load.study.folders import is_bids
from neurobundle.load.study.mapping import SUFFIXES as MAPPING_SUFFIXES
from neurobundle.types import NIFTI_SUFFIXES

logger = logging.getLogger(__name__)

SALT_VARIABLE = "NEUROBUNDLE_SALT"
#: What everybody's names are salted with who sets none of their own.
KNOWN_SALT = "neurobundle"
_DIGITS = 8


@dataclass(frozen=True)
class Wanted:
    """What a bundle wants of its inputs, and what the user allows.

    Attributes:
        channels: the bundle's, in its order; empty if its metadata name none that the rules know.
        reference: the channel whose grid it is; the first if None.
        mapping: a file that says which scan is which channel.
        missing: what becomes of a study that lacks a channel.
        policy: of the gate.
    """

    channels: tuple[str, ...] = ()
    reference: str | None = None
    mapping: Path | None = None
    missing: Literal["refuse", "fill"] = "refuse"
    policy: Policy = STRICT


@dataclass
class Source:
    """What one case is made from: a NIfTI file.

    Attributes:
        case: names its outputs.
        path: the user's file, or a link to it that does not tell its name.
        shown: how reports and messages call it; empty if it is not to be named.
        wanted: by the bundle and the user.
        work: a folder of the run's own.
        says: the sequence that the file's name says, if it says one.
        opened: the files that the config opens, one a channel, once the source was read.
        study: which scans were chosen and passed over, for the report.
    """

    case: str
    path: Path
    shown: str
    wanted: Wanted
    work: Path
    says: str | None = None
    opened: list[Path] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """The fingerprint of its content; empty if it is not there, which reading it will say better."""
        return fingerprint.of_input(self.path) if self.path.exists() else ""

    def read(self) -> Scan:
        """The scan; what the config opens then is what the gate let pass.

        Raises:
            InputError: if the gate refuses it, or its name says that it is another sequence than the bundle wants.
        """
        self._refuse_another_sequence()
        scan = read_scan(self.path, self.wanted.policy)
        # Where the user allowed something, the config's own reader would still refuse the file itself.
        allowed = self.wanted.policy != STRICT
        self.opened = [self._written("", scan.data, scan)] if allowed else [self.path]
        return scan

    def _refuse_another_sequence(self) -> None:
        channels = self.wanted.channels
        if len(channels) == 1 and self.says is not None and self.says != channels[0]:
            raise InputError(
                f"its name says {self.says}, and this bundle knows {channels[0]} only",
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

    def read(self) -> Scan:
        """The reference's scan; all channels then lie on its grid, in files of the run's own.

        Raises:
            InputError: if the gate refuses a scan, a channel is missing, or two scans fit it.
        """
        assert self.found is not None
        wanted = self.wanted
        self._say(self.found.choices.values(), self.found.passed_over)
        scan = read_study(self.found, wanted.channels, wanted.reference, wanted.missing, wanted.policy)
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
        for choice in [*self.found.choices.values(), *self.found.passed_over]:
            file = isinstance(choice.source, Path)
            for path in [choice.source] if isinstance(choice.source, Path) else choice.source.files:
                for name in (str(path), path.name, *([choice.name] if file else [])):
                    text = text.replace(name, "a file")
        return text.replace(str(self.found.folder), self.case)


def find_sources(
    inputs: Sequence[str | Path],
    without: Path | None = None,
    *,
    work: Path,
    wanted: Wanted | None = None,
    salted: bool = False,
) -> list[Source]:
    """The cases that the inputs hold, their names all different.

    A NIfTI file is a case. A DICOM file or folder, a BIDS folder, a folder whose file names say sequences, and any
    folder for a bundle of several channels are studies. Another folder is all its NIfTI files.

    Args:
        inputs: files and folders.
        without: a folder that is not looked into.
        work: a folder of the run's own.
        wanted: by the bundle and the user.
        salted: call them by hex digits.

    Raises:
        NoInputError: if there are none.
    """
    wanted = wanted or Wanted()
    places = [Path(item) for item in inputs]
    studies = [place for place in places if wanted.channels and _holds_studies(place, wanted)]
    files = [place for place in places if place not in studies]
    sources: list[Source] = []
    for place in studies:
        sources += _study_sources(place, wanted, work, salted)
    if files or not studies:
        sources += _file_sources(files, without, wanted, work, salted)
    return _distinct(sources)


def _holds_studies(place: Path, wanted: Wanted) -> bool:
    if wanted.mapping is not None or is_bids(place):
        return True
    if place.is_file():
        return is_dicom(place) or place.suffix.lower() in MAPPING_SUFFIXES
    if not place.is_dir():
        return False
    names = [path.name for path in place.rglob("*") if is_nifti_name(path.name)]
    if not names:
        return any(is_dicom(path) for path in place.rglob("*") if path.is_file())
    return len(wanted.channels) > 1 or any(recognise_name(name).channel for name in names)


def _study_sources(place: Path, wanted: Wanted, work: Path, salted: bool) -> list[Source]:
    try:
        studies = find_studies(place, wanted.channels, wanted.mapping)
    except NeurobundleError as error:
        if salted:
            error.file = ""
        raise
    names = {study.case: study.case for study in studies}
    if salted:
        # A DICOM study's name is a salted digest already.
        keys = {study.case: study.folder / study.case for study in studies if study.layout != "dicom"}
        hidden = salted_names(keys.values())
        names |= {case: hidden[path] for case, path in keys.items()}
    return [
        StudySource(names[study.case], study.folder, "" if salted else str(place), wanted, work, found=study)
        for study in studies
    ]


def _file_sources(
    places: Sequence[Path], without: Path | None, wanted: Wanted, work: Path, salted: bool
) -> list[Source]:
    if not salted:
        names = unique_case_names(find_images(places, without))
        return [Source(case, path, str(path), wanted, work, _says(path)) for path, case in names.items()]
    try:
        paths = find_images(places, without)
    except NoInputError:
        raise NoInputError("the inputs hold no NIfTI file (.nii, .nii.gz)", "Check the paths after -i.") from None
    if SALT_VARIABLE not in os.environ:
        logger.warning("the names are salted with a salt that everybody knows; set %s to your own", SALT_VARIABLE)
    folder = work / "inputs"
    folder.mkdir()
    return [
        Source(case, _hidden(path, case, folder), "", wanted, work, _says(path))
        for path, case in salted_names(paths).items()
    ]


def _says(path: Path) -> str | None:
    return recognise_name(path.name).channel


def _distinct(sources: list[Source]) -> list[Source]:
    """The sources with names of their own: two places may hold studies of one name."""
    names = unique_case_names(source.path / source.case for source in sources)
    for source in sources:
        source.case = names[source.path / source.case]
    return sources


def salted_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Eight hex digits for each path, more where two would be alike; the same for the same path and salt.

    The whole path counts, so that one file name in two folders is two cases.
    """
    salt = os.environ.get(SALT_VARIABLE, KNOWN_SALT)
    digests = {
        path: hashlib.sha256(f"{salt}\0{path.absolute()}".encode("utf-8", "surrogatepass")).hexdigest()
        for path in paths
    }
    digits = _DIGITS
    while len({digest[:digits] for digest in digests.values()}) < len(digests):
        digits += 1
    return {path: f"case-{digest[:digits]}" for path, digest in digests.items()}


def _hidden(path: Path, case: str, folder: Path) -> Path:
    """A link to a file that does not tell its name."""
    logger.debug("%s is %s", case, path)
    ending = next((end for end in NIFTI_SUFFIXES if path.name.lower().endswith(end)), "")
    link = folder / f"{case}{ending}"
    try:
        link.symlink_to(path.absolute())
    except OSError:  # a file system without links
        if path.exists():
            shutil.copyfile(path, link)
    return link
