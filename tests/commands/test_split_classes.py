from __future__ import annotations

import json
import logging
import re
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurobundle.cli import main
from neurobundle.commands.split_classes import LEAKING, split_classes
from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.load.class_labels import leaks_of
from neurobundle.train.folds import audit_folds

from ..conftest import ROOT


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two persons of two pictures of each of two classes; the names are the same in both folders."""
    for k, name in enumerate(("glioma", "meningioma")):
        for n in range(4):
            picture(tmp_path / "data" / name / f"{name[0]}{n // 2}_{n}.png", 10 * k + n)
    return tmp_path / "data"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Eight pictures 0001 to 0008 of four persons, with masks of the first two, and what they are in index.csv."""
    root = tmp_path / "data"
    lines = ["id,class,person"]
    for n in range(1, 9):
        picture(root / "images" / f"{n:04d}.png", n)
        lines.append(f"{n},{'glioma' if n < 5 else 'pituitary'},p{(n + 1) // 2}")
        if n < 3:
            Image.fromarray(np.eye(8, dtype=np.uint8)).save(picture(root / "masks" / f"{n:04d}.png", n))
    (root / "index.csv").write_text("\n".join(lines) + "\n")
    return root


def written(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def by_class(content: dict[str, Any]) -> Counter[tuple[int, int]]:
    return Counter((item["fold"], item["label"]) for item in content["training"])


def test_a_folder_a_class(folders: Path, tmp_path: Path) -> None:
    report = split_classes(folders, tmp_path / "d.json", folds=2, group_by="regex:^(.[0-9])_")
    content = written(tmp_path / "d.json")
    assert content["labels"] == {"0": "glioma", "1": "meningioma"}
    assert by_class(content) == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}
    first = content["training"][0]
    assert (first["case"], first["subject"], first["label"]) == ("g0_0", "g0", 0)
    assert (report["failed"], report["label_values"]) == ([], [0, 1])
    assert "By class: glioma 2, 2; meningioma 2, 2." in report["description"]
    assert audit_folds(tmp_path / "d.json") == []


def test_a_table_with_persons_and_masks(table: Path, tmp_path: Path) -> None:
    """`1` of the table is 0001.png; the person is the subject; a mask that is there goes along."""
    split_classes(
        table,
        tmp_path / "d.json",
        column="class",
        classes="pituitary=pituitary tumour,glioma",
        folds=2,
        merge_duplicates=True,  # the two masks are alike
        relative_to_data=True,
    )
    content = written(tmp_path / "d.json")
    assert content["labels"] == {"0": "pituitary tumour", "1": "glioma"}
    fold = content["training"][0]["fold"]
    assert content["training"][0] == {
        "case": "0001",
        "subject": "p1",
        "fold": fold,
        "image": "images/0001.png",
        "label": 1,
        "mask": "masks/0001.png",
    }
    assert content["training"][-1]["label"] == 0
    assert "mask" not in content["training"][-1]
    assert by_class(content) == {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2}


def test_paths_in_a_table_elsewhere(table: Path, tmp_path: Path) -> None:
    rows = [f"images/{n:04d}.png,{n % 2},p{n}" for n in range(1, 9)]
    (tmp_path / "t.csv").write_text("\n".join(["image,grade,subject", *rows]) + "\n")
    split_classes(table, tmp_path / "d.json", column="grade", table=tmp_path / "t.csv", folds=2, merge_duplicates=True)
    content = written(tmp_path / "d.json")
    assert content["labels"] == {"0": "0", "1": "1"}
    assert [item["label"] for item in content["training"]] == [1, 0] * 4


def test_twice_the_same_bytes(table: Path, tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        split_classes(table, tmp_path / name, column="class", folds=2, merge_duplicates=True, seed=3)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_bad_rows_are_named_and_the_others_done(table: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of each fault, in one run."""
    lines = (table / "index.csv").read_text().splitlines()
    lines[1] = "1,glioma,"
    lines[2] = "2,gliom,p1"
    lines[3] = "3,,p2"
    lines += ["99,glioma,p9", "8,glioma,p9"]
    (table / "index.csv").write_text("\n".join(lines) + "\n")
    picture(table / "images" / "0010.png", 10)
    (table / "images" / "0005.png").write_bytes(b"no picture")
    report = split_classes(table, tmp_path / "d.json", column="class", classes="glioma,pituitary", folds=2)
    assert report["passed"] == ["0004", "0006", "0007", "0008"]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    for words in (
        "line 2 names no person. Add whose image it is",
        "line 3: its class is 'gliom', which is no class; did you mean 'glioma'? Classes: glioma, pituitary",
        "line 4: its class is '', which is no class",
        "line 10 names '99', and there is no such image",
        "line 11 names '8', as line 9 does",
        "the table index.csv has no row for it",
        "0005.png: it cannot be read",
    ):
        assert any(words in line for line in said), (words, said)
    assert len(said) == len(report["failed"]) == 7


def test_an_empty_class_folder_keeps_its_number(folders: Path, tmp_path: Path) -> None:
    """What is in the other folders is dealt, and `train` will refuse a class without a case."""
    (folders / "aaa").mkdir()
    report = split_classes(folders, tmp_path / "d.json", folds=2, group_by="case")
    assert "the folder of the class 'aaa' holds no image" in report["failed"][0]["error"]
    assert written(tmp_path / "d.json")["labels"] == {"0": "aaa", "1": "glioma", "2": "meningioma"}
    report = split_classes(folders, tmp_path / "d.json", folds=2, group_by="case", classes="glioma,meningioma,none")
    assert {entry["file"].rpartition("/")[2] for entry in report["failed"]} == {"aaa", "none"}


def test_who_is_who_must_be_said(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="does not say which cases are one person's"):
        split_classes(folders, tmp_path / "d.json", folds=2)


def test_what_cannot_be_used(folders: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'klass'; did you mean 'class'\?"):
        split_classes(table, tmp_path / "d.json", column="klass")
    with pytest.raises(NoInputError, match="no folders"):
        split_classes(table / "images", tmp_path / "d.json")
    with pytest.raises(NoInputError, match="no such folder"):
        split_classes(tmp_path / "lost", tmp_path / "d.json")
    with pytest.raises(SettingError, match="2 classes or more"):
        split_classes(folders, tmp_path / "d.json", classes="glioma")
    with pytest.raises(SettingError, match="a folder, not a file"):
        split_classes(folders, tmp_path)


def test_the_same_picture_of_two_persons(table: Path, tmp_path: Path) -> None:
    (table / "images" / "0008.png").write_bytes((table / "images" / "0003.png").read_bytes())
    (table / "masks" / "0002.png").unlink()
    with pytest.raises(InputError, match="the same content is in two groups"):
        split_classes(table, tmp_path / "d.json", column="class", folds=2)


def test_a_split_that_leaks_says_so(table: Path, tmp_path: Path) -> None:
    """Each picture by itself, whose it is still known; the datalist says that it leaks, and an audit finds it."""
    report = split_classes(table, tmp_path / "d.json", column="class", folds=2, leak=True, merge_duplicates=True)
    content = written(tmp_path / "d.json")
    assert {item["subject"] for item in content["training"]} == {"p1", "p2", "p3", "p4"}
    assert content["split"]["group_by"] == "case"
    assert leaks_of(tmp_path / "d.json") == LEAKING
    assert "THIS SPLIT LEAKS" in report["description"]
    assert audit_folds(tmp_path / "d.json")


def test_the_commands_of_the_page(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/concepts/datalists-and-folds.md, each on a folder of the kind that it names."""
    table.rename(tmp_path / "ce_mri")
    (tmp_path / "ce_mri" / "masks" / "0002.png").unlink()  # the two are alike
    rows = (tmp_path / "ce_mri" / "index.csv").read_text().splitlines()
    more = [f"{n},{('glioma', 'meningioma', 'pituitary')[n % 3]},p{n}" for n in range(9, 30)]
    (tmp_path / "ce_mri" / "index.csv").write_text("\n".join([*rows, *more]) + "\n")
    for n in range(9, 30):
        picture(tmp_path / "ce_mri" / "images" / f"{n:04d}.png", n)
        picture(tmp_path / "slices" / ("glioma", "other")[n % 2] / f"p{n}_1.png", 100 + n)
    page = (ROOT / "docs" / "concepts" / "datalists-and-folds.md").read_text()
    commands = [line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "neurobundle"
        assert main(words[1:]) == 0
    assert written(tmp_path / "by_table.json")["labels"]["2"] == "pituitary tumour"
    assert written(tmp_path / "by_folder.json")["training"][0]["subject"] == "p9"
    assert leaks_of(tmp_path / "leaking.json")


def test_the_command(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["split", str(folders), "-o", str(tmp_path / "d.json"), "--folds", "2"]
    assert main([*words, "--layout", "classes", "--group-by", "case"]) == 0
    assert capsys.readouterr().out.startswith("classes layout: 8 cases")
    (folders / "none").mkdir()
    assert main([*words, "--layout", "classes", "--group-by", "case"]) == 3
    assert main([*words, "--layout", "classes", "--group-by", "case", "--label-values", "0,1"]) == 1
    assert main([*words, "--leak", "--group-by", "case"]) == 1
