"""Readers of answers that are no label map: a table of classes here, boxes as COCO's JSON in :mod:`.coco`.

A *class table* is a CSV or TSV with a header and a row a case: the column ``case``, and a class (``class``, ``label``,
``truth`` or ``prediction``: a name, or a number counted from 0) or a probability for each class (``p_<class>``), and
``subject`` if there is one.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.load.coco import Coco as Coco
from neurobundle.load.coco import CocoImage as CocoImage
from neurobundle.load.coco import read_coco as read_coco

#: Columns that may hold the class, in a table of references or of predictions.
ANSWER_COLUMNS = ("class", "label", "truth", "prediction")

#: Begins the name of a column of probabilities.
PROBABILITY = "p_"

#: How far the probabilities of a case may be from 1 together: tables are rounded, and half precision is coarse.
SUM_TOLERANCE = 1e-3

_DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True)
class Row:
    """One line of a table: its number in the file, counted from 1, and the text of each column."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class ClassRow:
    """The answer for one case.

    Attributes:
        case: its name.
        subject: the person; the case where the table does not say.
        label: the name of its class, or None where the table has probabilities only.
        probabilities: of each class by name, or None where the table has none.
        line: where it stands in the file, counted from 1.
    """

    case: str
    subject: str
    label: str | None
    probabilities: Mapping[str, float] | None
    line: int


def read_class_table(
    path: str | Path, classes: Sequence[str] | None = None, column: str | None = None, allow_blank: bool = False
) -> list[ClassRow]:
    """Read a class, or the probabilities of all classes, for each case.

    Args:
        path: CSV or TSV, UTF-8; the header tells which.
        classes: the names that may occur; a label that is none of them may be a number, counted from 0. If None, any
            label is taken as it stands.
        column: the column with the class, where the table has several; found by its name if None.
        allow_blank: a row whose answer is blank is a case without one: its label and probabilities are None. A blank
            class beside probabilities is one that a network did not name; these count then.

    Returns:
        A row a case, in the file's order.

    Raises:
        InputError: naming the file, the line and the column of what cannot be used, and what to do.
    """
    path = Path(path)
    header, rows = read_table(path)
    _require_column("case", header, path)
    if column is not None:
        _require_column(column, header, path)
    column = column or _answer_column(header, path)
    named = _probability_classes(header, classes, path)
    if column is None and not named:
        raise InputError(
            f"line 1 names neither a class nor probabilities: {', '.join(header)}",
            f"Add a column {' or '.join(ANSWER_COLUMNS)}, or a column {PROBABILITY}<class> for each class.",
            file=path,
        )
    first: dict[str, int] = {}
    result = []
    for row in rows:
        case = _cell(row, "case", path)
        if case in first:
            raise InputError(
                f"line {row.line}, column 'case': the case stands in line {first[case]} already",
                "Keep one of the two lines.",
                case=case,
                file=path,
            )
        first[case] = row.line
        answer = [row.cells[name] for name in header if name == column or name.startswith(PROBABILITY)]
        blank = allow_blank and not any(cell.strip() for cell in answer)
        unnamed = allow_blank and bool(named) and column is not None and not row.cells[column]
        label = None if column is None or blank or unnamed else _label(row, column, classes, path)
        probabilities = read_probabilities(row, named, path) if named and not blank else None
        result.append(ClassRow(case, row.cells.get("subject") or case, label, probabilities, row.line))
    return result


def read_table(path: str | Path) -> tuple[list[str], list[Row]]:
    """A CSV or TSV with a header, as text.

    Args:
        path: UTF-8; commas, tabs or semicolons, whichever the header has most of. Blank lines are left out.

    Returns:
        The names of the columns, the fixed ones (``case``, ``subject`` ...) in lower case, and at least one row.

    Raises:
        InputError: if it cannot be read, has no header or no row, a column twice, or a line of another length.
    """
    path = Path(path)
    text = _text(path)
    head = text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=head.count), strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                lines.append((reader.line_num, stripped))
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is no CSV ({error})", "Export the table again.", file=path) from error
    if len(lines) < 2:
        what = "has a header and no case" if lines else "is empty"
        raise InputError(f"the table {what}", "It needs a header, and a line for each case.", file=path)
    header = [_known_name(name) for name in lines[0][1]]
    _check_header(header, path)
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            cause = f"line {number} has {len(cells)} cells, and the header has {len(header)}"
            raise InputError(cause, "Put text that contains the delimiter in quotes.", file=path)
    return header, [Row(number, dict(zip(header, cells, strict=True))) for number, cells in lines[1:]]


def read_probabilities(row: Row, classes: Sequence[str], file: str | Path) -> dict[str, float]:
    """The columns ``p_<class>`` of a row.

    Raises:
        InputError: if one is no number in [0, 1], or together they are not 1.
    """
    found = {}
    for name in classes:
        column = f"{PROBABILITY}{name}"
        text = _cell(row, column, file)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise InputError(
                f"line {row.line}, column {column!r}: {text!r} is no probability",
                "Write a number from 0 to 1, with a decimal point.",
                case=row.cells.get("case", ""),
                file=file,
            )
        found[name] = value
    total = math.fsum(found.values())
    if abs(total - 1) > SUM_TOLERANCE:
        raise InputError(
            f"line {row.line}: the probabilities sum to {total:.6g}, and not to 1",
            "Give a probability for every class, after softmax.",
            case=row.cells.get("case", ""),
            file=file,
        )
    return found


def class_number(value: int | str, classes: Sequence[str]) -> int | None:
    """The number of a class that is given as its name, or else as its number; None if it is neither.

    >>> class_number("glioma", ["none", "glioma"]), class_number("1", ["none", "glioma"]), class_number(2, ["a", "b"])
    (1, 1, None)
    """
    if value in classes:
        return list(classes).index(str(value))
    try:
        number = int(value)
    except (TypeError, ValueError):
        return None
    same = str(number) == value if isinstance(value, str) else number == value
    return number if same and 0 <= number < len(classes) else None


def require_class(value: int | str, classes: Sequence[str], case: str = "") -> int:
    """The number of a class that is given as its name or its number.

    Raises:
        InputError: naming the case, if there is no such class.
    """
    number = class_number(value, classes)
    if number is None:
        raise _unknown_class(value, classes, case)
    return number


def check_class_names(names: Sequence[str], at_least: int = 1) -> None:
    """Refuse names that a table could not tell apart.

    Raises:
        SettingError: if there are too few, or one is blank, has blanks around it, or stands twice.
    """
    if len(names) < at_least:
        raise SettingError(f"there must be {at_least} classes or more, got {list(names)}")
    for name in names:
        if not name or name != name.strip() or list(names).count(name) > 1:
            raise SettingError(f"classes must be different names without outer blanks, got {name!r} in {list(names)}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError("there is no such file", "Check its name and folder.", file=path) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte {error.start} is no UTF-8 text", "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).", file=path
        ) from error
    except OSError as error:
        raise InputError(
            f"it cannot be read ({error.strerror})", "Check that it is a file of yours.", file=path
        ) from error


def _known_name(name: str) -> str:
    lower = name.lower()
    return lower if lower in ("case", "subject", "status", *ANSWER_COLUMNS) else name


def _check_header(header: Sequence[str], path: Path) -> None:
    for number, name in enumerate(header, start=1):
        if not name:
            raise InputError(f"line 1: column {number} has no name", "Name it, or take it out.", file=path)
        if name in header[: number - 1]:
            raise InputError(f"line 1 names the column {name!r} twice", "Take one of the two out.", file=path)


def _require_column(name: str, header: Sequence[str], path: Path) -> None:
    if name not in header:
        raise InputError(
            f"line 1 has no column {name!r}{closest(name, header)}", f"Its columns: {', '.join(header)}.", file=path
        )


def _answer_column(header: Sequence[str], path: Path) -> str | None:
    found = [name for name in ANSWER_COLUMNS if name in header]
    if len(found) > 1:
        raise InputError(
            f"line 1 has both {found[0]!r} and {found[1]!r}, and which is meant is unclear",
            "Keep the one that is meant, or name it.",
            file=path,
        )
    return found[0] if found else None


def _probability_classes(header: Sequence[str], classes: Sequence[str] | None, path: Path) -> list[str]:
    """The classes that have a column of probabilities: all of them, or none."""
    named = [name.removeprefix(PROBABILITY) for name in header if name.startswith(PROBABILITY)]
    if classes is None or not named:
        return named
    for name in named:
        if name not in classes:
            raise _unknown_class(name, classes, where=f"line 1, column {PROBABILITY + name!r}: ", file=path)
    for name in classes:
        _require_column(f"{PROBABILITY}{name}", header, path)
    return list(classes)


def _label(row: Row, column: str, classes: Sequence[str] | None, path: Path) -> str:
    text = _cell(row, column, path)
    if classes is None:
        return text
    number = class_number(text, classes)
    if number is None:
        raise _unknown_class(text, classes, row.cells["case"], f"line {row.line}, column {column!r}: ", path)
    return classes[number]


def _unknown_class(
    value: int | str, classes: Sequence[str], case: str = "", where: str = "", file: str | Path | None = None
) -> InputError:
    hint = closest(value, classes) if isinstance(value, str) else ""
    return InputError(
        f"{where}there is no class {value!r}{hint}",
        f"Classes: {', '.join(classes)}, or their numbers 0 to {len(classes) - 1}.",
        case=case,
        file=file,
    )


def _cell(row: Row, column: str, file: str | Path) -> str:
    text = row.cells[column]
    if not text:
        raise InputError(
            f"line {row.line}, column {column!r} is blank",
            "Fill it in, or take the line out.",
            case=row.cells.get("case", ""),
            file=file,
        )
    return text
