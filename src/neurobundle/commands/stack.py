"""``neurobundle stack``: heads that were published as pictures, a file a slice, as NIfTI cases with a datalist.

``OUT/cases/<case>/<case>_<channel>.nii.gz`` are the channels that are there, and ``<case>_seg.nii.gz`` is the mask: a
study a folder, which ``neurobundle run`` reads. The datalist names a file a channel, in the order of a bundle; for a
channel that a case lacks, one of zeros in ``OUT/absent``. ``stack.json`` says of each case its group, its spacing,
whether that was estimated (:mod:`neurobundle.load.picture_stacks`), and which channels were copies.
"""

from __future__ import annotations

import csv
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle import __version__
from neurobundle.errors import ExitCode, InputError, SettingError, closest, exit_code
from neurobundle.export.nifti import save_label_map, save_volume
from neurobundle.files import require_writable, write_json
from neurobundle.load.datalist import write_datalist
from neurobundle.load.names import unique_case_names
from neurobundle.load.picture_stacks import Stack, find_stacks, read_stack

logger = logging.getLogger(__name__)

DATALIST, REPORT, CASES, ABSENT = "datalist.json", "stack.json", "cases", "absent"


@dataclass
class StackReport:
    """What was stacked.

    Attributes:
        output: the folder.
        cases: facts of each case that was written.
        failed: why each of the others was not.
    """

    output: Path
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """All, some or none."""
        return exit_code([*[True] * len(self.cases), *[False] * len(self.failed)])


def stack(
    data: Path,
    output: Path,
    channels: Sequence[str],
    *,
    order: Sequence[str] | None = None,
    reference: str | None = None,
    spacing_mm: Sequence[float] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
    index: Path | None = None,
    group: str | None = None,
    folds: int = 5,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = lambda items: items,
) -> StackReport:
    """Stack all cases of a folder.

    Args:
        data: a folder of folders of pictures, one a case.
        output: outside ``data``.
        channels: what the pictures' colours are.
        order: the channels of the datalist, in this order; those of the pictures if None.
        reference: the channel that others may be copies of.
        spacing_mm: along R, A and S, of all cases; estimated from each head if None.
        scale: what the spacing is multiplied by, in the plane and between slices.
        index: a table with a row a case, ``data/index.csv`` if it is there and this is None.
        group: a column of it, a site for instance: folds are dealt within each group.
        folds: how many; 0 makes each group a fold, to leave out one at a time.
        progress: wraps the list of folders.

    Raises:
        NoInputError: if there is no folder of pictures.
        SettingError: for settings that cannot be used, a group without an index, or a case that it lacks.
    """
    wanted = list(order or channels)
    groups = _groups(index if index is not None else data / "index.csv", group)
    _check(data, output, wanted, channels, folds, group)
    folders = unique_case_names(find_stacks(data))
    require_writable(output)
    report, items = StackReport(output), {}
    for folder, case in progress(list(folders.items())):
        try:
            stacked = read_stack(folder, channels, reference, spacing_mm, scale)
            report.cases[case] = _facts(stacked, wanted) | _group_of(groups, group, folder.name)
            items[case] = _write(output, case, stacked, wanted)
        except SettingError:
            raise
        except InputError as error:
            logger.error("ERROR %s", error.for_case(case))
            report.failed[case] = error.brief()
            report.cases.pop(case, None)
    dealt = deal({case: str(facts.get("group", "")) for case, facts in report.cases.items()}, folds)
    entries = [{**items[case], "fold": fold} for case, fold in dealt.items()]
    how = {"stacked_by": __version__, "channels": wanted}
    write_datalist(output / DATALIST, entries, metadata=how)
    write_json(output / REPORT, {**how, "cases": report.cases, "failed": report.failed})
    return report


def deal(groups: Mapping[str, str], folds: int) -> dict[str, int]:
    """A fold for each case: the cases of each group go round the folds, in an order that only their names decide.

    Args:
        groups: case -> group.
        folds: how many; 0 makes each group a fold, in the order of their names.

    >>> deal({"a": "x", "b": "x", "c": "y"}, 0)
    {'a': 0, 'b': 0, 'c': 1}
    >>> sorted(deal(dict.fromkeys("abcd", "x"), 2).values())
    [0, 0, 1, 1]
    """
    if not folds:
        names = sorted(set(groups.values()))
        return {case: names.index(group) for case, group in groups.items()}
    drawn = sorted(groups, key=lambda case: (groups[case], hashlib.sha256(case.encode()).hexdigest()))
    return {case: n % folds for n, case in enumerate(drawn)}


def _check(
    data: Path, output: Path, wanted: Sequence[str], channels: Sequence[str], folds: int, group: str | None
) -> None:
    if len(set(channels)) != len(channels) or len(set(wanted)) != len(wanted):
        raise SettingError(f"a channel is named twice: {', '.join([*channels, *wanted])}", "Name each once.")
    strange = next((name for name in channels if name not in wanted), None)
    if strange is not None:
        raise SettingError(f"{strange!r} is a channel and not in the order{closest(strange, wanted)}", "Add it.")
    if folds < 0 or folds == 1 or (folds == 0 and group is None):
        raise SettingError(f"there can be no {folds} folds", "Give 2 or more, or 0 with --group: each is a fold.")
    if output.resolve() == data.resolve() or data.resolve() in output.resolve().parents:
        raise SettingError("the output lies in the data", "Give another folder with -o.", file=output)


def _groups(index: Path, column: str | None) -> dict[str, str] | None:
    """The group of each case, by its name; None if none is asked for."""
    if column is None:
        return None
    if not index.is_file():
        raise SettingError("groups need a table with a row a case", "Name it with --index.", file=index)
    with index.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        names = list(rows.fieldnames or [])
        if column not in names:
            raise SettingError(
                f"there is no column {column!r}{closest(column, names)}", f"It has {', '.join(names)}.", file=index
            )
        return {row[names[0]]: row[column] for row in rows}


def _group_of(groups: Mapping[str, str] | None, column: str | None, folder: str) -> dict[str, str]:
    if groups is None:
        return {}
    if folder not in groups:
        raise SettingError(f"the index has no row {folder!r} in its first column", f"Add it, with its {column}.")
    return {"group": groups[folder]}


def _facts(stacked: Stack, wanted: Sequence[str]) -> dict[str, Any]:
    return {
        "channels": [name for name in wanted if name in stacked.channels],
        "copies": list(stacked.copies),
        "spacing_mm": [round(value, 4) for value in stacked.spacing_mm],
        "spacing": "estimated from the head" if stacked.estimated else "given",
        "slices": int(next(iter(stacked.channels.values())).shape[2]),
    }


def _write(output: Path, case: str, stacked: Stack, wanted: Sequence[str]) -> dict[str, Any]:
    """Write one case, and give its entry of the datalist."""
    folder, affine = output / CASES / case, stacked.affine
    paths = []
    for name in wanted:
        data = stacked.channels.get(name)
        path = output / ABSENT / f"{case}.nii.gz" if data is None else folder / f"{case}_{name}.nii.gz"
        empty = np.zeros(next(iter(stacked.channels.values())).shape, np.uint8)
        save_volume(path, empty if data is None else data, affine)
        paths.append(str(path))
    entry: dict[str, Any] = {"case": case, "subject": case, "image": paths}
    if stacked.mask is not None:
        entry["label"] = str(save_label_map(folder / f"{case}_seg.nii.gz", stacked.mask, affine))
    return entry
