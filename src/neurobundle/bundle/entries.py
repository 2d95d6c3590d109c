"""The entries of ``report.json``: what they hold, and what of a report that was read is one.

An *entry* is how one case ended. A report may be of an earlier version, edited by hand, or none of ours; so each part
of an entry is checked for what it must be before it is believed. Imports neither torch nor MONAI.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from neurobundle.load.slice_folders import UNKNOWN_SIZE
from neurobundle.networks.manifest import sha256_of

logger = logging.getLogger(__name__)

#: No entry of ours is nested as deep as this; JSON that is cannot be written again.
_DEEPEST = 20

#: Warnings that hold for every case of a kind: a run says each in one line, with how many cases it is of.
SAID_ONCE = (UNKNOWN_SIZE,)

#: POSIX NAME_MAX, in bytes.
_LONGEST_NAME = 255


@dataclass
class CaseResult:
    """How one case ended; an entry of ``report.json``.

    Attributes:
        case: the name that its outputs begin with.
        file: what it was made from, as the user named it; empty where names are salted.
        status: ``ok`` or ``failed``.
        input: ``crop`` or ``head``, where a bundle takes both.
        side: of a crop, as the user stated it.
        output: the file name of the label map, or of the answer.
        outputs: the sha256 of each file that was written, by name.
        volumes_ml: millilitres by structure.
        answer: the class, where a bundle answers one a case; as ``export/answers.py`` says.
        uncertainty: how sure the network was, where it was asked: as ``export/uncertainty.py`` says.
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
    side: str = ""
    output: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    volumes_ml: dict[str, float] = field(default_factory=dict)
    answer: dict[str, Any] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=dict)
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
        """Note and log a warning, once; one of :data:`SAID_ONCE` is noted only, since a run says it for all its cases.

        Args:
            text: without the case's name.
        """
        if text in self.warnings:
            return
        self.warnings.append(text)
        if text not in SAID_ONCE:
            logger.warning("%s: %s", self.case, text)


def say_once(results: Iterable[CaseResult]) -> None:
    """Log what :data:`SAID_ONCE` holds, in a line each: the case where it is one, else how many there are.

    Args:
        results: the cases that a run did.
    """
    done = list(results)
    for text in SAID_ONCE:
        cases = [result.case for result in done if text in result.warnings]
        if cases:
            logger.warning("%s: %s", cases[0] if len(cases) == 1 else f"{len(cases)} cases", text)


def entry_of(item: Any) -> CaseResult | None:
    """An entry of a report, perhaps of an earlier version; None if it is none, or could not be written again.

    Names of outputs that would lead out of the folder are dropped.
    """
    if not isinstance(item, dict) or not {"case", "file"} <= set(item):
        return None
    known = {each.name: item[each.name] for each in fields(CaseResult) if each.name in item}
    if not all(_KINDS[name](value) and _is_sound(value) for name, value in known.items()):
        return None
    entry = CaseResult(**known)
    entry.outputs = {name: digest for name, digest in entry.outputs.items() if _is_plain(name)}
    return entry


def _is_plain(name: str) -> bool:
    """Whether a name is a file's own, and one that a file can have."""
    return Path(name).name == name and len(name.encode(errors="replace")) <= _LONGEST_NAME


def _is_name(value: Any) -> bool:
    """Whether a value is a text that any file can hold; lone surrogates are none."""
    return isinstance(value, str) and value != "" and value.encode(errors="ignore").decode() == value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number that fits a float."""
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_sound(value: Any, depth: int = _DEEPEST) -> bool:
    """Whether a value out of JSON can be written as JSON again."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inside is not None:
        return depth > 0 and all(_is_sound(each, depth - 1) for each in inside)
    return not isinstance(value, int | float) or _is_number(value)


def _dict_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(_is_name(k) and test(v) for k, v in value.items())


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


#: What each part of an entry must be.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "case": _is_name,
    "file": _is_text,
    "status": _is_text,
    "input": _is_text,
    "side": _is_text,
    "output": _is_text,
    "outputs": _dict_of(_is_text),
    "volumes_ml": _dict_of(_is_number),
    "answer": _is_dict,
    "uncertainty": _is_dict,
    "places": _list_of(_is_dict),
    "study": _is_dict,
    "error": _is_text,
    "warnings": _list_of(_is_text),
    "key": _is_dict,
    "timing": _dict_of(_is_number),
}
