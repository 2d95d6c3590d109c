"""The study that puts networks and schedules side by side: what trains, what is scored, and that it goes on."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from neurobundle.cli import main
from neurobundle.errors import SettingError
from neurobundle.load.datalist import read_datalist

from .conftest import ROOT
from .networks.test_backbones import package
from .test_controls_study import STUDIES, make_pictures, said


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module; a study is a script, and is imported here to be looked into."""
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module("compare_classifiers")


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Three folds of six persons."""
    (tmp_path / "data").mkdir()
    return make_pictures(tmp_path / "data", persons=18, folds=3)


def given(datalist: Path, output: Path, **more: Any) -> SimpleNamespace:
    values = {"datalist": datalist, "dataset_dir": datalist.parent, "output": output, "fold": 0, "config": ["amp"]}
    return SimpleNamespace(**{**values, "pretrain_epochs": 2, **more})


@pytest.mark.parametrize(("fold", "validating"), [(0, 1), (2, 0)])
def test_one_fold_is_scored_another_validates_the_rest_train(
    study: ModuleType, datalist: Path, tmp_path: Path, fold: int, validating: int
) -> None:
    training, held_out, validates = study.write_lists(given(datalist, tmp_path / "out", fold=fold))
    assert validates == validating
    known, unknown = read_datalist(training), read_datalist(held_out)
    assert {item["fold"] for item in known} == {0, 1, 2} - {fold}
    assert {item["fold"] for item in unknown} == {fold}
    assert len(known) + len(unknown) == 36
    assert not {item["subject"] for item in known} & {item["subject"] for item in unknown}
    assert all(Path(item["mask"]).is_file() for item in known)
    assert json.loads(training.read_text())["labels"]["2"] == "pituitary"


def test_folds_that_cannot_be(study: ModuleType, datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="fold 7 is to be held out, of the folds 0, 1, 2"):
        study.write_lists(given(datalist, tmp_path / "out", fold=7))
    (tmp_path / "two").mkdir()
    two = make_pictures(tmp_path / "two", persons=12, folds=2)
    with pytest.raises(SettingError) as caught:
        study.write_lists(given(two, tmp_path / "out"))
    assert "Three are needed" in caught.value.way_out


def test_all_runs_have_one_budget(study: ModuleType, tmp_path: Path) -> None:
    """18 epochs; block-wise 3 for each of 6 depths, since its overlay multiplies."""
    budget = {"epochs": 18, "size": 64, "pixel_mm": 3.6}
    settings = {name: study.settings_of(run, budget, tmp_path) for name, run in study.RUNS.items()}
    assert settings["resnet18"] == {**budget, "val_interval": 18}
    assert settings["vgg19"] == {**budget, "val_interval": 18, "learning_rate": 0.0001}
    assert "epochs" not in settings["blockwise"]
    assert settings["blockwise"]["schedule::epochs"] * study.BLOCKS == 18
    weights = {name: own.get("backbone_weights") for name, own in settings.items()}
    begin = str(tmp_path / "pretraining" / "final.pt")
    assert weights == {"resnet18": None, "vgg19": None, "pretrained": begin, "blockwise": begin, "head": begin}
    assert budget == {"epochs": 18, "size": 64, "pixel_mm": 3.6}, "it is nobody's to change"


def test_every_pair_is_of_runs_that_there_are(study: ModuleType) -> None:
    assert {name for pair in study.PAIRS.values() for name in pair} <= set(study.RUNS)


def run(study: ModuleType, monkeypatch: pytest.MonkeyPatch, datalist: Path, output: Path, *more: str) -> None:
    words = ["compare_classifiers.py", "--datalist", str(datalist), "-o", str(output), "--device", "cpu", *more]
    monkeypatch.setattr(sys, "argv", words)
    study.main()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "10"], "give a multiple of 6"),
        (["--pretrain-epochs", "0"], "--pretrain-epochs is 1 or more"),
        (["-o", str(ROOT / "out")], "is in the repository"),
    ],
)
def test_options_that_cannot_be(
    study: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    datalist: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        run(study, monkeypatch, datalist, tmp_path / "out", *more)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_budget_is_not_mixed_in(study: ModuleType, datalist: Path, tmp_path: Path) -> None:
    own = given(datalist, tmp_path / "out")
    study.require_same_plan(own, {"epochs": 6}, datalist)
    study.require_same_plan(own, {"epochs": 6}, datalist)
    for other, budget in ((own, {"epochs": 12}), (given(datalist, own.output, fold=1), {"epochs": 6})):
        with pytest.raises(SettingError, match="other settings or another datalist"):
            study.require_same_plan(other, budget, datalist)


def test_a_training_that_fails_names_its_log(
    study: ModuleType, monkeypatch: pytest.MonkeyPatch, datalist: Path, tmp_path: Path
) -> None:
    fails = SimpleNamespace(run=lambda *_, **__: SimpleNamespace(returncode=3), STDOUT=None)
    monkeypatch.setattr(study, "subprocess", fails)
    with pytest.raises(SettingError, match="the training ended with code 3") as caught:
        study.train(tmp_path / "run", datalist, 0, [], {})
    assert str(caught.value.file).endswith("log.txt")


@pytest.mark.slow
def test_the_whole_study_and_again(
    study: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    datalist: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Six trainings here instead of in processes; a second run trains nothing, and says the same."""
    package("timm")
    begun: list[list[str]] = []

    def in_process(words: list[str], **_: Any) -> SimpleNamespace:
        begun.append(words[3:])
        return SimpleNamespace(returncode=main(words[3:]))

    monkeypatch.setattr(study, "subprocess", SimpleNamespace(run=in_process, STDOUT=None))
    output = tmp_path / "out"
    more = ("--small", "--epochs", "6", "--pretrain-epochs", "2", "--size", "32")
    run(study, monkeypatch, datalist, output, *more)
    first = said(capsys)
    assert len(begun) == 6
    assert all(words[words.index("--data") + 1] == str(output / "training.json") for words in begun)
    figures = json.loads(first[-1])
    assert (figures["cases"], figures["persons"], figures["fold"]) == (12, 6, 0)
    assert json.loads((output / "summary.json").read_text())["rows"].keys() == set(study.RUNS)
    heads = [line.split(" | ")[0].removeprefix("| ") for line in first[:-1]]
    assert heads == ["run", *study.RUNS, "the largest class", "pair", *study.PAIRS]
    weights = {name: torch.load(output / name / "final.pt", weights_only=True) for name in ("pretraining", "head")}
    same = [torch.equal(value, weights["head"][name]) for name, value in weights["pretraining"].items()]
    names = list(weights["pretraining"])
    assert all(ok for ok, name in zip(same, names, strict=True) if name.startswith("trunk.")), "it was frozen"
    assert not all(ok for ok, name in zip(same, names, strict=True) if name.startswith("head."))
    assert any(name.startswith("trunk.features.") for name in torch.load(output / "vgg19" / "final.pt"))
    assert not list(output.glob("*/last.pt"))
    run(study, monkeypatch, datalist, output, *more)
    assert said(capsys) == first
    assert len(begun) == 6
