"""What a result depends on, as hashes, and how much memory it took. Imports neither torch nor MONAI.

A *fingerprint* is the sha256 of a canonical text or of bytes. A result whose input, weights, config and versions have
the fingerprints of an earlier one needs not be computed again. Content counts, never a path: a data set that was moved
keeps its fingerprints.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import types
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from neurobundle import __version__
from neurobundle.networks.manifest import sha256_of

#: Top-level ids of a config, and attributes of its parts, that say where things lie, how fast they are read and what
#: is done with them afterwards, and that cannot change a voxel of a result. ``fold`` is not among them.
WITHOUT_EFFECT = {
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "datalist", "max_cases", "data"),
    *("num_workers", "cache_rate", "store", "resume", "redo"),
    *("run", "initialize", "finalize"),
}

#: Of the metadata, what names and counts the labels.
_META, _META_WITH_EFFECT = "_meta_", "network_data_format"

PACKAGES = ("monai", "torch", "numpy", "nibabel")

_PATH = "<path>"

#: A part inside a part inside a part ...; deeper than any config of ours nests.
_DEEPEST = 12


def of_input(path: Path) -> str:
    """The fingerprint of a file's bytes, or of all files of a folder with their names in it.

    Raises:
        OSError: if it cannot be read.
    """
    if not path.is_dir():
        return sha256_of(path)
    files = sorted(item for item in path.rglob("*") if item.is_file())
    return of_value([(of_text(item.relative_to(path).as_posix()), sha256_of(item)) for item in files])


def of_text(text: str) -> str:
    """The fingerprint of a text; a file name that is no valid UTF-8 has one too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def of_value(value: Any) -> str:
    """The fingerprint of plain data, whatever the order of its keys.

    >>> of_value({"a": 1, "b": (2, 3)}) == of_value({"b": [2, 3], "a": 1})
    True
    """
    return of_text(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True))


def of_config(config: Mapping[str, Any], **more: Any) -> str:
    """The fingerprint of a parsed config: its content after overlays and settings, without what has no effect.

    Args:
        config: what a ``ConfigParser`` holds, references as they are written.
        more: what else decides, by name: a device that an expression chose, options of a command.

    >>> a = of_config({"window": [48, 64, 48], "output_dir": "/tmp/a", "num_workers": 0})
    >>> a == of_config({"num_workers": 4, "output_dir": "b", "window": [48, 64, 48]})
    True
    >>> a == of_config({"window": [48, 64, 64]})
    False
    """
    kept = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT and key != _META}
    meta = config.get(_META)
    kept[_META] = meta.get(_META_WITH_EFFECT) if isinstance(meta, Mapping) else None
    return of_value(described({"config": kept, **more}))


def of_parts(**parts: Any) -> str:
    """The fingerprint of built parts: their classes and settings, for who has no config to look at."""
    return of_value(described(parts))


def of_weights(loaders: Iterable[Any]) -> str:
    """The fingerprint of the files that handlers load weights from; that of one file is its sha256.

    Args:
        loaders: ours have ``path``, MONAI's ``CheckpointLoader`` has ``load_path``.
    """
    paths = [getattr(item, "path", None) or getattr(item, "load_path", None) for item in loaders]
    digests = [sha256_of(Path(path)) for path in paths if path]
    return digests[0] if len(digests) == 1 else of_value(digests)


@functools.cache
def versions() -> Mapping[str, str]:
    """The versions of what computes a result, by name."""
    found = {"neurobundle": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return types.MappingProxyType(found)


def described(value: Any, depth: int = 0) -> Any:
    """Anything as plain data that says what it is and how it is set, the same in every process.

    Paths become one word; an object is its class and its attributes, in so far as they can have an effect; what has
    neither is its class alone.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _PATH if os.sep in value and Path(value).is_absolute() else value
    if isinstance(value, os.PathLike):
        return _PATH
    if isinstance(value, Enum):
        return f"{_name(type(value))}.{value.name}"
    if depth > _DEEPEST:
        return _name(type(value))
    inner = functools.partial(described, depth=depth + 1)
    if isinstance(value, Mapping):
        return {str(key): inner(item) for key, item in value.items() if key not in WITHOUT_EFFECT}
    if isinstance(value, list | tuple):
        return [inner(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((inner(item) for item in value), key=str)
    return _described_object(value, inner)


def _described_object(value: Any, inner: Any) -> Any:
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return _name(value)
    if isinstance(value, functools.partial):
        return {"partial": inner(value.func), "args": inner(value.args), "keywords": inner(value.keywords)}
    kind = _name(type(value))
    if hasattr(value, "state_dict") and hasattr(value, "forward"):
        return {kind: str(value)}  # a network writes out its layers
    if hasattr(value, "tobytes") or hasattr(value, "numpy"):  # an array or a tensor
        array = value if hasattr(value, "tobytes") else value.detach().cpu().numpy()
        return {kind: [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]}
    if kind in ("torch.device", "torch.dtype"):
        return str(value)
    # A logger, a module or a generator of random numbers holds the world, and no setting.
    if kind.startswith(("logging.", "builtins.", "numpy.random")) or not hasattr(value, "__dict__"):
        return kind
    return {kind: inner(dict(sorted(vars(value).items())))}


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
