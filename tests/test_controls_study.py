"""Pictures without their tumour and with nothing else, and the study that trains on them."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurobundle.cli import main
from neurobundle.commands import crossval
from neurobundle.errors import InputError, SettingError
from neurobundle.load.datalist import read_datalist
from neurobundle.measure.classification_evaluation import ClassificationEvaluation
from neurobundle.prepare.classification import classification_preprocessing

from .conftest import ROOT

STUDIES = ROOT / "benchmarks" / "studies"
CLASSES = ["glioma", "meningioma", "pituitary"]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module; a study is a script, and is imported here to be looked into."""
    monkeypatch.syspath_prepend(str(STUDIES))
    return importlib.import_module("controls")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crossval's trainings run here: starting a process takes longer than they do."""

    def run(words: list[str], **_: Any) -> SimpleNamespace:
        return SimpleNamespace(returncode=main(words[3:]))

    monkeypatch.setattr(crossval, "subprocess", SimpleNamespace(run=run, STDOUT=None))


def make_pictures(folder: Path, persons: int = 12, folds: int = 2) -> Path:
    """Heads of two slices a person with a bright spot, whose place is the class; and its outline."""
    rng, items = np.random.default_rng(0), []
    rows, columns = np.indices((48, 48))
    for person in range(persons):
        for n in range(2):
            label, case = person % 3, f"p{person:02d}_{n}"
            spot = (rows - 14 - 8 * label) ** 2 + (columns - 22) ** 2 < 20
            head = 90.0 * ((rows - 24) ** 2 + (columns - 24) ** 2 < 500) + rng.normal(0, 4, rows.shape)
            for name, array in ((case, (head + 80 * spot).clip(0, 255)), (f"{case}_mask", 255.0 * spot)):
                Image.fromarray(array.astype(np.uint8)).save(folder / f"{name}.png")
            item = {"case": case, "subject": f"p{person:02d}", "fold": person // 3 % folds, "label": label}
            items.append({**item, "image": f"{case}.png", "mask": f"{case}_mask.png"})
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": items, "labels": dict(enumerate(CLASSES))}))
    return path


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return make_pictures(tmp_path / "data")


def cell_of_one() -> tuple[np.ndarray, np.ndarray]:
    """One pixel of tumour in the middle of 21 x 21, brighter to the right."""
    mask = np.zeros((21, 21), np.uint8)
    mask[10, 10] = 255
    return np.tile(np.arange(21, dtype=np.uint8) * 10, (21, 1)), mask


def test_the_region_is_a_disc_and_its_ring_lies_around_it(study: ModuleType) -> None:
    """Within 3 pixels of one: 29 of them; within 7: 149."""
    region, ring = study.region_of(cell_of_one()[1] > 0)
    assert (int(region.sum()), int((region | ring).sum())) == (29, 149)
    assert region[10, 13]
    assert not region[10, 14]
    assert not (region & ring).any()


def test_a_blanked_region_has_the_mean_of_its_ring(study: ModuleType) -> None:
    """The ring is even on both sides of a ramp, so its mean is the middle's grey; all else is as it was."""
    pixels, mask = cell_of_one()
    region, _ = study.region_of(mask > 0)
    blanked = study.controlled(pixels, mask, "blanked")
    assert blanked.dtype == np.uint8
    assert set(blanked[region].tolist()) == {100}
    assert np.array_equal(blanked[~region], pixels[~region])


def test_only_the_region_is_left(study: ModuleType) -> None:
    pixels, mask = cell_of_one()
    region, _ = study.region_of(mask > 0)
    only = study.controlled(pixels, mask, "only")
    assert np.array_equal(only[region], pixels[region])
    assert not only[~region].any()
    assert pixels[0, 20] == 200, "the original is untouched"


@pytest.mark.parametrize(
    ("mask", "message"),
    [(np.zeros((4, 4)), "its mask is empty"), (np.ones((4, 4)), "no pixel around it"), (np.ones((4, 5)), "the shape")],
)
def test_masks_that_cannot_be(study: ModuleType, mask: np.ndarray, message: str) -> None:
    for control in study.CONTROLS:
        with pytest.raises(InputError, match=message):
            study.controlled(np.zeros((4, 4), np.uint8), mask, control)


def given(datalist: Path, output: Path) -> SimpleNamespace:
    return SimpleNamespace(datalist=datalist, dataset_dir=datalist.parent, output=output)


def test_a_control_has_the_same_cases_persons_folds_and_masks(
    study: ModuleType, datalist: Path, tmp_path: Path
) -> None:
    """And so has what trains, but for the masks, which are nobody's there."""
    output = tmp_path / "out"
    lists = study.write_lists(given(datalist, output))
    before = read_datalist(datalist)
    alike = ("case", "subject", "fold", "label")
    for control in study.CONTROLS:
        after = read_datalist(output / "pictures" / control / "datalist.json")
        for key in (*alike, "mask"):
            assert [item[key] for item in after] == [item[key] for item in before]
        assert all(Path(item["image"]).parent == output / "pictures" / control / "images" for item in after)
        assert [item["image"] for item in read_datalist(lists[control])] == [item["image"] for item in after]
    assert [item["image"] for item in read_datalist(lists["unchanged"])] == [item["image"] for item in before]
    for path in lists.values():
        trains = read_datalist(path)
        assert [[item[key] for key in alike] for item in trains] == [[item[key] for key in alike] for item in before]
        assert not any("mask" in item for item in trains)
        assert json.loads(path.read_text())["labels"] == {"0": "glioma", "1": "meningioma", "2": "pituitary"}


def test_pictures_that_are_there_stay_and_others_are_not_mixed_in(
    study: ModuleType, datalist: Path, tmp_path: Path
) -> None:
    lists = study.write_lists(given(datalist, tmp_path / "out"))
    pictures = tmp_path / "out" / "pictures"
    gone, kept = (pictures / control / "images" / "p00_0.png" for control in study.CONTROLS)
    content, datalists = gone.read_bytes(), {name: path.read_bytes() for name, path in lists.items()}
    gone.unlink()
    kept_since = kept.stat().st_mtime_ns
    again = study.write_lists(given(datalist, tmp_path / "out"))
    assert gone.read_bytes() == content
    assert kept.stat().st_mtime_ns == kept_since
    assert {name: path.read_bytes() for name, path in again.items()} == datalists
    (tmp_path / "other").mkdir()
    with pytest.raises(SettingError, match="controls of other pictures"):
        study.write_lists(given(make_pictures(tmp_path / "other"), tmp_path / "out"))


def test_a_bad_case_is_named(study: ModuleType, datalist: Path, tmp_path: Path) -> None:
    (datalist.parent / "p03_1.png").write_bytes(b"nothing")
    with pytest.raises(InputError) as caught:
        study.write_lists(given(datalist, tmp_path / "out"))
    assert caught.value.case == "p03_1"
    assert str(caught.value.file).endswith("p03_1.png")
    content = json.loads(datalist.read_text())
    del content["training"][3]["mask"]
    content["training"][5]["mask"] = 0
    datalist.write_text(json.dumps(content))
    with pytest.raises(SettingError, match="2 cases have no mask of a tumour"):
        study.write_lists(given(datalist, tmp_path / "other"))


def evaluated(study: ModuleType, folder: Path, wrong: set[int], cases: int = 12) -> Any:
    """An evaluation of cases of six persons, wrong in some; half of the cases are of the first class."""
    evaluation = ClassificationEvaluation(["a", "b"])
    for n in range(cases):
        answer = [0.9, 0.1] if (n % 2 == 0) != (n in wrong) else [0.1, 0.9]
        evaluation.add(f"c{n}", n % 2, answer, f"p{n // 2}")
    evaluation.write(folder)
    return study.scored(folder)


def test_pairs_are_tested_by_person_and_corrected(study: ModuleType, tmp_path: Path) -> None:
    """A is right in all; B is wrong in one case of each of six persons: p = 2 / 2^6, twice that after Holm's."""
    a = evaluated(study, tmp_path / "a", set())
    b = evaluated(study, tmp_path / "b", {0, 2, 4, 6, 8, 10})
    c = evaluated(study, tmp_path / "c", {0})
    assert (a.majority, sum(b.right.values())) == (0.5, 6)
    found = study.paired({"b": (b, a), "c": (c, a)})
    assert found["b"]["difference"] == -0.5
    assert found["b"]["p"] == pytest.approx(2 / 64)
    assert found["b"]["p_holm"] == pytest.approx(4 / 64)
    assert found["c"]["p"] == found["c"]["p_holm"] == 1
    assert found["b"]["persons"] == 6
    assert study.difference_cells(found["b"]) == ["-.500 (-.500 to -.500)", ".031", ".062"]
    with pytest.raises(InputError, match="12 and 10 cases"):
        study.paired({"d": (a, evaluated(study, tmp_path / "d", set(), 10))})


def run(study: ModuleType, monkeypatch: pytest.MonkeyPatch, datalist: Path, output: Path, *more: str) -> None:
    words = ["controls.py", "--datalist", str(datalist), "-o", str(output), "--device", "cpu", *more]
    monkeypatch.setattr(sys, "argv", words)
    study.main()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "0"], "--epochs and --size are 1 or more"),
        (["-o", str(ROOT / "out")], "is in the repository"),
        (["--dataset-dir", "/nowhere-at-all"], "is no folder"),
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


def test_the_field_of_view_is_the_bundle_s(study: ModuleType) -> None:
    """Half as many pixels are twice as large."""
    budgets = [study.budget_of(SimpleNamespace(epochs=2, size=size, device="cpu", small=False)) for size in (48, 96)]
    assert budgets[0]["pixel_mm"] == pytest.approx(2 * budgets[1]["pixel_mm"], rel=1e-3)
    assert set(budgets[0]) == {"epochs", "size", "pixel_mm", "device"}


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The rows of the table and the line of JSON, without what the trainings say."""
    lines = capsys.readouterr().out.splitlines()
    return [*(line for line in lines if line.startswith("| ")), lines[-1]]


@pytest.mark.slow
def test_the_whole_study_and_again(
    study: ModuleType,
    in_process: None,
    monkeypatch: pytest.MonkeyPatch,
    datalist: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All three runs with one budget and no mask head; a second run trains nothing, and says the same."""
    output = tmp_path / "out"
    more = ("--small", "--epochs", "1", "--size", "32")
    run(study, monkeypatch, datalist, output, *more)
    first = said(capsys)
    figures = json.loads(first[-1])
    assert (figures["cases"], figures["persons"], figures["majority"]) == (24, 12, pytest.approx(1 / 3))
    assert json.loads((output / "summary.json").read_text())["rows"].keys() == {"unchanged", "blanked", "only"}
    plans = [json.loads((output / name / "crossval.json").read_text())["settings"] for name in figures["rows"]]
    assert plans[0] == plans[1] == plans[2]
    assert plans[0]["mask_head"] is False
    assert [line.split(" | ")[0] for line in first[:-1]] == ["| pictures", "| unchanged", "| blanked", "| only"]
    weights = {path: path.stat().st_mtime_ns for path in output.glob("*/fold*/final.pt")}
    assert len(weights) == 6
    run(study, monkeypatch, datalist, output, *more)
    assert said(capsys) == first
    assert {path: path.stat().st_mtime_ns for path in weights} == weights


@pytest.mark.slow
def test_real_pictures_can_be_prepared_with_either_part_alone(
    study: ModuleType, real_data: Path, tmp_path: Path
) -> None:
    """A small tumour on nothing still has a signal; and the region of a real outline becomes even."""
    folder = real_data / "ce_mri"
    items = read_datalist(ROOT / "bundles/tumor_type_classification/configs/datalist.json", base_dir=folder)[::200]
    prepare = classification_preprocessing(["image"], size=96, spacing_mm=2.4)
    for item in items:
        pixels, mask = (np.array(Image.open(item[key])) for key in ("image", "mask"))
        region, _ = study.region_of(mask > 0)
        for control in study.CONTROLS:
            changed = study.controlled(pixels, mask, control)
            assert bool(np.ptp(changed[region]) == 0) is (control == "blanked")
            Image.fromarray(changed).save(tmp_path / "picture.png")
            prepared = prepare({"image": str(tmp_path / "picture.png")})["image"]
            assert prepared.shape == (1, 96, 96, 1)
            assert bool(prepared.isfinite().all())
            assert float(prepared.std()) > 0
