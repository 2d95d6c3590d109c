"""The studies that annotators see: each as one image in a store, and where it came from.

The words are those of docs/concepts/label.md. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurobundle.commands.inputs import find_sources
from neurobundle.commands.sources import Source, StudySource, Wanted
from neurobundle.errors import InputError, NeurobundleError
from neurobundle.export.nifti import save_volume
from neurobundle.files import folder_lock, require_writable, write_json
from neurobundle.label.guard import is_name

if TYPE_CHECKING:
    from neurobundle.prepare.grid import Grid

logger = logging.getLogger(__name__)

STUDIES_NAME, IMAGES = "studies.json", "images"


@dataclass
class StudyEntry:
    """One study of a store; an entry of ``studies.json``.

    Attributes:
        case: names the image, and is its id.
        path: what was found: a file, or the folder of a study; of an archive its address.
        key: the fingerprint of its content, so that it is read once.
        status: ``ok``; ``refused``: then there is no image; ``failed``: its archive did not hand it over.
        error: cause and way out, if it was refused or failed.
        warnings: what the gate noticed and did not refuse.
        study: which scans were chosen for which channel and why, and which were passed over.
        listed: the fingerprint of what its archive lists of it; empty of a folder.
    """

    case: str
    path: str
    key: str
    status: str = "ok"
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)
    listed: str = ""


class StudyStore:
    """A folder with an image of each study.

    Args:
        folder: made if need be.
        wanted: the channels of the bundle that is served first, whose reference is the image; one scan if there are
            none.
        places: files and folders in which the studies lie.

    Raises:
        EnvironmentFault: if the folder cannot be written.
        InputError: if its ``studies.json`` cannot be read.
    """

    def __init__(self, folder: Path, wanted: Wanted | None = None, places: Sequence[str | Path] = ()) -> None:
        self.folder, self.wanted, self.places = folder, wanted or Wanted(), places
        require_writable(folder / IMAGES)
        self.entries = self._read()

    def refresh(self) -> None:
        """Look for studies that are new or changed.

        Raises:
            NoInputError: if there is no scan.
        """
        self.gather(self.places)

    def relist(self) -> None:
        """As :meth:`refresh`, where it takes a moment only; else nothing."""

    def gather(self, studies: Sequence[str | Path]) -> list[StudyEntry]:
        """Bring studies into the store; what is there already and did not change is left as it is.

        A study that is refused is noted with the cause, and its image is taken away; the others go on.

        Args:
            studies: files and folders.

        Returns:
            All entries of the store, by case.

        Raises:
            NoInputError: if there is no scan.
        """
        with tempfile.TemporaryDirectory(prefix="neurobundle-") as work:
            sources = find_sources(studies, self.folder, work=Path(work), wanted=self.wanted)
            self.note(*map(self._gathered, sources))
        return list(self.entries.values())

    def waiting(self) -> list[str]:
        """The ids of images that are brought when they are first wanted, and are not here yet."""
        return []

    def bring(self, image: str) -> None:
        """See to it that an image is here.

        Raises:
            InputError: if the store has no such image, or its study is refused.
        """
        self._require(image)

    @contextmanager
    def reading(self, image: str) -> Iterator[Path]:
        """Around the reading of a study: where it lies, and stays for as long.

        Raises:
            InputError: if the store has no such image, or its study is refused.
        """
        path = Path(self._require(image).path)
        if not path.exists():
            raise InputError("its study is not where it was", "Was it moved? Start the server again.", case=image)
        yield path

    def image(self, case: str) -> Path:
        """The file of an image."""
        return self.folder / IMAGES / f"{case}.nii.gz"

    def named(self, image: str) -> tuple[str, str]:
        """The id of an image by a name that a viewer has for it, and the scan that it means; itself, and none."""
        return image, ""

    def shown(self, image: str) -> dict[str, str]:
        """What a viewer of the archive wants to know to show an image; never to be written or logged."""
        return {}

    def pass_on(self, service: str, path: str, accept: str) -> Any:
        """What an archive answers to a viewer.

        Args:
            service: ``qido`` or ``wado``.
            path: of a resource, with its query.
            accept: which kinds the viewer takes.

        Raises:
            InputError: if the studies are of no archive, or it has no such thing.
        """
        raise InputError("the studies here are those of a folder", "A viewer of DICOMweb wants those of an archive.")

    def grid_of(self, image: str, scan: str) -> Grid | None:
        """The grid of a scan, by the second of :meth:`named`; None if it is the image's own.

        Raises:
            InputError: if the study has no such scan.
        """
        return None

    def hand_back(self, image: str, labels: Path, names: Mapping[int, str], made_by: str) -> None:
        """Give a final label to where the study came from, if that takes any.

        Args:
            image: its id.
            labels: the label map, on the image's grid.
            names: what its values are called.
            made_by: the bundle whose answer an annotator began with; empty if there was none.

        Raises:
            InputError: if it is not taken.
        """

    def close(self) -> None:
        """Remove what this process alone needs."""

    def note(self, *entries: StudyEntry) -> None:
        """Keep entries, beside those that another process may have kept meanwhile."""
        with folder_lock(self.folder):
            self.entries = {**self._read(), **{entry.case: entry for entry in entries}}
            known = {"studies": [asdict(entry) for entry in self.entries.values()]}
            write_json(self.folder / STUDIES_NAME, known)

    def judged(self, source: Source, entry: StudyEntry, hidden: Path) -> StudyEntry:
        """Let the gate look at a study, and keep its image, or the cause of its refusal.

        Args:
            source: the study.
            entry: what is known of it; completed in place.
            hidden: a folder whose files no message names.
        """
        try:
            if not is_name(entry.case):
                raise InputError("its name cannot be the id of an image", "Rename it: letters, digits, and _ . + = @ -")
            scan = source.read()
            save_volume(self.image(entry.case), scan.data, scan.affine, form_code=scan.form_code, units=scan.units)
            entry.warnings, entry.study = list(scan.warnings), source.study
        except NeurobundleError as error:
            entry.status, entry.error = "refused", source.censored(error, hidden).brief()
            self.image(entry.case).unlink(missing_ok=True)
            logger.warning("ERROR %s", entry.error)
        return entry

    def _require(self, image: str) -> StudyEntry:
        entry = self.entries.get(image)
        if entry is None:
            raise InputError("the store has no image of that id", f"See {STUDIES_NAME} in the store for what it has.")
        if entry.status != "ok":
            raise InputError(entry.error)
        return entry

    def _gathered(self, source: Source) -> StudyEntry:
        case = source.case
        entry = StudyEntry(case, str(place_of(source).absolute()), source.digest())
        before = self.entries.get(case)
        if before is not None and before.key == entry.key and (before.status != "ok" or self.image(case).is_file()):
            return before
        return self.judged(source, entry, source.work)

    def _read(self) -> dict[str, StudyEntry]:
        path = self.folder / STUDIES_NAME
        if not path.exists():
            return {}
        try:
            found = [StudyEntry(**entry) for entry in json.loads(path.read_bytes())["studies"]]
        except (ValueError, KeyError, TypeError) as error:
            cause = f"this is no list of studies: {type(error).__name__}"
            raise InputError(cause, "Remove it; the studies are gathered again.", file=path) from error
        return {entry.case: entry for entry in found}


def place_of(source: Source) -> Path:
    """Where a study lies: its file, or the smallest folder that holds all of it."""
    if not isinstance(source, StudySource) or source.found is None:
        return source.path
    scans = [candidate.choice.source for candidate in source.found.candidates]
    if source.found.layout != "dicom" or not scans:
        return source.found.folder
    return Path(os.path.commonpath([file.parent for scan in scans for file in getattr(scan, "files", ())]))
