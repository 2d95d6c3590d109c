"""Heads made while a network trains, behind the cases of a datalist."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad

from neurobundle.augment import SynthesizeHeadd, mixed_dataset, synthetic_heads
from neurobundle.errors import SettingError

from .test_synthesis import nested_head


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    for name in ("anna", "bert"):
        nib.save(nib.Nifti1Image(nested_head().numpy(), np.diag([4.0, 4, 4, 1])), tmp_path / f"{name}.nii.gz")
    return tmp_path


def chain() -> Compose:
    settings = {"shape": [24, 28, 24], "spacing_mm": [8.0, 8.0, 8.0], "sequences": ["T1", "FLAIR"]}
    return Compose([SynthesizeHeadd("image", settings=settings)])


def unchanged() -> Compose:
    return Compose([Lambdad("image", lambda value: value)])


def test_each_epoch_has_so_many_heads_of_all_maps(maps: Path) -> None:
    dataset = synthetic_heads(maps, 5, chain())
    assert len(dataset) == 5
    assert [dataset[n]["case"] for n in range(3)] == ["anna", "bert", "anna"]
    assert dataset[0]["image"].shape == (2, 24, 28, 24)
    assert dataset[0]["label"].shape == (1, 24, 28, 24)


def test_one_seed_one_epoch(maps: Path) -> None:
    heads = []
    for _ in range(2):
        dataset = synthetic_heads(maps, 2, chain())
        dataset.transform.set_random_state(seed=7)
        heads.append([dataset[n]["image"].as_tensor() for n in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(*heads, strict=True))
    assert not torch.equal(heads[0][0], heads[0][1])


def test_real_cases_first_then_heads_and_nobody_on_both_sides(maps: Path) -> None:
    heads = synthetic_heads(maps, 3, chain(), held_out=[{"subject": "anna"}])
    mixed = mixed_dataset([{"image": 1}, {"image": 2}], unchanged(), [heads], progress=False)
    assert len(mixed) == 5
    assert [mixed[n]["image"] for n in range(2)] == [1, 2]
    assert {mixed[n]["case"] for n in range(2, 5)} == {"bert"}
    mixed.transform.set_random_state(seed=1)
    first = mixed[3]["image"].as_tensor()
    mixed.transform.set_random_state(seed=1)
    assert torch.equal(mixed[3]["image"].as_tensor(), first)


def test_without_label_maps_nothing_changes(maps: Path) -> None:
    for heads in (synthetic_heads(None, 3, chain()), synthetic_heads(maps, 0, chain())):
        assert len(heads) == 0
        mixed = mixed_dataset([{"image": 1}], unchanged(), [heads])
        assert [mixed[n]["image"] for n in range(len(mixed))] == [1]


def test_all_held_out(maps: Path) -> None:
    with pytest.raises(SettingError, match="no head can be made"):
        synthetic_heads(maps, 4, chain(), held_out=[{"subject": "anna"}, {"subject": "bert"}])
