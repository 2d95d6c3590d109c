"""The card of a bundle that answers classes: a tiny cross-validation, published into a copy of ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurobundle.cli import main
from neurobundle.commands import crossval
from neurobundle.commands.card import publish_results
from neurobundle.commands.card_activation import PANEL_PIXELS, PICTURES, chosen_cases, read_activations
from neurobundle.commands.crossval import CrossValidation
from neurobundle.errors import InputError
from neurobundle.load.datalist import write_datalist
from neurobundle.measure.classification_evaluation import ClassificationEvaluation, read_answers

from ..conftest import ROOT
from ..load.made_slices import made_slice

CLASSES = ["glioma", "meningioma", "pituitary"]
NAME = "tumor_type_classification"
#: A network and slices so small that the trainings take seconds.
SETTINGS = {"network_size": "tiny", "size": 48, "pixel_mm": 4.0, "epochs": 1, "val_interval": 1, "batch_size": 6}
TITLE_PIXELS = 22


def make_data(folder: Path, persons: int = 12) -> Path:
    """Two slices a person, each with a tumour whose place says its class, and its mask."""
    items = []
    for person in range(persons):
        label = person % len(CLASSES)
        for n in range(2):
            case, seed = f"{person:02d}-{n}", 2 * person + n
            mask = np.zeros((64, 64), np.uint8)
            mask[20 + 8 * label : 28 + 8 * label, 24:36] = 255
            image = np.where(mask > 0, 230, made_slice(seed, 64)).astype(np.uint8)
            item: dict[str, Any] = {"case": case, "subject": f"{person:02d}", "fold": person // 3 % 2, "label": label}
            for name, pixels in (("image", image), ("mask", mask)):
                path = folder / f"{name}s" / f"{case}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
                item[name] = str(path)
            items.append(item)
    return write_datalist(folder / "datalist.json", items, metadata={"labels": dict(enumerate(CLASSES))})


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A copy of the bundle, and the folder of the cross-validation that was published into it."""
    folder = tmp_path_factory.mktemp("published")
    bundle = folder / NAME
    shutil.copytree(ROOT / "bundles" / NAME, bundle, ignore=shutil.ignore_patterns("models", "results", "pictures"))
    (bundle / "models").mkdir()
    data = make_data(folder / "data")
    shutil.copy(data, bundle / "configs" / "datalist.json")
    with pytest.MonkeyPatch.context() as patch:
        here = SimpleNamespace(run=lambda words, **_: SimpleNamespace(returncode=main(words[3:])), STDOUT=None)
        patch.setattr(crossval, "subprocess", here)  # starting a process takes longer than these trainings
        settings = {**SETTINGS, "device": "cpu"}
        run = CrossValidation(str(bundle), data, folder / "out", dataset_dir=data.parent, settings=settings, final=True)
        run()
        run.publish(folds=0)
        yield SimpleNamespace(bundle=bundle, out=folder / "out", run=run)


@pytest.fixture
def copy(published: SimpleNamespace, tmp_path: Path) -> Path:
    """The published bundle, to spoil."""
    return Path(shutil.copytree(published.bundle, tmp_path / NAME))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(path: Path, **more: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def test_every_number_of_the_summary_is_in_the_card(published: SimpleNamespace) -> None:
    """Scores with intervals, of each class, confusion, calibration before and after, folds, and one answer a person."""
    card = (published.bundle / "docs" / "README.md").read_text()
    summary = json.loads((published.out / "summary.json").read_text())
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("| ")]
    for name, part in (("cases", summary), ("subjects", summary["subjects"])):
        row = next(row for row in rows if row[0] == name)
        for key, cell in zip(("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc"), row[2:], strict=True):
            assert cell.startswith(f"{part[key]['mean']:.3f}")
    for part in (summary, summary["subjects"]):
        for name, own in part["per_class"].items():
            scores = [own[key] for key in ("precision", "sensitivity", "specificity", "f1", "auroc")]
            cells = ["-" if value is None else f"{value:.3f}" for value in scores]
            assert [name, str(own["n"]), str(own["n_failed"]), *cells] in rows
        for name, counts in zip(part["confusion"]["labels"], part["confusion"]["counts"], strict=True):
            assert [name, *map(str, counts)] in rows
    for key, words in (("before", "as the networks say it"), ("after", "at the temperature of the other folds")):
        row = next(row for row in rows if row[0] == words)
        for name, cell in zip(("ece", "nll"), row[1:], strict=True):
            assert cell.startswith(f"{summary['temperature'][key][name]['mean']:.3f}")
    for fold, part in summary["folds"].items():
        assert any(row[:2] == [fold, str(part["n_cases"])] for row in rows)
    for name in ("curves.png", *PICTURES.values()):
        assert f"(pictures/{name})" in card
        assert (published.bundle / "docs" / "pictures" / name).is_file()


def test_the_maps_are_of_the_fold_that_left_the_case_out(published: SimpleNamespace) -> None:
    """Each listed answer is the table's; the pictures have a row each, and are small."""
    results, pictures = published.bundle / "docs" / "results", published.bundle / "docs" / "pictures"
    listed = json.loads((results / "activation.json").read_text())
    answers = read_answers(results / "per_case.csv").answers
    card = (published.bundle / "docs" / "README.md").read_text()
    items = {item["case"]: item for item in json.loads(published.run.data.read_text())["training"]}
    assert listed["wrong"], "an untrained network errs"
    for kind, entries in listed.items():
        for entry in entries:
            answer = answers[entry["case"]]
            assert (entry["truth"], entry["answer"]) == (CLASSES[answer.truth], CLASSES[answer.prediction])
            assert (entry["truth"] == entry["answer"]) is (kind == "right")
            assert entry["confidence"] == round(max(answer.probabilities or ()), 4)
            assert entry["fold"] == items[entry["case"]]["fold"]
            words = [kind, entry["case"], entry["fold"], entry["truth"], entry["answer"], f"{entry['confidence']:.3f}"]
            assert f"| {' | '.join(map(str, words))} |" in card
        if entries:
            with Image.open(pictures / PICTURES[kind]) as picture:
                assert picture.size == (2 * PANEL_PIXELS, len(entries) * (PANEL_PIXELS + TITLE_PIXELS))
    assert sum((pictures / name).stat().st_size for name in PICTURES.values()) < 400_000


def test_a_map_is_that_of_its_own_fold(published: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each case is given to the plan of its fold alone, whose weights are that fold's last."""
    from neurobundle.commands import card_activation

    asked: list[tuple[int, list[str]]] = []

    def look(plan: Any, items: Any, _: Any) -> list[Any]:
        assert plan.settings["weights"] == str(published.out / f"fold{plan.settings['fold']}" / "final.pt")
        asked.extend((plan.settings["fold"], item) for item in items)
        return [(np.eye(9), np.eye(9)) for _ in items]

    monkeypatch.setattr(card_activation, "_looks", look)
    before = contents(published.out)
    items = published.run._items()
    card_activation.draw_activations(
        published.out, read_answers(published.out / "per_case.csv"), items, published.run.evaluation_plan
    )
    assert {fold for fold, _ in asked} == {0, 1}
    assert all(item["fold"] == fold for fold, item in asked)
    for name in PICTURES.values():
        assert (published.out / name).read_bytes() != before[name], "the maps that were given are drawn"
        (published.out / name).write_bytes(before[name])


def test_publishing_again_changes_nothing(published: SimpleNamespace) -> None:
    before = contents(published.bundle)
    published.run.publish(folds=0)
    assert contents(published.bundle) == before


def test_the_card_command_finds_nothing_to_change(published: SimpleNamespace, copy: Path) -> None:
    before = contents(copy)
    assert main(["card", str(copy)]) == 0
    assert main(["card", str(copy), "--results", str(published.out)]) == 0
    assert main(["card", str(copy), "--results", str(copy / "docs" / "results")]) == 0
    assert contents(copy) == before


def test_what_other_results_do_not_have_is_taken_away(published: SimpleNamespace, copy: Path, tmp_path: Path) -> None:
    """Of a fold's evaluation there are no curves, no maps and no answers a person: those of the old one do not stay."""
    results = tmp_path / "results"
    results.mkdir()
    for name in ("per_case.csv", "summary.json"):
        shutil.copy(published.out / "fold0" / "evaluation" / name, results)
    assert main(["card", str(copy), "--results", str(results)]) == 0
    assert not any((copy / "docs" / "pictures").iterdir())
    kept = {path.name for path in (copy / "docs" / "results").iterdir()}
    assert kept == {"per_case.csv", "summary.json", "record.json"}
    assert "pictures/" not in (copy / "docs" / "README.md").read_text().partition("<!-- /scores -->")[0]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda docs: change(docs / "results" / "activation.json", wrong=[]), "not those of the table beside it"),
        (lambda docs: (docs / "results" / "activation.json").write_text("{"), "it cannot be read"),
        (lambda docs: (docs / "results" / "activation.json").write_text("{}"), "it cannot be read"),
        (lambda docs: (docs / "pictures" / "activation-wrong.png").unlink(), "this picture is missing"),
    ],
)
def test_maps_of_other_answers_are_refused(spoil: Any, says: str, copy: Path) -> None:
    spoil(copy / "docs")
    before = contents(copy)
    with pytest.raises(InputError, match=says):
        publish_results(copy)
    assert contents(copy) == before


def test_a_network_without_feature_maps_has_no_pictures(published: SimpleNamespace, tmp_path: Path) -> None:
    """A transformer, for instance; what was drawn before goes."""
    from neurobundle.commands.card_activation import draw_activations
    from neurobundle.infer import attention

    out = Path(shutil.copytree(published.out, tmp_path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "has_features", lambda _: False)
        evaluation = read_answers(out / "per_case.csv")
        assert not draw_activations(out, evaluation, published.run._items(), published.run.evaluation_plan)
    assert not list(out.glob("activation*"))
    assert read_activations(out, out, evaluation) == {}


# --- which cases ---


def evaluation_of(*rows: tuple[str, str, int, float, int]) -> ClassificationEvaluation:
    """Case, subject, truth, confidence, answer."""
    evaluation = ClassificationEvaluation(CLASSES)
    for case, subject, truth, sure, answer in rows:
        values = np.full(3, (1 - sure) / 2)
        values[answer] = sure
        evaluation.add(case, truth, values, subject)
    return evaluation


def test_right_ones_are_in_the_middle_of_the_confidences() -> None:
    """Of .5, .6, .9 the second; of .5, .6, .7, .9 the second too; of a class without a right answer, none."""
    rows = [("a", "p", 0, 0.9, 0), ("b", "q", 0, 0.5, 0), ("c", "r", 0, 0.6, 0)]
    rows += [(f"m{n}", "s", 1, sure, 1) for n, sure in enumerate((0.7, 0.9, 0.6, 0.5))]
    chosen = chosen_cases(evaluation_of(*rows, ("x", "t", 2, 0.8, 0)))
    assert [answer.case for answer in chosen["right"]] == ["c", "m2"]
    assert [answer.case for answer in chosen["wrong"]] == ["x"]


def test_wrong_ones_are_the_most_confident_of_different_persons() -> None:
    sure = {"a": 0.7, "b": 0.95, "c": 0.9, "d": 0.6, "e": 0.5}
    whose = {"a": "p", "b": "q", "c": "q", "d": "r", "e": "s"}
    chosen = chosen_cases(evaluation_of(*((case, whose[case], 0, value, 1) for case, value in sure.items())))
    assert [answer.case for answer in chosen["wrong"]] == ["b", "a", "d"]
    assert chosen["right"] == []


def test_equal_confidences_are_taken_by_name() -> None:
    rows = [(case, case, 0, 0.8, n % 2) for n, case in enumerate("dcba")]
    chosen = chosen_cases(evaluation_of(*rows))
    assert [answer.case for answer in chosen["right"]] == ["b"]
    assert [answer.case for answer in chosen["wrong"]] == ["a", "c"]
    assert chosen == chosen_cases(evaluation_of(*rows[::-1]))


def test_failed_cases_and_bare_classes_are_not_shown() -> None:
    evaluation = evaluation_of(("a", "p", 0, 0.9, 0))
    evaluation.add_failed("f", 0, "q")
    evaluation.answers["n"] = replace(evaluation.answers["a"], case="n", subject="r", probabilities=None, prediction=1)
    assert [answer.case for answers in chosen_cases(evaluation).values() for answer in answers] == ["a"]
