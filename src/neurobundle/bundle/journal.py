"""What a run left in its output folder: ``report.json`` and a table, whole at every moment.

The table is ``volumes.csv``, or ``predictions.csv`` of a bundle that answers a class a case.

An *entry* is how one case ended (:mod:`neurobundle.bundle.entries`). The *key* of an entry is what its result depends
on: fingerprints of the input, the weights and the config, and versions. A case is *finished* if its entry is ok, has
the same key, and its outputs on disk are still the ones that the entry lists. Each entry is written down right after
its case: read, merged and replaced under the folder's lock, so that a killed run loses nothing that was done, and two
runs on one folder add to each other. A report that holds what no run of ours wrote is kept under another name before it
is replaced. Imports neither torch nor MONAI.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neurobundle import __version__
from neurobundle.bundle.entries import CaseResult, entry_of
from neurobundle.bundle.find import info
from neurobundle.errors import InputError
from neurobundle.export.answers import PREDICTIONS_NAME, prediction_line, predictions_head
from neurobundle.export.tables import write_csv, write_lines
from neurobundle.files import fault, folder_lock, require_writable, sweep_folder, write_atomic
from neurobundle.geometry import voxel_volume_mm3
from neurobundle.networks.manifest import sha256_of

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
VOLUMES_NAME = "volumes.csv"
VOLUMES_COLUMNS = ("case", "structure", "ml")

_OUTPUT_ENDING = ".nii.gz"

#: What stands above the cases of a report: see :func:`report_head`.
_HEAD_NAMES = ("bundle", "bundle_version", "neurobundle_version", "not_for_diagnosis")


class _Report(NamedTuple):
    """A report as it was read.

    Attributes:
        identity: which file it was; empty if there was none.
        entries: by case; what is no entry is dropped.
        problem: what would be lost if it were replaced; empty if nothing.
    """

    identity: tuple[int, ...] = ()
    entries: Mapping[str, CaseResult] = {}
    problem: str = ""


class Journal:
    """The entries of an output folder. Several threads may ask it, and one record.

    Args:
        folder: the output folder.
        head: what stands above the cases in the report: the bundle and its version.
        classes: of a bundle that answers a class a case; None of one that draws label maps.
    """

    def __init__(
        self, folder: Path, head: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
    ) -> None:
        self.folder, self.classes = folder, classes
        self.head = dict(head or {})
        #: Entries as they were when this run began their cases.
        self._seen: dict[str, CaseResult | None] = {}
        #: The report as it was read or written last.
        self._read = _Report()
        #: Entries as JSON, each with the entry that it was made of: those of earlier cases are not made again.
        self._texts: dict[str, tuple[CaseResult, str]] = {}
        #: The same as lines of the table of answers.
        self._lines: dict[str, tuple[CaseResult, str]] = {}
        #: Held while the report is replaced and what is known of it is brought up to date.
        self._replacing = threading.RLock()

    def open(self) -> Journal:
        """Make the folder, prove that it can be written, and remove what killed writers left half-written.

        Raises:
            EnvironmentFault: if it cannot be written.
        """
        require_writable(self.folder)
        with folder_lock(self.folder):
            removed = sweep_folder(self.folder)
        if removed:
            logger.info("%d half-written files of a killed run were removed", removed)
        return self

    def entries(self) -> dict[str, CaseResult]:
        """All entries by case; empty if there is no report, or none that can be read."""
        path = self.folder / REPORT_NAME
        with self._replacing:
            try:
                identity = _identity(path)
                if identity != self._read.identity:
                    self._read = _Report(identity, *_read_report(path, self.head))
            except OSError:  # there is none; or the folder cannot be looked at, which writing there will say better
                self._read = _Report()
            return dict(self._read.entries)

    def finished(self, case: str, key: Mapping[str, Any]) -> CaseResult | None:
        """The entry of a case that needs not be done again, or None.

        Args:
            case: its name.
            key: what its result would depend on.
        """
        entry = self._seen[case] = self.entries().get(case)
        return entry if entry is not None and self._holds(entry, key) else None

    def refuse_another(self, case: str, file: str, key: Mapping[str, Any]) -> None:
        """Refuse to replace the result of another scan that happens to have the same name.

        Args:
            case: its name.
            file: what it is made from.
            key: what its result would depend on.

        Raises:
            InputError: if the folder holds a result of this name, of another file with another content.
        """
        entry = self.entries().get(case)
        if entry is not None and _is_of_another(entry, file, key):
            raise InputError(
                f"the output folder already holds a case of this name, of another scan ({entry.file or 'not named'})",
                "Choose another output folder with -o, or replace it with --redo.",
                case=case,
                file=file,
            )

    @contextlib.contextmanager
    def writing(self, result: CaseResult, path: Path) -> Iterator[None]:
        """Around the writing of a result: what lies there and is not ours is kept under another name.

        Not ours is what a person edited since it was written, or put there; it becomes
        ``<case>_seg.edited-<8hex>.nii.gz`` (``<case>_class.edited-<8hex>.json``), unless the new result has the very
        same bytes.

        Args:
            result: the case; gets a warning if something is kept, and the file's sha256.
            path: the result's final name.
        """
        kept = self._set_aside(result.case, path)
        try:
            yield
            if path.is_file():
                result.wrote(path)
        finally:
            if kept is not None and path.exists() and sha256_of(path) == sha256_of(kept):
                kept.unlink()
            elif kept is not None:
                result.warn(f"{path.name} was edited by hand, or is of another run: it was kept as {kept.name}")

    def record(self, result: CaseResult) -> None:
        """Write down how a case ended, and remove those of its earlier outputs that it no longer has.

        A failure leaves the result of another scan of this name as it is.

        Args:
            result: replaces the case's earlier entry.

        Raises:
            EnvironmentFault: if the report cannot be written; the old one stays.
        """
        with folder_lock(self.folder):
            entries = self.entries()
            old = entries.get(result.case)
            if old is not None and not result.passed and _is_of_another(old, result.file, result.key):
                logger.warning("%s: the earlier result, of %s, stays", result.case, old.file or "another scan")
                return
            if old is not None and not result.passed and self._done_meanwhile(old, result):
                logger.warning("%s: another run finished it meanwhile; that result stays", result.case)
                return
            if old is not None:
                self._retire(old, result)
            entries[result.case] = result
            self._write(entries)

    def _holds(self, entry: CaseResult, key: Mapping[str, Any]) -> bool:
        if not entry.passed or not entry.outputs or not key.get("input") or entry.key != dict(key):
            return False
        return all(self._has(name, digest) for name, digest in entry.outputs.items())

    def _has(self, name: str, digest: str) -> bool:
        path = self.folder / name
        return path.is_file() and sha256_of(path) == digest

    def _done_meanwhile(self, old: CaseResult, result: CaseResult) -> bool:
        return old != self._seen.get(result.case, old) and self._holds(old, result.key)

    def _set_aside(self, case: str, path: Path) -> Path | None:
        if not path.is_file():
            return None
        digest = sha256_of(path)
        entry = self.entries().get(case)
        if entry is not None and entry.outputs.get(path.name) == digest:
            return None
        ending = _OUTPUT_ENDING if path.name.endswith(_OUTPUT_ENDING) else path.suffix
        kept = path.with_name(f"{path.name.removesuffix(ending)}.edited-{digest[:8]}{ending}")
        _keep(path, kept)
        return kept

    def _set_report_aside(self) -> None:
        """Keep a report that holds what the next one would not."""
        if not self._read.problem:
            return
        path = self.folder / REPORT_NAME
        try:
            kept = path.with_name(f"{path.stem}.unreadable-{sha256_of(path)[:8]}{path.suffix}")
            _keep(path, kept)
        except OSError as error:
            raise fault(path, error) from error
        logger.warning("%s %s: it was kept as %s", path, self._read.problem, kept.name)

    def _retire(self, old: CaseResult, result: CaseResult) -> None:
        for name, digest in old.outputs.items():
            path = self.folder / name
            if name in result.outputs or not path.is_file():
                continue
            if sha256_of(path) == digest:
                path.unlink()
            else:
                result.warn(f"{name} was edited by hand and is left alone; it is no result of this run")

    def _write(self, entries: Mapping[str, CaseResult]) -> None:
        self._set_report_aside()
        ordered = [entries[case] for case in sorted(entries)]
        if self.classes is None:
            write_csv(self.folder / VOLUMES_NAME, VOLUMES_COLUMNS, volume_rows(ordered))
        else:
            lines = [self._line(entry, self.classes) for entry in ordered]
            write_lines(self.folder / PREDICTIONS_NAME, [predictions_head(self.classes), *lines])
        path = self.folder / REPORT_NAME
        texts = {entry.case: self._text(entry) for entry in ordered}
        # As it would be read again: of what was read or written before, that is known.
        again = {
            entry.case: entry if self._is_known(entry) else entry_of(json.loads(texts[entry.case])) for entry in ordered
        }
        content = _report_bytes(self.head, list(texts.values()))
        with self._replacing:
            write_atomic(path, content)
            if None not in again.values():
                kept = {case: entry for case, entry in again.items() if entry is not None}
                self._read = _Report(_identity(path), kept)
                self._texts = {case: (entry, texts[case]) for case, entry in kept.items()}

    def _is_known(self, entry: CaseResult) -> bool:
        return self._read.entries.get(entry.case) is entry

    def _line(self, entry: CaseResult, classes: Sequence[str]) -> str:
        """An entry as it stands in the table of answers."""
        made_of, line = self._lines.get(entry.case, (None, ""))
        if made_of is not entry:
            line = prediction_line(classes, entry.case, entry.answer)
            self._lines[entry.case] = (entry, line)
        return line

    def _text(self, entry: CaseResult) -> str:
        """An entry as it stands in the report."""
        made_of, text = self._texts.get(entry.case, (None, ""))
        return text if made_of is entry else _json(vars(entry)).replace("\n", "\n    ")


def _identity(path: Path) -> tuple[int, ...]:
    """Which file this is: each report is a new one under the old name, so the same number and time are the same one."""
    status = path.stat()
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def _report_bytes(head: Mapping[str, Any], entries: Sequence[str]) -> bytes:
    """The bytes that :func:`neurobundle.files.write_json` would write of a report.

    Args:
        head: what stands above the cases.
        entries: each as JSON, indented as it stands in the list.
    """
    empty = _json({**head, "cases": []})
    above = empty.removesuffix("[]\n}")
    text = above + "[\n    " + ",\n    ".join(entries) + "\n  ]\n}" if entries else empty
    # A file name that is no valid UTF-8 reaches Python as lone surrogates; they are written as escapes.
    return f"{text}\n".encode(errors="backslashreplace")


def _is_of_another(entry: CaseResult, file: str, key: Mapping[str, Any]) -> bool:
    """Whether an entry is the result of another file, with another content, than this one."""
    if not entry.passed or entry.file == file or not entry.key:
        return False
    return bool(entry.key.get("input") != key.get("input"))


def volume_rows(entries: Iterable[CaseResult]) -> list[dict[str, Any]]:
    """The rows of ``volumes.csv``: one a case and structure."""
    return [
        {"case": entry.case, "structure": name, "ml": ml} for entry in entries for name, ml in entry.volumes_ml.items()
    ]


def report_head(bundle_dir: Path) -> dict[str, Any]:
    """What stands above the cases of a report."""
    return {
        "bundle": bundle_dir.name,
        "bundle_version": info(bundle_dir).get("version"),
        "neurobundle_version": __version__,
        "not_for_diagnosis": True,
    }


def volumes_ml(
    labels: Any, affine: Any, structures: Mapping[int, str], groups: Mapping[str, Sequence[int]] | None = None
) -> dict[str, float]:
    """Millilitres of each structure, and of each group of them.

    Args:
        labels: whole numbers on any grid.
        affine: 4 x 4, mm.
        structures: the name of each value.
        groups: name -> values that are counted together.
    """
    ml = voxel_volume_mm3(affine) / 1000
    values, counts = np.unique(labels, return_counts=True)
    voxels = {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    each = {name: round(voxels.get(value, 0) * ml, 4) for value, name in structures.items()}
    together = {name: sum(voxels.get(value, 0) for value in values) for name, values in (groups or {}).items()}
    return each | {name: round(count * ml, 4) for name, count in together.items()}


def _keep(path: Path, kept: Path) -> None:
    """Give a file a second name, which it has alone once a writer replaced the first."""
    if kept.exists():
        return
    try:
        os.link(path, kept)  # the writer replaces the name, not the content
    except OSError:
        write_atomic(kept, path.read_bytes())


def _read_report(path: Path, head: Mapping[str, Any]) -> tuple[dict[str, CaseResult], str]:
    """The entries of a report, and what of it would be lost if it were replaced.

    Args:
        path: the report.
        head: what this run writes above the cases.
    """
    try:
        content = json.loads(path.read_bytes())
        items = list(content["cases"])
        others = set(content) - {"cases", *_HEAD_NAMES, *head}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return {}, f"cannot be read ({type(error).__name__})"
    entries = {entry.case: entry for entry in map(entry_of, items) if entry is not None}
    if lost := len(items) - len(entries):
        return entries, f"holds what is no entry of a run ({lost} of {len(items)} cases)"
    return entries, "has parts that no run writes" if others else ""
