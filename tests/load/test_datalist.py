from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurobundle.errors import EnvironmentFault, InputError, SettingError
from neurobundle.load.datalist import fold_items, natural, read_datalist, write_datalist


def entry(case: str, fold: int | None = None, root: Path | None = None) -> dict:
    """An entry; with a root its files exist there."""
    image, label = (Path(root or "", folder, f"{case}.nii.gz") for folder in ("images", "labels"))
    for path in (image, label) if root else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return {"case": case, "subject": f"person-{case}", "image": str(image), "label": str(label)} | (
        {} if fold is None else {"fold": fold}
    )


def raw(path: Path, **content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Six cases in three folds, one held out."""
    entries = [entry(f"c{n}", n % 3, tmp_path) for n in range(6)]
    return write_datalist(tmp_path / "datalist.json", entries, [entry("t", None, tmp_path)], {"name": "tiny"})


def test_what_is_written_reads_back(datalist: Path, tmp_path: Path) -> None:
    items = read_datalist(datalist)
    assert [item["case"] for item in items] == [f"c{n}" for n in range(6)]
    assert items[1] == {
        "case": "c1",
        "subject": "person-c1",
        "fold": 1,
        "image": str(tmp_path / "images/c1.nii.gz"),
        "label": str(tmp_path / "labels/c1.nii.gz"),
    }
    assert [item["case"] for item in read_datalist(datalist, "test")] == ["t"]


def test_paths_are_relative_and_the_folder_can_move(datalist: Path, tmp_path: Path) -> None:
    assert str(tmp_path) not in datalist.read_text()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("images", "labels", "datalist.json"):
        (tmp_path / name).rename(moved / name)
    assert read_datalist(moved / "datalist.json")[0]["image"] == str(moved / "images/c0.nii.gz")


def test_a_datalist_apart_from_its_data(tmp_path: Path) -> None:
    """Bundles ship it so: paths relative to a data folder that is named when it is read."""
    data = tmp_path / "data"
    path = write_datalist(tmp_path / "bundle/datalist.json", [entry("a", 0, data)], base_dir=data)
    assert json.loads(path.read_text())["training"][0]["image"] == "images/a.nii.gz"
    assert fold_items(path, data, 0, "validation")[0]["image"] == str(data / "images/a.nii.gz")


def test_a_datalist_behind_a_link(tmp_path: Path) -> None:
    """``..`` in a path leaves the real folder, not the link to it."""
    data, lists = tmp_path / "deep/data", tmp_path / "deep/lists"
    path = write_datalist(lists / "d.json", [entry("a", 0, data)])
    (tmp_path / "link").symlink_to(lists)
    assert read_datalist(tmp_path / "link/d.json") == read_datalist(path)
    assert write_datalist(tmp_path / "link/e.json", [entry("a", 0, data)]).read_bytes() == path.read_bytes()


def test_the_same_cases_give_the_same_bytes(tmp_path: Path) -> None:
    entries = [entry(f"case_{n}", 0) for n in (10, 2, 1)]
    first = write_datalist(tmp_path / "a.json", entries).read_bytes()
    assert write_datalist(tmp_path / "b.json", [dict(reversed(e.items())) for e in entries[::-1]]).read_bytes() == first
    assert [e["case"] for e in json.loads(first)["training"]] == ["case_1", "case_2", "case_10"]


def test_several_channels_and_a_class(tmp_path: Path) -> None:
    first = {"case": "a", "image": ["t1.nii", "t2.nii"], "label": 2, "fold": 0}
    path = write_datalist(tmp_path / "d.json", [{**first, "image": [str(tmp_path / name) for name in first["image"]]}])
    assert json.loads(path.read_text())["training"] == [{**first, "image": ["t1.nii", "t2.nii"]}]
    (item,) = read_datalist(path, check_files=False)
    assert item["image"] == [str(tmp_path / "t1.nii"), str(tmp_path / "t2.nii")]
    assert item["label"] == 2


def test_a_stock_decathlon_list(tmp_path: Path) -> None:
    """Strings in ``test``, no case, no subject: names come from the files."""
    path = raw(tmp_path / "d.json", training=[], test=["./imagesTs/x_1.nii.gz", "./imagesTs/x_2.nii.gz"])
    items = read_datalist(path, "test", check_files=False)
    assert [(item["case"], item["subject"]) for item in items] == [("x_1", "x_1"), ("x_2", "x_2")]


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text('{"training": [')
    with pytest.raises(SettingError, match=r"d\.json: the datalist is not readable JSON"):
        read_datalist(tmp_path / "d.json")


@pytest.mark.parametrize("content", ["[]", "3", '"training"'])
def test_not_an_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(SettingError, match="not a JSON object"):
        read_datalist(tmp_path / "d.json")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such datalist"):
        read_datalist(tmp_path / "typo.json")


def test_a_picture_instead(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(SettingError, match="not readable JSON"):
        read_datalist(tmp_path / "d.json")


def test_missing_section(datalist: Path) -> None:
    with pytest.raises(SettingError, match="no section 'trainng'; did you mean 'training'"):
        read_datalist(datalist, "trainng")
    assert read_datalist(datalist, "validation", required=False) == []


def test_missing_files(datalist: Path, tmp_path: Path) -> None:
    (tmp_path / "labels/c3.nii.gz").unlink()
    (tmp_path / "images/c5.nii.gz").unlink()
    with pytest.raises(InputError, match=r"entry 3 of 'training' .* 2 file\(s\) are missing") as caught:
        read_datalist(datalist)
    assert caught.value.case == "c3"
    assert caught.value.file == str(tmp_path / "labels/c3.nii.gz")


def test_duplicate_case(tmp_path: Path) -> None:
    path = raw(tmp_path / "d.json", training=[entry("a"), entry("b"), entry("a")])
    with pytest.raises(SettingError, match="entries 0 and 2 of 'training' are the same case") as caught:
        read_datalist(path, check_files=False)
    assert (caught.value.case, caught.value.file) == ("a", str(path))


@pytest.mark.parametrize("fold", [None, "1", 1.0, True, -2])
def test_a_fold_that_is_none(tmp_path: Path, fold: object) -> None:
    path = raw(tmp_path / "d.json", training=[entry("a", 0), {**entry("b"), "fold": fold}])
    with pytest.raises(SettingError, match="entry 1 of 'training'"):
        read_datalist(path, need_fold=True, check_files=False)


@pytest.mark.parametrize(
    "bad", [7, None, {}, {"image": ""}, {"image": []}, {"image": ["a", 3]}, {"image": "a", "label": [1]}]
)
def test_an_entry_that_is_none(tmp_path: Path, bad: object) -> None:
    path = raw(tmp_path / "d.json", training=[entry("a", 0), bad])
    with pytest.raises(SettingError, match="entry 1 of 'training'"):
        read_datalist(path, check_files=False)


def test_a_fold_is_held_out(datalist: Path) -> None:
    def cases(part: str) -> list[str]:
        return [item["case"] for item in fold_items(datalist, fold=1, part=part)]

    assert cases("train") == ["c0", "c2", "c3", "c5"]
    assert cases("validation") == ["c1", "c4"]
    assert cases("all") == [f"c{n}" for n in range(6)]
    assert cases("test") == ["t"]


def test_what_each_case_must_have(datalist: Path) -> None:
    """Before a training starts, and not somewhere in a transform."""
    assert len(fold_items(datalist, fold=1, needs=["image"])) == 4
    with pytest.raises(SettingError, match="4 of 4 cases have no 'mask'") as caught:
        fold_items(datalist, fold=1, needs=["image", "mask"])
    assert (caught.value.case, caught.value.file) == ("c0", str(datalist))
    assert "mask_head=false" in caught.value.way_out


def test_all_cases_train_with_fold_minus_one(datalist: Path) -> None:
    """Validation is fold 0 then, which was trained on: it chooses nothing."""
    assert len(fold_items(datalist, fold=-1)) == 6
    assert fold_items(datalist, fold=-1, part="validation") == fold_items(datalist, fold=0, part="validation")


@pytest.mark.parametrize(("max_cases", "count"), [(None, 4), (0, 4), (2, 2), (99, 4)])
def test_max_cases(datalist: Path, max_cases: int | None, count: int) -> None:
    items = fold_items(datalist, fold=0, max_cases=max_cases)
    assert items == fold_items(datalist, fold=0)[:count]
    assert len(items) == count


def test_items_instead_of_a_file(datalist: Path) -> None:
    assert fold_items(read_datalist(datalist), fold=2) == fold_items(datalist, fold=2)


def test_unknown_fold(datalist: Path) -> None:
    with pytest.raises(SettingError, match=r"there is no fold 7") as caught:
        fold_items(datalist, fold=7)
    assert "0, 1, 2" in caught.value.way_out


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ({"part": "valid"}, "did you mean 'validation'"),
        ({"max_cases": -1}, "max_cases must be 0 or more, got -1"),
        ({"fold": "x"}, "whole number, got 'x'"),
        ({"fold": None}, "whole number, got None"),
    ],
)
def test_settings_that_cannot_be(datalist: Path, setting: dict, cause: str) -> None:
    with pytest.raises(SettingError, match=cause):
        fold_items(datalist, **setting)


def test_the_old_file_stays_if_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_datalist(tmp_path / "d.json", [entry("a", 0)])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        write_datalist(path, [entry("b", 0)])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["d.json"]


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        write_datalist(tmp_path / "out/d.json", [entry("a", 0)])


@given(st.lists(st.text(alphabet="a1_20", max_size=6)))
def test_natural_order_is_total(texts: list[str]) -> None:
    """The order does not depend on the order before, and only equal texts tie."""
    backwards = texts[::-1]
    assert sorted(texts, key=natural) == sorted(backwards, key=natural)
    assert len({tuple(natural(text)) for text in texts}) == len(set(texts))


def test_load_is_a_light_door() -> None:
    """``neurobundle.load`` imports neither torch nor monai."""
    code = "import sys, neurobundle.load; sys.exit(bool({'torch', 'monai', 'SimpleITK'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
