"""What a run left in its output folder: ``report.json`` and ``volumes.csv``, whole at every moment.

An *entry* is how one case ended. The *key* of an entry is what its result depends on: fingerprints of the input, the
weights and the config, and versions. A case is *finished* if its entry is ok, has the same key, and its outputs on
disk are still the ones that the entry lists. Each entry is written down right after its case: read, merged and
replaced under the folder's lock, so that a killed run loses nothing that was done, and two runs on one folder add to
each other. Imports neither torch nor MONAI.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle import __version__
from neurobundle.bundle.find import info
from neurobundle.errors import InputError
from neurobundle.export.tables import write_csv
from neurobundle.files import folder_lock, require_writable, sweep_folder, write_atomic, write_json
from neurobundle.geometry import voxel_volume_mm3
from neurobundle.networks.manifest import sha256_of

logger = logging.getLogger(__name__)

REPORT_NAME = "report.json"
VOLUMES_NAME = "volumes.csv"
VOLUMES_COLUMNS = ("case", "structure", "ml")

_OUTPUT_ENDING = ".nii.gz"


@dataclass
class CaseResult:
    """How one case ended; an entry of ``report.json``.

    Attributes:
        case: the name that its outputs begin with.
        file: what it was made from, as the user named it; empty where names are salted.
        status: ``ok`` or ``failed``.
        input: ``crop`` or ``head``, where a bundle takes both.
        output: the label map's file name.
        outputs: the sha256 of each file that was written, by name.
        volumes_ml: millilitres by structure.
        places: where in a head the structures were found.
        study: of a study, which scan was chosen for each channel and why, and what was passed over and why.
        error: the message after the word ERROR.
        warnings: what was noticed and did not stop the case.
        key: what the result depends on: ``input``, ``weights``, ``config``, ``versions``.
        timing: seconds by step, and the peak of memory; all that two equal runs may differ in.
    """

    case: str
    file: str
    status: str = "ok"
    input: str = ""
    output: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    places: list[dict[str, Any]] = field(default_factory=list)
    study: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    key: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether the case gave a result."""
        return self.status == "ok"

    def wrote(self, path: Path) -> None:
        """Note a file that this case wrote."""
        self.outputs[path.name] = sha256_of(path)

    def warn(self, text: str) -> None:
        """Note and log a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            logger.warning("%s: %s", self.case, text)


class Journal:
    """The entries of an output folder.

    Args:
        folder: the output folder.
        head: what stands above the cases in the report: the bundle and its version.
    """

    def __init__(self, folder: Path, head: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.head = dict(head or {})
        #: Entries as they were when this run began their cases.
        self._seen: dict[str, CaseResult | None] = {}
        #: The report as it was read last, and which file it was.
        self._read: tuple[tuple[int, ...], dict[str, CaseResult]] = ((), {})

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
        try:
            status = path.stat()
            # Each report is a new file under the old name, so that one of the same number and time is the same.
            identity = (status.st_ino, status.st_mtime_ns, status.st_size)
            if identity != self._read[0]:
                cases = json.loads(path.read_bytes())["cases"]
                self._read = (identity, {item["case"]: _entry(item) for item in cases})
            return dict(self._read[1])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("%s cannot be read and begins anew (%s)", path, type(error).__name__)
            return {}

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
        if entry is None or not entry.passed or entry.file == file or not entry.key:
            return
        if entry.key.get("input") != key.get("input"):
            raise InputError(
                f"the output folder already holds a case of this name, of another scan ({entry.file or 'not named'})",
                "Choose another output folder with -o, or replace it with --redo.",
                case=case,
                file=file,
            )

    @contextlib.contextmanager
    def writing(self, result: CaseResult, path: Path) -> Iterator[None]:
        """Around the writing of a label map: what lies there and is not ours is kept under another name.

        Not ours is what a person edited since it was written, or put there; it becomes
        ``<case>_seg.edited-<8hex>.nii.gz``, unless the new label map has the very same bytes.

        Args:
            result: the case; gets a warning if something is kept, and the file's sha256.
            path: the label map's final name.
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

        Args:
            result: replaces the case's earlier entry.

        Raises:
            EnvironmentFault: if the report cannot be written; the old one stays.
        """
        with folder_lock(self.folder):
            entries = self.entries()
            old = entries.get(result.case)
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
        kept = path.with_name(f"{path.name.removesuffix(_OUTPUT_ENDING)}.edited-{digest[:8]}{_OUTPUT_ENDING}")
        if not kept.exists():
            try:
                os.link(path, kept)  # the writer replaces the name, not the content
            except OSError:
                write_atomic(kept, path.read_bytes())
        return kept

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
        ordered = [entries[case] for case in sorted(entries)]
        write_csv(self.folder / VOLUMES_NAME, VOLUMES_COLUMNS, volume_rows(ordered))
        write_json(self.folder / REPORT_NAME, {**self.head, "cases": [vars(entry) for entry in ordered]})


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


def volumes_ml(labels: Any, affine: Any, structures: Mapping[int, str]) -> dict[str, float]:
    """Millilitres of each structure.

    Args:
        labels: whole numbers on any grid.
        affine: 4 x 4, mm.
        structures: the name of each value.
    """
    ml = voxel_volume_mm3(affine) / 1000
    return {name: round(int(np.count_nonzero(labels == value)) * ml, 4) for value, name in structures.items()}


def _entry(item: Mapping[str, Any]) -> CaseResult:
    """An entry of a report, perhaps of an earlier version; names that would lead out of the folder are dropped."""
    known = {each.name for each in fields(CaseResult)}
    entry = CaseResult(**{name: value for name, value in item.items() if name in known})
    entry.outputs = {name: digest for name, digest in entry.outputs.items() if Path(name).name == name}
    return entry
