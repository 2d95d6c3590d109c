"""What final labels teach a bundle; without MONAI Label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.bundle.find import channels_of
from neurobundle.commands.sources import Wanted
from neurobundle.errors import InputError, SettingError
from neurobundle.label import learning
from neurobundle.label.finals import Labelled
from neurobundle.label.folds import FOLDS_NAME, deal
from neurobundle.label.learning import Lesson, learn, prepared
from neurobundle.label.studies import StudyStore
from neurobundle.networks import save_weights
from neurobundle.networks.classifier import classifier
from neurobundle.networks.manifest import sha256_of, verify
from tests.load.dicom import make

from ..conftest import ROOT
from ..helpers import Maker


def stored(tmp_path: Path, make_pair: Maker, n: int) -> tuple[StudyStore, list[Labelled]]:
    """A store of crops, each with its label."""
    labelled = [Labelled(f"c{i}", make_pair(tmp_path, f"c{i}", seed=i, shape=(24, 30, 24))[1]) for i in range(n)]
    store = StudyStore(tmp_path / "store")
    store.gather([tmp_path / "images"])
    return store, labelled


def test_a_label_that_cannot_be_used_is_left_out_by_name(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    store, labelled = stored(tmp_path, make_pair, 3)
    labelled[1].file.write_bytes(b"no label")
    other = nib.load(labelled[2].file)
    nib.save(nib.Nifti1Image(np.full(other.shape, 9, np.uint8), other.affine), labelled[2].file)
    found = prepared(tiny_bundle, store, labelled, tmp_path)
    assert [item["case"] for item in found.items] == ["c0"]
    assert list(found.left_out) == ["c1", "c2"]
    assert "9" in found.left_out["c2"]
    with pytest.raises(InputError, match="none of 2 labels can be used; c1: "):
        learn(tiny_bundle, store, labelled[1:])
    with pytest.raises(InputError, match="no final label"):
        learn(tiny_bundle, store, [])


def test_one_file_under_two_names_is_one_person(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    image, label = make_pair(tmp_path, "a", shape=(24, 30, 24))
    shutil.copy(image, image.with_name("b.nii.gz"))
    store = StudyStore(tmp_path / "store")
    store.gather([tmp_path / "images"])
    found = prepared(tiny_bundle, store, [Labelled("a", label), Labelled("b", label)], tmp_path)
    assert [item["subject"] for item in found.items] == ["a", "a"]


def test_two_dicom_studies_of_one_patient_are_one_person(tiny_bundle: Path, tmp_path: Path) -> None:
    """And of two patients two; nothing of the patients is written."""
    for n, patient in enumerate(("MRN1", "MRN1", "MRN2")):

        def edit(ds: Any, _: int, n: int = n, patient: str = patient) -> None:
            ds.StudyInstanceUID, ds.PatientID = f"{make.STUDY}.{n}", patient

        size: dict[str, Any] = {"slices": 12, "rows": 16, "columns": 14, "step": 1.0 + n / 8}
        make.series(tmp_path / "studies" / f"visit{n}", uid=f"{make.SERIES}.{n}", edit=edit, **size)
    store = StudyStore(tmp_path / "store", Wanted(channels_of(tiny_bundle)))
    entries = store.gather([tmp_path / "studies"])
    assert [entry.status for entry in entries] == ["ok"] * 3, [entry.error for entry in entries]
    labelled = []
    for entry in entries:
        image = nib.load(store.image(entry.case))
        file = tmp_path / f"{entry.case}-label.nii.gz"
        nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), file)
        labelled.append(Labelled(entry.case, file))
    (tmp_path / "work").mkdir()
    found = prepared(tiny_bundle, store, labelled, tmp_path / "work")
    assert not found.left_out
    assert len({item["subject"] for item in found.items}) == 2
    deal(found.items, store.folder)
    assert "MRN" not in (store.folder / FOLDS_NAME).read_text()


def test_a_lesson_in_words() -> None:
    lesson = Lesson("b", ["c0", "c2"], ["c1"], {}, {}, "mean Dice", 0.5, 0.75, True)
    assert lesson.in_words() == (
        "b: learned from 2 cases; mean Dice of 1 held out 0.750, before 0.500. They are taken."
    )
    lesson.taken, lesson.after = False, 0.25
    assert lesson.in_words().endswith("0.250, before 0.500. The old weights stay.")


def test_a_mistyped_segment_is_named(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    """It is background to the bundle, and the lesson says so."""
    store, (one,) = stored(tmp_path, make_pair, 1)
    named = Labelled(one.case, one.file, {1: "anterior", 2: "posteriour"})
    assert prepared(tiny_bundle, store, [named], tmp_path).unknown == {"c0": ["posteriour"]}


def test_nothing_that_a_hospital_calls_a_person_is_written(
    tiny_bundle: Path, tmp_path: Path, make_pair: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not into the datalist, from which a training's tables have their subjects, and nowhere into the store."""
    store, labelled = stored(tmp_path, make_pair, 2)
    monkeypatch.setattr("neurobundle.commands.sources.Source.person", lambda self: f"hash-of-{self.case}")
    written: list[str] = []

    def train(lesson: Lesson, bundle: Path, datalist: Path, *_: object) -> Path:
        written.append(datalist.read_text())
        return datalist

    monkeypatch.setattr(learning, "_train", train)
    learn(tiny_bundle, store, labelled, epochs=1)
    assert '"subject": "c1"' in written[0]
    kept = [path.read_text() for path in store.folder.rglob("*.json")]
    assert not [text for text in (*written, *kept) if "hash-of-" in text]


def test_weights_that_nobody_could_judge_are_not_taken(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([None, 0.0])
    monkeypatch.setattr(learning, "_score", lambda *_: next(scores))
    for name in ("train_plan", "check_training", "run_plan"):
        monkeypatch.setattr(learning, name, lambda *_, **__: None)
    lesson = Lesson("b", ["c0"], ["c1"], {}, {}, "mean Dice")
    learning._train(lesson, tiny_bundle, tmp_path, tmp_path / "kept", 1, {})
    assert not lesson.taken


def test_the_last_lesson_stays_where_no_other_one_begins(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    store, labelled = stored(tmp_path, make_pair, 1)
    last = store.folder / "trainings" / tiny_bundle.name / "lesson.json"
    last.parent.mkdir(parents=True)
    last.write_text("{}")
    with pytest.raises(SettingError, match="0 epochs"):
        learn(tiny_bundle, store, labelled, epochs=0)
    with pytest.raises(InputError, match="no final label"):
        learn(tiny_bundle, store, [])
    assert last.is_file()


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / tiny_bundle.name))


@pytest.mark.slow
def test_better_weights_are_taken_and_worse_are_not(bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    """By the cases held out: from weights that know nothing one learns; from good ones a step too long spoils."""
    store, labelled = stored(tmp_path, make_pair, 5)
    model = bundle / "models" / "model.pt"
    first = sha256_of(model)
    lesson = learn(bundle, store, labelled, epochs=12, device="cpu", settings={"patch_size": [24, 24, 24]})
    assert (lesson.cases, lesson.held_out, lesson.left_out) == (["c0", "c2", "c3", "c4"], ["c1"], {})
    assert lesson.before is not None
    assert lesson.after is not None
    assert lesson.after > lesson.before + 0.2
    assert lesson.taken
    entry = verify(model)
    assert (entry.origin, entry.parent) == ("trained-here", first)
    assert entry.sha256 == verify(store.folder / "trainings" / bundle.name / "models" / "model.pt").sha256
    assert not (bundle / "models" / "calibration.json").exists(), "it was of the old weights"

    kept = store.folder / "trainings" / bundle.name
    assert json.loads((kept / "lesson.json").read_text())["after"] == lesson.after
    assert json.loads((kept / "after" / "summary.json").read_text())["n_cases"] == 1
    assert not list(kept.rglob("*.nii.gz")), "no image is kept twice"

    spoilt = learn(
        bundle, store, labelled, epochs=1, device="cpu", settings={"patch_size": [24, 24, 24], "learning_rate": 3.0}
    )
    assert spoilt.before == pytest.approx(lesson.after, abs=1e-6)
    assert spoilt.after is not None
    assert spoilt.before is not None
    assert spoilt.after < spoilt.before
    assert not spoilt.taken
    assert sha256_of(model) == entry.sha256


@pytest.mark.slow
def test_of_one_person_it_learns_without_a_judge(bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    store, labelled = stored(tmp_path, make_pair, 1)
    before = sha256_of(bundle / "models" / "model.pt")
    lesson = learn(bundle, store, labelled, epochs=1, device="cpu", settings={"patch_size": [24, 24, 24]})
    assert (lesson.cases, lesson.held_out, lesson.before, lesson.after) == (["c0"], [], None, None)
    assert lesson.taken
    assert "no person is held out" in lesson.in_words()
    assert verify(bundle / "models" / "model.pt").parent == before


@pytest.mark.slow
def test_classes_are_learned_from_outlines(tmp_path: Path) -> None:
    """A tumour in the segment of its class says both; a head with two classes outlined is left out by name."""
    bundle = Path(
        shutil.copytree(
            ROOT / "bundles" / "tumor_type_classification",
            tmp_path / "tumor_type_classification",
            ignore=shutil.ignore_patterns("*.pt", "M*256", "docs"),
        )
    )
    config = bundle / "configs" / "train.yaml"
    config.write_text(config.read_text().replace("network_size: full", "network_size: tiny"))
    torch.manual_seed(0)
    network = classifier("resnet18", 1, 3, size="tiny", width=0.375, dropout=0.2, mask=True)
    save_weights(network, bundle / "models" / "model.pt", origin="released")
    names = {3: "glioma", 1: "meningioma", 2: "pituitary"}
    labelled = []
    affine = np.diag([4.0, 4, 6, 1])
    for n, drawn in enumerate([(3,), (1,), (2,), (3,), (1, 2), (1,)]):
        random = np.random.default_rng(n)
        labels = np.zeros((24, 28, 10), np.uint8)
        for k, value in enumerate(drawn):
            labels[5 + 8 * k : 10 + 8 * k, 8:14, 3:6] = value
        image = 100 + 10 * random.standard_normal(labels.shape) + 50 * (labels > 0)
        (tmp_path / "images").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), tmp_path / "images" / f"h{n}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / f"l{n}.nii.gz")
        labelled.append(Labelled(f"h{n}", tmp_path / f"l{n}.nii.gz", names))
    store = StudyStore(tmp_path / "store")
    store.gather([tmp_path / "images"])
    values = {"size": 32, "pixel_mm": 8.0}
    last = store.folder / "trainings" / bundle.name / "lesson.json"
    last.parent.mkdir(parents=True)
    last.write_text("{}")
    with pytest.raises(InputError, match="hold no 'pituitary'"):
        learn(bundle, store, labelled[:2], epochs=1, device="cpu", settings=values)
    assert last.read_text() == "{}", "what was refused took nothing away"
    # The second glioma is held out, and alone it is no judge.
    early = learn(bundle, store, labelled[:5], epochs=1, device="cpu", settings=values)
    assert (early.cases, early.held_out, early.taken) == (["h0", "h1", "h2"], [], True)
    assert "segments [2, 3] are outlined" in early.left_out["h4"]
    before = sha256_of(bundle / "models" / "model.pt")
    lesson = learn(bundle, store, labelled, epochs=1, device="cpu", settings=values)
    assert (lesson.cases, lesson.held_out) == (["h0", "h1", "h2"], ["h3", "h5"])
    assert lesson.metric == "balanced accuracy"
    assert lesson.before in (0.0, 0.5, 1.0)
    assert lesson.after in (0.0, 0.5, 1.0)
    assert lesson.taken == (lesson.after >= lesson.before)
    assert (sha256_of(bundle / "models" / "model.pt") != before) == lesson.taken
