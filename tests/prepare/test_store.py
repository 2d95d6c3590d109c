"""Prepared cases on disk: what is kept, what is made again, and the same training from them."""

import json
import logging
import pickle
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandCropByPosNegLabeld, RandGaussianNoised, RandSpatialCropd, SpatialPadd

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare import store as store_module
from neurobundle.prepare.pipeline import mri_preprocessing
from neurobundle.prepare.store import Store, damage, find_positions, read_index
from neurobundle.prepare.store_dataset import (
    RandStoredCrop,
    StoreDataset,
    read_box,
    store_items,
    training_dataset,
)
from neurobundle.prepare.store_key import described

Pair = Callable[..., tuple[Path, Path]]


def preparation(spacing: float = 1.0) -> Compose:
    return mri_preprocessing(["image"], ["label"], spacing_mm=(spacing,) * 3)


@pytest.fixture
def items(tmp_path: Path, make_pair: Pair) -> list[dict[str, Any]]:
    """Three small cases; the first has air around it."""
    found = []
    for number in range(3):
        image, label = make_pair(tmp_path / "data", f"case_{number}", number, (20, 24, 18))
        found.append({"image": str(image), "label": str(label), "case": f"case_{number}", "fold": number % 2})
    file = nib.load(found[0]["image"])
    array = np.zeros((20, 24, 18), np.float32)
    array[4:16, 3:20, 5:16] = np.asarray(file.dataobj)[4:16, 3:20, 5:16]
    nib.save(nib.Nifti1Image(array, file.affine), found[0]["image"])
    labels = nib.load(found[0]["label"])
    kept = np.where(array > 0, np.asarray(labels.dataobj), 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(kept, labels.affine), found[0]["label"])
    return found


def test_positions_of_labels() -> None:
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[0, 0, 1], labels[1, 1, 1], labels[0, 1, 0] = 2, 2, 1
    positions, counts = find_positions(labels)
    assert positions.tolist() == [2, 1, 7]
    assert counts == {"1": 1, "2": 2}


def test_positions_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is that of all."""
    monkeypatch.setattr(store_module, "MOST_POSITIONS", 5)
    positions, counts = find_positions(np.ones((3, 3, 3), np.uint8))
    assert len(set(positions.tolist())) == 5
    assert counts == {"1": 27}


def test_a_box_read_out_of_a_box() -> None:
    """A row of 6 voxels, of which 2 and 3 are stored and the others are 7; beyond the row is 0."""
    array = np.array([5, 6], np.uint8).reshape(1, 2, 1, 1)

    def read(start: int, n: int) -> list[int]:
        box = [(2, 4), (0, 1), (0, 1)]
        return read_box(array, [7], (6, 1, 1), box, (start, 0, 0), (n, 1, 1)).flatten().tolist()

    assert read(0, 6) == [7, 7, 5, 6, 7, 7]
    assert read(-2, 10) == [0, 0, 7, 7, 5, 6, 7, 7, 0, 0]
    assert read(3, 2) == [6, 7]
    assert read(2, 2) == [5, 6]
    assert read(4, 2) == [7, 7]
    assert read(6, 2) == [0, 0]


def test_the_store_holds_a_box_and_gives_the_whole(items: list[dict[str, Any]], tmp_path: Path) -> None:
    """What is around the head is not stored, and nothing is lost: bit for bit with float32."""
    kept = Store(tmp_path / "store", preparation(), "float32").keep(items)
    assert not kept.failed
    assert kept.entries[0] is not None
    assert kept.entries[0]["box"] == [[4, 16], [3, 20], [5, 16]]
    stored = np.load(tmp_path / "store" / kept.entries[0]["arrays"]["image"]["file"], mmap_mode="r")
    assert stored.shape == (1, 12, 17, 11)
    assert stored.dtype == np.float32
    labels = np.load(tmp_path / "store" / kept.entries[0]["arrays"]["label"]["file"])
    assert labels.dtype == np.uint8
    plain = preparation()
    for item, given in zip(items, StoreDataset(tmp_path / "store", items, None, preparation()), strict=True):
        wanted = plain(item)
        assert given["case"] == item["case"]
        for key in ("image", "label"):
            assert torch.equal(given[key].as_tensor(), wanted[key].as_tensor())
            assert given[key].dtype == wanted[key].dtype
            assert np.array_equal(given[key].affine, wanted[key].affine)
        assert set(given) == set(wanted)


def test_float16_is_rounding(items: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = StoreDataset(tmp_path / "store", items, None, preparation())
    assert read_index(tmp_path / "store")["dtype"] == "float16"
    wanted = preparation()(items[1])["image"].as_tensor()
    given = dataset[1]["image"].as_tensor()
    assert torch.equal(given, wanted.half().float())
    assert not torch.equal(given, wanted)


def test_training_from_it_is_the_same_training(items: list[dict[str, Any]], tmp_path: Path) -> None:
    """With one seed, crops and noise are the same to the bit, with and without a store."""
    deterministic = preparation()
    chance = [
        SpatialPadd(("image", "label"), (22, 20, 20)),
        RandSpatialCropd(("image", "label"), (22, 20, 20), random_size=False),
        RandGaussianNoised("image", prob=0.5),
    ]
    whole = Compose([*deterministic.transforms, *chance])
    with_memory = training_dataset(items, whole, deterministic, cache_rate=1.0)
    assert isinstance(with_memory, CacheDataset)
    Store(tmp_path / "store", deterministic, "float32").keep(items)
    from_store = training_dataset(items, whole, deterministic, tmp_path / "store")
    assert isinstance(from_store, StoreDataset)
    results = []
    for dataset in (with_memory, from_store):
        loader = DataLoader(dataset, batch_size=3)
        dataset.transform.set_random_state(seed=3)  # as ReseedHandler does at each epoch's start
        results.append([batch for _ in range(2) for batch in loader])
    for first, second in zip(*results, strict=True):
        for key in ("image", "label"):
            assert torch.equal(first[key].as_tensor(), second[key].as_tensor())


def test_a_transform_that_begins_otherwise_is_refused(items: list[dict[str, Any]], tmp_path: Path) -> None:
    deterministic = preparation()
    other = Compose([SpatialPadd("image", (4, 4, 4))])
    with pytest.raises(SettingError, match="do not begin with it"):
        training_dataset(items, other, deterministic, tmp_path)
    with pytest.raises(SettingError, match="do not begin with it"):
        training_dataset(items, other, None, tmp_path)


def spoil(folder: Path, name: str) -> None:
    """One of the ways in which a file can be bad."""
    image = sorted(folder.glob("*_image.npy"))[0]
    content = image.read_bytes()
    if name == "truncated":
        image.write_bytes(content[:-100])
    elif name == "empty":
        image.write_bytes(b"")
    elif name == "garbage":
        image.write_bytes(b"\x93NUMPY" + bytes(reversed(content[6:])))
    elif name == "flipped":
        image.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif name == "evil":
        image.write_bytes(pickle.dumps(print))
    elif name == "gone":
        image.unlink()
    elif name == "positions":
        sorted(folder.glob("*_foreground.npy"))[0].write_bytes(b"")
    else:
        index = folder / "index.json"
        text = index.read_text()
        index.write_text({"index cut": text[:-30], "index null": "null", "index number": _moved(text)}[name])


def _moved(text: str) -> str:
    index = json.loads(text)
    next(iter(index["cases"].values()))["affine"][0][3] += 1
    return json.dumps(index)


@pytest.mark.parametrize(
    "fault",
    [
        *("truncated", "empty", "garbage", "flipped", "evil", "gone", "positions"),
        *("index cut", "index null", "index number"),
    ],
)
def test_62_a_bad_entry_is_made_again(
    fault: str, items: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With one line, and the result is that of an undamaged store."""
    folder = tmp_path / "store"
    Store(folder, preparation(), "float32").keep(items)
    spoil(folder, fault)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        dataset = StoreDataset(folder, items, None, preparation())
    assert len(caplog.records) == 1
    assert "made again" in caplog.text
    assert torch.equal(dataset[0]["image"].as_tensor(), preparation()(items[0])["image"].as_tensor())
    assert all(not damage(folder, entry) for entry in read_index(folder)["cases"].values())
    assert len(read_index(folder)["cases"]) == 3


def test_what_is_done_is_not_done_again(
    items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor where the data was moved: content counts, not the path."""
    folder = tmp_path / "store"
    before = Store(folder, preparation()).keep(items).entries
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("it was prepared again"))
    assert Store(folder, preparation()).keep(items).entries == before
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    moved = [
        {**item, **{key: item[key].replace("/data/", "/elsewhere/") for key in ("image", "label")}} for item in items
    ]
    after = Store(folder, preparation()).keep(moved)
    assert not after.failed
    assert [entry["key"] for entry in after.entries if entry] == [entry["key"] for entry in before if entry]


def test_62_a_changed_file_or_preparation_is_stale(
    items: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "store"
    first = Store(folder, preparation()).keep(items).entries[0]
    file = nib.load(items[0]["image"])
    nib.save(nib.Nifti1Image(np.asarray(file.dataobj) * 1.5 + 1, file.affine), items[0]["image"])
    with caplog.at_level(logging.WARNING):
        second = Store(folder, preparation()).keep(items).entries[0]
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["case_0"]
    assert first is not None
    assert second is not None
    assert second["key"] != first["key"]
    assert len(list(folder.glob("*.npy"))) == 9, "what was stale is gone"
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        third = Store(folder, preparation(2.0)).keep(items).entries[0]
    assert third is not None
    assert third["shape"] == [10, 12, 10]
    assert len(caplog.records) == 3


def test_a_preparation_is_described_by_what_it_does(items: list[dict[str, Any]]) -> None:
    """The same settings give the same text, before and after use; other settings another."""
    chain = preparation()
    text = json.dumps(described(chain))
    chain(items[0])
    assert json.dumps(described(chain)) == text == json.dumps(described(preparation()))
    assert text != json.dumps(described(preparation(1.5)))
    assert " at 0x" not in text


def test_a_bad_case_does_not_stop_the_others(items: list[dict[str, Any]], tmp_path: Path) -> None:
    Path(items[1]["image"]).write_bytes(b"no scan")
    kept = Store(tmp_path / "store", preparation()).keep(items, workers=2)
    assert list(kept.failed) == [1]
    assert [entry is None for entry in kept.entries] == [False, True, False]
    with pytest.raises(InputError, match=r"case_1 .*not a NIfTI file"):
        StoreDataset(tmp_path / "store", items, None, preparation())


def test_two_at_once(items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Both find every case, undamaged, whoever made it."""
    folder = tmp_path / "store"
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(Store(folder, preparation()).keep, items) for _ in range(2)]
        kept = [run.result() for run in runs]
    assert not kept[0].failed
    assert not kept[1].failed
    index = read_index(folder)["cases"]
    assert len(index) == 3
    assert all(not damage(folder, entry) for entry in index.values())
    assert not list(folder.glob(".*"))


def test_nothing_of_a_path_or_a_header_is_kept(items: list[dict[str, Any]], tmp_path: Path) -> None:
    named = tmp_path / "Miller^Anna"
    named.mkdir()
    file = nib.load(items[0]["image"])
    image = nib.Nifti1Image(np.asarray(file.dataobj), file.affine)
    image.header["descrip"] = b"Anna Miller"
    nib.save(image, named / "scan.nii.gz")
    Store(tmp_path / "store", preparation()).keep([{**items[0], "image": str(named / "scan.nii.gz")}])
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    assert b"Miller" not in kept
    assert str(tmp_path).encode() not in kept


def test_cases_whose_files_are_gone(items: list[dict[str, Any]], tmp_path: Path) -> None:
    """A store can be taken to another machine."""
    Store(tmp_path / "store", preparation()).keep(items)
    for item in items:
        Path(item["image"]).unlink()
    train, validation = (store_items(tmp_path / "store", 0, part) for part in ("train", "validation"))
    assert [item["case"] for item in train] == ["case_1"]
    assert [item["case"] for item in validation] == ["case_0", "case_2"]
    assert tuple(StoreDataset(tmp_path / "store", train)[0]["image"].shape) == (1, 20, 24, 18)
    with pytest.raises(SettingError, match="is not in the store"):
        StoreDataset(tmp_path / "store", items)
    with pytest.raises(SettingError, match="no prepared case here"):
        store_items(tmp_path / "nowhere")


def crops_of(items: list[dict[str, Any]], folder: Path, n: int, **settings: Any) -> list[dict[str, Any]]:
    dataset = StoreDataset(folder, items[:1], None, preparation(), **settings)
    dataset.transform.set_random_state(seed=0)
    return [dataset[0] for _ in range(n)]


def test_a_crop_is_the_crop_of_the_whole(items: list[dict[str, Any]], tmp_path: Path) -> None:
    """Voxels and places, also where the crop is larger than the volume."""
    Store(tmp_path / "store", preparation(), "float32").keep(items)
    size = (12, 30, 8)
    whole = SpatialPadd(("image", "label"), size)(preparation()(items[0]))
    for crop in crops_of(items, tmp_path / "store", 10, patch_size=size, pos_ratio=0.5):
        place = torch.linalg.solve(whole["image"].affine, crop["image"].affine)[:3, 3]
        start = place.round().int().tolist()
        box = (slice(None), *(slice(a, a + n) for a, n in zip(start, size, strict=True)))
        for key in ("image", "label"):
            assert tuple(crop[key].shape[1:]) == size
            assert torch.equal(crop[key].as_tensor(), whole[key].as_tensor()[box])


@pytest.mark.slow
@pytest.mark.parametrize("pos_ratio", [0.0, 0.3, 1.0, None])
def test_centres_are_distributed_as_monais(
    pos_ratio: float | None, items: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Where crops begin, over 3000 draws of each: along every axis no further apart than two draws of one kind."""
    size, n = (10, 12, 9), 3000
    Store(tmp_path / "store", preparation(), "float32").keep(items[:1])
    case = preparation()(items[0])
    shape = case["image"].shape[1:]
    if pos_ratio is None:
        stock: Any = RandSpatialCropd(("image",), size, random_size=False)
    else:
        stock = RandCropByPosNegLabeld(("image",), "label", size, pos_ratio, 1 - pos_ratio, num_samples=1)
    stock.set_random_state(seed=1)
    entry = Store(tmp_path / "store", preparation()).keep(items[:1]).entries[0]
    assert entry is not None
    ours = RandStoredCrop(tmp_path / "store", [entry], size, pos_ratio)
    ours.set_random_state(seed=2)
    counts: list[list[Counter[int]]] = [[Counter() for _ in range(3)] for _ in range(2)]
    for _ in range(n):
        ours.randomize(entry)
        crop = stock(case)
        crop = (crop[0] if isinstance(crop, list) else crop)["image"]
        theirs = torch.linalg.solve(case["image"].affine, crop.affine)[:3, 3].round().int().tolist()
        for axis in range(3):
            counts[0][axis][ours.starts[0][axis]] += 1
            counts[1][axis][theirs[axis]] += 1
    for axis in range(3):
        starts = range(shape[axis] - size[axis] + 1)
        assert set(counts[0][axis]) | set(counts[1][axis]) <= set(starts)
        mine, other = (np.array([count[axis][start] for start in starts]) for count in counts)
        # Kolmogorov and Smirnov's distance of two samples of n: above 1.95 sqrt(2/n) once in a thousand times.
        assert np.abs(np.cumsum(mine - other)).max() / n < 1.95 * np.sqrt(2 / n)


def test_without_labels_the_centres_are_background(items: list[dict[str, Any]], tmp_path: Path) -> None:
    """And a case that is all label has no other centres: as MONAI's, pos_ratio gives way."""
    for fill in (0, 1):
        labels = nib.load(items[fill]["label"])
        nib.save(nib.Nifti1Image(np.full((20, 24, 18), fill, np.uint8), labels.affine), items[fill]["label"])
    dataset = StoreDataset(
        tmp_path / "store", items[:2], None, preparation(), patch_size=(4, 4, 4), pos_ratio=0.5, num_samples=3
    )
    assert [crop["label"].max().item() for crop in dataset[0]] == [0, 0, 0]
    assert [crop["label"].min().item() for crop in dataset[1]] == [1, 1, 1]


def test_a_background_that_is_hard_to_find(items: list[dict[str, Any]], tmp_path: Path) -> None:
    labels = np.ones((20, 24, 18), np.uint8)
    labels[7, 8, 9] = 0
    nib.save(nib.Nifti1Image(labels, np.eye(4)), items[0]["label"])
    for crop in crops_of(items, tmp_path / "store", 4, patch_size=(1, 1, 1), pos_ratio=0.0):
        assert crop["label"].item() == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_through_a_loader(items: list[dict[str, Any]], tmp_path: Path, workers: int) -> None:
    dataset = StoreDataset(
        tmp_path / "store", items, None, preparation(), patch_size=(8, 8, 8), pos_ratio=0.5, num_samples=2
    )
    batch = next(iter(DataLoader(dataset, batch_size=3, num_workers=workers)))
    assert tuple(batch["image"].shape) == (6, 1, 8, 8, 8)
    assert batch["case"] == ["case_0", "case_0", "case_1", "case_1", "case_2", "case_2"]


def test_settings_that_are_refused(items: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="did you mean 'float16'"):
        Store(tmp_path, preparation(), "float61")
    images = mri_preprocessing(["image"])
    with pytest.raises(InputError, match="no labels under 'label'"):
        StoreDataset(tmp_path / "a", items, None, images, patch_size=(4, 4, 4), pos_ratio=0.5)
    with pytest.raises(SettingError, match="patch_size must be three numbers"):
        StoreDataset(tmp_path / "b", items, None, preparation(), patch_size=(4, 4))
    with pytest.raises(SettingError, match=r"pos_ratio must be in \[0, 1\]"):
        StoreDataset(tmp_path / "b", items, None, preparation(), patch_size=(4, 4, 4), pos_ratio=2)


def test_a_label_map_of_another_shape_is_refused(items: list[dict[str, Any]], tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((20, 24, 17), np.uint8), np.eye(4)), items[0]["label"])
    loading = Compose(preparation().transforms[:3])
    kept = Store(tmp_path / "store", loading).keep(items[:1])
    assert "label has the grid (20, 24, 17), the image (20, 24, 18)" in str(kept.failed[0])


def test_values_beyond_float16_are_refused(items: list[dict[str, Any]], tmp_path: Path) -> None:
    loading = Compose(preparation().transforms[:3])
    array = np.linspace(0, 1e6, 20 * 24 * 18, dtype=np.float32).reshape(20, 24, 18)
    nib.save(nib.Nifti1Image(array, np.eye(4)), items[0]["image"])
    kept = Store(tmp_path / "a", loading, "float16").keep(items[:1])
    assert "Prepare into another folder: --dtype float32" in str(kept.failed[0])
    assert not Store(tmp_path / "b", loading, "float32").keep(items[:1]).failed
