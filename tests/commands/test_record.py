"""Every published record says what stands in its bundle."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from neurobundle.cli import parser
from neurobundle.commands import crossval
from neurobundle.commands.record import RECORD, problems_of, published_file, read_record, record_crossval, scores_of
from neurobundle.errors import SettingError
from neurobundle.networks.manifest import MANIFEST_NAME, sha256_of

from ..conftest import BUNDLES, ROOT
from ..helpers import Maker, small_datalist

RECORDS = [bundle for bundle in BUNDLES if (bundle / RECORD).is_file()]
HIPPOCAMPUS = ROOT / "bundles" / "hippocampus_segmentation"


@pytest.mark.parametrize("bundle", RECORDS, ids=lambda path: path.name)
def test_a_published_record_agrees_with_its_bundle(bundle: Path) -> None:
    """Its numbers are those of the summary, its weights those of the manifest, its datalist the one that is there."""
    record = read_record(bundle)
    assert problems_of(bundle, record) == []
    assert record.results, "there is something to compare"
    for result in record.results:
        summary = json.loads(published_file(bundle, result).read_bytes())
        parts = summary.get("structures", {"all": summary})  # classes have none
        for structure, metrics in result.scores.items():
            for metric, score in metrics.items():
                assert score["mean"] == parts[structure][metric]["mean"]
                assert score["interval"] == parts[structure][metric]["interval"]
    for name, sha256 in record.weights.items():
        assert sha256_of(bundle / "models" / name) == sha256
    assert all(source["licence"] and source["name"] for source in record.data["sources"])


@pytest.mark.parametrize("bundle", RECORDS, ids=lambda path: path.name)
@pytest.mark.parametrize("smoke", [False, True])
def test_the_steps_are_commands_of_ours(bundle: Path, smoke: bool) -> None:
    values = {"{bundle}": str(bundle), "{datalist}": "list.json", "{data}": "data", "{out}": "out"}
    for step in read_record(bundle).steps:
        words = step.filled(values, smoke)
        assert not any("{" in word for word in words)
        assert parser().parse_args(words).command == words[0]


@pytest.mark.parametrize("bundle", RECORDS, ids=lambda path: path.name)
def test_who_publishes_weights_says_how_they_were_made(bundle: Path) -> None:
    published = {path.name for path in (bundle / "models").iterdir() if path.name != MANIFEST_NAME}
    assert published == set(read_record(bundle).weights)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    folder = tmp_path / HIPPOCAMPUS.name
    shutil.copytree(HIPPOCAMPUS, folder, ignore=shutil.ignore_patterns("*.pt", "pictures"))
    return folder


def test_what_does_not_agree_is_said(copy: Path) -> None:
    record = read_record(copy)
    assert problems_of(copy, record) == []
    weights = {**record.weights, "fold3.pt": "0" * 64}
    assert "the weights fold3.pt" in problems_of(copy, dataclasses.replace(record, weights=weights))[0]
    assert "of version 9" in problems_of(copy, dataclasses.replace(record, version="9"))[0]
    assert "record of other" in problems_of(copy, dataclasses.replace(record, bundle="other"))[0]
    scores = {**record.results[0].scores, "anterior": {"dice": {"mean": 0.99, "interval": [0.98, 1.0]}}}
    better = dataclasses.replace(record.results[0], scores=scores)
    assert problems_of(copy, dataclasses.replace(record, results=(better,))) == [
        "its scores are not those of summary.json"
    ]
    other = dataclasses.replace(record.results[0], published="lost.json")
    assert problems_of(copy, dataclasses.replace(record, results=(other,))) == ["lost.json is not there"]
    (copy / "configs" / "datalist.json").write_text('{"training": []}')
    assert problems_of(copy, record) == ["configs/datalist.json is not the one that was used"]


def test_it_is_read_as_it_was_written(copy: Path) -> None:
    before = (copy / RECORD).read_bytes()
    assert read_record(copy).write(copy).read_bytes() == before


def test_a_crossvalidation_writes_the_record_of_today(copy: Path) -> None:
    """The one of the hippocampus, but for what a person added to it."""
    record = read_record(copy)
    record_crossval(copy, copy / "docs" / "results", ["amp"], {"device": "cpu"}, jobs=2)
    written = read_record(copy)
    assert dataclasses.replace(written, data=record.data, notes=record.notes) == record
    assert problems_of(copy, written) == []
    record_crossval(copy, copy / "docs" / "results", [], {"epochs": 200, "seed": 3})
    written = read_record(copy)
    assert written.seed == 3
    assert written.steps[0].words[-3:] == ("--set", "epochs=200", "seed=3")


@pytest.mark.parametrize("own", [True, False])
def test_publishing_a_crossvalidation_writes_its_record(
    own: bool, copy: Path, tmp_path: Path, make_pair: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it was of the bundle's own datalist; nobody else could make it again."""
    monkeypatch.setattr(crossval, "publish_results", lambda *_: None)
    monkeypatch.setattr(crossval, "draw_cases", lambda *_: None)
    (tmp_path / "data").mkdir()
    data, out = small_datalist(tmp_path / "data", make_pair), tmp_path / "out"
    if own:
        shutil.copy(data, copy / "configs" / "datalist.json")
    for name in ("fold0", "fold1", "all"):
        (out / name).mkdir(parents=True)
        (out / name / "final.pt").write_bytes(name.encode())
    for name in ("summary.json", "per_case.csv"):
        shutil.copy(copy / "docs" / "results" / name, out / name)
    (copy / RECORD).unlink()
    (copy / "models" / "MANIFEST.sha256").unlink()
    run = crossval.CrossValidation(
        str(copy), data, out, dataset_dir=data.parent, overlays=["cpu"], settings={"epochs": 3}, final=True
    )
    run.publish()
    assert (copy / RECORD).is_file() is own
    if own:
        record = read_record(copy)
        assert set(record.weights) == {"fold0.pt", "fold1.pt", "model.pt"}
        assert record.steps[0].words[-4:] == ("--config", "cpu", "--set", "epochs=3")
        assert record.notes == ()
        run.publish(folds=1)
        assert set(read_record(copy).weights) == {"fold0.pt", "model.pt"}
        assert "those of fold 0 alone are in the repository" in read_record(copy).notes[0]
        # Without the folds' weights those of an earlier time go, too: the scores are not theirs.
        run.publish(folds=0)
        assert set(read_record(copy).weights) == {"model.pt"}
        assert [path.name for path in (copy / "models").glob("*.pt")] == ["model.pt"]
        assert "none are in the repository" in read_record(copy).notes[0]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"stepps": []}, "did you mean 'steps'"),
        ({"seed": "zero"}, "'seed' is 'zero'"),
        ({"format": 9}, "format 9"),
        ({"steps": [{"words": "train"}]}, "lacks a part"),
        ({"results": [{"made": "a"}]}, "lacks a part"),
    ],
)
def test_a_malformed_record(change: dict[str, object], cause: str, copy: Path) -> None:
    content = json.loads((copy / RECORD).read_text())
    (copy / RECORD).write_text(json.dumps({**content, **change}))
    with pytest.raises(SettingError, match=cause):
        read_record(copy)


def test_no_record(copy: Path) -> None:
    (copy / RECORD).unlink()
    with pytest.raises(SettingError, match="no record"):
        read_record(copy)


def test_scores_without_structures() -> None:
    """A classification's summary: what has an interval counts."""
    accuracy = {"mean": 0.9, "interval": [0.8, 1.0], "n": 3}
    assert scores_of({"task": "classification", "n_images": 3, "accuracy": accuracy}) == {
        "all": {"accuracy": {"mean": 0.9, "interval": [0.8, 1.0]}}
    }
