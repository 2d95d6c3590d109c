"""What final labels teach a bundle; without MONAI Label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.find import channels_of
from neurobundle.commands.sources import Wanted
from neurobundle.errors import InputError
from neurobundle.label.learning import FOLDS_NAME, HELD_OUT, Labelled, Lesson, deal, in_values_of, learn, prepared
from neurobundle.label.studies import StudyStore
from neurobundle.load.scan import Scan
from neurobundle.networks.manifest import sha256_of, verify
from tests.load.dicom import make

from ..helpers import Maker

NAMES = {1: "Anterior", 2: "Posterior"}


def items(*cases: str, **persons: str) -> list[dict[str, Any]]:
    """Entries of a datalist; a case is a person of its own unless it is said."""
    return [{"case": case, "subject": persons.get(case, case)} for case in cases]


def folds(entries: list[dict[str, Any]], file: Path) -> dict[str, int]:
    deal(entries, file)
    return {entry["case"]: entry["fold"] for entry in entries}


def test_of_one_person_nothing_is_held_out_of_two_one_of_ten_two(tmp_path: Path) -> None:
    assert folds(items("a"), tmp_path / "one.json") == {"a": 1}
    assert folds(items("a", "b"), tmp_path / "two.json") == {"a": 1, "b": HELD_OUT}
    ten = folds(items(*"abcdefghij"), tmp_path / "ten.json")
    assert sorted(ten.values()) == sorted([*range(5)] * 2)


def test_a_person_is_in_one_fold_and_stays_there(tmp_path: Path) -> None:
    file = tmp_path / "folds.json"
    assert folds(items("a", "b"), file) == {"a": 1, "b": 0}
    found = folds(items("a", "b", "c", "d", b="anna", c="anna"), file)
    assert found == {"a": 1, "b": 0, "c": 0, "d": 2}
    assert json.loads(file.read_text()) == found, "no person's name"
    assert folds(items("d", "c"), file) == {"d": 2, "c": 0}, "a label that was taken away changes no other"


def test_a_clients_segments_are_known_by_their_names() -> None:
    labels = Scan(np.array([[[0, 1, 2, 3]]], np.uint8), np.eye(4))
    swapped = in_values_of(labels, {1: "posterior", 2: "Anterior", 3: "scribbles"}, NAMES)
    assert swapped.data.tolist() == [[[0, 2, 1, 0]]]
    assert in_values_of(labels, {}, NAMES) is labels
    with pytest.raises(InputError, match=r"lung.*none is one of the bundle"):
        in_values_of(labels, {1: "lung"}, NAMES)


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
    found, left_out = prepared(tiny_bundle, store, labelled, tmp_path)
    assert [item["case"] for item in found] == ["c0"]
    assert list(left_out) == ["c1", "c2"]
    assert "9" in left_out["c2"]
    with pytest.raises(InputError, match="none of 2 labels can be used; c1: "):
        learn(tiny_bundle, store, labelled[1:])
    with pytest.raises(InputError, match="no final label"):
        learn(tiny_bundle, store, [])


def test_one_file_under_two_names_is_one_person(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    image, label = make_pair(tmp_path, "a", shape=(24, 30, 24))
    shutil.copy(image, image.with_name("b.nii.gz"))
    store = StudyStore(tmp_path / "store")
    store.gather([tmp_path / "images"])
    found, _ = prepared(tiny_bundle, store, [Labelled("a", label), Labelled("b", label)], tmp_path)
    assert [item["subject"] for item in found] == ["a", "a"]


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
    found, left_out = prepared(tiny_bundle, store, labelled, tmp_path / "work")
    assert not left_out
    assert len({item["subject"] for item in found}) == 2
    deal(found, store.folder / FOLDS_NAME)
    assert "MRN" not in (store.folder / FOLDS_NAME).read_text()


def test_a_lesson_in_words() -> None:
    lesson = Lesson("b", ["c0", "c2"], ["c1"], {}, "mean Dice", 0.5, 0.75, True)
    assert lesson.in_words() == (
        "b: learned from 2 cases; mean Dice of 1 held out 0.750, before 0.500. They are taken."
    )
    lesson.taken, lesson.after = False, 0.25
    assert lesson.in_words().endswith("0.250, before 0.500. The old weights stay.")


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
    assert "no person was held out" in lesson.in_words()
    assert verify(bundle / "models" / "model.pt").parent == before
