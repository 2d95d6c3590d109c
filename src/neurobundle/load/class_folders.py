"""Find cases that have one class each: a folder a class, or a table with a column of classes.

| layout | images | class | person | mask |
|---|---|---|---|---|
| ``classes`` | ``<class>/`` | the folder's name | not said | none |
| ``table`` | the column ``image`` or ``file``; or ``id`` or ``case``, a name in ``images/`` | a column | ``person``, \
``subject`` or ``participant_id`` | ``masks/<name>``, where it is there |

A class's *number* is its place in a list of names: the one that is given, or that of all names in order of the
alphabet. A problem is a row, a file or a folder that cannot be used; it is named, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from neurobundle.errors import InputError, NoInputError, closest
from neurobundle.load.answers import Row, check_class_names, read_table
from neurobundle.load.names import find_label, is_image_name, stem, unique_case_names
from neurobundle.load.pairs import FoundPairs, Pair, volumes

#: The table of a data folder, if none is named.
TABLE = "index.csv"

#: Columns that say which image a row is about: by its path, or by its name with or without leading zeros.
PATH_COLUMNS, NAME_COLUMNS = ("image", "file"), ("id", "case")
PERSON_COLUMNS = ("person", "subject", "participant_id")


@dataclass
class FoundClasses(FoundPairs):
    """What a search found; ``labels`` is the name of each class by number, and a pair's label its mask.

    Attributes:
        class_of: the number of each case's class.
    """

    class_of: dict[str, int] = field(default_factory=dict)


def read_class_list(text: str) -> dict[str, str]:
    """Classes in the order of their numbers: what the data call each, and its name.

    >>> read_class_list("glioma,pituitary=pituitary tumour")
    {'glioma': 'glioma', 'pituitary': 'pituitary tumour'}

    Raises:
        SettingError: if there are fewer than two, or a name is blank or stands twice.
    """
    pairs = [(value.strip(), (name or value).strip()) for value, _, name in (w.partition("=") for w in text.split(","))]
    for names in zip(*pairs, strict=True):
        check_class_names(names, at_least=2)
    return dict(pairs)


def find_class_folders(root: Path, classes: Mapping[str, str] | None = None) -> FoundClasses:
    """The images of each class's folder.

    Args:
        root: holds a folder a class.
        classes: the folders in the order of their numbers, with the names of the classes; all folders if None.

    Raises:
        NoInputError: if the folder is missing or holds no folders.
        SettingError: if there are fewer than two classes.
    """
    folders = _class_folders(root)
    names = dict(classes) if classes is not None else {folder.name: folder.name for folder in folders}
    check_class_names(list(names.values()), at_least=2)
    found = FoundClasses("classes", labels=dict(enumerate(names.values())))
    known = ", ".join(names)
    for folder in folders:
        if folder.name not in names:
            cause = f"the folder {folder.name!r} is no class{closest(folder.name, names)}"
            found.problems.append(InputError(cause, f"Classes: {known}. Name it, or take it out.", file=folder))
    images: dict[Path, int] = {}
    for number, value in enumerate(names):
        own = volumes(root / value)
        images |= dict.fromkeys(own, number)
        if not own:
            what = "holds no image" if (root / value).is_dir() else "is not there"
            cause = f"the folder of the class {value!r} {what}"
            found.problems.append(InputError(cause, "Add its images, or leave the class out.", file=root / value))
    for image, case in unique_case_names(images).items():
        found.pairs.append(Pair(case, image))
        found.class_of[case] = images[image]
    return found


def find_class_table(
    root: Path, column: str, classes: Mapping[str, str] | None = None, table: Path | None = None
) -> FoundClasses:
    """The images that a table names, with the class of each.

    Args:
        root: what the table's paths are relative to, and where ``images/`` and ``masks/`` are.
        column: the column with the class.
        classes: what the column may hold in the order of their numbers, with the names of the classes; all if None.
        table: CSV or TSV; ``index.csv`` of the folder if None.

    Raises:
        InputError: if the table cannot be read, or lacks a column.
        SettingError: if there are fewer than two classes.
    """
    path = table or root / TABLE
    header, rows = read_table(path)
    column = _require(header, (column, column.lower()), path)
    key = _require(header, (*PATH_COLUMNS, *NAME_COLUMNS), path)
    person = next((name for name in PERSON_COLUMNS if name in header), None)
    values = {row.cells[column] for row in rows if row.cells[column]}
    names = dict(classes) if classes is not None else {value: value for value in sorted(values)}
    check_class_names(list(names.values()), at_least=2)
    found = FoundClasses("table", labels=dict(enumerate(names.values())))
    images = _Images(root, by_name=key in NAME_COLUMNS)
    usable: dict[Path, Row] = {}
    for row in rows:
        image = images.find(row.cells[key])
        problem = _problem_of(row, key, image, usable, (column, list(names)), person, path)
        if problem is not None:
            found.problems.append(problem)
        if image is not None and problem is None:
            usable[image] = row
        images.seen(image)
    found.problems += images.strangers(path)
    for image, case in unique_case_names(usable).items():
        cells = usable[image].cells
        mask = find_label(root / "masks", stem(image.name))
        found.pairs.append(Pair(case, image, mask, cells[person] if person else None))
        found.class_of[case] = list(names).index(cells[column])
    return found


class _Images:
    """The pictures that a table's rows may mean."""

    def __init__(self, root: Path, by_name: bool) -> None:
        self.root = root
        self.by_name = {_number(stem(path.name)): path for path in volumes(root / "images")} if by_name else None
        self.named: set[Path] = set()

    def find(self, text: str) -> Path | None:
        """The image of a cell; None if there is none."""
        if self.by_name is not None:
            return self.by_name.get(_number(stem(text)))
        path = self.root / text
        return path if text and path.is_file() and is_image_name(path.name) else None

    def seen(self, image: Path | None) -> None:
        """Remember that a row names it."""
        self.named |= {image} if image is not None else set()

    def strangers(self, table: Path) -> list[InputError]:
        """A problem for each picture in ``images/`` that no row names."""
        left = [path for path in (self.by_name or {}).values() if path not in self.named]
        cause = f"the table {table.name} has no row for it"
        return [InputError(cause, "Add one, or take the image out.", case=stem(p.name), file=p) for p in left]


def _problem_of(
    row: Row,
    key: str,
    image: Path | None,
    usable: Mapping[Path, Row],
    wanted: tuple[str, Sequence[str]],
    person: str | None,
    table: Path,
) -> InputError | None:
    """What is wrong with a row, if anything is."""
    column, values = wanted
    name, value = row.cells[key], row.cells[column]
    where = f"line {row.line}"
    if image is None:
        cause, way_out = f"{where} names {name!r}, and there is no such image", "Add it, or take the line out."
    elif image in usable:
        cause, way_out = f"{where} names {name!r}, as line {usable[image].line} does", "Keep one of the two."
    elif value not in values:
        cause = f"{where}: its {column} is {value!r}, which is no class{closest(value, values)}"
        way_out = f"Classes: {', '.join(values)}."
    elif person is not None and not row.cells[person]:
        cause, way_out = f"{where} names no {person}", "Add whose image it is: a split by person needs it."
    else:
        return None
    return InputError(cause, way_out, case=stem(Path(name).name), file=table)


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise NoInputError("there is no such folder", "Give the folder that holds a folder a class.", file=root)
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise NoInputError("it holds no folders", "Put the images of each class into a folder of its name.", file=root)
    return folders


def _require(header: Sequence[str], names: Sequence[str], table: Path) -> str:
    found = next((name for name in names if name in header), None)
    if found is None:
        one = " or ".join(repr(name) for name in dict.fromkeys(names))
        cause = f"the table has no column {one}{closest(names[0], header)}"
        raise InputError(cause, f"It has {', '.join(header)}.", file=table)
    return found


def _number(name: str) -> str:
    """A name without leading zeros: a table says 1 where the file is called 0001."""
    return name.lstrip("0") or name
