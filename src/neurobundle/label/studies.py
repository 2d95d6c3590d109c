"""The studies that annotators see: each as one image in a store, and where it came from.

The words are those of docs/concepts/label.md. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neurobundle.commands.inputs import find_sources
from neurobundle.commands.sources import Source, StudySource, Wanted
from neurobundle.errors import InputError, NeurobundleError
from neurobundle.export.nifti import save_volume
from neurobundle.files import require_writable, write_json
from neurobundle.label.guard import is_name

logger = logging.getLogger(__name__)

STUDIES_NAME, IMAGES = "studies.json", "images"


@dataclass
class StudyEntry:
    """One study of a store; an entry of ``studies.json``.

    Attributes:
        case: names the image, and is its id.
        path: what was found: a file, or the folder of a study.
        key: the fingerprint of its content, so that it is read once.
        status: ``ok``, or ``refused``: then there is no image.
        error: cause and way out, if it was refused.
        warnings: what the gate noticed and did not refuse.
        study: which scans were chosen for which channel and why, and which were passed over.
    """

    case: str
    path: str
    key: str
    status: str = "ok"
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)


class StudyStore:
    """A folder with an image of each study.

    Args:
        folder: made if need be.
        wanted: the channels of the bundle that is served first, whose reference is the image; one scan if there are
            none.

    Raises:
        EnvironmentFault: if the folder cannot be written.
        InputError: if its ``studies.json`` cannot be read.
    """

    def __init__(self, folder: Path, wanted: Wanted | None = None) -> None:
        self.folder, self.wanted = folder, wanted or Wanted()
        require_writable(folder / IMAGES)
        self.entries = self._read()

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
            for source in find_sources(studies, self.folder, work=Path(work), wanted=self.wanted):
                self._gather(source)
        write_json(self.folder / STUDIES_NAME, {"studies": [asdict(entry) for entry in self.entries.values()]})
        return list(self.entries.values())

    def path_of(self, image: str) -> Path:
        """Where a study lies.

        Raises:
            InputError: if the store has no such image.
        """
        entry = self.entries.get(image)
        if entry is None or entry.status != "ok":
            raise InputError("the store has no image of that id", f"See {STUDIES_NAME} in the store for what it has.")
        return Path(entry.path)

    def image(self, case: str) -> Path:
        """The file of an image."""
        return self.folder / IMAGES / f"{case}.nii.gz"

    def _gather(self, source: Source) -> None:
        case = source.case
        path = source.found.folder if isinstance(source, StudySource) and source.found else source.path
        entry = StudyEntry(case, str(path.absolute()), source.digest())
        before = self.entries.get(case)
        if before is not None and before.key == entry.key and (before.status != "ok" or self.image(case).is_file()):
            return
        try:
            if not is_name(case):
                raise InputError("its name cannot be the id of an image", "Rename it: letters, digits, and _ . + = @ -")
            scan = source.read()
            save_volume(self.image(case), scan.data, scan.affine, form_code=scan.form_code, units=scan.units)
            entry.warnings, entry.study = list(scan.warnings), source.study
        except NeurobundleError as error:
            entry.status, entry.error = "refused", source.censored(error, source.work).brief()
            self.image(case).unlink(missing_ok=True)
            logger.warning("ERROR %s", entry.error)
        self.entries[case] = entry

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
