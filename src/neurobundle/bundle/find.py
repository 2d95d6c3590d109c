"""Where bundles and overlays are, and what a bundle says of itself. Imports neither torch nor MONAI.

A *bundle* is a folder with ``configs/metadata.json``. An *overlay* is a config file that works on every bundle; a
bundle's *own overlays* stand beside its configs, may set whatever its configs have, and work on it alone.
They are looked for in the folders of ``NEUROBUNDLE_PATH``, then in the installed package, then in the source checkout
that this file lies in; where a name is there twice, the first one counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import neurobundle
from neurobundle.bundle.configfile import CONFIG_SUFFIXES, read_config
from neurobundle.errors import SettingError, closest

PATH_VARIABLE = "NEUROBUNDLE_PATH"

#: Names of the package data of a wheel.
PACKAGED_BUNDLES = "_bundles"
PACKAGED_OVERLAYS = "_configs"

NOT_STATED = "not stated"

#: What the metadata call the format of an output that is one class a case.
ANSWERS = "classification"

#: What the configs of such a bundle call its classes, in the order of the network's outputs.
CLASS_NAMES = "class_names"

#: The configs of a bundle; the first two run alone, the others are laid over train.
CONFIG_STEMS = ("train", "inference", "evaluate", "multi_gpu_train")


def is_bundle(path: str | Path) -> bool:
    """Whether a folder is a bundle."""
    return (Path(path) / "configs" / "metadata.json").is_file()


def bundles(extra: Sequence[str | Path] = ()) -> dict[str, Path]:
    """All bundles that are known, by name.

    Args:
        extra: more folders of bundles, looked at first.

    Returns:
        Absolute paths by the folder's name, sorted by name; empty if there are none.
    """
    found: dict[str, Path] = {}
    for folder in _search_path(extra, PACKAGED_BUNDLES, "bundles"):
        candidates = [folder] if is_bundle(folder) else _listing(folder)
        for candidate in candidates:
            if is_bundle(candidate):
                found.setdefault(candidate.name, candidate.absolute())
    return dict(sorted(found.items()))


def find_bundle(name_or_path: str | Path, extra: Sequence[str | Path] = ()) -> Path:
    """The folder of a bundle.

    A bare word is the name of a known bundle, or else a folder here; anything with a slash in it is a path, and only
    that, so that a copy of a bundle never stands for the original.

    Raises:
        SettingError: if there is no such bundle; it lists the known ones.
    """
    text = str(name_or_path)
    if _is_bare(text):
        known = bundles(extra)
        if text in known:
            return known[text]
        if is_bundle(text):
            return Path(text).absolute()
        names = ", ".join(known) or "none"
        raise SettingError(
            f"unknown bundle {text!r}{closest(text, known)} (known: {names})",
            f"Give a known name, the path of a bundle's folder, or a folder of bundles in {PATH_VARIABLE}.",
        )
    path = Path(text)
    if not is_bundle(path):
        raise SettingError(
            "this is no bundle: it has no configs/metadata.json" if path.is_dir() else "there is no such folder",
            "Give the path of a bundle's folder, or the name of a known bundle (`neurobundle list`).",
            file=path,
        )
    return path.absolute()


def overlays(extra: Sequence[str | Path] = ()) -> dict[str, Path]:
    """All overlays that are known, by name (the file's name without its ending)."""
    found: dict[str, Path] = {}
    for folder in _search_path(extra, PACKAGED_OVERLAYS, "configs"):
        if is_bundle(folder):
            continue
        for place in (folder, folder / "configs"):
            for candidate in _listing(place):
                if candidate.suffix in CONFIG_SUFFIXES and candidate.is_file():
                    found.setdefault(candidate.stem, candidate.absolute())
    return dict(sorted(found.items()))


def own_overlays(bundle: str | Path) -> dict[str, Path]:
    """A bundle's own overlays, by name: what stands in its ``configs`` beside what runs, metadata and datalists."""
    found: dict[str, Path] = {}
    for path in _listing(Path(bundle) / "configs"):
        no_overlay = path.stem in CONFIG_STEMS or path.stem.startswith(("metadata", "datalist"))
        if path.suffix in CONFIG_SUFFIXES and path.is_file() and not no_overlay:
            found.setdefault(path.stem, path.absolute())
    return found


def find_overlay(name_or_path: str | Path, extra: Sequence[str | Path] = (), bundle: str | Path | None = None) -> Path:
    """The file of an overlay, by its name or its path.

    Args:
        name_or_path: a bare word is a name.
        extra: more folders of overlays, looked at first.
        bundle: the folder of the bundle that it is for; its own overlays are looked at before all others.

    Raises:
        SettingError: if there is no such overlay; it lists the known ones.
    """
    text = str(name_or_path)
    if _is_bare(text) and not text.endswith(CONFIG_SUFFIXES):
        known = overlays(extra) | (own_overlays(bundle) if bundle is not None else {})
        if text in known:
            return known[text]
        raise SettingError(
            f"unknown overlay {text!r}{closest(text, known)} (known: {', '.join(sorted(known)) or 'none'})",
            "Give a known name, or the path of a YAML or JSON file.",
        )
    if not Path(text).is_file():
        raise SettingError("there is no such overlay", "Check the path.", file=text)
    return Path(text).absolute()


def read_metadata(bundle: str | Path) -> dict[str, Any]:
    """A bundle's ``configs/metadata.json``.

    Raises:
        SettingError: if it is missing or malformed.
    """
    return read_config(Path(bundle) / "configs" / "metadata.json")


def info(bundle: str | Path) -> dict[str, Any]:
    """What a bundle says of itself, for a person who chooses one.

    Args:
        bundle: its folder, or the name of a known one.

    Returns:
        Plain data (JSON can hold it): name, path, version, task, description, intended use, licences of code, weights
        and data, data source, input channels, labels, required versions, and the weights files with their sizes.
    """
    root = find_bundle(bundle)
    metadata = read_metadata(root)
    data_format = _mapping(metadata.get("network_data_format"))
    image = _first(data_format.get("inputs"))
    pred = _first(data_format.get("outputs"))
    licenses = _mapping(metadata.get("licenses"))
    return {
        "name": root.name,
        "path": str(root),
        **{key: metadata.get(key, NOT_STATED) for key in ("version", "task", "description", "authors")},
        "intended_use": metadata.get("intended_use", NOT_STATED),
        "data_source": metadata.get("data_source", NOT_STATED),
        "licenses": {part: licenses.get(part, NOT_STATED) for part in ("code", "weights", "data")},
        "modality": image.get("modality", NOT_STATED),
        "channels": image.get("channel_def", {}),
        "spatial_shape": image.get("spatial_shape", []),
        "labels": pred.get("label_def", pred.get("channel_def", {})),
        "requires": {
            **{name: metadata.get(f"{name}_version", NOT_STATED) for name in ("monai", "pytorch", "numpy")},
            **_mapping(metadata.get("required_packages_version")),
        },
        "weights": [
            {"file": path.name, "bytes": path.stat().st_size} for path in sorted((root / "models").glob("*.pt"))
        ],
    }


def structures_of(bundle_dir: Path) -> dict[int, str]:
    """The name of each label value but the background, from the bundle's metadata."""
    labels = info(bundle_dir)["labels"]
    return {int(value): name for value, name in labels.items() if name.lower() != "background"}


def scored_values_of(bundle_dir: Path) -> dict[str, list[int]]:
    """Which label values count as each thing that a bundle is scored by: its ``regions``, or its structures."""
    output = _first(_mapping(read_metadata(bundle_dir).get("network_data_format")).get("outputs"))
    regions = {str(name): [int(value) for value in values] for name, values in _mapping(output.get("regions")).items()}
    return regions or {name: [value] for value, name in structures_of(bundle_dir).items()}


def scored_of(bundle_dir: Path) -> list[str]:
    """What a bundle is scored by: its ``regions`` where its outputs overlap, else its structures."""
    return list(scored_values_of(bundle_dir))


def answers_of(bundle_dir: Path) -> list[str] | None:
    """The classes of a bundle that answers one class a case, in the order of its outputs; None for any other bundle.

    Args:
        bundle_dir: the output's ``format`` must be ``classification``, and its ``channel_def`` names the classes.
    """
    output = _first(_mapping(read_metadata(bundle_dir).get("network_data_format")).get("outputs"))
    if output.get("format") != ANSWERS:
        return None
    names = _mapping(output.get("channel_def"))
    return [str(names[key]) for key in sorted(names, key=int)]


def groups_of(bundle_dir: Path) -> dict[str, list[int]]:
    """Structures that are counted together as well: name -> label values (``groups`` of the output); often none."""
    output = _first(_mapping(read_metadata(bundle_dir).get("network_data_format")).get("outputs"))
    return {str(name): [int(value) for value in values] for name, values in _mapping(output.get("groups")).items()}


def channels_of(bundle_dir: Path) -> tuple[str, ...]:
    """The MR sequences that a bundle's network sees, in its order; empty if they are none that the rules know.

    Args:
        bundle_dir: its ``channel_def`` of the input ``image`` is read.
    """
    from neurobundle.load.study import channels_named  # numpy comes with it, and `list` and `info` need none

    names = _image_format(bundle_dir).get("channel_def", {})
    try:
        return channels_named(str(names[key]) for key in sorted(names, key=int))
    except (SettingError, ValueError):
        return ()


def reference_of(bundle_dir: Path) -> str | None:
    """The channel whose grid is the native one, if the metadata name it; else it is the first."""
    from neurobundle.load.study import channel_named

    name = _image_format(bundle_dir).get("reference")
    return channel_named(str(name)) if name else None


def can_fill(bundle_dir: Path) -> bool:
    """Whether a bundle says that its network can do without a channel (``"missing_channels": "fill"``)."""
    return _image_format(bundle_dir).get("missing_channels") == "fill"


def takes_pictures(bundle_dir: Path) -> bool:
    """Whether a bundle takes PNG and JPEG slices: ``png`` stands in its metadata's ``data_type``."""
    return "png" in str(read_metadata(bundle_dir).get("data_type", "")).lower()


def _image_format(bundle_dir: Path) -> Mapping[str, Any]:
    found = read_metadata(bundle_dir).get("network_data_format", {}).get("inputs", {}).get("image", {})
    return found if isinstance(found, dict) else {}


def _is_bare(text: str) -> bool:
    separators = {"/", os.sep, os.altsep or "/"}
    return not any(separator in text for separator in separators) and text not in ("", ".", "..")


def _search_path(extra: Sequence[str | Path], packaged: str, checkout: str) -> list[Path]:
    folders = [Path(folder) for folder in extra]
    folders += [Path(entry) for entry in os.environ.get(PATH_VARIABLE, "").split(os.pathsep) if entry]
    package = Path(neurobundle.__file__).parent
    folders.append(package / packaged)
    if package.parent.name == "src" and (package.parent.parent / "setup.cfg").is_file():
        folders.append(package.parent.parent / checkout)
    return folders


def _listing(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _first(described: Any) -> dict[str, Any]:
    """The first input or output of a bundle's metadata (they have one of each, ``image`` and ``pred``)."""
    values = list(_mapping(described).values())
    return _mapping(values[0]) if values else {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
