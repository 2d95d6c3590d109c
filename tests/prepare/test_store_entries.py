"""What a store keeps of each case: exact labels, every name, today's fold, one dtype."""

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, LoadImaged

from neurobundle.errors import SettingError
from neurobundle.prepare.store import MOST_LABELS, Store, damage, read_index
from neurobundle.prepare.store_dataset import StoreDataset, store_items
from neurobundle.prepare.store_key import settings_of, sources_of


def loading(*more: Any) -> Compose:
    """Nothing but loading: what is stored is what is in the files."""
    return Compose([LoadImaged(["image", "label"], ensure_channel_first=True, image_only=True), *more])


def write(path: Path, values: Any, dtype: Any) -> str:
    """A row of voxels."""
    array = np.zeros((len(values), 2, 2), dtype)
    array[:, 0, 0] = values
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return str(path)


def case(
    folder: Path, name: str, image: Any = (0.5, 1.5, 2.5), label: Any = (0, 1, 2), fold: int = 0
) -> dict[str, Any]:
    return {
        "case": name,
        "subject": f"subject of {name}",
        "fold": fold,
        "image": write(folder / f"{name}.nii", image, np.float32),
        "label": write(folder / f"{name}_label.nii", label, np.int32),
    }


def stored(item: dict[str, Any], folder: Path, dtype: str = "float16") -> dict[str, Any]:
    kept = Store(folder, loading(), dtype).keep([item])
    assert not kept.failed
    return StoreDataset(folder, [item], preparation=loading())[0]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        ((0, 1, 255), np.uint8),
        ((0, 1, 256), np.int16),
        ((0, 1, 32767), np.int16),
        ((0, 1, 32768), np.uint16),
        ((0, 40001, 65535), np.uint16),
        ((0, 1, 65536), np.int32),
        ((0, 1, 2**24 + 1), np.int32),
        ((0, -1, 40001), np.int32),
    ],
)
@pytest.mark.parametrize("of_others", ["float16", "float32"])
def test_3_labels_are_kept_as_they_are(labels: tuple[int, ...], dtype: Any, of_others: str, tmp_path: Path) -> None:
    """Whatever their size, in a type that holds them."""
    item = case(tmp_path / "data", "a", label=labels)
    integers = Compose([LoadImaged(["image", "label"], ensure_channel_first=True, image_only=True, dtype=None)])
    Store(tmp_path / "store", integers, of_others).keep([item])
    (entry,) = read_index(tmp_path / "store")["cases"].values()
    assert np.load(tmp_path / "store" / entry["arrays"]["label"]["file"]).dtype == dtype
    given = StoreDataset(tmp_path / "store", [item], preparation=integers)[0]["label"]
    assert given[0, :, 0, 0].tolist() == list(labels)
    assert given.dtype == integers(item)["label"].dtype


def test_3_large_labels_have_positions(tmp_path: Path) -> None:
    """So that crops find them, and the command sees which there are."""
    item = case(tmp_path / "data", "a", label=(300, 0, 40001))
    folder = tmp_path / "store"
    Store(folder, loading()).keep([item])
    (entry,) = read_index(folder)["cases"].values()
    assert entry["arrays"]["label"]["labels"] == {"300": 1, "40001": 1}
    crops = StoreDataset(folder, [item], preparation=loading(), patch_size=(1, 1, 1), pos_ratio=1.0, num_samples=20)
    assert {crop["label"].item() for crop in crops[0]} == {300, 40001}


def test_3_whole_numbers_of_an_image_are_exact(tmp_path: Path) -> None:
    """Rounded to float16, 60001 would be 60000, and 70000 too much."""
    for name, values in (("a", (0, 3, 60001)), ("b", (-5, 3, 70001))):
        given = stored(case(tmp_path / "data", name, image=values), tmp_path / "store")["image"]
        assert given[0, :, 0, 0].tolist() == list(values)
        assert given.dtype == torch.float32


def test_thousands_of_values_are_an_image(tmp_path: Path) -> None:
    """Positions of each would take more room than the image."""
    for n, name in ((MOST_LABELS, "a"), (MOST_LABELS + 1, "b")):
        item = case(tmp_path / "data", name, image=range(n), label=[0] * n)
        Store(tmp_path / "store", loading()).keep([item])
    cases = read_index(tmp_path / "store")["cases"]
    assert "labels" in cases["a"]["arrays"]["image"]
    assert "labels" not in cases["b"]["arrays"]["image"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_voxels_that_are_not_finite(dtype: str, tmp_path: Path) -> None:
    """A preparation may leave them; they are kept, in the corner too, and hide no voxel that is too large."""
    values = (np.nan, np.inf, 0.5)
    given = stored(case(tmp_path / "data", "a", image=values), tmp_path / "store", dtype)["image"]
    np.testing.assert_array_equal(given[0, :, 0, 0].numpy(), np.array(values, np.float32))
    kept = Store(tmp_path / "store", loading()).keep([case(tmp_path / "data", "b", image=(np.nan, 1e5, 0.5))])
    assert list(kept.failed) == ([0] if dtype == "float16" else [])


@pytest.mark.parametrize("workers", [1, 2])
def test_9_two_names_of_the_same_files_are_two_cases(workers: int, tmp_path: Path) -> None:
    """Each with its subject and its fold; a training finds both, and the arrays are there once."""
    first = case(tmp_path / "data", "a")
    second = {**first, "case": "b", "subject": "another", "fold": 1}
    copied = case(tmp_path / "data", "c", fold=2)
    items, folder = [first, second, copied], tmp_path / "store"
    kept = Store(folder, loading()).keep(items, workers)
    assert [entry["case"] for entry in kept.entries if entry] == ["a", "b", "c"]
    cases = read_index(folder)["cases"]
    assert {name: entry["item"] for name, entry in cases.items()} == {
        "a": {"subject": "subject of a", "fold": 0},
        "b": {"subject": "another", "fold": 1},
        "c": {"subject": "subject of c", "fold": 2},
    }
    assert len({entry["key"] for entry in cases.values()}) == 1
    assert len(list(folder.glob("*_image.npy"))) == 1
    assert not any(damage(folder, entry) for entry in cases.values())
    assert [one["case"] for one in StoreDataset(folder, items, preparation=loading())] == ["a", "b", "c"]
    left = store_items(folder, part="all")
    assert [one["case"] for one in StoreDataset(folder, left)] == ["a", "b", "c"]


def test_9_one_of_two_names_goes_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrays that the other one has are not taken from it; damaged, they are made once for both."""
    first, folder = case(tmp_path / "data", "a"), tmp_path / "store"
    items = [first, {**first, "case": "b"}]
    Store(folder, loading()).keep(items)
    items[1] = case(tmp_path / "data", "b", image=(7.5, 8.5, 9.5))
    Store(folder, loading()).keep(items)
    given = StoreDataset(folder, items, preparation=loading())
    assert [one["image"][0, 0, 0, 0].item() for one in given] == [0.5, 7.5]
    items[1] = {**first, "case": "b"}
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("the other name has it"))
    Store(folder, loading()).keep(items)
    monkeypatch.undo()
    assert len(list(folder.glob("*_image.npy"))) == 1, "of what b was"
    next(folder.glob("*_image.npy")).write_bytes(b"")
    Store(folder, loading()).keep(items)
    assert not any(damage(folder, entry) for entry in read_index(folder)["cases"].values())


def test_a_new_name_takes_the_place_of_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a store would have the same scan under a name in each of two folds."""
    item, folder = case(tmp_path / "data", "a"), tmp_path / "store"
    Store(folder, loading()).keep([item])
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("it is there"))
    Store(folder, loading()).keep([{**item, "case": "b", "fold": 1}])
    assert [(one["case"], one["fold"]) for one in store_items(folder, part="all")] == [("b", 1)]


def test_another_split_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds and subjects are those of the last datalist, and nothing is prepared for it."""
    items, folder = [case(tmp_path / "data", name, fold=0) for name in "ab"], tmp_path / "store"
    Store(folder, loading()).keep(items)
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("it is there"))
    Store(folder, loading()).keep([items[0], {**items[1], "fold": 1, "subject": "new"}])
    assert [(one["case"], one["fold"], one["subject"]) for one in store_items(folder, part="all")] == [
        ("a", 0, "subject of a"),
        ("b", 1, "new"),
    ]


def test_14_a_file_that_was_changed_in_its_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A program that sets size and time to what they were is seen: the system has a time of its own."""
    item, folder = case(tmp_path / "data", "a"), tmp_path / "store"
    assert stored(item, folder)["image"][0, 0, 0, 0] == 0.5
    before = Path(item["image"]).stat()
    write(Path(item["image"]), (3.5, 1.5, 2.5), np.float32)
    os.utime(item["image"], ns=(before.st_atime_ns, before.st_mtime_ns))
    after = Path(item["image"]).stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    caplog.clear()
    assert stored(item, folder)["image"][0, 0, 0, 0] == 3.5
    said = [record.getMessage() for record in caplog.records if record.name.startswith("neurobundle")]
    assert said == ["a: its files or its preparation are others than the store's; it is made again"]


def test_2_a_changed_preparation_is_made_again(tmp_path: Path) -> None:
    """Twice, then thrice, by a function that no version stands for."""
    item = case(tmp_path / "data", "a", image=(0.5, 1.25, 2.0))
    given = []
    for factor in (2, 2, 3):
        chain = loading(Lambdad("image", func=lambda x, factor=factor: x * factor))
        given.append(StoreDataset(tmp_path / "store", [item], preparation=chain)[0]["image"][0, :, 0, 0].tolist())
    assert given == [[1, 2.5, 4], [1, 2.5, 4], [1.5, 3.75, 6]]


def test_a_used_preparation_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's readers note which file they read last; that changes nothing."""
    item, chain = case(tmp_path / "data", "a"), loading()
    Store(tmp_path / "store", chain).keep([item])
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("it was prepared again"))
    assert not Store(tmp_path / "store", chain).keep([item]).failed


def test_2_a_preparation_that_cannot_be_described(tmp_path: Path) -> None:
    """Is refused before anything is prepared."""
    with pytest.raises(SettingError, match="must know when a preparation changes"):
        Store(tmp_path / "store", loading(Lambdad("image", func=lambda x, at=tmp_path: x)))
    assert not (tmp_path / "store").exists()


def test_what_an_item_says_besides_files_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preparation may use it. Its names say nothing of the voxels, and a path that leads nowhere neither."""
    item = {**case(tmp_path / "data", "a"), "factor": 2}

    def scaled(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "image": data["image"] * data["factor"]}

    chain = Compose([*loading().transforms, scaled])
    for factor in (2, 3):
        given = StoreDataset(tmp_path / "store", [{**item, "factor": factor}], preparation=chain)[0]
        assert given["image"][0, 0, 0, 0] == factor / 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert list(sources_of(item)) == ["image", "label"], "a case's name is no path, though a folder is called so"
    assert settings_of(item) == settings_of({**item, "case": "b", "fold": 7, "source": "/gone/scan.dcm"})
    assert list(sources_of({**item, "label": str(tmp_path / "gone.nii")})) == ["image", "label"]


def test_23_a_store_has_one_dtype(tmp_path: Path) -> None:
    """Another one would leave the cases that are not at hand behind; it is refused, with two ways out."""
    items, folder = [case(tmp_path / "data", name) for name in "abc"], tmp_path / "store"
    Store(folder, loading(), "float16").keep(items)
    before = (folder / "index.json").read_bytes()
    with pytest.raises(SettingError) as caught:
        Store(folder, loading(), "float32")
    assert "it holds 3 case(s) as float16, and all of a store have one dtype, got 'float32'" in str(caught.value)
    assert "Prepare into another folder, or leave --dtype out" in str(caught.value)
    assert (folder / "index.json").read_bytes() == before
    assert Store(folder, loading(), "float16").dtype == Store(folder, loading()).dtype == "float16"
    assert Store(tmp_path / "new", loading(), "float32").dtype == "float32"
