"""What an entry of a store depends on, as hashes: its files' bytes, its preparation, the versions.

A *key* says what a case was made from: who has the same key has the same entry, whatever its files are called. Bytes
are read only where names, sizes and times do not say already that nothing has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurobundle.errors import InputError

#: What an entry is made by.
PACKAGES = ("neurobundle", "monai", "torch", "numpy", "nibabel")


def case_of(item: Mapping[str, Any]) -> str:
    """The case's name; for items without one, as other programs make them, that of its first file's hash."""
    return str(item.get("case") or f"case-{digest(str(item.get('image')))[:8]}")


def described(value: Any, depth: int = 0) -> Any:
    """Transforms as plain data that says what they are and how they are set, the same in every process."""
    if isinstance(value, str):
        return "<path>" if Path(value).is_absolute() else value
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth > 8:
        return type(value).__qualname__
    if isinstance(value, Mapping):
        return {str(key): described(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [described(item, depth + 1) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if isinstance(value, np.ndarray | torch.Tensor):
        array = np.asarray(value)
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if isinstance(value, torch.dtype | torch.device | np.dtype):
        return str(value)
    kind = value if isinstance(value, type) or hasattr(value, "__qualname__") else type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    # A generator of random numbers, a thread's own state or a logger is no setting.
    if kind is value or name.startswith(("numpy.random", "_thread", "logging.", "builtins.")):
        return name
    inner = {key: item for key, item in sorted(getattr(value, "__dict__", {}).items()) if key not in ("_tracing", "R")}
    return {name: described(inner, depth + 1)}


def sources_of(item: Mapping[str, Any]) -> dict[str, list[Path]]:
    """The files and folders that an item names, by its keys."""
    found = {}
    for name, value in sorted(item.items()):
        names = value if isinstance(value, list | tuple) else [value]
        if names and all(isinstance(one, str | Path) for one in names):
            paths = [Path(one) for one in names]
            if any(path.exists() for path in paths) or name in ("image", "label"):
                found[name] = paths
    return found


def seen_of(sources: Mapping[str, list[Path]]) -> str:
    """Names, sizes and times of source files as one hash, that tells nobody the names."""
    facts = []
    for name, paths in sources.items():
        for path in (file for one in paths for file in _all_files(one)):
            state = path.stat()
            facts.append([name, str(path.absolute()), state.st_size, state.st_mtime_ns])
    return digest(json.dumps(facts))


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
