"""What is wrong with a set of files that each may be good: pairs, duplicates, grids, types, and persons across folds.

A *set finding* names the files it is about in its cause. Imports no torch.
"""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import InputError
from neurobundle.geometry import same_grid
from neurobundle.load.gate import Finding, Level, refuse, warn
from neurobundle.load.grids import SAME_CORNERS_MM, require_same_grid
from neurobundle.load.names import stem, words_of
from neurobundle.load.pairs import pair_by_name, volumes
from neurobundle.load.survey import Item, Survey

#: Folders of images, and what the folder of their labels beside them is called.
PAIR_FOLDERS = {"imagesTr": ("labelsTr",), "images": ("labels", "masks"), "imagesTs": ("labelsTs",)}

#: An image whose maximum is this many times the set's median maximum has another intensity scale, or broken voxels.
OUTLYING_MAXIMUM = 20.0

#: A folder is said to have copied channels if this share of its pictures has; a dark picture or two may differ.
MOST_OF_A_FOLDER = 0.8

#: Names of a table's columns that say who somebody is, the broadest first.
SUBJECT_COLUMNS = ("person", "subject", "subject_id", "participant_id", "patient", "patient_id", "pid")

#: How many names a finding lists.
MOST_NAMES = 5


def set_findings(found: Survey) -> list[Finding]:
    """All findings about the files of a survey together."""
    return [
        *unpaired(found),
        *misplaced_labels(found),
        *duplicates(found.items),
        *several_grids(found.items),
        *mixed_types(found.items),
        *outlying_maxima(found.items),
        *copied_channels(found.items),
        *persons_across_folds(found.tables),
    ]


def unpaired(found: Survey) -> list[Finding]:
    """Images without labels, labels without images, and pairs that do not share a grid, in folders of pairs."""
    by_file = {item.file: item for item in found.items}
    findings = []
    for images, labels in _pair_folders(found.items):
        pairs, problems = pair_by_name(volumes(images), volumes(labels))
        findings += [refuse("pair", problem.cause, problem.way_out, problem.file) for problem in problems]
        for image, label in pairs:
            a, b = by_file.get(image), by_file.get(label) if label else None
            if a is not None and b is not None:
                findings += _on_one_grid(b, a)
    return findings


def misplaced_labels(found: Survey) -> list[Finding]:
    """A label map beside images that lies on the grid of none of them."""
    folders = _by_folder(item for item in found.items if item.kind == "nifti" and item.affine is not None)
    findings = []
    for items in folders.values():
        images = [item for item in items if item.role == "image"]
        for label in items:
            if label.role == "label" and images and not any(_same_grid(label, image) for image in images):
                cause = f"{label.name} lies on the grid of none of the {len(images)} images beside it"
                findings.append(warn("grid", cause, "Find out which space it is in.", label.file))
    return findings


def duplicates(items: Sequence[Item]) -> list[Finding]:
    """Images with the same voxels, whatever their names, types or compression."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.content is not None and item.role == "image":
            groups[item.content].append(item)
    twins = [group for group in groups.values() if len(group) > 1]
    if not twins:
        return []
    shown = "; ".join(" = ".join(item.name for item in group[:3]) for group in twins[:MOST_NAMES])
    more = f" and {len(twins) - MOST_NAMES} more" if len(twins) > MOST_NAMES else ""
    cause = f"there are copies of {_images(len(twins))}: {shown}{more}"
    return [warn("duplicates", cause, "Keep one of each, or keep them in one fold (neurobundle split finds them).")]


def several_grids(items: Sequence[Item]) -> list[Finding]:
    """Scans of one folder that are one case's channels, by their names, but lie on several grids."""
    findings = []
    folders = _by_folder(item for item in items if item.kind == "nifti" and item.affine is not None)
    for folder, inside in folders.items():
        images = [item for item in inside if item.role == "image"]
        if not images or not all(_sequence_words(item) for item in images):
            continue
        grids: list[list[Item]] = []
        for item in images:
            home = next((grid for grid in grids if _same_grid(grid[0], item)), None)
            grids.append([item]) if home is None else home.append(item)
        if len(grids) > 1:
            shown = "; ".join(f"{_grid_text(grid[0])}: {_few(item.file.name for item in grid)}" for grid in grids)
            cause = f"the {len(images)} images of {folder.name} lie on {len(grids)} grids: {shown}"
            findings.append(
                warn("grid", cause, "They are resampled onto one of them when they become channels.", folder)
            )
    return findings


def mixed_types(items: Sequence[Item]) -> list[Finding]:
    """Files of one role that are stored in several types."""
    findings = []
    for kind, role in product(("nifti", "picture"), ("image", "label")):
        types = Counter(str(i.facts["type"]) for i in items if (i.kind, i.role) == (kind, role) and "type" in i.facts)
        if len(types) > 1:
            shown = ", ".join(f"{count} {name}" for name, count in types.most_common())
            findings.append(warn("types", f"{role}s are stored in {len(types)} types: {shown}"))
    return findings


def outlying_maxima(items: Sequence[Item]) -> list[Finding]:
    """Images whose maximum is far above the others': an intensity scale of their own."""
    images = [i for i in items if i.role == "image" and i.kind == "nifti" and float(i.facts.get("max", 0)) > 0]
    if len(images) < 5:
        return []
    middle = float(np.median([item.facts["max"] for item in images]))
    high = sorted(
        (i for i in images if i.facts["max"] > OUTLYING_MAXIMUM * middle), key=lambda item: -item.facts["max"]
    )
    if not high:
        return []
    cause = (
        f"{len(high)} of {len(images)} images have maxima above {OUTLYING_MAXIMUM * middle:.4g}, {OUTLYING_MAXIMUM:g} "
        f"times the median, up to {high[0].facts['max']:.4g}: {_few(item.name for item in high)}"
    )
    return [warn("range", cause, "Normalise by percentiles, not by the maximum.")]


def copied_channels(items: Sequence[Item]) -> list[Finding]:
    """Folders of colour pictures, one channel a colour, of which two channels or all three say the same."""
    folders = _by_folder(item for item in items if item.kind == "picture" and item.facts.get("same") is not None)
    copies: dict[str, list[str]] = defaultdict(list)
    for folder, inside in folders.items():
        same, count = Counter(str(item.facts["same"]) for item in inside).most_common(1)[0]
        if same and count >= MOST_OF_A_FOLDER * len(inside):
            copies[same].append(f"{folder.name} ({count} of {len(inside)} pictures)")
    way_out = "If the channels are meant to be different images, leave the folders out, or say so to the network."
    return [
        warn("copy", f"channels {same} are copies of each other in {_few(names)}", way_out)
        for same, names in sorted(copies.items())
    ]


def persons_across_folds(tables: Iterable[Path]) -> list[Finding]:
    """Persons whose rows stand in several folds of a table; rows that lack a cell are left out."""
    findings = []
    for path in tables:
        try:
            rows = _rows(path)
        except (OSError, ValueError, csv.Error) as error:
            cause = f"the table {path.name} cannot be read ({error})"
            findings.append(warn("table", cause, "Save it as UTF-8 with a header line.", path))
            continue
        columns = rows[0].keys() if rows else ()
        subject = next((name for name in SUBJECT_COLUMNS if name in columns), None)
        if subject is None or "fold" not in columns:
            continue
        folds: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row[subject] and row["fold"]:
                folds[row[subject]].add(row["fold"])
        torn = sorted(person for person, its in folds.items() if len(its) > 1)
        if torn:
            cause = f"{len(torn)} of {len(folds)} values of '{subject}' stand in several folds: {_few(torn)}"
            way_out = f"Split by '{subject}': neurobundle split --group-by column:{subject}."
            findings.append(warn("folds", cause, way_out, path))
        findings += _ids_of_one_person(rows, subject, path)
    return findings


def _ids_of_one_person(rows: Sequence[dict[str, str]], subject: str, path: Path) -> list[Finding]:
    """Narrower identifiers, several of which are one person's: splitting by them would tear the person."""
    findings = []
    for other in SUBJECT_COLUMNS[SUBJECT_COLUMNS.index(subject) + 1 :]:
        ids: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row.get(other) and row[subject]:
                ids[row[subject]].add(row[other])
        several = sorted(person for person, its in ids.items() if len(its) > 1)
        if several:
            cause = f"{len(several)} values of '{subject}' have several of '{other}': {_few(several)}"
            findings.append(warn("folds", cause, f"Split by '{subject}', never by '{other}'.", path))
    return findings


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def _pair_folders(items: Iterable[Item]) -> list[tuple[Path, Path]]:
    parents = {parent for item in items for parent in item.file.parents}
    return sorted(
        (parent, parent.parent / other)
        for parent in parents
        for other in PAIR_FOLDERS.get(parent.name, ())
        if (parent.parent / other).is_dir()
    )


def _on_one_grid(label: Item, image: Item) -> list[Finding]:
    if "shape" not in label.facts or "shape" not in image.facts or label.verdict.level is Level.REFUSE:
        return []
    shapes = [list(item.facts["shape"]) for item in (label, image)]
    try:
        require_same_grid(
            label.file, shapes[0], label.affine, image.file, shapes[1], image.affine, what="the label", way_out=_REDRAW
        )
    except InputError as error:
        return [refuse("pair", error.cause, error.way_out, error.file)]
    return []


_REDRAW = "Draw or resample the label on its image's grid."


def _same_grid(one: Item, other: Item) -> bool:
    assert one.affine is not None
    assert other.affine is not None
    return same_grid(one.facts["shape"], one.affine, other.facts["shape"], other.affine, SAME_CORNERS_MM)


def _grid_text(item: Item) -> str:
    shape, size = ("x".join(f"{n:g}" for n in item.facts[key][:3]) for key in ("shape", "voxel_mm"))
    return f"{shape} of {size} mm"


def _sequence_words(item: Item) -> bool:
    """Whether a name says which MR sequence it is."""
    return any(word.startswith(("t1", "t2", "flair", "pd")) for word in words_of(stem(item.file.name)))


def _by_folder(items: Iterable[Item]) -> dict[Path, list[Item]]:
    folders: dict[Path, list[Item]] = defaultdict(list)
    for item in items:
        folders[item.file.parent].append(item)
    return folders


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _few(names: Iterable[Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:MOST_NAMES]) + (
        f" and {len(listed) - MOST_NAMES} more" if len(listed) > MOST_NAMES else ""
    )
