"""Bundles that answer a class a case: train, evaluate and crossval on small made pictures."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.commands import crossval
from neurobundle.commands.card import publish_results
from neurobundle.commands.crossval import CrossValidation
from neurobundle.commands.record import problems_of, read_record
from neurobundle.commands.train import check_pairs
from neurobundle.errors import InputError, SettingError
from neurobundle.measure.classification_evaluation import ClassificationEvaluation, read_answers
from neurobundle.networks.manifest import verify
from neurobundle.postprocess.answers import read_answer_calibration
from neurobundle.train import TrainingState
from neurobundle.train.curves import read_curves

from ..helpers import HIPPOCAMPUS
from .answers_bundle import CLASSES, make_bundle, make_datalist


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bands_classification")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_datalist(tmp_path / "data")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crossval's trainings run here: starting a process takes longer than they do."""

    def run(words: list[str], **_: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=main(words[3:]))

    monkeypatch.setattr(crossval, "subprocess", SimpleNamespace(run=run, STDOUT=None))


def change(data: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads(data.read_text())
    edit(content)
    data.write_text(json.dumps(content))
    return data


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def finish_folds(data: Path, output: Path, cases: int = 24) -> Path:
    """A crossval's folder as it is when all folds are trained and evaluated; one answer in three is wrong.

    Args:
        data: the datalist.
        output: the folder.
        cases: only the first so many were evaluated.
    """
    items = json.loads(data.read_text())["training"][:cases]
    for fold in (0, 1):
        folder = output / f"fold{fold}"
        folder.mkdir(parents=True)
        (folder / "final.pt").write_bytes(b"weights")
        evaluation = ClassificationEvaluation(CLASSES)
        for n, item in enumerate(item for item in items if item["fold"] == fold):
            values = np.roll([0.8 - 0.01 * n, 0.1, 0.1 + 0.01 * n], item["label"] + (n % 3 == 2))
            evaluation.add(item["case"], item["label"], values, item["subject"])
        evaluation.write(folder / "evaluation", {"weights": {"file": "final.pt", "sha256": "0"}})
    return output


# --- before anything is trained ---


def test_a_bad_label_and_a_corrupt_picture_are_named(
    bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["training"][0]["label"] = 3

    change(data, edit)
    (data.parent / "images" / "p01_0.png").write_bytes(b"none")
    words = ["train", str(bundle), "--data", str(data), "-o", str(tmp_path / "out")]
    assert main(words) == 4
    assert "ERROR p00_0 " in caplog.text
    assert "p00_0.png: its label is 3, which is no class's number" in caplog.text
    assert "0 glioma, 1 meningioma, 2 pituitary tumour" in caplog.text
    assert "ERROR p01_0 " in caplog.text
    assert "2 of 24 pairs cannot be trained on" in caplog.text
    assert not (tmp_path / "out").exists()


def test_a_class_that_a_fold_never_teaches(
    bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said before the first of many hours, by train for its fold, and by crossval for all."""

    def edit(content: dict[str, Any]) -> None:
        for item in content["training"]:
            item["fold"] = 1 if item["label"] == 0 else item["fold"]

    change(data, edit)
    words = ["--data", str(data), "-o", str(tmp_path / "out")]
    assert main(["train", str(bundle), *words, "--fold", "1"]) == 4
    assert "fold 1's training cases hold no 'glioma'" in caplog.text
    caplog.clear()
    assert main(["crossval", str(bundle), *words]) == 4
    assert "fold 1's training cases hold no 'glioma'" in caplog.text
    assert not (tmp_path / "out" / "fold0").exists()


def test_a_person_in_two_folds(bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["training"][0]["fold"] = 1 - content["training"][1]["fold"]

    change(data, edit)
    assert main(["crossval", str(bundle), "--data", str(data), "-o", str(tmp_path / "out")]) == 4
    assert "the subject 'p00' is in the folds 0, 1" in caplog.text


def test_classes_in_another_order(bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(data, lambda content: content.update(labels={"0": "meningioma", "1": "glioma", "2": "pituitary tumour"}))
    assert main(["train", str(bundle), "--data", str(data), "-o", str(tmp_path / "out")]) == 1
    assert "its labels are 0 meningioma, 1 glioma" in caplog.text


def test_a_class_is_no_label_map() -> None:
    """The same datalist, given to a bundle that outlines."""
    item = {"case": "a", "image": "a.png", "label": 1}
    assert "learns from label maps" in str(check_pairs(make_plan(HIPPOCAMPUS, "train"), [item])[1]["a"])


# --- train, evaluate ---


def test_a_fold_and_its_answers(bundle: Path, data: Path, tmp_path: Path) -> None:
    """A case whose picture is corrupt counts as wrong, one whose label is none counts in nothing; both are named."""
    out = tmp_path / "out"
    assert main(["train", str(bundle), "--data", str(data), "-o", str(out), "--fold", "1"]) == 0
    assert (out / "curves.png").is_file()
    curves = read_curves(out / "tensorboard")
    assert set(curves) == {"train_loss", "val_loss", "accuracy", "learning_rate"}
    assert all(list(values) == [1, 2, 3] for values in curves.values())
    (data.parent / "images" / "p03_0.png").write_bytes(b"none")

    def edit(content: dict[str, Any]) -> None:
        for item in content["training"]:
            item["label"] = 7 if item["case"] == "p04_1" else item["label"]

    change(data, edit)
    words = ["evaluate", str(bundle), "--data", str(data), "-o", str(tmp_path / "e"), "--fold", "1"]
    assert main([*words, "--weights", str(out / "final.pt")]) == 3
    rows = {row["case"]: row for row in rows_of(tmp_path / "e" / "per_case.csv")}
    assert len(rows) == 11
    assert (rows["p03_0"]["status"], rows["p03_0"]["correct"], rows["p03_0"]["subject"]) == ("failed", "0", "p03")
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert (summary["n_cases"], summary["n_failed"]) == (11, 1)
    assert set(summary["failed"]) == {"p03_0", "p04_1"}
    assert "its label is 7" in summary["failed"]["p04_1"]
    right = sum(int(row["correct"]) for row in rows.values())
    assert summary["accuracy"]["mean"] == pytest.approx(right / 11, abs=1e-6)


# --- crossval ---


def test_folds_pooled_calibrated_and_published(bundle: Path, data: Path, tmp_path: Path, in_process: None) -> None:
    """Each answer stands once, at the temperature of the other fold; weights, calibration and card are the bundle's."""
    shutil.copy(data, bundle / "configs" / "datalist.json")
    out = tmp_path / "cv"
    words = ["crossval", str(bundle), "--data", str(data), "-o", str(out)]
    assert main([*words, "--publish"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["n_cases"], summary["n_failed"], set(summary["folds"])) == (24, 0, {"0", "1"})
    assert (summary["subjects"]["n_cases"], len(rows_of(out / "per_subject.csv"))) == (12, 12)
    pooled = read_answers(out / "per_case.csv").answers
    for fold, part in summary["temperature"]["folds"].items():
        for case, answer in read_answers(out / f"fold{fold}" / "evaluation" / "per_case.csv").answers.items():
            assert answer.probabilities is not None
            assert pooled[case].probabilities is not None
            powers = [value ** (1 / part["temperature"]) for value in answer.probabilities]
            assert pooled[case].probabilities == pytest.approx([power / sum(powers) for power in powers], abs=1e-4)
    assert (out / "curves.png").is_file()
    models = bundle / "models"
    assert (models / "calibration.json").read_bytes() == (out / "calibration.json").read_bytes()
    shipped = json.loads((out / "calibration.json").read_text())
    read = read_answer_calibration(models / "calibration.json")
    assert (read.temperature, read.abstain_below) == (shipped["temperature"], shipped["abstain_below"])
    for name in ("calibration.json", "fold0.pt", "fold1.pt", "model.pt"):
        assert verify(models / name).origin == "released"
    card = (bundle / "docs" / "README.md").read_text()
    assert "| cases | 24 |" in card
    assert "| subjects | 12 |" in card
    assert "at the temperature of the other folds" in card
    metrics = json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert metrics["accuracy"] == round(summary["accuracy"]["mean"], 3)
    assert metrics["subject_accuracy"] == round(summary["subjects"]["accuracy"]["mean"], 3)
    for name in ("per_case.csv", "per_subject.csv", "summary.json"):
        assert (bundle / "docs" / "results" / name).read_bytes() == (out / name).read_bytes()
    assert (bundle / "docs" / "pictures" / "curves.png").is_file()
    record = read_record(bundle)
    assert problems_of(bundle, record) == []
    assert record.results[0].scores["all"]["accuracy"]["mean"] == summary["accuracy"]["mean"]


def test_published_numbers_are_checked(bundle: Path, data: Path, tmp_path: Path) -> None:
    """A summary that says more than its table, results of another bundle, and other classes are refused."""
    out = finish_folds(data, tmp_path / "cv")
    assert main(["crossval", str(bundle), "--data", str(data), "-o", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())

    def say(**more: Any) -> None:
        (out / "summary.json").write_text(json.dumps({**summary, **more}))

    say(accuracy={"mean": 0.999, "interval": [0.9, 1.0]})
    with pytest.raises(InputError, match=r"it says accuracy 0\.999, and the table beside it"):
        publish_results(bundle, out)
    say(bundle="other")
    with pytest.raises(InputError, match="these are results of other"):
        publish_results(bundle, out)
    say(classes=CLASSES[::-1])
    with pytest.raises(InputError, match="its classes are pituitary tumour, meningioma, glioma"):
        publish_results(bundle, out)
    say(task="segmentation")
    with pytest.raises(InputError, match="no summary of a classification"):
        publish_results(bundle, out)
    say()
    (bundle / "docs" / "README.md").write_text("no place")
    with pytest.raises(SettingError, match="the card has no"):
        publish_results(bundle, out)


def test_a_split_that_leaks_is_marked_wherever_its_numbers_stand(
    bundle: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["split"] = {"leaks": "slices were dealt one by one"}
        for n, item in enumerate(content["training"]):
            item["fold"] = n % 2

    out = finish_folds(change(data, edit), tmp_path / "cv")
    with caplog.at_level(logging.WARNING):
        assert main(["crossval", str(bundle), "--data", str(data), "-o", str(out)]) == 0
    assert "leaks, as it says: slices were dealt one by one. Its scores are too good" in caplog.text
    assert json.loads((out / "summary.json").read_text())["leaks"] == "slices were dealt one by one"
    assert "slices were dealt one by one" in (out / "report.html").read_text()
    publish_results(bundle, out)
    assert "**This protocol leaks: slices were dealt one by one.**" in (bundle / "docs" / "README.md").read_text()


def test_cases_that_no_fold_answered_are_wrong(bundle: Path, data: Path, tmp_path: Path) -> None:
    """As with --set max_cases: 16 of 24 were answered, a third of them wrong."""
    out = finish_folds(data, tmp_path / "cv", cases=16)
    assert main(["crossval", str(bundle), "--data", str(data), "-o", str(out)]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["n_cases"], summary["n_failed"]) == (24, 8)
    assert "no fold predicted it" in summary["failed"]["p11_1"]
    right = sum(int(row["correct"]) for row in rows_of(out / "per_case.csv"))
    assert summary["accuracy"]["mean"] == pytest.approx(right / 24, abs=1e-6)
    assert right == 11, "16, of which the third and the sixth of each fold's cases, and so on, are wrong"


RESULTS = ("per_case.csv", "per_subject.csv", "calibration.json")


@pytest.mark.slow
def test_a_stopped_crossval_goes_on_to_the_same_numbers(
    bundle: Path, data: Path, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second training's second epoch, and again before the second fold's evaluation had its facts."""

    def words(name: str) -> list[str]:
        return ["crossval", str(bundle), "--data", str(data), "-o", str(tmp_path / name)]

    assert main(words("whole")) == 0
    saves, save = [], TrainingState.save

    def stopped(self: TrainingState, engine: Any) -> None:
        save(self, engine)
        saves.append(engine.state.epoch)
        if len(saves) == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", stopped)
        with pytest.raises(SettingError, match="the training of fold 1 ended with code"):
            CrossValidation(str(bundle), data, tmp_path / "cut")()
    assert saves == [1, 2, 3, 1, 2]
    first = (tmp_path / "cut" / "fold0" / "final.pt").stat().st_mtime_ns
    assert not (tmp_path / "cut" / "fold1" / "final.pt").exists()
    written, write = [], ClassificationEvaluation.write

    def without_facts(self: Any, output_dir: Any, facts: Any = None, title: Any = None) -> Any:
        written.append(output_dir)
        if len(written) == 4:
            raise KeyboardInterrupt
        return write(self, output_dir, facts, title)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationEvaluation, "write", without_facts)
        with pytest.raises(KeyboardInterrupt):
            CrossValidation(str(bundle), data, tmp_path / "cut")()
    assert main(words("cut")) == 0
    assert (tmp_path / "cut" / "fold0" / "final.pt").stat().st_mtime_ns == first
    for name in RESULTS:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "cut"))
    assert one == other


@pytest.mark.slow
def test_a_killed_crossval_goes_on_to_the_same_numbers(tmp_path: Path, data: Path) -> None:
    """SIGKILL to the whole process group in the midst of a training."""
    bundle = make_bundle(tmp_path / "bands_classification", epochs=12)
    words = [sys.executable, "-m", "neurobundle", "crossval", str(bundle), "--data", str(data)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    process = subprocess.Popen([*words, "-o", str(tmp_path / "cut")], start_new_session=True, **quiet)  # type: ignore[call-overload]
    state = tmp_path / "cut" / "fold0" / "last.pt"
    deadline = time.monotonic() + 300
    while not state.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert state.exists()
    assert not (tmp_path / "cut" / "summary.json").exists()
    for name in ("cut", "whole"):
        assert subprocess.run([*words, "-o", str(tmp_path / name)], check=False, **quiet).returncode == 0  # type: ignore[call-overload]
    for name in RESULTS:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
