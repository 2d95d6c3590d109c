"""Boxes in COCO's two JSON formats (cocodataset.org, "Data format" and "Results format").

The *truth* is an object with ``images``, ``categories`` and ``annotations``; *predictions* are a list of
``{"image_id", "category_id", "bbox", "score"}``. A ``bbox`` is [x, y, width, height] in pixels, and is given back as
corners (x1, y1, x2, y2). An *ignored* box (``iscrowd`` or ``ignore``) need not be found, and finding it is not wrong.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from neurobundle.errors import InputError, SettingError, closest
from neurobundle.load.names import unique_case_names

KINDS = ("truth", "predictions")


@dataclass(frozen=True)
class CocoImage:
    """One picture and its boxes.

    Attributes:
        id: COCO's.
        case: its name, from its file's.
        subject: the person; the case where the file does not say (``"subject"`` of an image is ours, not COCO's).
        boxes: (n, 4) corners in pixels.
        classes: (n,) which of :attr:`Coco.classes`.
        scores: (n,); 1 for each reference box.
        ignored: (n,) bool.
    """

    id: int | str
    case: str
    subject: str
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    ignored: np.ndarray


@dataclass(frozen=True)
class Coco:
    """What a file says.

    Attributes:
        classes: names of the categories, by their ids.
        category_ids: COCO's numbers of these classes.
        images: all pictures of the truth, in its order, those without a box as well.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    images: tuple[CocoImage, ...]


@dataclass
class _Box:
    corners: tuple[float, float, float, float]
    number: int
    score: float
    ignored: bool


def read_coco(path: str | Path, kind: str = "truth", truth: Coco | None = None) -> Coco:
    """Read reference boxes, or predicted ones.

    Args:
        path: the JSON file.
        kind: ``truth`` or ``predictions``.
        truth: what the references' file gave; predictions name their images and classes by its ids.

    Returns:
        The images with their boxes. Of predictions: every image of the truth, with no box if none was predicted.

    Raises:
        InputError: naming the file, the entry and the field that cannot be used, and what to do.
        SettingError: if the kind is unknown, or predictions are read without the truth.
    """
    path = Path(path)
    if kind not in KINDS:
        raise SettingError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}{closest(kind, KINDS)}")
    content = _load(path)
    if kind == "truth":
        return _read_truth(content, path)
    if truth is None:
        raise SettingError("predictions name their images by the ids of the truth", "Give truth=read_coco(TRUTH).")
    if not isinstance(content, list):
        _refuse(
            path, "the predictions are no JSON list", "COCO's results are a list of objects with image_id and bbox."
        )
    return _read_boxes(truth, content, "prediction", path)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError("there is no such file", "Check its name and folder.", file=path) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"it is no readable JSON ({error})", "Export the boxes again.", file=path) from error


def _read_truth(content: Any, path: Path) -> Coco:
    if not isinstance(content, dict):
        _refuse(path, "the references are no JSON object", "Did you mean to read predictions?")
    entries = {key: _entries(content, key, path) for key in ("images", "categories", "annotations")}
    categories: dict[int | str, str] = {}
    for where, entry in _numbered(entries["categories"], "category", path):
        _add(categories, _id(entry, "id", where, path), str(entry.get("name") or entry["id"]), where, path)
    if len(set(categories.values())) < len(categories):
        _refuse(path, "two categories have the same name", "Name them apart.")
    ids = sorted(categories, key=lambda key: (isinstance(key, str), key))
    empty = Coco(tuple(categories[key] for key in ids), tuple(ids), _images(entries["images"], path))
    return _read_boxes(empty, entries["annotations"], "annotation", path)


def _images(entries: Sequence[Any], path: Path) -> tuple[CocoImage, ...]:
    files: dict[int | str, str] = {}
    subjects: dict[int | str, str] = {}
    for where, entry in _numbered(entries, "image", path):
        key = _id(entry, "id", where, path)
        _add(files, key, str(entry.get("file_name") or key), where, path)
        subjects[key] = str(entry.get("subject") or "")
    if not files:
        _refuse(path, "it lists no image", "Export the boxes again, with 'images'.")
    name, count = Counter(map(Path, files.values())).most_common(1)[0]
    if count > 1:
        _refuse(path, f"two images have the file_name '{name}'", "Keep one of them.")
    names = unique_case_names(files.values())
    cases = {key: names[Path(file)] for key, file in files.items()}
    return tuple(_image(key, case, subjects[key] or case, []) for key, case in cases.items())


def _read_boxes(truth: Coco, entries: Sequence[Any], what: str, path: Path) -> Coco:
    """The truth's images, with these boxes instead of its own."""
    boxes: dict[int | str, list[_Box]] = {image.id: [] for image in truth.images}
    for where, entry in _numbered(entries, what, path):
        image_id = _id(entry, "image_id", where, path)
        if image_id not in boxes:
            _refuse(path, f"{where}: there is no image with the id {image_id!r}", "Use the ids of the references.")
        category = _id(entry, "category_id", where, path)
        if category not in truth.category_ids:
            known = ", ".join(map(str, truth.category_ids)) or "none"
            _refuse(path, f"{where}: there is no category {category!r}", f"Categories of the references: {known}.")
        predicted = what == "prediction"
        box = _Box(
            _corners(entry, where, path),
            truth.category_ids.index(category),
            _number(entry.get("score"), "score", where, path) if predicted else 1.0,
            not predicted and bool(entry.get("iscrowd") or entry.get("ignore")),
        )
        if not predicted and (box.corners[0] == box.corners[2] or box.corners[1] == box.corners[3]):
            _refuse(path, f"{where}: the box {entry['bbox']} has no area", "Take it out, or draw it again.")
        boxes[image_id].append(box)
    images = tuple(_image(image.id, image.case, image.subject, boxes[image.id]) for image in truth.images)
    return Coco(truth.classes, truth.category_ids, images)


def _image(key: int | str, case: str, subject: str, boxes: Sequence[_Box]) -> CocoImage:
    return CocoImage(
        key,
        case,
        subject,
        np.array([box.corners for box in boxes], dtype=float).reshape(-1, 4),
        np.array([box.number for box in boxes], dtype=int),
        np.array([box.score for box in boxes], dtype=float),
        np.array([box.ignored for box in boxes], dtype=bool),
    )


def _corners(entry: Mapping[str, Any], where: str, path: Path) -> tuple[float, float, float, float]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        _refuse(path, f"{where}: its bbox is {box!r:.80}", "COCO's bbox is [x, y, width, height] in pixels.")
    x, y, width, height = (_number(value, "bbox", where, path) for value in box)
    for value, name in ((width, "width"), (height, "height")):
        if value < 0:
            _refuse(path, f"{where}: its {name} is {value:g}", "COCO's bbox is [x, y, width, height], not two corners.")
    return x, y, x + width, y + height


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[Any]:
    if not isinstance(content.get(key), list):
        has = "is no list" if key in content else f"is not there{closest(key, content)}"
        _refuse(path, f"{key!r} {has}", "COCO's references have the lists images, categories and annotations.")
    return content[key]


def _numbered(entries: Sequence[Any], what: str, path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Each entry, and what to call it in an error."""
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            _refuse(path, f"{what} {number} (counted from 0) is no object: {entry!r:.80}", "Export the boxes again.")
    return [(f"{what} {number} (counted from 0)", entry) for number, entry in enumerate(entries)]


def _id(entry: Mapping[str, Any], key: str, where: str, path: Path) -> int | str:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        has = f"{key} is {value!r:.80}" if key in entry else f"it has no {key}{closest(key, entry)}"
        _refuse(path, f"{where}: {has}", f"Give it a whole number as {key}.")
    return value


def _add(found: dict[int | str, str], key: int | str, name: str, where: str, path: Path) -> None:
    if key in found:
        _refuse(path, f"{where}: the id {key!r} stands twice", "Give each its own id.")
    found[key] = name


def _number(value: Any, key: str, where: str, path: Path) -> float:
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        _refuse(path, f"{where}: {key} has {value!r:.80}, which is no finite number", "Export the boxes again.")
    return number


def _refuse(path: Path, cause: str, way_out: str) -> NoReturn:
    raise InputError(cause, way_out, file=path)
