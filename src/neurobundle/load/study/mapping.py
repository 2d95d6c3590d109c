"""The mapping file: a person says which scan is which channel, over every rule.

A *mapping* is a YAML or JSON file: ``{T1: path, T1c: path}`` for one study, or ``{case: {T1: path}}`` for several. A
value is a path relative to the file, ``series: 5`` (a SeriesNumber), or the key of a DICOM volume as reports print it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.load.names import safe_name
from neurobundle.load.study.channels import CHANNELS, channel_named
from neurobundle.load.study.choices import Choice, Study, place_of

if TYPE_CHECKING:
    from neurobundle.load.dicom import DicomVolume

#: A mapping is written by hand; a larger file is something else.
LARGEST_BYTES = 1 << 20

SUFFIXES = (".yaml", ".yml", ".json")

_FORM = "Write {T1: path} for one study, or {case: {T1: path}}; a value is a path, 'series: 5' or a series key."

_SERIES = re.compile(r"^series:?\s*(\d+)$")


@dataclass(frozen=True)
class Mapping:
    """What a mapping file says.

    Attributes:
        file: where it stands.
        one: channel -> value, if it is for one study.
        cases: case -> channel -> value, if it is for several. A value is a text, or a whole number: a SeriesNumber.
    """

    file: Path
    one: dict[str, str | int] | None
    cases: dict[str, dict[str, str | int]]


def read_mapping(file: str | Path) -> Mapping:
    """Read a mapping file.

    Args:
        file: YAML or JSON.

    Raises:
        SettingError: if it is missing, too large, not YAML or JSON, names something twice, an unknown channel, a case
            without a channel, or a value that is no path and no series.
    """
    path = Path(file)
    content = _load(path)
    if not isinstance(content, dict) or not content:
        raise SettingError("it is no mapping of channels", _FORM, file=path)
    several = {key: value for key, value in content.items() if isinstance(value, dict) and "series" not in value}
    if not several:
        return Mapping(path, _channels(content, path, ""), {})
    odd = next((key for key in content if key not in several), None)
    if odd is not None:
        cause = f"it names both cases and the channel {odd!r} outside of a case"
        raise SettingError(cause, _FORM, file=path)
    _refuse_one_name(list(several), path)
    return Mapping(path, None, {str(case): _channels(value, path, str(case)) for case, value in several.items()})


def apply_mapping(studies: list[Study], mapping: Mapping, channels: tuple[str, ...]) -> list[Study]:
    """Studies with the channels that a mapping names; a case that was not found becomes a study of its own.

    Args:
        studies: found, and nothing chosen yet; changed in place.
        mapping: what the file says.
        channels: those that are looked for.

    Returns:
        The studies, and those that the mapping alone made.

    Raises:
        SettingError: if the mapping is for one study and several were found, or names one scan twice.
        InputError: names the case: a path is not there, or no series, or several volumes, are what it names.
    """
    base = mapping.file.parent
    if mapping.one is not None:
        if len(studies) > 1:
            names = ", ".join(study.case for study in studies[:5])
            cause = f"it is for one study, and {len(studies)} were found: {names}"
            raise SettingError(cause, "Put the case in front: {case: {T1: path}}.", file=mapping.file)
        entries = {studies[0].case if studies else safe_name(mapping.file.stem): mapping.one}
    else:
        entries = mapping.cases
    by_name = {study.case: study for study in studies}
    uses: dict[object, str] = {}
    for case, named in entries.items():
        study = by_name.get(case) or by_name.get(safe_name(case))
        if study is None:
            known = [study.case for study in studies]
            study = _study_of_paths(case, named, mapping, channels, known)
            studies.append(study)
        _name_channels(study, named, base, mapping.file)
        _refuse_one_scan(study, named, uses, mapping)
    return studies


def _refuse_one_name(cases: Sequence[str], file: Path) -> None:
    """Refuse two names of cases that are one name once they are made safe."""
    seen: dict[str, str] = {}
    for case in cases:
        if (other := seen.setdefault(safe_name(case), case)) != case:
            raise SettingError(f"the cases {other!r} and {case!r} are one name: {safe_name(case)}", _FORM, file=file)


def _refuse_one_scan(study: Study, named: dict[str, str | int], uses: dict[object, str], mapping: Mapping) -> None:
    """Refuse a scan that the mapping names twice, by whatever words, in one case or in two.

    Args:
        study: whose channels were just named.
        named: which of its channels.
        uses: what each scan so far is named for; this study's are added.
        mapping: for the message.
    """
    for channel in named:
        what = channel if mapping.one is not None else f"{channel} of {study.case}"
        other = uses.setdefault(place_of(study.choices[channel].source), what)
        if other != what:
            raise SettingError(f"one scan is named for {other} and {what}", "Name each scan once.", file=mapping.file)


def _study_of_paths(
    case: str, named: dict[str, str | int], mapping: Mapping, channels: tuple[str, ...], known: list[str]
) -> Study:
    if any(isinstance(value, int) for value in named.values()):
        cause = f"it names series of the case {case!r}, which was not found{closest(case, known)}"
        raise SettingError(cause, "Give the folder of the study with -i.", file=mapping.file)
    name = safe_name(case)
    return Study(name, name, mapping.file.parent, "mapping", channels)


def _name_channels(study: Study, named: dict[str, str | int], base: Path, file: Path) -> None:
    # A person vouches for the channels: what the layout promises of their grids holds no longer.
    study.registered = False
    study.layout = "mapping" if study.layout != "dicom" else study.layout
    for channel, value in named.items():
        source = _volume(study, value) or base / str(value)
        if isinstance(source, Path) and not source.exists():
            cause = f"the mapping {file.name} names it for {channel}, and it is not there"
            raise InputError(cause, f"Paths are relative to {base}.", case=study.case, file=source)
        study.choices[channel] = Choice(channel, source, "the mapping file names it")


def _volume(study: Study, value: str | int) -> DicomVolume | None:
    """The volume that a series number or a key names; None if the value is no number and no key: then it is a path."""
    sources = [candidate.choice.source for candidate in study.candidates]
    volumes = [source for source in sources if not isinstance(source, Path)]
    fit = [volume for volume in volumes if value in (volume.series_number, volume.key, volume.series_key)]
    if len(fit) == 1:
        return fit[0]
    if fit:
        keys = ", ".join(volume.key for volume in fit)
        raise InputError(f"series {value} holds {len(fit)} volumes: {keys}", "Name one by its key.", case=study.case)
    if isinstance(value, str):
        return None
    known = ", ".join(str(number) for number in sorted({volume.series_number or 0 for volume in volumes})) or "none"
    cause = f"the mapping names series {value}, which is not there; the series are {known}"
    raise InputError(cause, _FORM, case=study.case, file=study.folder)


def _channels(content: dict[Any, Any], path: Path, case: str) -> dict[str, str | int]:
    """Channel -> value of one study, checked."""
    named: dict[str, str | int] = {}
    if not content:
        raise SettingError(f"the case {case!r} names no channel", _FORM, file=path)
    for key, value in content.items():
        try:
            channel = channel_named(str(key))
        except SettingError as error:
            where = f" of the case {case!r}" if case else ""
            cause = f"{key!r}{where} is no channel; the channels are {', '.join(CHANNELS)}{closest(str(key), CHANNELS)}"
            raise SettingError(cause, _FORM, file=path) from error
        if channel in named:
            raise SettingError(f"the channel {channel} is named twice", _FORM, file=path)
        named[channel] = _value(value, channel, path)
    return named


def _value(value: Any, channel: str, path: Path) -> str | int:
    if isinstance(value, dict) and set(value) == {"series"}:
        value = f"series {value['series']}"
    if not isinstance(value, str) or not value:
        raise SettingError(f"the value of {channel} is {value!r}: no path and no series", _FORM, file=path)
    number = _SERIES.match(value)
    return int(number[1]) if number else value


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise SettingError(f"it is larger than {LARGEST_BYTES} bytes", "A mapping is a short text.", file=path)
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_no_twins)
        return yaml.load(text, Loader=_Strict)
    except OSError as error:
        raise SettingError("the mapping file cannot be read", "Check the path.", file=path) from error
    except (ValueError, yaml.YAMLError) as error:
        cause = f"the mapping file is not readable: {' '.join(str(error).split())[:120]}"
        raise SettingError(cause, "Mend it.", file=path) from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


class _Strict(yaml.BaseLoader):
    """YAML whose scalars are all texts (a case 001 stays 001), without aliases and without names that stand twice."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [str(key.value) for key, _ in node.value]
        if len(set(names)) < len(names):
            raise yaml.YAMLError("a name stands in it twice")
        return super().construct_mapping(node, deep)
