"""Read and write datalists.

A *datalist* is a JSON file in the style of the Medical Segmentation Decathlon that names cases and their folds::

    {"training": [{"image": str | [str, ...], "label": str | int, "case": str, "subject": str, "fold": int}, ...],
     "test": [...], "labels": {"0": "background", ...}, "split": {...}}

Its paths are relative to the file itself, or to a *base*, where a bundle ships its datalist apart from the data. A
*fold* is a share of the cases, whole subjects always, that is held out together. Where ``label`` is a class, a label
map of the same image may stand beside it as ``mask``: a path, or 0 where it is known that nothing is to be outlined.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.files import write_atomic
from neurobundle.load.names import unique_case_names

Item = dict[str, Any]

#: The fold that stands for "train on all cases".
ALL_CASES = -1

#: A ``mask`` that is no file: 0 in every pixel, as of a slice without a tumour.
NOTHING_OUTLINED = 0

#: What :func:`fold_items` can give.
PARTS = ("train", "validation", "all", "test")

_MASK = "mask"

#: Order of the keys of an entry in a written file.
_ENTRY_KEYS = ("case", "subject", "fold", "image", "label", "mask")

_AGAIN = "Make it again: neurobundle split DATA -o datalist.json"


def load_json(path: str | Path) -> dict[str, Any]:
    """A datalist file as it stands, paths and all.

    Raises:
        SettingError: if it is missing, unreadable, not JSON, or not a JSON object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise SettingError("there is no such datalist", f"{_AGAIN}.", file=path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise SettingError(f"the datalist is not readable JSON ({error})", f"{_AGAIN}.", file=path) from error
    if not isinstance(content, dict):
        raise SettingError("the datalist is not a JSON object with a list 'training'", f"{_AGAIN}.", file=path)
    return content


def read_datalist(
    path: str | Path,
    section: str = "training",
    base_dir: str | Path | None = None,
    *,
    required: bool = True,
    need_fold: bool = False,
    check_files: bool = True,
) -> list[Item]:
    """The entries of one section, with absolute paths as strings.

    ``case`` is filled in from the image's name and ``subject`` from the case where an entry lacks them. A label that
    is a number (a class) stays one.

    Args:
        path: the datalist file.
        section: ``training``, ``test`` or any other list of the file.
        base_dir: what the paths are relative to; the file's own folder if None or empty.
        required: whether a missing section is an error; if not, it is empty.
        need_fold: whether each entry must have a whole number ``fold``.
        check_files: whether images and labels must exist.

    Raises:
        SettingError: if the file is no datalist, lacks the section, names a case twice, or lacks a fold.
        InputError: if files are missing: the first is named, and how many.
    """
    content = load_json(path)
    if section not in content:
        if not required:
            return []
        there = ", ".join(repr(key) for key, value in content.items() if isinstance(value, list)) or "none"
        raise SettingError(
            f"the datalist has no section {section!r}{closest(section, content)}", f"Its lists: {there}.", file=path
        )
    if not isinstance(content[section], list):
        raise SettingError(f"{section!r} of the datalist is not a list", f"{_AGAIN}.", file=path)
    base = Path(base_dir).resolve() if base_dir else Path(path).resolve().parent
    items = [
        _item(entry, base, f"entry {number} of {section!r}", path) for number, entry in enumerate(content[section])
    ]
    _name_cases(items, section, path)
    if need_fold:
        _require_folds(items, section, path)
    if check_files:
        _require_files(items, section, path)
    return items


def fold_items(
    path: str | Path | Sequence[Item],
    dataset_dir: str | Path | None = None,
    fold: int = 0,
    part: str = "train",
    max_cases: int | None = None,
    needs: Sequence[str] = (),
) -> list[Item]:
    """The cases that a training with one fold held out trains on, or validates on; a config can name this.

    With ``fold`` -1 all cases train. There is nothing left to validate on then, so ``validation`` gives fold 0, which
    the network has seen: its score is there to watch, and must choose nothing (no best epoch, no early stop).

    Args:
        path: the datalist file, or the items that :func:`read_datalist` gave.
        dataset_dir: what its paths are relative to; the file's own folder if None or empty.
        fold: the fold held out, or -1.
        part: ``train``, ``validation``, ``all`` (the whole training section) or ``test`` (the section ``test``).
        max_cases: only the first so many of the part, in the file's order; all if None or 0.
        needs: keys that each of these cases must have: ``mask``, for instance. Where some are named and it is not
            among them, it is left out, so that a network without a mask head gets none.

    Raises:
        SettingError: if the part or the fold is unknown, ``max_cases`` is negative, a case lacks a key, or the datalist
            cannot be used.
        InputError: if files are missing.
    """
    if part not in PARTS:
        raise SettingError(f"part must be one of {', '.join(PARTS)}, got {part!r}{closest(str(part), PARTS)}")
    if max_cases is not None and max_cases < 0:
        raise SettingError(f"max_cases must be 0 or more, got {max_cases!r}", "0 or null means all cases.")
    split = part in ("train", "validation")
    if isinstance(path, (str, Path)):
        section = "test" if part == "test" else "training"
        items = read_datalist(path, section, dataset_dir, need_fold=split)
        file: str | Path | None = path
    else:
        items, file = list(path), None
    if split:
        items = _side(items, fold, part, file)
    items = items[: max_cases or None]
    _require_keys(items, needs, file)
    if needs and _MASK not in needs:
        items = [{key: value for key, value in item.items() if key != _MASK} for item in items]
    return items


def _require_keys(items: Sequence[Item], keys: Sequence[str], file: str | Path | None) -> None:
    for key in keys:
        lacking = [str(item["case"]) for item in items if item.get(key) is None]
        if lacking:
            cause = f"{len(lacking)} of {len(items)} cases have no {key!r}"
            way_out = "Name one for each, or train without what needs it (a mask: --set mask_head=false)."
            if key == _MASK:
                way_out += " Of a case without a tumour it is 0."
            raise SettingError(cause, way_out, case=lacking[0], file=file)


def _side(items: Sequence[Item], fold: int, part: str, file: str | Path | None) -> list[Item]:
    try:
        number = int(fold)
    except (TypeError, ValueError) as error:
        raise SettingError(f"the fold must be a whole number, got {fold!r}", "-1 means all cases.") from error
    folds = sorted({int(item["fold"]) for item in items})
    if number == ALL_CASES and part == "train":
        return list(items)
    held_out = folds[0] if number == ALL_CASES and folds else number
    if held_out not in folds:
        there = ", ".join(map(str, folds)) or "none"
        raise SettingError(
            f"there is no fold {number}", f"Folds of the datalist: {there}; -1 trains on all.", file=file
        )
    return [item for item in items if (int(item["fold"]) == held_out) == (part == "validation")]


def write_datalist(
    path: str | Path,
    training: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]] = (),
    metadata: Mapping[str, Any] | None = None,
    base_dir: str | Path | None = None,
) -> Path:
    """Write a datalist, whole or not at all; the same cases give the same bytes, in whatever order they come.

    Args:
        path: the file; its folder is made if need be.
        training: entries with ``image``, ``label``, ``case``, and more; paths absolute or relative to here.
        test: the entries of the section ``test``.
        metadata: what else stands at the top (``name``, ``labels``, ``split`` ...).
        base_dir: what paths are written relative to; the file's own folder if None.

    Returns:
        The path.

    Raises:
        EnvironmentFault: if it cannot be written.
    """
    path = Path(path)
    base = Path(os.path.realpath(base_dir if base_dir else path.parent))
    content: dict[str, Any] = {**(metadata or {}), "numTraining": len(training), "numTest": len(test)}
    lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    for section, entries in (("training", training), ("test", test)):
        relative = sorted((_relative(entry, base) for entry in entries), key=lambda entry: natural(str(entry["case"])))
        rows = ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in relative)
        lines.append(f' "{section}": [\n{rows}\n ]' if rows else f' "{section}": []')
    write_atomic(Path(path), ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8", "surrogateescape"))
    return path


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key by which ``case_2`` stands before ``case_10``; unlike texts never tie.

    >>> sorted(["case_10", "case_2", "case"], key=natural)
    ['case', 'case_2', 'case_10']
    """
    parts = re.split(r"(\d+)", text)
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]
    return [*key, (-1, 0, text)]


def _item(entry: object, base: Path, where: str, file: str | Path) -> Item:
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict):
        raise SettingError(f"{where} must be an object with 'image', got {entry!r:.80}", f"{_AGAIN}.", file=file)
    image = entry.get("image")
    names = image if isinstance(image, list) else [image]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise SettingError(
            f"{where} needs 'image' as a path or a list of paths, got {image!r:.80}", f"{_AGAIN}.", file=file
        )
    paths = [os.path.normpath(base / str(name)) for name in names]
    item = {**entry, "image": paths if isinstance(image, list) else paths[0]}
    label = entry.get("label")
    if isinstance(label, str):
        item["label"] = os.path.normpath(base / label)
    elif label is not None and (isinstance(label, bool) or not isinstance(label, int)):
        raise SettingError(
            f"{where} needs 'label' as a path or a whole number, got {label!r:.80}", f"{_AGAIN}.", file=file
        )
    mask = entry.get("mask")
    if isinstance(mask, str) and mask:
        return {**item, "mask": os.path.normpath(base / mask)}
    if mask is not None and (isinstance(mask, bool) or mask != NOTHING_OUTLINED):
        way_out = "Give a path; 0 where nothing is to be outlined; leave it out where nobody knows."
        raise SettingError(f"{where} needs 'mask' as a path or 0, got {mask!r:.80}", way_out, file=file)
    return item


def _name_cases(items: Sequence[Item], section: str, file: str | Path) -> None:
    """Fill in missing cases and subjects; refuse a case that stands twice."""
    names = unique_case_names(_images(item)[0] for item in items)
    seen: dict[str, int] = {}
    for number, item in enumerate(items):
        item["case"] = str(item.get("case") or names[Path(_images(item)[0])])
        item["subject"] = str(item.get("subject") or item["case"])
        other = seen.setdefault(item["case"], number)
        if other != number:
            cause = f"entries {other} and {number} of {section!r} are the same case"
            raise SettingError(cause, "Take one out of the datalist.", case=item["case"], file=file)


def _require_folds(items: Sequence[Item], section: str, file: str | Path) -> None:
    for number, item in enumerate(items):
        fold = item.get("fold")
        if isinstance(fold, bool) or not isinstance(fold, int) or fold < 0:
            has = "has no fold" if fold is None else f"needs a fold of 0 or more, got {fold!r}"
            raise SettingError(
                f"entry {number} of {section!r} {has}", f"{_AGAIN} --folds 5.", case=item["case"], file=file
            )


def _require_files(items: Sequence[Item], section: str, file: str | Path) -> None:
    missing = [
        (number, item["case"], name)
        for number, item in enumerate(items)
        for name in (*_images(item), *(item[key] for key in ("label", "mask") if isinstance(item.get(key), str)))
        if not Path(name).exists()
    ]
    if missing:
        number, case, name = missing[0]
        cause = (
            f"entry {number} of {section!r} in {file} lists it and it is not there; {len(missing)} file(s) are missing"
        )
        raise InputError(cause, "Say where the data is: --dataset-dir DIR.", case=case, file=name)


def _images(item: Mapping[str, Any]) -> list[str]:
    image = item["image"]
    return [str(name) for name in image] if isinstance(image, (list, tuple)) else [str(image)]


def _relative(entry: Mapping[str, Any], base: Path) -> Item:
    images = [_relative_path(name, base) for name in _images(entry)]
    changed: Item = {**entry, "image": images if isinstance(entry["image"], (list, tuple)) else images[0]}
    for key in ("label", "mask"):
        if isinstance(entry.get(key), (str, Path)):
            changed[key] = _relative_path(str(entry[key]), base)
    ordered = [key for key in _ENTRY_KEYS if changed.get(key) is not None]
    return {key: changed[key] for key in [*ordered, *sorted(set(changed) - set(_ENTRY_KEYS))]}


def _relative_path(name: str, base: Path) -> str:
    """A path seen from the base. Folders are resolved and files not: a link's own name is the one that counts."""
    path = Path(name)
    return Path(os.path.relpath(path.parent.resolve() / path.name, base)).as_posix()
