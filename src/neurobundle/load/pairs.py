"""What a search for training pairs gives, and pairing by name.

A *pair* is the image of a case (one file, or one a channel) with its label map. A *problem* is a file that could not
be paired; it is named, and the other pairs go on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neurobundle.errors import InputError
from neurobundle.load.names import is_image_name, safe_name, stem, without_label_suffix


@dataclass(frozen=True)
class Pair:
    """One case on disk.

    Attributes:
        case: its name, unique in the search.
        image: one file, or one a channel in the channels' order.
        label: its label map, or None where labels were not asked for.
        subject: the person, where the layout names one (BIDS).
    """

    case: str
    image: Path | tuple[Path, ...]
    label: Path | None = None
    subject: str | None = None

    @property
    def images(self) -> tuple[Path, ...]:
        """The image files, always as a tuple."""
        return self.image if isinstance(self.image, tuple) else (self.image,)


@dataclass
class FoundPairs:
    """What a search found.

    Attributes:
        layout: ``folders``, ``decathlon``, ``nnunet`` or ``bids``.
        pairs: complete pairs, sorted by case.
        problems: one error for each file that could not be paired.
        labels: value to name, where the layout states them.
        channels: names of the channels in order, where the layout states them.
    """

    layout: str
    pairs: list[Pair] = field(default_factory=list)
    problems: list[InputError] = field(default_factory=list)
    labels: dict[int, str] = field(default_factory=dict)
    channels: tuple[str, ...] = ()


def volumes(folder: Path) -> list[Path]:
    """Image files in a folder, and ``<case>/<case>[_seg]`` one level below; hidden files are no files.

    Returns:
        Sorted paths; empty if the folder is not there.
    """
    if not folder.is_dir():
        return []
    found = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            inner = [file for file in sorted(entry.iterdir()) if is_image_name(file.name) and file.is_file()]
            found += [file for file in inner if without_label_suffix(stem(file.name)) == entry.name]
        elif is_image_name(entry.name) and entry.is_file():
            found.append(entry)
    return found


def pair_by_name(
    images: Sequence[Path],
    labels: Sequence[Path],
    *,
    need_labels: bool = True,
    words: tuple[str, str] = ("image", "label"),
) -> tuple[list[tuple[Path, Path | None]], list[InputError]]:
    """Pair files whose names agree: ``<case>`` with ``<case>`` or ``<case>_seg``, exactly or once both are made safe.

    Never by order. A name that two images or two labels claim pairs with nothing, since nobody can know which is meant.

    Args:
        images: image files.
        labels: label files.
        need_labels: whether an image without a label is a problem; if not, its label is None.
        words: what the messages call the two.

    Returns:
        The pairs, in the order of the images, and a problem for each file that is left over.
    """
    problems: list[InputError] = []
    by_name = _unique(images, words[0], problems)
    label_of = _unique(labels, words[1], problems)
    safe_label = {safe_name(key): key for key in label_of}
    pairs: list[tuple[Path, Path | None]] = []
    alone: dict[str, Path] = {}
    for key, image in by_name.items():
        match = key if key in label_of else safe_label.get(safe_name(key), "")
        label = label_of.pop(match, None)
        if label is not None or not need_labels:
            pairs.append((image, label))
        else:
            alone[key] = image
    problems += _leftovers(alone, label_of, *words)
    return pairs, problems


def _unique(files: Iterable[Path], what: str, problems: list[InputError]) -> dict[str, Path]:
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in files:
        groups[without_label_suffix(stem(file.name))].append(file)
    for key, same in groups.items():
        for file in same[1:]:
            cause = f"two {what}s are called {key!r}: {same[0].name} and {file.name}"
            problems.append(InputError(cause, "Keep one of them.", case=safe_name(key), file=file))
    return {key: same[0] for key, same in groups.items() if len(same) == 1}


def _leftovers(images: dict[str, Path], labels: dict[str, Path], one: str, other: str) -> list[InputError]:
    problems = []
    for key, image in images.items():
        kin = next((labels[name] for name in labels if are_kin(key, name)), None)
        cause = f"it is {_a(one)} without {_a(other)}"
        way_out = f"Add its {_map(other)}, or take the {one} out of the folder."
        if kin is not None:
            cause = f"its name does not match that of the {other} {kin.name}"
            way_out = f"If they belong together, call the {other} {key}.nii.gz or {key}_seg.nii.gz."
        problems.append(InputError(cause, way_out, case=safe_name(key), file=image))
    for key, label in labels.items():
        kin = next((images[name] for name in images if are_kin(key, name)), None)
        cause = f"it is {_a(other)} without {_a(one)}"
        way_out = f"Add its {one}, or take the {other} out of the folder."
        if kin is not None:
            cause = f"its name does not match that of the {one} {kin.name}"
            way_out = "Pairs are made by name: <case> and <case>, or <case>_seg."
        problems.append(InputError(cause, way_out, case=safe_name(key), file=label))
    return problems


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _map(word: str) -> str:
    return "label map" if word == "label" else word


def are_kin(one: str, other: str) -> bool:
    """Whether two stems probably mean one case: alike but for capitals, or but for a word in front or behind.

    >>> are_kin("Anna", "anna"), are_kin("anna", "anna_mask"), are_kin("case_1", "case_10")
    (True, True, False)
    """
    short, long = sorted((one.casefold(), other.casefold()), key=len)
    if short == long:
        return True
    boundary = re.escape(short)
    return bool(re.search(rf"^{boundary}[^a-z0-9].*$|^.*[^a-z0-9]{boundary}$", long))
