"""Final labels: what annotators submitted, in the values of a bundle. Nothing here needs MONAI Label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from neurobundle.bundle.find import answers_of, structures_of
from neurobundle.errors import InputError
from neurobundle.label.studies import StudyStore
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan


@dataclass(frozen=True)
class Labelled:
    """An image with a final label.

    Attributes:
        case: the image's id.
        file: the label map.
        names: what the annotator's client calls its values; empty if it said nothing: they are then the bundle's.
        key: the fingerprint of the study that it was drawn on; empty if that was not noted.
    """

    case: str
    file: Path
    names: Mapping[int, str] = field(default_factory=dict)
    key: str = ""


def values_of(bundle: Path) -> dict[int, str]:
    """What the values of a label map mean to a bundle: its structures, or its classes from 1."""
    classes = answers_of(bundle)
    return structures_of(bundle) if classes is None else dict(enumerate(classes, start=1))


def read_final(one: Labelled, bundle: Path) -> tuple[Scan, list[str]]:
    """A final label in the values of a bundle, and the segments in it that the bundle does not know.

    Raises:
        InputError: if it cannot be read, or none of its segments is one of the bundle.
    """
    labels = read_scan(one.file, LABEL)
    known = values_of(bundle)
    return in_values_of(labels, one.names, known), unknown_segments(labels, one.names, known)


def require_same_study(one: Labelled, store: StudyStore) -> None:
    """Refuse a label of a study that is another one now.

    Raises:
        InputError: if what it was drawn on has changed.
    """
    entry = store.entries.get(one.case)
    if one.key and entry is not None and entry.key != one.key:
        raise InputError("its study changed after it was labelled", "Look at the label again, and submit it.")


def in_values_of(labels: Scan, names: Mapping[int, str], wanted: Mapping[int, str]) -> Scan:
    """A label map in the values of a bundle, from those that a client gave its segments, by their names.

    Args:
        labels: as the client saved them.
        names: value to name, by the client; empty if it said nothing.
        wanted: value to name, by the bundle.

    Raises:
        InputError: if none of its segments is one of the bundle.
    """
    if not names:
        return labels
    known = {name.casefold(): value for value, name in wanted.items()}
    pairs = {value: known[name.casefold()] for value, name in names.items() if name.casefold() in known}
    if not pairs:
        cause = f"its segments are {', '.join(sorted(names.values()))}, and none is one of the bundle"
        raise InputError(cause, f"Name them {', '.join(wanted.values())}.")
    table = np.zeros(int(max(*pairs, labels.data.max())) + 1, np.uint8)
    for value, own in pairs.items():
        table[value] = own
    return Scan(table[labels.data.astype(np.intp)], labels.affine, labels.warnings, labels.form_code, labels.units)


def unknown_segments(labels: Scan, names: Mapping[int, str], wanted: Mapping[int, str]) -> list[str]:
    """The names of segments that hold something and that a bundle does not know: background, to it.

    Args:
        labels: as the client saved them.
        names: value to name, by the client.
        wanted: value to name, by the bundle.
    """
    if not names:
        return []
    known = {name.casefold() for name in wanted.values()}
    present = {int(value) for value in np.unique(labels.data)} - {0}
    unnamed = [f"value {value}" for value in sorted(present - {*names})]
    return [name for value, name in names.items() if value in present and name.casefold() not in known] + unnamed


def class_of(labels: Scan, classes: int) -> int:
    """The class whose segment is outlined.

    Args:
        labels: value 1 is class 0.
        classes: how many there are.

    Raises:
        InputError: if nothing is outlined, more than one class, or none of them.
    """
    values = [int(value) for value in np.unique(labels.data) if value]
    if len(values) == 1 and values[0] <= classes:
        return values[0] - 1
    cause = f"segments {values} are outlined, and there are {classes} classes" if values else "nothing is outlined"
    raise InputError(cause, "Outline each tumour in the one segment that is its class.")
