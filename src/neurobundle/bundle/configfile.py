"""Reading configs strictly, without MONAI, and without executing anything in them.

A *config* is what a YAML or JSON file holds: nested dictionaries and lists. An *id* is the way to a value in it,
``train::trainer::max_epochs`` or ``train#trainer#max_epochs``. An *overlay* is a config laid over another one; its
keys may be ids. A *reference* is ``@id``, an *expression* begins with ``$`` and is Python, a *macro* begins with
``%`` and copies.

MONAI's own parser accepts duplicate keys with a warning, hangs on an alias bomb, and adds unknown ids silently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from neurobundle.errors import SettingError, closest

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")

ID_SEPARATOR = "::"

#: Where MONAI keeps the metadata in a config.
META_ID = "_meta_"

#: A file of more than this is not a config that a person wrote.
MAX_CONFIG_BYTES = 2_000_000

#: Nodes of a config after its aliases are followed; a bomb of ten levels has millions.
MAX_CONFIG_NODES = 100_000

_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_CORE_KINDS = ("map", "seq", "str", "int", "float", "bool", "null", "timestamp")
_CORE_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in _CORE_KINDS}
_MERGE_TAG = "tag:yaml.org,2002:merge"


def read_config(path: str | Path) -> dict[str, Any]:
    """Parse one config file.

    Args:
        path: a YAML or JSON file.

    Raises:
        SettingError: if it is missing, too large, malformed, not a mapping, has a duplicate key, a merge key (``<<``),
            a tag, or more nodes than :data:`MAX_CONFIG_NODES` once its aliases are followed.
    """
    path = Path(path)
    text = _read_text(path)
    try:
        content = _parse_json(text) if path.suffix == ".json" else _parse_yaml(text)
    except RecursionError as error:
        raise SettingError("the config is nested too deeply", "Flatten it.", file=path) from error
    except (ValueError, yaml.YAMLError) as error:
        raise SettingError(f"the config cannot be parsed: {error}", "Correct that place.", file=path) from error
    if not isinstance(content, dict):
        raise SettingError(
            f"a config must be a mapping, got {type(content).__name__}", "Give it top-level ids.", file=path
        )
    return content


def merge(base: Mapping[str, Any], *overlays: Mapping[str, Any]) -> dict[str, Any]:
    """Lay overlays over a config as MONAI does when it is given several files; the arguments are unchanged.

    >>> merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a::b": 5, "+d": [2], "e": 6})
    {'a': {'b': 5, 'c': 2}, 'd': [1, 2], 'e': 6}
    """
    merged = _copy(dict(base))
    for overlay in overlays:
        for key, value in overlay.items():
            parts = split_id(key.removeprefix("+"))
            parent = _descend(merged, parts[:-1])
            if not isinstance(parent, dict | list):
                continue  # an unknown nested id; unknown_overrides() names it
            _set(parent, parts[-1], _copy(value), add=key.startswith("+"))
    return merged


def unknown_overrides(config: Mapping[str, Any], overrides: Iterable[str]) -> list[str]:
    """One message for each override that changes nothing that the config has.

    Args:
        config: the merged config of the run.
        overrides: ids (or a mapping with ids as keys).

    Returns:
        Messages such as ``unknown setting 'max_casse'; did you mean 'max_cases'?``, without a final full stop.

    >>> unknown_overrides({"max_cases": None, "train": {"epochs": 1}}, ["train#epoch", "max_casse"])
    ["unknown setting 'train#epoch'; did you mean 'train::epochs'?", \
"unknown setting 'max_casse'; did you mean 'max_cases'?"]
    """
    messages = []
    for override in overrides:
        parts = split_id(override.removeprefix("+"))
        if parts[0] == META_ID:
            continue
        messages += _unknown(config, override, parts)
    return messages


def split_id(identifier: str) -> list[str]:
    """The steps of an id.

    >>> split_id("train#trainer::max_epochs")
    ['train', 'trainer', 'max_epochs']
    """
    return identifier.replace("#", ID_SEPARATOR).split(ID_SEPARATOR)


def lookup(config: Any, identifier: str, default: Any = None) -> Any:
    """The value at an id, or ``default``."""
    found = _descend(config, split_id(identifier))
    return default if found is _ABSENT else found


def walk(config: Any, identifier: str = "") -> Iterator[tuple[str, Any]]:
    """Every id with its value, parents before children."""
    if identifier:
        yield identifier, config
    if isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from walk(value, f"{identifier}{ID_SEPARATOR}{key}" if identifier else str(key))


def references(value: Any) -> list[str]:
    """The ids that a string refers to: all of an expression's, or the one that it consists of.

    >>> references("$@a#b + @c"), references("@a"), references("anna@home")
    (['a::b', 'c'], ['a'], [])
    """
    if not isinstance(value, str):
        return []
    if value.startswith("%"):
        return [value[1:].replace("#", ID_SEPARATOR)] if re.fullmatch(r"%\w+(?:(?:::|#)\w+)*", value) else []
    found = _REFERENCE.findall(value) if value.startswith("$") else []
    if not found and (whole := _REFERENCE.fullmatch(value)):
        found = [whole.group(1)]
    return [identifier.replace("#", ID_SEPARATOR) for identifier in found]


def resolve(config: Mapping[str, Any], value: Any, depth: int = 20) -> Any:
    """A value with its references replaced by what they refer to, unevaluated.

    An expression stays text, with the values of its references beside it, so that two configs can be compared.
    """
    if depth == 0:
        return value
    if isinstance(value, dict):
        return {key: resolve(config, item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(config, item, depth - 1) for item in value]
    names = references(value)
    if not names:
        return value
    values = {name: resolve(config, lookup(config, name, f"@{name}"), depth - 1) for name in names}
    return (value, values) if value.startswith("$") else values[names[0]]


_ABSENT = object()


def _read_text(path: Path) -> str:
    if path.suffix not in CONFIG_SUFFIXES:
        raise SettingError(f"a config's name ends in one of {CONFIG_SUFFIXES}", "Rename it.", file=path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise SettingError(
                f"a config has at most {MAX_CONFIG_BYTES} bytes, this has {path.stat().st_size}",
                "Move data out of it.",
                file=path,
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingError("the config does not exist", "Check the name.", file=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the config cannot be read ({error})", "Save it as UTF-8 text.", file=path) from error


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        duplicates = sorted({key for key in keys if keys.count(key) > 1})
        if duplicates:
            raise ValueError(f"the key {duplicates[0]!r} stands twice in one mapping")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique)


def _parse_yaml(text: str) -> Any:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return {}
    _measure(node, {}, set())
    # The tree was checked: core tags only, no cycles, few nodes. SafeLoader executes nothing.
    return yaml.load(text, Loader=yaml.SafeLoader)


def _measure(node: yaml.Node, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """The number of nodes under one, its aliases followed; each is looked at once, whatever the number."""
    if id(node) in sizes:
        return sizes[id(node)]
    where = f"line {node.start_mark.line + 1}"
    if id(node) in open_nodes:
        raise ValueError(f"an alias refers to itself ({where})")
    if node.tag not in _CORE_TAGS:
        raise ValueError(f"the tag {node.tag!r} is not allowed in a config ({where})")
    open_nodes.add(id(node))
    size = 1 + sum(_measure(child, sizes, open_nodes) for child in _children(node))
    open_nodes.discard(id(node))
    if size > MAX_CONFIG_NODES:
        raise ValueError(f"it has more than {MAX_CONFIG_NODES} values once its aliases are followed ({where})")
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    seen = set()
    for key, _ in node.value:
        if key.tag == _MERGE_TAG:
            raise ValueError(
                f"the merge key '<<' does not work in MONAI's parser (line {key.start_mark.line + 1}); use '%id'"
            )
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise ValueError(f"the key {key.value!r} stands twice in one mapping (line {key.start_mark.line + 1})")
            seen.add(key.value)
    return [child for pair in node.value for child in pair]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _descend(config: Any, parts: Iterable[str]) -> Any:
    for part in parts:
        if isinstance(config, dict) and part in config:
            config = config[part]
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return _ABSENT
    return config


def _set(parent: dict | list, key: str, value: Any, *, add: bool) -> None:
    old = _descend(parent, [key])
    if add and isinstance(old, list) and isinstance(value, list):
        value = old + value
    elif add and isinstance(old, dict) and isinstance(value, dict):
        value = {**old, **value}
    if isinstance(parent, dict):
        parent[key] = value
    elif key.isdigit() and int(key) < len(parent):
        parent[int(key)] = value


def _unknown(config: Mapping[str, Any], override: str, parts: list[str]) -> list[str]:
    here: Any = config
    for depth, part in enumerate(parts):
        below = _descend(here, [part])
        if below is not _ABSENT:
            here = below
            continue
        before = parts[:depth]
        if isinstance(here, dict):
            known = [ID_SEPARATOR.join([*before, str(key)]) for key in here]
            return [f"unknown setting {override!r}{closest(ID_SEPARATOR.join([*before, part]), known)}"]
        what = f"a list of {len(here)}" if isinstance(here, list) else f"the value {here!r}"
        return [f"unknown setting {override!r}: {ID_SEPARATOR.join(before)} is {what}, without a part {part!r}"]
    return []
