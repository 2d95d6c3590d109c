"""A new bundle from an existing one: its configs and its licence, without its weights, results and claims.

What is copied is what a person would copy; what is reset is what would be a lie about the new bundle: its version, its
data, the licences of data and weights, its card, and the parts that belong to one structure only.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from neurobundle.bundle.checks import TASK_SUFFIXES
from neurobundle.bundle.find import find_bundle, read_metadata
from neurobundle.errors import EnvironmentFault, SettingError

FIRST_VERSION = "0.1.0"

#: Metadata fields that speak of the old bundle's data, results and authors.
_RESET_TEXTS = {
    "task": "state the task",
    "description": "describe what the network does, with input and output",
    "authors": "name the authors",
    "copyright": "name the holder",
    "data_source": "state where the training data come from",
    "intended_use": "Research. Not for diagnosis.",
}
_DROPPED_FIELDS = ("eval_metrics", "references", "image_classes", "label_classes", "pred_classes")

#: Top-level ids of a config that belong to the old bundle's structure alone: finding it in a head, and its looks.
_DROPPED_IDS = ("head", "plausible")

_CARD = """\
# {name}

Made from `{origin}` {origin_version}. Not for diagnosis.

## Use

What goes in, what comes out, and for whom it is.

## Data

Which data, under which licence, how they were split (`neurobundle split`), with which seed.

## Training

The command, the time and the hardware.

## Results

Scores a fold with an interval, from the files that `neurobundle evaluate` wrote, and cases that fail.
"""

_DATA_LICENSE = """\
State here the licence of the data that the weights of {name} are trained on, with the attribution that it asks for.
"""


def new_bundle(name: str, directory: str | Path, from_bundle: str | Path = "hippocampus_segmentation") -> Path:
    """Make ``directory/name`` from another bundle.

    Args:
        name: lower case letters, digits and underscores, ending in the task of the other bundle.
        directory: where the new folder goes.
        from_bundle: name or folder of the bundle to start from.

    Returns:
        The new folder; it appears at once and complete.

    Raises:
        SettingError: for a name that is none, or taken, or of another task.
        EnvironmentFault: if the folder cannot be written.
    """
    origin = find_bundle(from_bundle)
    _check_name(name, origin)
    target = Path(directory) / name
    if target.exists():
        raise SettingError("this is there already", "Choose another name, or another folder with -o.", file=target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=target.parent) as scratch:
            draft = Path(scratch) / name
            _write(draft, origin)
            draft.rename(target)
    except OSError as error:
        raise EnvironmentFault(
            f"the bundle cannot be written ({error.strerror or error})", "Choose another folder with -o.", file=target
        ) from error
    return target


def _check_name(name: str, origin: Path) -> None:
    task = next((suffix for suffix in TASK_SUFFIXES if origin.name.endswith(suffix)), "")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not name.endswith(TASK_SUFFIXES):
        raise SettingError(
            f"a bundle's name has lower case letters, digits and underscores and ends in one of "
            f"{', '.join(TASK_SUFFIXES)}, got {name!r}",
            "For example: thalamus_segmentation.",
        )
    if task and not name.endswith(task):
        raise SettingError(
            f"{name!r} cannot be made from {origin.name!r}, whose task is another",
            f"Choose a name that ends in {task}, or another bundle with --from.",
        )


def _write(draft: Path, origin: Path) -> None:
    for part in ("configs", "docs", "models"):
        (draft / part).mkdir(parents=True)
    if (origin / "LICENSE").is_file():
        shutil.copy(origin / "LICENSE", draft / "LICENSE")
    for path in sorted((origin / "configs").iterdir()):
        if path.suffix in (".yaml", ".yml", ".conf", ".json") and not path.name.startswith(("datalist", "metadata")):
            text = path.read_text(encoding="utf-8").replace(origin.name, draft.name)
            (draft / "configs" / path.name).write_text(_without_ids(text), encoding="utf-8")
    old = read_metadata(origin)
    text = json.dumps(_metadata(old, draft.name, origin.name), indent=2, ensure_ascii=False)
    (draft / "configs" / "metadata.json").write_text(f"{text}\n", encoding="utf-8")
    names = {"name": draft.name, "origin": origin.name, "origin_version": old.get("version", "")}
    (draft / "docs" / "README.md").write_text(_CARD.format(**names), encoding="utf-8")
    (draft / "docs" / "data_license.txt").write_text(_DATA_LICENSE.format(**names), encoding="utf-8")


def _metadata(old: dict[str, Any], name: str, origin: str) -> dict[str, Any]:
    made = {key: value for key, value in old.items() if key not in _DROPPED_FIELDS}
    licenses = old.get("licenses")
    code = licenses.get("code", "not stated") if isinstance(licenses, dict) else "not stated"
    return {
        **made,
        **_RESET_TEXTS,
        "name": name,
        "version": FIRST_VERSION,
        "changelog": {FIRST_VERSION: f"made from {origin} {old.get('version', '')}".strip()},
        "licenses": {"code": code, "weights": "not stated", "data": "not stated"},
    }


def _without_ids(text: str) -> str:
    r"""A YAML text without some top-level ids, comments and order kept.

    >>> _without_ids("a: 1\nhead:\n  b: 2\n# of c\nc: 3\n")
    'a: 1\n# of c\nc: 3\n'
    """
    for identifier in _DROPPED_IDS:
        text = re.sub(rf"(?m)^{identifier}:.*\n(?:[ \t\-].*\n|\n(?=[ \t]))*", "", text)
    return text
