"""Bad input of classification, by every command: each fault is named with its cause, and what is left is done."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neurobundle.bundle.find import answers_of
from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.networks.manifest import write_entry

from ..conftest import ROOT
from .answers_bundle import make_bundle

BUNDLE = ROOT / "bundles" / "tumor_type_classification"
CLASSES = ("glioma", "meningioma", "pituitary tumour")

#: What each bad file's name stands for, and what must be said of it.
REFUSED = {
    "cmyk.jpg": "CMYK images are not supported",
    "corrupt.png": "it cannot be read (image file is truncated). Copy or export the file again",
    "nothing.png": "it cannot be read (cannot identify image file",
    "photo.jpg": "it is in colour, and a slice of MRI is grey",
    "clear.png": "it is transparent in places",
    "black.png": "it has no signal",
}

#: Files that look odd and are slices all the same.
TAKEN = ("deep.png", "opaque.png", "palette.png")


def head(seed: int) -> np.ndarray:
    """A slice of 64 pixels, no two alike."""
    rng = np.random.default_rng(seed)
    j, i = np.mgrid[:64, :64]
    folds = Image.fromarray(rng.uniform(40, 200, (9, 9)).astype(np.float32)).resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(np.asarray(folds) * ((i - 32) ** 2 + (j - 32) ** 2 < 28**2)).clip(0, 255).astype(np.uint8)


def add_odd_files(folder: Path) -> None:
    """One file of each kind."""
    Image.fromarray(head(50).astype(np.uint16) * 200).save(folder / "deep.png")
    grey = head(51)
    alpha = np.full(grey.shape, 255, np.uint8)
    Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(folder / "opaque.png")
    Image.fromarray(head(52)).convert("P").save(folder / "palette.png")
    alpha[:9] = 0
    Image.fromarray(np.dstack([head(53)] * 3 + [alpha])).save(folder / "clear.png")
    Image.fromarray(np.dstack([head(54)] * 4), "CMYK").save(folder / "cmyk.jpg")
    photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "photo.jpg")
    Image.fromarray(head(55)).save(folder / "corrupt.png")
    (folder / "corrupt.png").write_bytes((folder / "corrupt.png").read_bytes()[:300])
    (folder / "nothing.png").write_bytes(b"")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "black.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, of six good slices each; the odd files are gliomas."""
    root = tmp_path_factory.mktemp("folders")
    for number, name in enumerate(CLASSES):
        (root / name).mkdir()
        for n in range(6):
            Image.fromarray(head(10 * number + n)).save(root / name / f"{name[0]}{n}.png")
    add_odd_files(root / "glioma")
    return root


def items_of(folders: Path) -> list[dict[str, Any]]:
    """All of them as a datalist would have them that nobody checked."""
    files = sorted(path for name in CLASSES for path in (folders / name).iterdir())
    return [
        {
            "case": path.stem,
            "subject": f"person-{n}",
            "fold": n % 2,
            "image": str(path),
            "label": CLASSES.index(path.parent.name),
        }
        for n, path in enumerate(files)
    ]


def listed(items: list[dict[str, Any]], path: Path) -> Path:
    path.write_text(json.dumps({"labels": {str(n): name for n, name in enumerate(CLASSES)}, "training": items}))
    return path


def require_named(text: str, files: dict[str, str] = REFUSED) -> None:
    """One line for each: the case, the file, the cause."""
    for name, cause in files.items():
        case = name.partition(".")[0]
        lines = [line for line in text.splitlines() if f"ERROR {case} " in line]
        assert lines, (case, text)
        assert all(name in line and cause in line for line in lines), lines
    for name in TAKEN:
        assert f"ERROR {name.partition('.')[0]} " not in text


# --- split ---


def test_split_names_each_and_deals_the_rest(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["split", str(folders), "-o", str(tmp_path / "d.json"), "--layout", "classes", "--group-by", "case"]
    assert main([*words, "--folds", "2"]) == 3
    require_named(caplog.text)
    assert "6 left out, each named above" in capsys.readouterr().out
    cases = {item["case"] for item in json.loads((tmp_path / "d.json").read_text())["training"]}
    assert len(cases) == 18 + len(TAKEN)
    assert {"deep", "opaque", "palette"} <= cases


def test_a_class_without_an_image_or_in_one_fold_alone(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The split is made, and says at once what a training would refuse."""
    words = ["split", str(folders), "-o", str(tmp_path / "d.json"), "--layout", "classes", "--folds", "2"]
    names = ",".join(CLASSES)
    assert main([*words, "--group-by", "case", "--classes", f"{names},schwannoma"]) == 3
    assert "schwannoma: the folder of the class 'schwannoma' is not there" in caplog.text
    assert f"WARNING {tmp_path / 'd.json'}: fold 0's training cases hold no 'schwannoma'" in caplog.text
    caplog.clear()
    assert main([*words, "--group-by", "regex:^(.)", "--classes", names]) == 3
    assert f"WARNING {tmp_path / 'd.json'}: fold 1's training cases hold no 'meningioma'" in caplog.text


def test_persons_missing_in_the_table(folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is named, and the others are dealt; the same where cases have label maps."""
    items = [item for item in items_of(folders) if item["case"][1:].isdigit()]
    rows = [f"{item['case']},{item['subject']}" for item in items if item["case"] not in ("g1", "m4")]
    (tmp_path / "who.csv").write_text("\n".join(["case,person", *rows, "m4,n/a"]) + "\n")
    words = ["split", str(folders), "-o", str(tmp_path / "d.json"), "--layout", "classes", "--folds", "2"]
    words += ["--group-by", "column:person", "--subjects", str(tmp_path / "who.csv")]
    assert main(words) == 3
    for case in ("g1", "m4", "deep"):
        assert (
            f"ERROR {case} {tmp_path / 'who.csv'}: the table has no 'person' for '{case}'. Add a row for it"
            in caplog.text
        )
    assert caplog.text.count(" corrupt ") == caplog.text.count("truncated"), "of one case one thing is said"
    training = json.loads((tmp_path / "d.json").read_text())["training"]
    assert {item["case"] for item in training} == {item["case"] for item in items} - {"g1", "m4"}
    (tmp_path / "who.csv").write_text("case,person\nnobody,p1\n")
    assert main(words) == 4


def test_persons_missing_where_cases_have_label_maps(
    tmp_path: Path, make_pair: Callable[..., tuple[Path, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(4):
        make_pair(tmp_path / "data", f"case_{n}", seed=n, shape=(20, 24, 20))
    (tmp_path / "who.csv").write_text("case,person\ncase_0,a\ncase_1,b\ncase_3,c\n")
    words = ["split", str(tmp_path / "data"), "-o", str(tmp_path / "d.json"), "--folds", "2"]
    assert main([*words, "--group-by", "column:person", "--subjects", str(tmp_path / "who.csv")]) == 3
    assert "ERROR case_2 " in caplog.text
    assert len(json.loads((tmp_path / "d.json").read_text())["training"]) == 3


# --- audit ---


def test_audit_names_each_and_looks_at_the_rest(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    items = items_of(folders)
    items[-1]["label"], items[-2]["label"] = 9, None
    del items[-3]["subject"]
    assert main(["audit", str(listed(items, tmp_path / "d.json"))]) == 3
    require_named(caplog.text)
    assert "ERROR p5 " in caplog.text
    assert "its label 9 is no class's number. Give one of 0 glioma, 1 meningioma, 2 pituitary tumour" in caplog.text
    assert "it has no class" in caplog.text
    said = capsys.readouterr().out
    assert "1 of 27 cases name no subject; each counts as a person of its own" in said
    assert "27 cases on 2 sides: nothing found, 8 failed." in said


def test_audit_says_which_fold_lacks_a_class(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = [item | {"fold": int(item["label"] == 0)} for item in items_of(folders) if item["case"][1:].isdigit()]
    path = listed(items, tmp_path / "d.json")
    assert main(["audit", str(path)]) == 0
    assert "FOUND class-missing fold 1 has no case of class 'meningioma'" in capsys.readouterr().out
    assert main(["audit", str(path), "--strict"]) == 6


# --- train, crossval, evaluate ---


@pytest.mark.parametrize("command", ["train", "crossval"])
def test_each_is_named_before_hours_are_spent(
    command: str, folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = items_of(folders)
    items[-1]["label"], items[-2]["label"] = 9, -1
    words = [
        command,
        str(make_bundle(tmp_path / "bands_classification")),
        "--data",
        str(listed(items, tmp_path / "d.json")),
    ]
    assert main([*words, "-o", str(tmp_path / "out")]) == 4
    require_named(caplog.text)
    for case, label in (("p5", 9), ("p4", -1)):
        assert f"ERROR {case} " in caplog.text
        assert f"its label is {label}, which is no class's number. Give one of 0 glioma, 1 meningioma" in caplog.text
    assert "8 of 27 pairs cannot be trained on; each is named above" in caplog.text
    assert not (tmp_path / "out" / "final.pt").exists()
    assert not (tmp_path / "out" / "fold0").exists()


def test_a_fold_of_one_class_and_cases_of_nobody(
    folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fold 1 holds gliomas alone: refused. Who a case is of is not said: warned of, since nobody can check it."""
    good = [item for item in items_of(folders) if item["case"][1:].isdigit()]
    one = [item | {"fold": int(item["case"] in ("g0", "g1"))} for item in good]
    bundle = str(make_bundle(tmp_path / "bands_classification"))
    path = listed(one, tmp_path / "one.json")
    assert main(["crossval", bundle, "--data", str(path), "-o", str(tmp_path / "out")]) == 4
    assert f"ERROR {path}: fold 1 holds one class only, 'glioma'. Split by class" in caplog.text
    for item in good[:2]:
        del item["subject"]
    path = listed(good, tmp_path / "nobody.json")
    caplog.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurobundle.cli.training.run_plan", lambda plan: None, raising=False)
        patch.setattr("neurobundle.commands.train.run_plan", lambda plan: None)
        assert main(["train", bundle, "--data", str(path), "-o", str(tmp_path / "out")]) == 0
    assert f"WARNING {path}: 2 cases name no subject, g0 for one; each counts as a person of its own" in caplog.text


# --- run ---


def test_run_names_each_and_answers_the_rest(folders: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By the bundle itself with tiny weights that know nothing; 16 bits, a palette and an opaque alpha are slices."""
    plan = make_plan(BUNDLE, "inference", (), {"network_size": "tiny", "device": "cpu"})
    torch.manual_seed(1)
    network = plan.workflow().parser.get_parsed_content("network_def")
    (tmp_path / "w").mkdir()
    torch.save(network.state_dict(), tmp_path / "w" / "model.pt")
    write_entry(tmp_path / "w", "model.pt", origin="trained-here", parent=None)
    words = ["run", "tumor_type_classification", "--device", "cpu", "-i", str(folders / "glioma")]
    words += ["-o", str(tmp_path / "out"), "--set", "network_size=tiny", f"weights={tmp_path / 'w' / 'model.pt'}"]
    assert main([*words, "calibration=null"]) == 3
    require_named(caplog.text)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert len(rows) == 6 + len(TAKEN) + len(REFUSED)
    assert {case for case, row in rows.items() if not row["confidence"]} == {name.partition(".")[0] for name in REFUSED}
    assert {row["prediction"] for row in rows.values() if row["confidence"]} <= set(answers_of(BUNDLE) or ())
    entries = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    failed = {entry["case"]: entry["error"] for entry in entries if entry["status"] == "failed"}
    assert all(cause in failed[name.partition(".")[0]] for name, cause in REFUSED.items())
