"""Heads that are made while a network trains: each is seen once.

:func:`mixed_dataset` puts them behind the cases of a datalist. A label map whose name is a subject that is held out
makes none, so that no head's anatomy stands on both sides of a split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose

from neurobundle.augment.label_maps import find_label_maps, read_label_map
from neurobundle.errors import SettingError
from neurobundle.load.names import stem
from neurobundle.prepare.store_dataset import training_dataset

#: The fold of what belongs to none.
NO_FOLD = -1


class _All:
    """Chains of transforms with one seed, for whoever reseeds a dataset's ``transform``."""

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = transforms

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _All:
        """Seed each, with the next number."""
        for number, transform in enumerate(self.transforms):
            if hasattr(transform, "set_random_state"):
                transform.set_random_state(None if seed is None else (seed + number) % 2**32, state)
        return self


class MixedDataset(Dataset):
    """Datasets one after the other.

    Args:
        datasets: of items for one network.
    """

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        super().__init__([(a, b) for a, dataset in enumerate(datasets) for b in range(len(dataset))])
        self.datasets = list(datasets)
        # Only its seed is ever set: each dataset applies its own.
        self.transform = _All([dataset.transform for dataset in datasets])  # type: ignore[assignment]

    def _transform(self, index: int) -> Any:
        which, number = self.data[index]
        return self.datasets[which][number]


def synthetic_heads(
    label_maps: str | Path | Sequence[str | Path] | None,
    heads: int,
    transform: Compose,
    key: str = "image",
    held_out: Iterable[Mapping[str, Any]] = (),
) -> Dataset:
    """A dataset of so many heads an epoch, from each label map about as many.

    Args:
        label_maps: files and folders, in FreeSurfer's numbers; all are kept in memory. None for no heads at all.
        heads: items of the dataset.
        transform: begins with :class:`neurobundle.augment.SynthesizeHeadd`.
        key: under which a label map is given to it.
        held_out: items of a datalist whose subjects, names of label maps, make no heads.

    Raises:
        NoInputError: if there is no label map.
        SettingError: if all of them are held out.
        InputError: for a label map that is none; it names the file.
    """
    if label_maps is None or not heads:
        return Dataset([], transform)
    out = {str(item.get("subject", "")) for item in held_out}
    files = [path for path in find_label_maps(label_maps) if stem(path.name) not in out]
    if not files or heads < 1:
        raise SettingError(f"no head can be made: {heads} of {len(files)} label maps", "Give more label maps.")
    items = []
    for path in files:
        read = read_label_map(path)
        image = MetaTensor(
            torch.from_numpy(read.labels)[None], affine=torch.diag(torch.tensor([*read.spacing_mm, 1.0]))
        )
        image.meta["filename_or_obj"] = str(path)
        # The keys of a datalist's items: both stand in one batch.
        items.append({key: image, "case": stem(path.name), "subject": stem(path.name), "fold": NO_FOLD})
    return Dataset([items[n % len(items)] for n in range(heads)], transform)


def mixed_dataset(
    data: Sequence[Mapping[str, Any]],
    transform: Compose,
    others: Sequence[Dataset] = (),
    **settings: Any,
) -> Dataset:
    """The cases of a datalist, as :func:`neurobundle.prepare.training_dataset` gives them, and others behind them.

    Args:
        data: items of a datalist.
        transform: the deterministic transforms, then the random ones.
        others: datasets that give the same keys; empty ones change nothing.
        settings: of :func:`neurobundle.prepare.training_dataset`.
    """
    cases = training_dataset(data, transform, **settings)
    more = [dataset for dataset in others if len(dataset)]
    return MixedDataset([cases, *more]) if more else cases
