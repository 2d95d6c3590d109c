"""What an entry of a store depends on, as hashes: its files' bytes, its preparation, the versions.

A *key* says what a case was made from: who has the same key has the same arrays, whatever its files are called. Bytes
are read only where names, sizes and times do not say already that nothing has changed. Two times count: that of the
content, which a program may set, and that of the last change of any kind, which the system sets. A file that was
changed is taken for the one that it was if neither differs: where the clock was set back, or a file system has no such
times.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError
from neurobundle.prepare.store_description import PACKAGES, as_path, described

#: Keys of an item that say which case it is, and not what is made of it.
NAMES = ("case", "subject", "fold")
#: Keys of an item whose words are paths, whatever they look like.
_FILES = ("image", "label")


def case_of(item: Mapping[str, Any]) -> str:
    """The case's name; for items without one, as other programs make them, that of a hash of its image's path."""
    return str(item.get("case") or f"case-{digest(str(item.get('image')))[:8]}")


def sources_of(item: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The files and folders that an item names, by its keys; of images and labels also those that are not there."""
    found = {}
    for name in sorted(set(item) - set(NAMES)):
        paths = _paths_in(name, item[name])
        if paths and (name in _FILES or any(path.exists() for path in paths)):
            found[name] = paths
    return found


def settings_of(item: Mapping[str, Any]) -> Any:
    """What an item says of its case besides files: a class, an age, the box of a structure."""
    names = [name for name in sorted(set(item) - set(NAMES)) if not _paths_in(name, item[name])]
    return described({name: item[name] for name in names}, "the item")


def _paths_in(name: str, value: Any) -> list[Path]:
    """The paths that a value of an item is made of; none if it holds anything else."""
    found = []
    for one in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(one, str | Path) or not (name in _FILES or as_path(one) or Path(one).exists()):
            return []
        found.append(Path(one))
    return found


def seen_of(item: Mapping[str, Any]) -> str:
    """An item with the names, sizes and times of its files as one hash, that tells nobody the names.

    Raises:
        InputError: if a file is missing.
    """
    facts: list[Any] = [settings_of(item)]
    for name, paths in sources_of(item).items():
        for path in (file for one in paths for file in _all_files(one)):
            state = path.stat()
            facts.append([name, str(path.absolute()), state.st_size, state.st_mtime_ns, state.st_ctime_ns])
    return digest(json.dumps(facts))


def key_of(item: Mapping[str, Any], made_by: str) -> str:
    """The key of an item: its files' bytes and what else it says, but neither the case's name nor any path.

    Args:
        item: of a datalist.
        made_by: the hash of the preparation and the versions.
    """
    contents = {name: [content_of(path) for path in paths] for name, paths in sources_of(item).items()}
    return digest(json.dumps([made_by, contents, settings_of(item)], sort_keys=True))


def content_of(path: Path) -> list[str]:
    """The hashes of a file's bytes, or of all files of a folder."""
    found = []
    for file in _all_files(path):
        with file.open("rb") as stream:
            found.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return found


def _all_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if not path.is_file():
        raise InputError("there is no such file", "Say where the data is: --dataset-dir DIR.", file=path)
    return [path]


def digest(text: str) -> str:
    """The sha256 of a text, in hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def versions() -> dict[str, str]:
    """The versions of what prepares a case, by name."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found
