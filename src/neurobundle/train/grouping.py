"""Which cases belong together: the *group* of a case is what must never stand on two sides of a split.

A rule is written as one word: ``subject`` (as the layout names it), ``case`` (each case by itself), ``blocks:N`` (ids
in runs of N), ``regex:PATTERN`` (its first group) or ``column:NAME`` (of a table of cases). Imports no torch.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.load.pairs import Pair

RULES = ("subject", "case", "blocks:N", "regex:PATTERN", "column:NAME")

#: Columns by which a table may name a case, and a person (BIDS's participants.tsv).
CASE_COLUMN, PERSON_COLUMN = "case", "participant_id"

_NOTHING = ("", "n/a")  # BIDS writes n/a for a missing value


def group_cases(pairs: Sequence[Pair], group_by: str, subjects_file: str | Path | None = None) -> dict[str, str]:
    """The group of each case.

    Args:
        pairs: the cases.
        group_by: a rule, see the top of this module.
        subjects_file: the table of ``column:NAME``, CSV or TSV.

    Returns:
        Case to group, in the order of the cases.

    Raises:
        SettingError: if the rule is unknown or does not fit the data; the first case that it does not fit is named.
    """
    rule, _, argument = group_by.partition(":")
    if subjects_file is not None and rule != "column":
        raise SettingError(
            f"a table of subjects is read by column:NAME only, and the rule is {group_by!r}",
            "Give --group-by column:NAME, or no --subjects.",
        )
    if group_by == "case":
        return {pair.case: pair.case for pair in pairs}
    if group_by == "subject":
        return {pair.case: _subject(pair) for pair in pairs}
    if rule == "blocks" and argument:
        size = _block_size(argument)
        return {pair.case: str(case_number(pair.case) // size) for pair in pairs}
    if rule == "regex" and argument:
        pattern = _pattern(argument)
        return {pair.case: _matched(pattern, pair.case) for pair in pairs}
    if rule == "column" and argument:
        return _from_table(pairs, argument, subjects_file)
    known = [name.partition(":")[0] for name in RULES]
    raise SettingError(f"group-by must be one of {', '.join(RULES)}, got {group_by!r}{closest(rule, known)}")


def case_number(case: str) -> int:
    """The number of a case: its last part that is all digits, else its last run of digits.

    >>> case_number("hippocampus_025"), case_number("sub-07_T1w"), case_number("anna12")
    (25, 7, 12)

    Raises:
        SettingError: if it has no digit.
    """
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", case) if re.fullmatch(r"[0-9]+", part)]
    runs = parts or re.findall(r"[0-9]+", case)
    if not runs:
        raise SettingError("blocks:N needs a number in every case's name, it has none", "Group by regex.", case=case)
    return int(runs[-1])


def _subject(pair: Pair) -> str:
    if pair.subject is None:
        way_out = "Only BIDS names subjects: give --group-by blocks:N, regex:PATTERN, column:NAME or case."
        raise SettingError("the layout names no subject for it", way_out, case=pair.case)
    return pair.subject


def _block_size(argument: str) -> int:
    if not re.fullmatch(r"[0-9]+", argument) or int(argument) < 1:
        raise SettingError(
            f"blocks:N needs a whole number of 1 or more, got {argument!r}", "blocks:10 means ids in tens."
        )
    return int(argument)


def _pattern(argument: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise SettingError(f"{argument!r} is not a regular expression ({error})", "Quote it for the shell.") from error
    if pattern.groups < 1:
        raise SettingError(
            f"{argument!r} has no group", "Put what names the subject in parentheses: 'regex:^(sub-[0-9]+)'."
        )
    return pattern


def _matched(pattern: re.Pattern[str], case: str) -> str:
    match = pattern.search(case)
    if match is None or not match[1]:
        raise SettingError(f"{pattern.pattern!r} does not find a subject in its name", "Widen the pattern.", case=case)
    return str(match[1])


def _from_table(pairs: Sequence[Pair], column: str, file: str | Path | None) -> dict[str, str]:
    if file is None:
        raise SettingError("column:NAME needs a table", "Give --subjects FILE, with a column 'case'.")
    key, groups = _read_table(Path(file), column)
    result = {}
    for pair in pairs:
        name = _name_in(key, pair)
        if groups.get(name, "") in _NOTHING:
            raise SettingError(*_not_there(column, name), case=pair.case, file=file)
        result[pair.case] = groups[name]
    return result


def not_in_table(pairs: Sequence[Pair], group_by: str, subjects_file: str | Path | None) -> list[InputError]:
    """The cases that a table of ``column:NAME`` says nothing of; none for any other rule.

    Args:
        pairs: the cases.
        group_by: a rule, see the top of this module.
        subjects_file: the table.

    Raises:
        SettingError: if the table cannot be read, or lacks the column.
    """
    rule, _, column = group_by.partition(":")
    if rule != "column" or not column or subjects_file is None:
        return []
    key, groups = _read_table(Path(subjects_file), column)
    names = {pair.case: _name_in(key, pair) for pair in pairs}
    missing = [(case, name) for case, name in names.items() if groups.get(name, "") in _NOTHING]
    return [InputError(*_not_there(column, name), case=case, file=subjects_file) for case, name in missing]


def _name_in(key: str, pair: Pair) -> str:
    """What a table calls a case, by its key column."""
    return (pair.subject or "") if key == PERSON_COLUMN else pair.case


def _not_there(column: str, name: str) -> tuple[str, str]:
    return f"the table has no {column!r} for {name or 'it'!r}", "Add a row for it."


def _read_table(file: Path, column: str) -> tuple[str, dict[str, str]]:
    """The key column of a table, and key to value of another column."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"the table cannot be read ({error})", "Give a CSV or TSV file in UTF-8.", file=file
        ) from error
    first = text.partition("\n")[0]
    rows = csv.DictReader(text.splitlines(), delimiter="\t" if "\t" in first else ",")
    there = [name for name in rows.fieldnames or [] if name]
    key = next((name for name in (CASE_COLUMN, PERSON_COLUMN) if name in there), None)
    if key is None or column not in there:
        wanted = column if key is not None else CASE_COLUMN
        has = ", ".join(there) or "none"
        raise SettingError(f"the table has no column {wanted!r}{closest(wanted, there)}", f"It has: {has}.", file=file)
    groups: dict[str, str] = {}
    for row in rows:
        name, value = (str(row.get(field) or "").strip() for field in (key, column))
        if groups.setdefault(name, value) != value:
            cause = f"the table gives {name!r} two values of {column!r}: {groups[name]!r} and {value!r}"
            raise SettingError(cause, "Keep one.", file=file)
    return key, groups
