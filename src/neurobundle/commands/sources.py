"""What the cases of a run are made from.

A *source* is what one case is made from: today a NIfTI file. It knows the case's name, how to be read, and by what
name it may be spoken of. *Salted names* are for files whose names say who the person is: the case is called by eight
hex digits, and nothing that the run opens, logs or writes has the file's name or folder in it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurobundle.bundle import fingerprint
from neurobundle.errors import NeurobundleError, NoInputError
from neurobundle.load.inputs import find_images
from neurobundle.load.names import unique_case_names
from neurobundle.load.scan import Scan, read_scan
from neurobundle.types import NIFTI_SUFFIXES

logger = logging.getLogger(__name__)

SALT_VARIABLE = "NEUROBUNDLE_SALT"
#: What everybody's names are salted with who sets none of their own.
KNOWN_SALT = "neurobundle"
_DIGITS = 8


@dataclass(frozen=True)
class Source:
    """What one case is made from.

    Attributes:
        case: names its outputs.
        path: what is opened: the user's file, or a link to it that does not tell its name.
        shown: how reports and messages call it; empty if it is not to be named.
    """

    case: str
    path: Path
    shown: str

    def digest(self) -> str:
        """The fingerprint of its content; empty if it is not there, which reading it will say better."""
        return fingerprint.of_input(self.path) if self.path.exists() else ""

    def read(self) -> Scan:
        """The scan.

        Raises:
            InputError: if the gate refuses it.
        """
        return read_scan(self.path)

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


def find_sources(
    inputs: Sequence[str | Path], without: Path | None = None, *, work: Path, salted: bool = False
) -> list[Source]:
    """The cases that the inputs hold, their names all different.

    Args:
        inputs: files and folders.
        without: a folder that is not looked into.
        work: a folder of the run's own, for links.
        salted: call them by hex digits.

    Raises:
        NoInputError: if there are none.
    """
    if not salted:
        names = unique_case_names(find_images(inputs, without))
        return [Source(case, path, str(path)) for path, case in names.items()]
    try:
        paths = find_images(inputs, without)
    except NoInputError:
        raise NoInputError("the inputs hold no NIfTI file (.nii, .nii.gz)", "Check the paths after -i.") from None
    if SALT_VARIABLE not in os.environ:
        logger.warning("the names are salted with a salt that everybody knows; set %s to your own", SALT_VARIABLE)
    folder = work / "inputs"
    folder.mkdir()
    return [_hidden(path, case, folder) for path, case in salted_names(paths).items()]


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


def _hidden(path: Path, case: str, folder: Path) -> Source:
    logger.debug("%s is %s", case, path)
    ending = next((end for end in NIFTI_SUFFIXES if path.name.lower().endswith(end)), "")
    link = folder / f"{case}{ending}"
    try:
        link.symlink_to(path.absolute())
    except OSError:  # a file system without links
        if path.exists():
            shutil.copyfile(path, link)
    return Source(case, link, "")
