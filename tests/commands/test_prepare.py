"""``neurobundle prepare``: a store from a bundle and a datalist, and a training that reads from it."""

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.cli import main
from neurobundle.commands.prepare import prepare
from neurobundle.commands.train import run_plan, train_plan
from neurobundle.errors import EnvironmentFault, NoInputError, SettingError, exit_code
from neurobundle.prepare.store import Store, read_index
from neurobundle.prepare.store_dataset import StoreDataset

from ..helpers import TINY, Maker, small_datalist

BUNDLE = "hippocampus_segmentation"


def test_prepare_then_train_from_it(
    tmp_path: Path, make_pair: Maker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A line a case; the training reads what is there, and its weights are those of a training without a store."""
    data, store = small_datalist(tmp_path, make_pair), tmp_path / "store"
    with caplog.at_level(logging.INFO):
        done = prepare(BUNDLE, data, store, dtype="float32", workers=2)
    assert done == {f"case_{n}": True for n in range(4)}
    assert sorted(record.getMessage() for record in caplog.records if "prepared" in record.getMessage()) == [
        f"case_{n}: prepared, 20 x 24 x 20" for n in range(4)
    ]
    index = read_index(store)
    assert index["dtype"] == "float32"
    assert {entry["case"] for entry in index["cases"].values()} == set(done)
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("it was prepared again"))
    weights = []
    for name, extra in (("with", {"store": str(store)}), ("without", {})):
        settings = {**TINY, "device": "cpu", **extra}
        plan = train_plan(BUNDLE, data, tmp_path / name, settings=settings)
        dataset = run_plan(plan).parser.get_parsed_content("train::dataset")
        assert isinstance(dataset, StoreDataset) == bool(extra)
        weights.append(torch.load(tmp_path / name / "final.pt", weights_only=True))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_overlay_keeps_a_store_beside_the_outputs(tmp_path: Path, make_pair: Maker) -> None:
    data, out = small_datalist(tmp_path, make_pair), tmp_path / "out"
    plan = train_plan(BUNDLE, data, out, overlays=["store"], settings={**TINY, "device": "cpu"})
    dataset = run_plan(plan).parser.get_parsed_content("train::dataset")
    assert isinstance(dataset, StoreDataset)
    trained = {entry["case"] for entry in read_index(out / "store")["cases"].values()}
    assert trained == {str(item["case"]) for item in dataset.data}


def test_the_command_says_what_it_did(
    tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A case that was cut short on the disk is made again, with one line."""
    data, store = small_datalist(tmp_path, make_pair), tmp_path / "store"
    words = ["prepare", BUNDLE, "--data", str(data), "-o", str(store), "--dtype", "float32", "--workers", "2"]
    assert main(words) == 0
    assert f"4 of 4 cases can be trained on: {store}" in capsys.readouterr().out
    longest = max(store.glob("*.npy"), key=lambda path: path.stat().st_size)
    longest.write_bytes(longest.read_bytes()[:100])
    caplog.clear()
    assert main(words) == 0
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "is damaged" in line
    assert "made again" in line
    (tmp_path / "images" / "case_1.nii.gz").write_bytes(b"")
    assert main(words) == 3
    assert "3 of 4 cases can be trained on" in capsys.readouterr().out


def test_again_does_nothing(tmp_path: Path, make_pair: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_datalist(tmp_path, make_pair)
    first = prepare(BUNDLE, data, tmp_path / "store")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    monkeypatch.setattr(Store, "_make", lambda *args: pytest.fail("it was prepared again"))
    assert prepare(BUNDLE, data, tmp_path / "store") == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == before


def test_bad_cases_are_named_and_the_others_are_done(
    tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    """A damaged file, and a label that the bundle does not know."""
    data = small_datalist(tmp_path, make_pair)
    (tmp_path / "images" / "case_1.nii.gz").write_bytes(b"\x1f\x8b nothing")
    labels = np.zeros((20, 24, 20), np.uint8)
    labels[5:9, 5:9, 5:9] = 7
    nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels" / "case_2.nii.gz")
    done = prepare(BUNDLE, data, tmp_path / "store")
    assert done == {"case_0": True, "case_1": False, "case_2": False, "case_3": True}
    assert exit_code(done.values()) == 3
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "ERROR case_1 " in errors[0]
    assert "case_1.nii.gz" in errors[0]
    assert "ERROR case_2 " in errors[1]
    assert "has the value 7, and the bundle knows 1, 2" in errors[1]


def test_8_a_missing_file_stops_no_other_case(
    tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is named, as a damaged one is; where no file is there, one line says where to look."""
    data = small_datalist(tmp_path, make_pair)
    words = ["prepare", BUNDLE, "--data", str(data), "-o", str(tmp_path / "store")]
    (tmp_path / "labels" / "case_2.nii.gz").unlink()
    assert main(words) == 3
    assert "3 of 4 cases can be trained on" in capsys.readouterr().out
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "ERROR case_2 " in error
    assert "case_2.nii.gz: there is no such file" in error
    assert "--dataset-dir" in error
    assert set(read_index(tmp_path / "store")["cases"]) == {"case_0", "case_1", "case_3"}
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    caplog.clear()
    assert main(words) == 4
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "it is not there; 5 file(s) are missing. Say where the data is: --dataset-dir DIR." in error


def test_3_labels_above_255_are_seen(tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """And values that are no labels."""
    data = small_datalist(tmp_path, make_pair)
    for name, value in (("case_1", 300), ("case_2", -1)):
        labels = np.zeros((20, 24, 20), np.int16)
        labels[5:9, 5:9, 5:9] = value
        nib.save(nib.Nifti1Image(labels, np.eye(4)), tmp_path / "labels" / f"{name}.nii.gz")
    done = prepare(BUNDLE, data, tmp_path / "store")
    assert done == {"case_0": True, "case_1": False, "case_2": False, "case_3": True}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "has the value 300, and the bundle knows 1, 2" in errors[0]
    assert "has values below 0" in errors[1]


def test_9_a_case_under_two_names(
    tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command counts is what the index has."""
    data = small_datalist(tmp_path, make_pair)
    content = json.loads(data.read_text())
    content["training"].append({**content["training"][0], "case": "again", "subject": "again", "fold": 1})
    data.write_text(json.dumps(content))
    assert main(["prepare", BUNDLE, "--data", str(data), "-o", str(tmp_path / "store")]) == 0
    assert "5 of 5 cases can be trained on" in capsys.readouterr().out
    cases = read_index(tmp_path / "store")["cases"]
    assert cases["again"]["item"] == {"subject": "again", "fold": 1}
    assert cases["case_0"]["item"]["subject"] != "again"
    assert len(cases) == 5


def test_23_another_dtype_for_some_cases_is_refused(
    tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is changed: the next training finds all cases as they were."""
    data, store = small_datalist(tmp_path, make_pair), tmp_path / "store"
    prepare(BUNDLE, data, store)
    before = {path.name: path.read_bytes() for path in store.iterdir()}
    words = ["prepare", BUNDLE, "--data", str(data), "-o", str(store), "--dtype", "float32", "--set", "max_cases=1"]
    assert main(words) == 1
    assert "it holds 4 case(s) as float16" in "".join([*caplog.messages, capsys.readouterr().err])
    assert {path.name: path.read_bytes() for path in store.iterdir()} == before


def test_a_limit_and_a_setting(tmp_path: Path, make_pair: Maker) -> None:
    data = small_datalist(tmp_path, make_pair)
    spacing = {"max_cases": 1, "train::deterministic_transforms::spacing_mm": [2.0, 2.0, 2.0]}
    assert prepare(BUNDLE, data, tmp_path / "store", settings=spacing) == {"case_0": True}
    (entry,) = read_index(tmp_path / "store")["cases"].values()
    assert entry["shape"] == [10, 12, 10]
    assert entry["spacing_mm"] == [2, 2, 2]


def test_what_is_refused(tmp_path: Path, make_pair: Maker) -> None:
    data = small_datalist(tmp_path, make_pair)
    with pytest.raises(SettingError, match="did you mean 'max_cases'"):
        prepare(BUNDLE, data, tmp_path / "store", settings={"max_casse": 1})
    with pytest.raises(SettingError, match="--workers must be 1 or more"):
        prepare(BUNDLE, data, tmp_path / "store", workers=0)
    with pytest.raises(SettingError, match="dtype must be one of"):
        prepare(BUNDLE, data, tmp_path / "store", dtype="int8")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="a file is in the place of a folder"):
        prepare(BUNDLE, data, tmp_path / "file" / "store")
    data.write_text(json.dumps({"training": []}))
    with pytest.raises(NoInputError, match="no training case"):
        prepare(BUNDLE, data, tmp_path / "store")
