"""Cases prepared once, in memory-mapped arrays that training reads its crops from.

A *store* is a folder: arrays as ``.npy`` files and ``index.json``. An *entry* is one case after a bundle's
deterministic transforms. Around a head most voxels have one value; an entry keeps the *box* of all others, and the
*fill*, the value of each channel around the box, so that nothing is lost by cropping. Its *key* is the hash of its
source files' bytes, of the preparation and of the versions that made it; no path and no tag of a file is kept. Cases
with one key are entries of their own, each with its subject and fold, and share the arrays. *Positions* are where each
label is, found once.

An entry whose files are missing, truncated, damaged or made from something else is made again. Several processes may
share a store: arrays are named by key and appear whole, and the index is changed under the folder's lock.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from neurobundle.errors import EnvironmentFault, InputError, SettingError, closest, ours_in
from neurobundle.files import folder_lock, sweep_folder, write_atomic, write_json
from neurobundle.geometry import same_grid, voxel_sizes_mm
from neurobundle.prepare.store_description import described
from neurobundle.prepare.store_key import NAMES, case_of, digest, key_of, seen_of, versions

logger = logging.getLogger(__name__)

#: Of what an entry holds; another number makes all entries again.
FORMAT = 1
INDEX = "index.json"
DTYPES = ("float16", "float32")
#: Positions kept for each label; of more, so many are drawn, all alike likely.
MOST_POSITIONS = 2**20
#: Digits of a key that begin a file's name.
_NAME_DIGITS = 16
_NAME = re.compile(r"\w+")
_KEY = re.compile(r"[0-9a-f]{64}")
FOREGROUND = "foreground"
#: Whole numbers are stored as they are, in the first of these that holds them.
_WHOLE = (np.uint8, np.int16, np.uint16, np.int32, np.int64)
#: More different whole numbers than this are an image: the finest atlases have a thousand labels.
MOST_LABELS = 2048

Entry = dict[str, Any]
Item = Mapping[str, Any]


class Kept(NamedTuple):
    """What a store has of a list of cases.

    Attributes:
        entries: one for each case; None for one that failed.
        failed: why, by number.
    """

    entries: list[Entry | None]
    failed: dict[int, Exception]


class Store:
    """A folder of prepared cases.

    Args:
        folder: made if need be.
        preparation: the deterministic transforms, from an item of a datalist to arrays ``(channel, i, j, k)``.
        dtype: of what is not whole numbers; that of the store if None, or float16 for a new one.

    Raises:
        SettingError: for another dtype, and for a preparation that cannot be described.
    """

    def __init__(self, folder: str | Path, preparation: Compose, dtype: str | None = None) -> None:
        self.folder, self.preparation = Path(folder), preparation
        index = read_index(self.folder, quiet=True)
        self.dtype = dtype or str(index["dtype"])
        if self.dtype not in DTYPES:
            raise SettingError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}{closest(self.dtype, DTYPES)}")
        if index["cases"] and self.dtype != index["dtype"]:
            raise SettingError(
                f"it holds {len(index['cases'])} case(s) as {index['dtype']}, and all of a store have one dtype, got "
                f"{dtype!r}",
                f"Prepare into another folder, or leave --dtype out to go on with {index['dtype']}.",
                file=folder,
            )
        self.made_by = digest(json.dumps([FORMAT, self.dtype, versions(), described(preparation)]))

    def keep(
        self, items: Sequence[Item], workers: int = 1, progress: Callable[[Sequence[Item]], Any] = lambda items: items
    ) -> Kept:
        """See to it that each case is in the store and undamaged; make what is not.

        Args:
            items: of a datalist, with paths.
            workers: cases at once, each in a thread of its own.
            progress: wraps the list of cases; a progress bar, for instance.

        Raises:
            EnvironmentFault: if the disk is full or the folder cannot be written.
        """
        index = read_index(self.folder)["cases"]
        sweep_folder(self.folder)
        names = {case_of(item) for item in items}
        kept = Kept([None] * len(items), {})

        def one(number: int, item: Item) -> None:
            try:
                kept.entries[number] = self._one(item, index, names)
            except Exception as error:
                ours = ours_in(error)
                if isinstance(ours, EnvironmentFault):
                    raise ours from error
                kept.failed[number] = error

        with ThreadPoolExecutor(max(1, workers)) as pool:
            waiting = [pool.submit(one, number, item) for number, item in enumerate(items)]
            try:
                for _, done in zip(progress(items), waiting, strict=True):
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return kept

    def _one(self, item: Item, index: Mapping[str, Entry], names: Set[str]) -> Entry:
        """The entry of one case, made if need be."""
        case = case_of(item)
        own = {"case": case, "seen": seen_of(item), "item": {name: item[name] for name in NAMES[1:] if name in item}}
        old = index.get(case, {})
        unchanged = old.get("seen") == own["seen"] and old.get("made_by") == self.made_by
        key = str(old["key"]) if unchanged else key_of(item, self.made_by)
        known = old if old.get("key") == key else next((e for e in index.values() if e["key"] == key), None)
        problem = damage(self.folder, known) if known else ""
        if known and not problem:
            if any(known.get(name) != value for name, value in own.items()):
                known = self._record({**known, **own}, names)
            logger.info("%s: is in the store", case)
            return known
        if problem:
            logger.warning("%s: its entry in the store is damaged (%s); it is made again", case, problem)
        elif old:
            logger.warning("%s: its files or its preparation are others than the store's; it is made again", case)
        entry = {**own, **self._make(item, key)}
        logger.info("%s: prepared, %s", case, " x ".join(str(b - a) for a, b in entry["box"]))
        return self._record(entry, names)

    def _make(self, item: Item, key: str) -> Entry:
        """Prepare a case and write its arrays."""
        arrays = _arrays(self.preparation(dict(item)))
        stored = {name: _stored(array, self.dtype) for name, array in arrays.items()}
        labels = {name for name, array in stored.items() if _may_be_labels(array)}
        fills = {name: [0] if name in labels else _fill(array) for name, array in stored.items()}
        box = _box(stored, fills)
        within = (slice(None), *(slice(a, b) for a, b in box))
        affine = next(iter(arrays.values())).affine.tolist()
        entry: Entry = {
            "key": key,
            "made_by": self.made_by,
            "shape": list(next(iter(stored.values())).shape[1:]),
            "affine": affine,
            "spacing_mm": voxel_sizes_mm(affine).tolist(),
            "box": [list(r) for r in box],
            "arrays": {},
        }
        for name, array in stored.items():
            record = self._write(key, name, array[within])
            dtype = str(arrays[name].dtype).removeprefix("torch.")
            entry["arrays"][name] = {**record, "dtype": dtype, "fill": fills[name]}
            if name in labels:
                positions, counts = find_positions(array[0][within[1:]])
                entry["arrays"][name]["labels"] = counts
                entry["arrays"][name][FOREGROUND] = self._write(key, f"{name}_{FOREGROUND}", positions)
        return entry

    def _write(self, key: str, name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
        content = buffer.getvalue()
        path = write_atomic(self.folder / file_name(key, name), content)
        return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def _record(self, entry: Entry, names: Set[str]) -> Entry:
        """Put an entry into the index, in the place of an older one of its case, or of one that had another name.

        Args:
            entry: without its sum.
            names: of the cases at hand; another name with the same key is one that the case had before.
        """
        entry = _summed(entry)
        with folder_lock(self.folder):
            before = read_index(self.folder, quiet=True)["cases"]
            cases = {}
            for case, old in before.items():
                if old["key"] != entry["key"]:
                    cases[case] = old
                elif case in names:  # whose arrays these are now
                    cases[case] = _summed({**entry, **{name: old.get(name) for name in ("case", "seen", "item")}})
            cases[entry["case"]] = entry
            write_json(self.folder / INDEX, {"format": FORMAT, "dtype": self.dtype, "cases": cases})
            used = {one["key"] for one in cases.values()}
            for old in before.values():
                for name in _files(old) if old["key"] not in used else ():
                    (self.folder / name).unlink(missing_ok=True)
        return entry


def read_index(folder: Path, quiet: bool = False) -> dict[str, Any]:
    """The index of a store, its entries by case; empty if there is none, or if it cannot be used, said in a line.

    Args:
        folder: the store.
        quiet: say nothing.
    """
    path = folder / INDEX
    if not path.exists():
        return {"format": FORMAT, "dtype": _dtype_of_arrays(folder), "cases": {}}
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        right = index["format"] == FORMAT and index["dtype"] in DTYPES
        cases = {str(entry["case"]): entry for entry in index["cases"].values() if _KEY.fullmatch(entry["key"])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        right, cases = False, {}
    if not right:
        if not quiet:
            logger.warning("the store's index cannot be used (%s); its entries are made again", path)
        return {"format": FORMAT, "dtype": _dtype_of_arrays(folder), "cases": {}}
    return {**index, "cases": cases}


def _dtype_of_arrays(folder: Path) -> str:
    """What the arrays of a store are that has lost its index, so that a float32 store stays one; else float16."""
    for path in sorted(folder.glob("*.npy")):
        try:
            found = str(np.load(path, mmap_mode="r", allow_pickle=False).dtype)
        except (OSError, ValueError):
            continue
        if found in DTYPES:
            return found
    return DTYPES[0]


def damage(folder: Path, entry: Entry) -> str:
    """What is wrong with an entry's files; nothing if all is well.

    Args:
        folder: the store.
        entry: of its index.
    """
    try:
        for record in _records(entry):
            path = folder / record["file"]
            if path.stat().st_size != record["bytes"]:
                return f"{path.name} has {path.stat().st_size} of {record['bytes']} bytes"
            with path.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != record["sha256"]:
                    return f"{path.name} is not what was written"
        return "" if entry["sum"] == _sum(entry) else "the index was changed"
    except OSError:
        return "a file is missing"
    except (KeyError, TypeError, AttributeError, ValueError):
        return "the index does not describe it"


def _summed(entry: Entry) -> Entry:
    return {**entry, "sum": _sum(entry)}


def _sum(entry: Entry) -> str:
    """A hash of all that the index says of an entry, so that a number that was changed there is seen."""
    return digest(json.dumps({key: value for key, value in entry.items() if key != "sum"}, sort_keys=True))


def find_positions(labels: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], dict[str, int]]:
    """Where each label is, and how often.

    Args:
        labels: ``(i, j, k)``, 0 is background.

    Returns:
        Flat indices, label after label in rising order, at most :data:`MOST_POSITIONS` of each; and the voxels that
        each label has.

    >>> find_positions(np.array([[[0, 2], [1, 2]]], np.uint8))
    (array([2, 1, 3]), {'1': 1, '2': 2})
    """
    flat = labels.ravel()
    places = np.flatnonzero(flat)
    values = flat[places]
    order = np.argsort(values, kind="stable")
    found, counts = np.unique(values, return_counts=True)
    parts = np.split(places[order], np.cumsum(counts)[:-1]) if len(found) else []
    rng = np.random.default_rng(0)
    kept = [np.sort(rng.choice(p, MOST_POSITIONS, replace=False)) if len(p) > MOST_POSITIONS else p for p in parts]
    together = np.concatenate(kept) if kept else np.empty(0, np.int64)
    return together, {str(value): int(n) for value, n in zip(found, counts, strict=True)}


def file_name(key: str, name: str) -> str:
    """The file of one array of an entry."""
    return f"{key[:_NAME_DIGITS]}_{name}.npy"


def _arrays(prepared: Any) -> dict[str, MetaTensor]:
    """The volumes of a prepared case, on one grid."""
    arrays = {
        str(name): value if isinstance(value, MetaTensor) else MetaTensor(torch.as_tensor(value))
        for name, value in prepared.items()
        if isinstance(value, torch.Tensor | np.ndarray) and value.ndim == 4 and _NAME.fullmatch(str(name))
    }
    if not arrays:
        raise InputError("its preparation gives no volume", "A store keeps 3D volumes, channel first.")
    first = next(iter(arrays.values()))
    for name, array in arrays.items():
        if not same_grid(array.shape[1:], array.affine, first.shape[1:], first.affine):
            cause = (
                f"{name} has the grid {tuple(array.shape[1:])}, the image {tuple(first.shape[1:])}, or lies elsewhere"
            )
            raise InputError(cause, "Make the label map again on the image's grid.")
    return arrays


def _stored(array: MetaTensor, dtype: str) -> npt.NDArray[Any]:
    """Whole numbers as they are, in few bytes; all others as ``dtype``."""
    values = array.as_tensor().detach().cpu().numpy()
    low, high = values.min().item(), values.max().item()
    if bool((values == np.round(values)).all()):
        for kind in _WHOLE:
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return values.astype(kind)
    most = float(np.finfo(dtype).max)
    finite = values if math.isfinite(low) and math.isfinite(high) else values[np.isfinite(values)]
    reached = float(np.abs(finite).max(initial=0))
    if reached > most:
        raise InputError(
            f"its values reach {reached:g}, and {dtype} ends at {most:g}",
            "Prepare into another folder: --dtype float32.",
        )
    return values.astype(dtype)


def _may_be_labels(array: npt.NDArray[Any]) -> bool:
    if len(array) > 1 or array.dtype.kind not in "iu" or array.min() < 0:
        return False
    return array.dtype == np.uint8 or len(np.unique(array)) <= MOST_LABELS


def _fill(array: npt.NDArray[Any]) -> list[float]:
    """What is around a head, by the first voxel of each channel, or 0; around labels 0 always, the background."""
    corners = [channel.flat[0].item() for channel in array]
    return [corner if math.isfinite(corner) else 0 for corner in corners]


def _box(arrays: Mapping[str, npt.NDArray[Any]], fills: Mapping[str, Sequence[float]]) -> list[tuple[int, int]]:
    """The smallest box outside of which every channel has its fill."""
    differs = np.zeros(next(iter(arrays.values())).shape[1:], bool)
    for name, array in arrays.items():
        for channel, fill in zip(array, fills[name], strict=True):
            differs |= channel != np.asarray(fill, array.dtype)
    box = []
    for axis in range(3):
        there = np.flatnonzero(differs.any(axis=tuple(n for n in range(3) if n != axis)))
        box.append((int(there[0]), int(there[-1]) + 1) if there.size else (0, 1))
    return box


def _records(entry: Entry) -> list[dict[str, Any]]:
    """Each file of an entry, under the name that its key gives it, whatever the index says."""
    found = []
    for name, record in entry["arrays"].items():
        if not _NAME.fullmatch(name):
            raise ValueError(name)
        found.append({**record, "file": file_name(entry["key"], name)})
        if FOREGROUND in record:
            found.append({**record[FOREGROUND], "file": file_name(entry["key"], f"{name}_{FOREGROUND}")})
    return found


def _files(entry: Entry) -> list[str]:
    try:
        return [record["file"] for record in _records(entry)]
    except (KeyError, TypeError, AttributeError, ValueError):
        return []
