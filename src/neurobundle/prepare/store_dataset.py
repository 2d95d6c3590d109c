"""Training from a store: whole cases as they were prepared, or crops of which only the crop is read.

Whole cases are equal to what the deterministic transforms give (with float16: rounded to it), and the random
transforms after them draw the same chance, so a training from a store equals one without. Crops have their *centres*
drawn as MONAI's ``RandCropByPosNegLabel`` draws them: with the probability ``pos_ratio`` a voxel of any label, each as
likely as another, else a background voxel; then moved so far that the crop lies in the volume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import Compose, Randomizable, Transform

from neurobundle.errors import InputError, SettingError, ours_in
from neurobundle.load.datalist import fold_items
from neurobundle.prepare.store import FOREGROUND, MOST_POSITIONS, Entry, Store, file_name, read_index
from neurobundle.prepare.store_key import case_of

#: Under this name an item carries the key of its entry.
ENTRY = "store_entry"
#: Voxels drawn in search of the background before all of them are counted.
TRIES = 64


def training_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    preparation: Compose | None = None,
    store: str | Path | None = None,
    cache_rate: float = 1.0,
    num_workers: int | None = None,
    progress: bool = False,
) -> Dataset:
    """A dataset that keeps prepared cases in memory, or one that reads them from a store if one is named.

    Args:
        data: items of a datalist.
        transform: the deterministic transforms, then the random ones, as a flat ``Compose``.
        preparation: the deterministic transforms alone: the same objects that ``transform`` begins with.
        store: the folder of a store; cases that it lacks are made there. None for MONAI's ``CacheDataset``.
        cache_rate: share of the cases that is kept in memory; not looked at with a store.
        num_workers: threads that prepare cases.
        progress: show MONAI's progress bar.

    Raises:
        SettingError: if ``transform`` does not begin with ``preparation``.
        InputError: for the first case that cannot be prepared.
    """
    if store is None:
        return CacheDataset(data, transform, cache_rate=cache_rate, num_workers=num_workers, progress=progress)
    steps = list(preparation.transforms) if preparation is not None else []
    if not steps or any(a is not b for a, b in zip(steps, transform.transforms, strict=False)):
        raise SettingError(
            "a store holds what the preparation gives, and the transforms of this training do not begin with it",
            "Let train::preprocessing be the transforms of train::deterministic_transforms, then the random ones.",
        )
    assert preparation is not None
    random = Compose(list(transform.transforms[len(steps) :]))
    return StoreDataset(store, data, random, preparation=preparation, num_workers=num_workers or 1)


def store_items(
    store: str | Path, fold: int = 0, part: str = "train", max_cases: int | None = None
) -> list[dict[str, Any]]:
    """The cases of a store whose source files need not be there any more, for :class:`StoreDataset`.

    Args:
        store: the folder.
        fold: the fold held out, as in :func:`neurobundle.load.fold_items`; -1 for none.
        part: ``train``, ``validation`` or ``all``.
        max_cases: only the first so many.

    Raises:
        SettingError: if the store is empty or has no such fold.
    """
    cases = read_index(Path(store))["cases"]
    items = [{**entry["item"], "case": case, ENTRY: entry["key"]} for case, entry in cases.items()]
    if not items:
        raise SettingError("there is no prepared case here", "Make some: neurobundle prepare NAME ...", file=store)
    if part != "all" and any("fold" not in item for item in items):
        raise SettingError("its cases were prepared from a datalist without folds", "Use part: all.", file=store)
    return fold_items(sorted(items, key=lambda item: str(item["case"])), None, fold, part, max_cases)


class StoreDataset(Dataset):
    """Prepared cases from a store, then random transforms.

    ``data`` are the items, ``transform`` begins with the step that reads: MONAI's loaders and
    :class:`neurobundle.train.ReseedHandler` reseed it like any other.

    Args:
        store: the folder.
        data: items of a datalist, or of :func:`store_items`.
        transform: what follows the reading; None for nothing.
        preparation: the deterministic transforms; cases that the store lacks, and damaged ones, are made with them.
            None if the items are of :func:`store_items`.
        patch_size: voxels of the crops; None gives whole cases.
        pos_ratio: probability that a crop's centre has a label; None draws crops evenly over the volume, as MONAI's
            ``RandSpatialCrop`` does.
        label_key: whose labels; not needed where ``pos_ratio`` is None.
        num_samples: crops of each case; more than one give a list.
        num_workers: threads that prepare cases.

    Raises:
        SettingError: for crops that are none.
        InputError: for the first case that cannot be prepared, or lacks what is asked for.
    """

    def __init__(
        self,
        store: str | Path,
        data: Sequence[Mapping[str, Any]],
        transform: Compose | Transform | None = None,
        preparation: Compose | None = None,
        patch_size: Sequence[int] | None = None,
        pos_ratio: float | None = None,
        label_key: str = "label",
        num_samples: int = 1,
        num_workers: int = 1,
    ) -> None:
        entries = _entries(Path(store), data, preparation, num_workers)
        reader: Transform = StoredCase(store, entries)
        if patch_size is not None:
            reader = RandStoredCrop(store, entries, patch_size, pos_ratio, label_key, num_samples)
        following = [] if transform is None else transform.transforms if isinstance(transform, Compose) else [transform]
        items = [{**item, ENTRY: entry["key"]} for item, entry in zip(data, entries, strict=True)]
        super().__init__(items, Compose([reader, *following]))


def _entries(store: Path, data: Sequence[Mapping[str, Any]], preparation: Compose | None, workers: int) -> list[Entry]:
    if preparation is None:
        cases = {entry["key"]: entry for entry in read_index(store)["cases"].values()}
        missing = [item for item in data if item.get(ENTRY) not in cases]
        if missing:
            raise SettingError(f"case {case_of(missing[0])} is not in the store", "Prepare it again.", file=store)
        return [cases[item[ENTRY]] for item in data]
    kept = Store(store, preparation).keep(data, workers)
    for number, error in sorted(kept.failed.items()):
        raise (ours_in(error) or InputError(f"cannot be prepared ({error})")).for_case(case_of(data[number])) from error
    return [entry for entry in kept.entries if entry is not None]


class StoredCase(Transform):
    """An item's arrays as they were prepared, whole.

    Args:
        store: the folder.
        entries: of its index.
    """

    def __init__(self, store: str | Path, entries: Sequence[Entry]) -> None:
        self.folder = Path(store)
        self.entries = {entry["key"]: entry for entry in entries}

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The item with its paths replaced by arrays."""
        entry = self.entries[data[ENTRY]]
        return self.read(data, entry, (0, 0, 0), entry["shape"])

    def read(self, item: Mapping[str, Any], entry: Entry, start: Sequence[int], size: Sequence[int]) -> dict[str, Any]:
        """A box of each array of a case; what reaches beyond the volume is 0.

        Args:
            item: what else the case has.
            entry: of the index.
            start: first voxel on the prepared grid; may be negative.
            size: voxels along each axis.
        """
        result: dict[str, Any] = {key: value for key, value in item.items() if key != ENTRY}
        affine = np.array(entry["affine"], float)
        affine[:3, 3] += affine[:3, :3] @ np.array(start, float)
        for name, record in entry["arrays"].items():
            array = _opened(self.folder / file_name(entry["key"], name), entry)
            values = read_box(array, record["fill"], entry["shape"], entry["box"], start, size)
            image = MetaTensor(values.to(getattr(torch, record["dtype"])), affine=torch.from_numpy(affine.copy()))
            image.meta["filename_or_obj"] = _source(item.get(name))
            result[name] = image
        return result


class RandStoredCrop(StoredCase, Randomizable):
    """Crops of an item's arrays, of which nothing but the crop is read.

    Args:
        store: the folder.
        entries: of its index.
        patch_size: voxels of a crop; a smaller volume is padded with 0 on both sides, as MONAI's ``SpatialPad`` does.
        pos_ratio: probability that a crop's centre has a label; None draws crops evenly.
        label_key: whose labels.
        num_samples: crops of each case; more than one give a list.

    Raises:
        SettingError: for crops that are none.
        InputError: if a case has no such labels.
    """

    def __init__(
        self,
        store: str | Path,
        entries: Sequence[Entry],
        patch_size: Sequence[int],
        pos_ratio: float | None = None,
        label_key: str = "label",
        num_samples: int = 1,
    ) -> None:
        super().__init__(store, entries)
        self.size = tuple(int(n) for n in patch_size)
        if len(self.size) != 3 or min(self.size) < 1 or num_samples < 1:
            raise SettingError(f"patch_size must be three numbers above 0, got {patch_size!r}", "And num_samples too.")
        if pos_ratio is not None and not 0 <= pos_ratio <= 1:
            raise SettingError(
                f"pos_ratio must be in [0, 1], got {pos_ratio!r}", "0.5: half of the centres have a label."
            )
        self.pos_ratio, self.label_key, self.num_samples = pos_ratio, label_key, num_samples
        for entry in entries if pos_ratio is not None else ():
            if FOREGROUND not in entry["arrays"].get(label_key, {}):
                raise InputError(
                    f"the store has no labels under {label_key!r}", "Leave pos_ratio out.", case=entry["case"]
                )
        self.starts: list[tuple[int, ...]] = []

    def randomize(self, data: Entry) -> None:
        """Draw where the crops of a case begin, on the prepared grid."""
        shape = np.array(data["shape"])
        size = np.array(self.size)
        padded = np.maximum(shape, size)
        before = (padded - shape) // 2
        self.starts = []
        for _ in range(self.num_samples):
            if self.pos_ratio is None:
                start = np.array([self.R.randint(0, n + 1) for n in padded - size])
            else:
                centre = self._centre(data, padded, before)
                start = np.clip(centre - size // 2, 0, padded - size)
            self.starts.append(tuple((start - before).tolist()))

    def __call__(self, data: Mapping[str, Any]) -> Any:
        """One crop, or a list of them."""
        entry = self.entries[data[ENTRY]]
        self.randomize(entry)
        crops = [self.read(data, entry, start, self.size) for start in self.starts]
        return crops if self.num_samples > 1 else crops[0]

    def _centre(self, entry: Entry, padded: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A voxel of the padded volume."""
        counts = list(entry["arrays"][self.label_key]["labels"].values())
        anywhere = sum(counts) < padded.prod()
        if counts and (not anywhere or self.R.random_sample() < (self.pos_ratio or 0)):
            return self._labelled(entry, counts) + before
        return self._background(entry, padded, before)

    def _labelled(self, entry: Entry, counts: Sequence[int]) -> npt.NDArray[Any]:
        """A voxel with a label; where a label's positions are a sample, they stand for all of its voxels."""
        name = file_name(entry["key"], f"{self.label_key}_{FOREGROUND}")
        positions = _opened(self.folder / name, entry)
        kept = np.minimum(counts, MOST_POSITIONS)
        label = int(np.searchsorted(np.cumsum(counts), self.R.randint(sum(counts)), side="right"))
        flat = int(positions[int(kept[:label].sum()) + self.R.randint(kept[label])])
        extent = [b - a for a, b in entry["box"]]
        return np.array(np.unravel_index(flat, extent)) + [a for a, _ in entry["box"]]

    def _background(self, entry: Entry, padded: npt.NDArray[Any], before: npt.NDArray[Any]) -> npt.NDArray[Any]:
        labels = _opened(self.folder / file_name(entry["key"], self.label_key), entry)[0]
        box = np.array(entry["box"])
        for _ in range(TRIES):
            voxel = np.array([self.R.randint(n) for n in padded])
            place = voxel - before - box[:, 0]
            within = (place >= 0).all() and (place < box[:, 1] - box[:, 0]).all()
            if not (within and labels[tuple(place)]):
                return voxel
        whole = np.ones(padded, bool)
        within_box = tuple(slice(a, b) for a, b in box + before[:, None])
        whole[within_box] = labels == 0
        free = np.flatnonzero(whole)
        return np.array(np.unravel_index(int(free[self.R.randint(len(free))]), padded))


def read_box(
    array: npt.NDArray[Any],
    fill: Sequence[float],
    shape: Sequence[int],
    box: Sequence[Sequence[int]],
    start: Sequence[int],
    size: Sequence[int],
) -> torch.Tensor:
    """A box of a volume of which only another box is stored.

    Args:
        array: ``(channel, i, j, k)``, the stored box; floating point becomes float32.
        fill: of each channel, around the stored box.
        shape: of the whole volume.
        box: first and one past the last voxel that is stored, along each axis.
        start: first voxel wanted.
        size: voxels wanted along each axis; beyond the volume they are 0.
    """
    # numpy asks the system for huge pages and torch does not: a crop of 30 MB then takes a third of the time.
    values = np.empty((len(array), *size), np.float32 if array.dtype.kind == "f" else array.dtype)
    result = torch.from_numpy(values)
    wanted = [(a, a + n) for a, n in zip(start, size, strict=True)]
    stored = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(wanted, box, strict=True)]
    if any(a < c or b > d for (a, b), (c, d) in zip(wanted, box, strict=True)):
        result.zero_()
        inside = tuple(slice(max(a, 0) - a, max(min(b, n), a) - a) for (a, b), n in zip(wanted, shape, strict=True))
        result[(slice(None), *inside)] = torch.tensor(fill)[:, None, None, None]
    if all(a < b for a, b in stored):
        there = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(stored, box, strict=True))
        here = tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(stored, wanted, strict=True))
        result[(slice(None), *here)] = torch.from_numpy(array[(slice(None), *there)])
    return result


def _opened(path: Path, entry: Entry) -> npt.NDArray[Any]:
    """A memory-mapped array; writable pages of our own, since torch takes no others without a warning."""
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            "its entry in the store cannot be read", "Start again: it is then made anew.", case=entry["case"], file=path
        ) from error


def _source(value: Any) -> str:
    first = value[0] if isinstance(value, list | tuple) and value else value
    return str(first) if isinstance(first, str | Path) else ""
