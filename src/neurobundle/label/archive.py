"""The studies of an archive that speaks DICOMweb, as a store has them.

An archive may have more than a disk holds. So its studies are *listed*, in one request, and each is *fetched* when it
is first wanted: into a private folder of this process, of which the last few are kept, and none when it ends. There
it goes through the same gate as a study of a folder. UIDs stay in memory: in the store and in logs a study has the
name that a folder's would have. Nothing here needs MONAI Label.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from neurobundle.commands.inputs import find_sources, one_of
from neurobundle.commands.sources import StudySource, Wanted
from neurobundle.errors import InputError, NeurobundleError
from neurobundle.label.dicomweb import DicomWeb, Series, archive_of, is_address
from neurobundle.label.fetched import KEPT, FetchedStudies
from neurobundle.label.studies import StudyEntry, StudyStore
from neurobundle.load import salt
from neurobundle.load.dicom import find_dicom
from neurobundle.load.dicom.folder import study_key
from neurobundle.prepare.grid import Grid

logger = logging.getLogger(__name__)

#: Seconds after a list within which an unknown series is not looked for again.
LIST_AGAIN_S = 5.0

#: Of a study's name where two are alike.
_DIGITS = 32


@dataclass(frozen=True)
class Listed:
    """A study as an archive lists it.

    Attributes:
        case: its name here.
        series: its MR series.
    """

    case: str
    series: tuple[Series, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Of what is listed: another one if a series came, went or grew."""
        return salt.digest(repr([(one.uid, one.instances) for one in self.series]), 16)


def listed_studies(series: Iterable[Series]) -> dict[str, Listed]:
    """Listed series by study, the studies by their names: those that ``neurobundle run`` gives them.

    >>> [len(study.series) for study in listed_studies([Series("1.2", "1.2.1"), Series("1.2", "1.2.2")]).values()]
    [2]
    """
    members: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        members[one.study].append(one)
    names: dict[str, list[str]] = defaultdict(list)
    for uid in members:
        names[study_key(uid)].append(uid)
    cases = {
        uid: name if len(uids) == 1 else f"study-{salt.digest(uid, _DIGITS)}"
        for name, uids in names.items()
        for uid in uids
    }
    return {cases[uid]: Listed(cases[uid], tuple(sorted(found))) for uid, found in members.items()}


class ArchiveStore(StudyStore):
    """A store of the studies of an archive.

    Args:
        folder: made if need be; gets no DICOM.
        archive: where the studies are.
        wanted: as for any store.
        bundles: those that are served: their codes name the segments that go back to the archive.
        kept: so many studies stay fetched.

    Raises:
        EnvironmentFault: if the folder cannot be written.
        InputError: if its ``studies.json`` cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        archive: DicomWeb,
        wanted: Wanted | None = None,
        bundles: Sequence[Path] = (),
        kept: int = KEPT,
    ) -> None:
        super().__init__(folder, wanted)
        self.archive, self.bundles = archive, tuple(bundles)
        self._listed: dict[str, Listed] = {}
        self._listed_at = -math.inf
        self._fetched = FetchedStudies(kept)
        self._failed: set[str] = set()
        self._judging = threading.Lock()

    def refresh(self) -> None:
        """Ask the archive what it has.

        Raises:
            ArchiveFault: if it cannot be asked.
        """
        self._listed = listed_studies(self.archive.series())
        self._listed_at = time.monotonic()
        self.entries = self._read()
        if not self._listed:
            logger.warning("the archive at %s lists no MR series", self.archive.address)

    def relist(self) -> None:
        """Ask the archive what it has; it is one request.

        Raises:
            ArchiveFault: if it cannot be asked.
        """
        self.refresh()

    def waiting(self) -> list[str]:
        """The ids of listed studies that were not fetched yet, or changed since; not of those that failed just now."""
        return sorted(case for case, listed in self._listed.items() if self._waits(listed))

    def bring(self, image: str) -> None:
        """Fetch a study if it was not, and keep its image.

        Raises:
            InputError: if there is no such study, it is refused, or the archive does not hand it over.
            ArchiveFault: if the archive cannot be used.
        """
        listed = self._listed.get(image)
        if listed is None or not self._waits(listed, again=True):
            self._require(image)
            return
        with self.reading(image):
            pass

    @contextmanager
    def reading(self, image: str) -> Iterator[Path]:
        """Around the reading of a study, which is fetched if it is not here: its folder.

        Raises:
            InputError: if there is no such study, it is refused, or the archive does not hand it over.
            ArchiveFault: if the archive cannot be used.
        """
        listed = self._listed.get(image)
        if listed is None:
            cause = "the archive lists no such study"
            raise InputError(cause, "Was it removed there? A new one is seen with the next sample.", case=image)
        key = f"{image}-{listed.fingerprint}"
        with self._fetched.held(key, lambda folder: self._fetch(listed, folder)) as folder:
            with self._judging:
                if self._waits(listed, again=True):
                    self.note(self._entry(listed, folder))
            self._require(image)
            yield folder

    def named(self, image: str) -> tuple[str, str]:
        """An image's id by the SeriesInstanceUID of one of its scans, and the series' name; itself, and none.

        What looks like a UID and is none of the archive's is not given back either.

        Raises:
            ArchiveFault: if the archive, which may have a new study of it, cannot be asked.
        """
        if image in self.entries or image in self._listed or not image.replace(".", "").isdigit():
            return image, ""
        unknown = not any(one.uid == image for listed in self._listed.values() for one in listed.series)
        if unknown and time.monotonic() - self._listed_at > LIST_AGAIN_S:
            self.relist()
        for listed in self._listed.values():
            if any(one.uid == image for one in listed.series):
                return listed.case, _scan(image)
        return _scan(image), ""

    def shown(self, image: str) -> dict[str, str]:
        """What a viewer of the archive wants to know to show an image; never to be written or logged."""
        listed = self._listed.get(image)
        if listed is None:
            return {}
        own = self._reference(image)
        series = next((one for one in listed.series if _is_of(own, _scan(one.uid))), listed.series[0])
        fields = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid, "Modality": series.modality}
        return {**fields, "StudyDate": series.date, "StudyTime": series.time}

    def pass_on(self, service: str, path: str, accept: str) -> Any:
        """What the archive answers to a viewer, to be read piece by piece and closed.

        Raises:
            InputError: if it has no such thing.
            ArchiveFault: if it cannot be used.
        """
        return self.archive.ask(service, path, accept)

    def grid_of(self, image: str, scan: str) -> Grid | None:
        """The grid of a series, by the second of :meth:`named`; None if it is the image's own.

        Raises:
            InputError: if the series cannot be used, or is several volumes.
        """
        if not scan or _is_of(self._reference(image), scan):
            return None
        with self.reading(image) as folder:
            found = [one for one in find_dicom(folder).volumes if _is_of(one.key, scan)]
        if len(found) != 1 or found[0].verdict.refusals:
            cause = (
                "the series that was asked for is no volume" if len(found) != 1 else found[0].verdict.refusals[0].cause
            )
            raise InputError(cause, "Ask for the series that the next sample names.", case=image)
        return Grid(found[0].shape, found[0].affine)

    def hand_back(self, image: str, labels: Path, names: Mapping[int, str], made_by: str) -> None:
        """Send a final label to the archive, as a DICOM segmentation of the study.

        Raises:
            InputError: if it cannot be one, or the archive does not take it.
            ArchiveFault: if the archive cannot be used.
            MissingPackageError: if highdicom is not installed.
        """
        from neurobundle.label.objects import label_object

        with self.reading(image) as folder, tempfile.TemporaryDirectory(prefix="neurobundle-") as work:
            source = self._source(image, folder, Path(work))
            content = label_object(source, labels, names, self.bundles, made_by)
        self.archive.store(content)
        logger.info("%s: its final label is in the archive", image)

    def close(self) -> None:
        """Remove what was fetched; the store cannot fetch any more."""
        self._fetched.close()

    def _waits(self, listed: Listed, again: bool = False) -> bool:
        """Whether a study is to be fetched: because nothing is known of it as it is now, or to try again."""
        entry = self.entries.get(listed.case)
        if entry is None or entry.listed != listed.fingerprint:
            return True
        if entry.status == "failed":
            return again or listed.case not in self._failed
        return entry.status == "ok" and not self.image(listed.case).is_file()

    def _fetch(self, listed: Listed, folder: Path) -> None:
        room = self.archive.limits.study_bytes
        try:
            for number, series in enumerate(listed.series, start=1):
                room -= self.archive.fetch(series, folder / f"{number:03d}", room)
        except InputError as error:
            self._failed.add(listed.case)
            error.case = listed.case
            self.note(self._new(listed, "failed", str(error)))
            logger.warning("ERROR %s", error)
            raise

    def _entry(self, listed: Listed, folder: Path) -> StudyEntry:
        """What the gate says of a study that was fetched."""
        entry, before = self._new(listed), self.entries.get(listed.case)
        with tempfile.TemporaryDirectory(prefix="neurobundle-") as work:
            try:
                source = self._source(listed.case, folder, Path(work))
            except NeurobundleError as error:
                entry.status, entry.error = "refused", f"{listed.case}: {error.cause}. {error.way_out}".strip()
                logger.warning("ERROR %s", entry.error)
                self.image(listed.case).unlink(missing_ok=True)
                return entry
            entry.key = source.digest()
            if (
                before is not None
                and (before.status, before.key) == ("ok", entry.key)
                and self.image(before.case).is_file()
            ):
                # Something came to the study that changes nothing of the image.
                entry.warnings, entry.study = before.warnings, before.study
                return entry
            return self.judged(source, entry, folder)

    def _source(self, image: str, folder: Path, work: Path) -> StudySource:
        """A study that was fetched; messages name no file of it."""
        source = one_of(find_sources([folder], work=work, wanted=self.wanted), image)
        if not isinstance(source, StudySource):
            raise InputError("it holds no DICOM study", "Report this.", case=image)
        source.case, source.work, source.shown = image, work, ""
        return source

    def _new(self, listed: Listed, status: str = "ok", error: str = "") -> StudyEntry:
        return StudyEntry(listed.case, self.archive.address, "", status, error, listed=listed.fingerprint)

    def _reference(self, image: str) -> str:
        """The key of the volume that an image shows; empty while that is not known."""
        entry = self.entries.get(image)
        channel = self.wanted.reference or next(iter(self.wanted.channels), "")
        chosen = entry.study.get("chosen", []) if entry is not None else []
        return next((str(scan.get("key", "")) for scan in chosen if scan.get("channel") == channel), "")


def open_store(
    folder: Path, studies: str, wanted: Wanted, bundles: Sequence[Path], environment: Mapping[str, str] | None = None
) -> StudyStore:
    """The store of a folder of studies, or of an archive.

    Args:
        folder: made if need be.
        studies: the folder, or the address of the archive.
        wanted: the channels of the bundle that is served first.
        bundles: those that are served.
        environment: variables; those of this process if None.

    Raises:
        SettingError: if the address, or what the environment says of it, cannot be used.
        EnvironmentFault: if the store cannot be written.
        InputError: if its ``studies.json`` cannot be read.
    """
    if not is_address(studies):
        return StudyStore(folder, wanted, [studies])
    variables = os.environ if environment is None else environment
    return ArchiveStore(folder, archive_of(studies, variables), wanted, bundles)


def _scan(uid: str) -> str:
    """The name of a series, from its UID."""
    return f"series-{salt.digest(uid)}"


def _is_of(key: str, scan: str) -> bool:
    """Whether a volume is of a series, by their names."""
    return key.partition("_")[0].rpartition("-")[2] == scan.removeprefix("series-") != ""
