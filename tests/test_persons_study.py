"""One answer a person, by attention and by the mean: the study on cross-validations that are made here.

One is real, of the bundle, tiny and on made pictures. Others are a folder of answers, with features that a reader can
work out in place of a network's.
"""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from neurobundle.cli import main
from neurobundle.commands import crossval
from neurobundle.commands.crossval import CrossValidation
from neurobundle.errors import InputError, SettingError
from neurobundle.load.datalist import write_datalist
from neurobundle.measure.classification_evaluation import ClassificationEvaluation, read_answers
from neurobundle.measure.subjects import pool_subjects
from neurobundle.networks.classifier import classifier
from neurobundle.networks.manifest import sha256_of

from .conftest import ROOT

CLASSES = ["glioma", "meningioma", "pituitary"]
#: Pictures show 250 mm; random transforms and the mask head are the bundle's own.
TINY = {"network_size": "tiny", "device": "cpu", "epochs": 1, "val_interval": 1, "pixel_mm": 8.0, "size": 32}


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The script, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))
        yield importlib.import_module("persons")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


# --- a cross-validation of the bundle ---


def make_picture(folder: Path, case: str, number: int, seed: int) -> dict[str, str]:
    """A head with a bright spot that says its class, and the mask of the spot."""
    rng, (x, y) = np.random.default_rng(seed), np.mgrid[:64, :64]
    middle = [(20, 26), (40, 26), (30, 44)][number]
    mask = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < (5 + seed % 3) ** 2
    pixels = 90 * ((x - 32) ** 2 + (y - 32) ** 2 < 28**2) + 90 * mask + rng.normal(0, 12, mask.shape)
    files = {}
    for name, values in (("image", pixels), ("mask", 255 * mask)):
        files[name] = str(folder / f"{case}_{name}.png")
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(files[name])
    return files


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen persons with one to three slices each, in two folds."""
    folder, items = tmp_path_factory.mktemp("data"), []
    for person in range(18):
        number, fold = person % 3, person // 3 % 2
        for n in range(1 + person % 4 % 3):
            case = f"p{person:02d}_{n}"
            files = make_picture(folder, case, number, 10 * person + n)
            items.append({"case": case, "subject": f"p{person:02d}", "fold": fold, "label": number, **files})
    return write_datalist(folder / "datalist.json", items, metadata={"labels": dict(enumerate(CLASSES))})


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished; its trainings ran in this process, which is faster."""

    def run(words: list[str], **_: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=main(words[3:]))

    folder = tmp_path_factory.mktemp("crossval") / "cv"
    words = ["crossval", "tumor_type_classification", "--data", str(data), "-o", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crossval, "subprocess", SimpleNamespace(run=run, STDOUT=None))
        assert main([*words, "--set", *(f"{name}={value}" for name, value in TINY.items())]) == 0
    return folder


def call(study: ModuleType, patch: pytest.MonkeyPatch, *words: object) -> None:
    patch.setattr(sys, "argv", ["persons.py", *map(str, words)])
    study.main()


@pytest.mark.slow
def test_the_whole_way(
    study: ModuleType,
    done: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Both poolings of the same persons, and the same again from what was kept, without a network."""
    words = [done, "--data", data, "-o", tmp_path, "--small"]
    call(study, monkeypatch, *words)
    first = capsys.readouterr()
    assert first.err.splitlines()[:2] == ["fold 0", "fold 1"]
    figures = json.loads(first.out.splitlines()[-1])
    assert (figures["persons"], figures["failed"]) == (12, 0)
    for name in ("mean", "attention"):
        title = study.MEAN if name == "mean" else name
        assert f"| {title} | {study.cell(figures['rows'][name]['accuracy'])} |" in first.out
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert (summary["n_cases"], set(summary["folds"])) == (12, {"0", "1"})
        assert summary["accuracy"] == figures["rows"][name]["accuracy"]
        assert (tmp_path / name / "report.html").is_file()
    assert summary["training"]["steps"] == study.SMALL.steps
    assert summary["weights"] == {f"fold {n}": sha256_of(done / f"fold{n}" / "final.pt") for n in (0, 1)}
    tables = [rows_of(tmp_path / name / "per_case.csv") for name in ("mean", "attention")]
    assert [row["case"] for row in tables[0]] == [row["case"] for row in tables[1]]
    assert all(row["case"] == row["subject"] for row in tables[0])
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"][0]["n"] == 12
    for fold in (0, 1):
        shares = rows_of(tmp_path / "attention" / f"fold{fold}" / "shares.csv")
        by_person: dict[str, float] = {}
        for row in shares:
            assert row["case"].startswith(row["subject"])
            by_person[row["subject"]] = by_person.get(row["subject"], 0) + float(row["share"])
        assert len(by_person) == 6
        assert list(by_person.values()) == pytest.approx([1] * 6, abs=1e-5)

    def nothing(*_: Any) -> None:
        raise AssertionError("what is kept is not made again")

    with monkeypatch.context() as patch:
        patch.setattr(study, "FrozenFold", nothing)
        call(study, patch, *words)
    assert capsys.readouterr().out == first.out


def test_before_its_first_step_attention_says_what_the_mean_does(
    study: ModuleType, done: Path, data: Path, tmp_path: Path
) -> None:
    """Features, mirroring, weights, preparation and folds are the cross-validation's: else this could not be."""
    noted = json.loads((done / "crossval.json").read_text())
    opened = CrossValidation(noted["bundle"], data, done, overlays=noted["overlays"], settings=noted["settings"])
    found = study.both(opened, study.Effort(steps=0, draws=1), tmp_path)
    mean, attention = (found[name].answers for name in (study.MEAN, study.ATTENTION))
    assert list(mean) == list(attention)
    assert len(mean) == 18
    for person, answer in mean.items():
        assert attention[person].probabilities == pytest.approx(answer.probabilities, abs=1e-5)
    for row in rows_of(tmp_path / "attention" / "fold0" / "shares.csv"):
        slices = sum(case["subject"] == row["subject"] for case in json.loads(data.read_text())["training"])
        assert float(row["share"]) == pytest.approx(1 / slices, abs=1e-6)


# --- features ---


class Wide(nn.Module):
    """A classifier whose head sees more than the backbone's features, as with features pooled under a mask."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Sequential()
        self.head.fc = nn.Linear(6, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        means = image.mean(dim=(2, 3))
        return self.head(torch.cat([means, image[:, :, 0, 0]], dim=1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("classes", [2, 5])
def test_features_are_whatever_the_last_layer_sees(study: ModuleType, classes: int) -> None:
    slices = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Wide(classes).eval()
    features = study.features_of(network, slices)
    assert features.shape == (4, 6)
    assert torch.allclose(features[:, 3:], (slices[:, :, 0, 0] + slices[:, :, -1, 0]) / 2), "mirrored left to right"
    logits = (network(slices) + network(slices.flip(2))) / 2
    assert torch.allclose(network.head.fc(features), logits, atol=1e-6)
    study.features_of(network, slices)
    assert not network.head.fc._forward_pre_hooks, "no hook is left behind"


def test_features_of_a_classifier_with_a_mask_head(study: ModuleType) -> None:
    torch.manual_seed(0)
    network = classifier("resnet18", 1, 4, size="tiny", dropout=0.5, mask=True).eval()
    slices = torch.randn(3, 1, 32, 32)
    features = study.features_of(network, slices)
    logits = (network(slices) + network(slices.flip(2))) / 2
    assert torch.allclose(study.last_layer(network)(features), logits, atol=1e-5)


def test_what_has_no_features(study: ModuleType) -> None:
    with pytest.raises(SettingError, match=r"the network, Flatten, has no linear layer head\.fc"):
        study.features_of(nn.Flatten(), torch.zeros(1, 1, 4, 4))
    with pytest.raises(InputError, match="a: it is a volume of 3 slices"):
        study._slice_of({"case": "a", "image": torch.zeros(1, 8, 8, 3)})
    assert study._slice_of({"case": "a", "image": torch.zeros(1, 8, 6, 1)}).shape == (1, 8, 6)
    assert study._slice_of({"case": "a", "image": torch.zeros(1, 8, 6)}).shape == (1, 8, 6)


# --- learning ---


def test_learning_starts_as_the_network_and_is_repeatable(study: ModuleType) -> None:
    torch.manual_seed(0)
    fc = nn.Linear(6, 4)
    bags = [torch.randn(2, 1 + n % 3, 6) for n in range(12)]
    labels = [n % 4 for n in range(12)]
    start = study.learn(fc, bags, labels, 0, 0)
    assert torch.equal(start.fc.weight, fc.weight)
    first, again = (study.learn(fc, bags, labels, 30, 7) for _ in range(2))
    for name, values in first.state_dict().items():
        assert torch.equal(values, again.state_dict()[name])
    truth = torch.tensor(labels)
    losses = [
        nn.functional.cross_entropy(network(*study.pad_bags([bag[0] for bag in bags]))[0], truth).item()
        for network in (start, first)
    ]
    assert losses[1] < losses[0]
    assert not torch.equal(first.pool.score.weight, start.pool.score.weight)


# --- a folder of answers ---


def make_answers(folder: Path, classes: int, failed: str = "", lost: str = "") -> SimpleNamespace:
    """Four persons a class with two slices each, in two folds; the networks get a quarter of the slices wrong.

    Args:
        folder: of the cross-validation.
        classes: how many.
        failed: a case that failed.
        lost: a case that no fold answered.
    """
    names, items = [f"kind {n}" for n in range(classes)], []
    for person in range(4 * classes):
        for n in range(2):
            item = {"case": f"p{person:02d}_{n}", "subject": f"p{person:02d}", "image": "none.png"}
            items.append({**item, "label": person % classes, "fold": person // classes % 2})
    data = write_datalist(folder / "datalist.json", items)
    for fold in (0, 1):
        evaluation = ClassificationEvaluation(names)
        for n, item in enumerate(item for item in items if item["fold"] == fold and item["case"] != lost):
            if item["case"] == failed:
                evaluation.add_failed(failed, item["label"], item["subject"], "it is corrupt")
                continue
            values = np.full(classes, 0.2 / (classes - 1))
            values[(item["label"] + (n % 4 == 3)) % classes] = 0.8
            evaluation.add(item["case"], item["label"], values, item["subject"])
        evaluation.write(folder / f"fold{fold}" / "evaluation")
        (folder / f"fold{fold}" / "final.pt").write_bytes(b"weights")
    return SimpleNamespace(
        data=data, dataset_dir=None, folds=[0, 1], bundle_dir=folder, folder=lambda fold: folder / f"fold{fold}"
    )


class Known:
    """In place of a fold's network: the feature of a slice's class is 1, and of one slice in four nothing is."""

    def __init__(self, _: Any, fold: int, train: list[Any], held_out: list[Any], output: Path) -> None:
        assert {item["fold"] for item in train} == {1 - fold}
        assert {item["fold"] for item in held_out} == {fold}
        self.train, self.held_out = train, held_out
        width = 1 + max(item["label"] for item in train)
        self.fc = nn.Linear(width, width)
        nn.init.eye_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def training_features(self, draws: int, seed: int) -> torch.Tensor:
        return torch.stack([self.of(self.train)] * draws)

    def held_out_features(self) -> torch.Tensor:
        return self.of(self.held_out)

    def of(self, items: list[Any]) -> torch.Tensor:
        labels = torch.tensor([item["label"] for item in items])
        known = torch.tensor([not item["case"].endswith("1_1") for item in items])
        return nn.functional.one_hot(labels, self.fc.in_features) * known[:, None].float()


@pytest.mark.parametrize("classes", [2, 4])
def test_any_number_of_classes(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    monkeypatch.setattr(study, "FrozenFold", Known)
    found = study.both(make_answers(tmp_path / "cv", classes), study.SMALL, tmp_path / "out")
    for evaluation in found.values():
        assert evaluation.classes == [f"kind {n}" for n in range(classes)]
        assert len(evaluation.answers) == 4 * classes
    assert all(answer.prediction == answer.truth for answer in found[study.ATTENTION].answers.values())
    raw = {}
    for fold in (0, 1):
        pooled = pool_subjects(read_answers(tmp_path / "cv" / f"fold{fold}" / "evaluation" / "per_case.csv"))
        raw |= pooled.answers
    assert {name: a.probabilities for name, a in found[study.MEAN].answers.items()} == {
        name: a.probabilities for name, a in raw.items()
    }


def test_a_person_of_whom_a_slice_failed_is_wrong_in_both(
    study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its slices teach nothing; so is one of whom a slice has no answer."""
    monkeypatch.setattr(study, "FrozenFold", Known)
    opened = make_answers(tmp_path / "cv", 3, failed="p00_1", lost="p04_0")
    found = study.both(opened, study.Effort(steps=2, draws=1), tmp_path / "out")
    for name, evaluation in found.items():
        summary = evaluation.write(tmp_path / "out" / study.FOLDERS[name])
        assert (summary["n_cases"], summary["n_failed"]) == (12, 2)
        assert set(summary["failed"]) == {"p00", "p04"}
        assert "p00_1" in summary["failed"]["p00"]
    row = study.difference(found, tmp_path / "out")
    assert row["n"] == 12
    right = [sum(a.prediction == a.truth for a in found[name].answers.values()) for name in found]
    assert right[1] - right[0] == row["only_attention"] - row["only_mean"]
    assert row["difference"] == pytest.approx((right[1] - right[0]) / 12, abs=1e-6)


def test_other_weights_are_another_result(study: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fold is kept only as long as what it came from is the same."""
    made: list[int] = []

    class Counted(Known):
        def __init__(self, _: Any, fold: int, *rest: Any) -> None:
            made.append(fold)
            super().__init__(_, fold, *rest)

    monkeypatch.setattr(study, "FrozenFold", Counted)
    opened = make_answers(tmp_path / "cv", 3)
    for steps in (1, 1, 2):
        study.both(opened, study.Effort(steps, draws=1), tmp_path / "out")
    assert made == [0, 1, 0, 1]
    (tmp_path / "cv" / "fold1" / "final.pt").write_bytes(b"others")
    study.both(opened, study.Effort(2, draws=1), tmp_path / "out")
    assert made == [0, 1, 0, 1, 1]


def test_few_persons_of_each_class_and_fold(study: ModuleType, tmp_path: Path) -> None:
    opened = make_answers(tmp_path, 3)
    assert len(study.chosen_items(opened, None)) == 24
    assert {item["subject"] for item in study.chosen_items(opened, 1)} == {f"p{n:02d}" for n in range(6)}


def test_what_is_no_such_cross_validation(
    study: ModuleType, done: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path, datalist: Path) -> str:
        with pytest.raises(SystemExit) as error:
            call(study, monkeypatch, folder, "--data", datalist, "-o", tmp_path / "out")
        return str(error.value)

    assert "crossval.json: this is no cross-validation. Give the -o of" in refused(tmp_path, data)
    other = tmp_path / "datalist.json"
    other.write_text(data.read_text() + "\n")
    assert "this is not the datalist of the cross-validation" in refused(done, other)
    cut = shutil.copytree(done, tmp_path / "cut", ignore=shutil.ignore_patterns("fold1"))
    assert "fold 1 is not finished. Let `neurobundle crossval` end" in refused(cut, data)
    opened = make_answers(tmp_path / "cv", 3)
    content = json.loads(opened.data.read_text())
    content["training"][0]["fold"] = 1 - content["training"][0]["fold"]
    opened.data.write_text(json.dumps(content))
    with pytest.raises(SettingError, match="the subject 'p00' is in several folds"):
        study.both(opened, study.SMALL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
