"""``neurobundle evaluate --pred --truth``: any two folders, tables or boxes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobundle.cli import main
from neurobundle.export.answers import answer_of, write_predictions
from neurobundle.export.comparison import CasePictures

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (8, 9, 10)


def block(value: float = 1, at: int = 2) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[at : at + 3, 2:6, 3:7] = value
    return labels


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


class Folders:
    """A folder of predictions beside one of references; ``anna`` and ``ben`` are good."""

    def __init__(self, root: Path) -> None:
        self.pred, self.truth, self.out = root / "pred", root / "truth", root / "out"
        for case in ("anna", "ben"):
            self.add(case, block(), block())

    def add(self, case: str, prediction: np.ndarray | None, reference: np.ndarray | None) -> None:
        if prediction is not None:
            save(self.pred / f"{case}_seg.nii.gz", prediction)
        if reference is not None:
            save(self.truth / f"{case}.nii.gz", reference)

    def run(self, *more: str, labels: str | None = "1") -> int:
        words = ["evaluate", "--pred", str(self.pred), "--truth", str(self.truth), "-o", str(self.out), *more]
        return main([*words, *(["--labels", labels] if labels else [])])

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.out / "per_case.csv").open() as file:
            return list(csv.DictReader(file))

    @property
    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return found

    @property
    def statuses(self) -> dict[str, str]:
        return {row["case"]: row["status"] for row in self.rows}


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def test_two_folders(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    folders.add("carl", block(at=3), block())
    assert folders.run() == 0
    assert [(row["case"], row["structure"], row["dice"]) for row in folders.rows] == [
        ("anna", "1", "1.000000"),
        ("ben", "1", "1.000000"),
        ("carl", "1", "0.666667"),
    ]
    assert folders.summary["structures"]["1"]["dice"]["mean"] == pytest.approx(0.888889)
    shown = capsys.readouterr().out
    assert "3 cases" in shown
    assert "0.889 (" in shown
    assert str(folders.out / "report.html") in shown


def test_the_spacing_counts(folders: Folders) -> None:
    """One step along the axis of 2 mm."""
    folders.add("carl", np.roll(block(), 1, axis=2), block())
    assert folders.run() == 0
    assert folders.rows[-1]["hd_mm"] == "2.000000"


def test_regions_from_a_file_and_further_scores(folders: Folders, tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text('{"WT": [1, 3], "ET": 3}')
    words = ("--tolerance", "1", "3", "--lesions", "--lesion-dilation", "1", "--ignore-lesions", "0.01")
    assert folders.run(*words, labels=str(labels)) == 0
    assert {row["structure"]: row["status"] for row in folders.rows} == {"WT": "ok", "ET": "empty"}
    assert {"nsd_3mm", "lesion_dice", "n_missed_lesions"} <= set(folders.rows[0])
    assert folders.summary["lesion_rule"] == {"dilation": 1, "ignored_ml": 0.01}


def test_cases_in_folders_of_their_own(folders: Folders) -> None:
    save(folders.pred / "carl" / "carl_seg.nii.gz", block())
    save(folders.truth / "carl_seg.nii.gz", block())
    assert folders.run() == 0
    assert set(folders.statuses) == {"anna", "ben", "carl"}


def test_subjects_come_from_a_table(folders: Folders, tmp_path: Path) -> None:
    table = tmp_path / "who.csv"
    table.write_text("case,subject\nanna,p1\nben,p1\n")
    assert folders.run("--subjects", str(table)) == 0
    assert {row["subject"] for row in folders.rows} == {"p1"}
    assert folders.summary["structures"]["1"]["dice"]["interval"] == [None, None], "one subject has no interval"
    table.write_text("case,subject\nanna,p1\n")
    assert folders.run("--subjects", str(table)) == 1


def test_of_several_channels_the_first_is_drawn(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folders.out.parent / "images"
    for channel in range(2):
        save(images / f"anna_000{channel}.nii.gz", np.arange(720, dtype=np.float32).reshape(SHAPE) + 1000 * channel)
    seen = []
    monkeypatch.setattr(
        "neurobundle.export.comparison.case_pictures",
        lambda image, *rest: seen.append(image) or CasePictures(b"", b"", ""),
    )
    assert folders.run("--images", str(images)) == 0
    assert [None if image is None else float(image.max()) for image in seen] == [719, None]


def test_images_are_drawn_and_a_bad_one_is_not(folders: Folders, caplog: pytest.LogCaptureFixture) -> None:
    images = folders.out.parent / "images"
    save(images / "anna_0000.nii.gz", np.arange(720, dtype=np.float32).reshape(SHAPE))
    save(images / "ben_0000.nii.gz", np.ones((3, 3, 3), np.float32))
    assert folders.run("--images", str(images)) == 0
    assert "ben_0000.nii.gz" in caplog.text
    assert "not drawn" in caplog.text
    assert (folders.out / "report.html").read_text().count("<img") >= 2


def test_pictures_can_be_left_out(folders: Folders) -> None:
    assert folders.run("--no-pictures") == 0
    assert "<img" not in (folders.out / "report.html").read_text()


def test_png_masks(tmp_path: Path) -> None:
    for folder, at in (("pred", 3), ("truth", 2)):
        (tmp_path / folder).mkdir()
        mask = np.zeros((20, 30), np.uint8)
        mask[at : at + 4, 5:9] = 1
        Image.fromarray(mask).save(tmp_path / folder / "0001.png")
    words = ["--pred", str(tmp_path / "pred"), "--truth", str(tmp_path / "truth"), "--labels", "1"]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "per_case.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["case"], row["dice"], row["hd_mm"]) == ("0001", "0.750000", "1.000000")


# --- bad input -------------------------------------------------------------------------------------------------------


def test_no_common_names(folders: Folders, caplog: pytest.LogCaptureFixture) -> None:
    for path in folders.truth.iterdir():
        path.rename(path.with_name(f"other_{path.name}x.nii.gz"))
    assert folders.run() == 4
    assert "no prediction has the name of a reference: there are anna_seg.nii.gz and other_anna" in caplog.text
    assert not folders.out.exists()


@pytest.mark.parametrize("which", ["pred", "truth"])
def test_an_empty_folder(folders: Folders, which: str, caplog: pytest.LogCaptureFixture) -> None:
    folder: Path = getattr(folders, which)
    for path in folder.iterdir():
        path.unlink()
    assert folders.run() == 2
    assert "no label maps here" in caplog.text
    folder.rmdir()
    assert folders.run() == 2
    assert f"--{which} is no folder" in caplog.text


def spoil_grid(folders: Folders) -> None:
    save(folders.pred / "carl_seg.nii.gz", block(), np.diag([1.0, 1.0, 2.5, 1.0]))
    folders.add("carl", None, block())


def spoil_shape(folders: Folders) -> None:
    folders.add("carl", block()[1:], block())


def spoil_labels(folders: Folders) -> None:
    folders.add("carl", block(5), block())


def spoil_half(folders: Folders) -> None:
    folders.add("carl", block().astype(np.float32) * 0.5, block())


def spoil_file(folders: Folders) -> None:
    folders.add("carl", block(), block())
    path = folders.pred / "carl_seg.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])


def spoil_by_leaving_out(folders: Folders) -> None:
    folders.add("carl", None, block())


def spoil_reference(folders: Folders) -> None:
    folders.add("carl", block(), block())
    (folders.truth / "carl.nii.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_grid, "corners are"),
        (spoil_shape, "has shape"),
        (spoil_labels, "it has the labels 5, which no structure has"),
        (spoil_half, "whole numbers"),
        (spoil_file, "carl_seg.nii.gz"),
        (spoil_by_leaving_out, "no prediction of this reference's name"),
        (spoil_reference, "carl.nii.gz"),
    ],
    ids=["grid", "shape", "labels", "half", "file", "left-out", "reference"],
)
def test_a_bad_case_is_named_and_counts_as_missed(
    folders: Folders, spoil: Any, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(folders)
    assert folders.run() == 3
    line = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("ERROR carl"))
    assert says in line
    assert line.count(". ") >= 1, "the cause, and the way out"
    assert folders.statuses == {"anna": "ok", "ben": "ok", "carl": "failed"}
    values = folders.summary["structures"]["1"]
    assert values["dice"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert values["hd95_mm"]["mean"] == pytest.approx(np.sqrt(8**2 + 9**2 + 20**2) / 3, abs=1e-5)
    assert "carl" in folders.summary["failed"]
    assert says in (folders.out / "report.html").read_text().replace("&#x27;", "'")


def test_all_cases_failed(folders: Folders) -> None:
    for case in ("anna", "ben"):
        folders.add(case, block(7), None)
    assert folders.run() == 4
    assert set(folders.statuses.values()) == {"failed"}


def test_a_prediction_without_a_reference_is_named_and_in_no_mean(
    folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    folders.add("carl", block(), None)
    assert folders.run() == 3
    assert "carl_seg.nii.gz: it is a prediction without a reference" in caplog.text
    assert folders.summary["n_cases"] == 2


def test_a_link_to_nowhere_is_named(folders: Folders, caplog: pytest.LogCaptureFixture) -> None:
    """As DataLad leaves them until they are fetched."""
    (folders.truth / "carl.nii.gz").symlink_to(folders.truth / "gone.nii.gz")
    assert folders.run() == 3
    assert "carl.nii.gz: it is no file, or a link that leads nowhere" in caplog.text


def test_a_problem_does_not_hide_behind_a_case_of_its_name(folders: Folders) -> None:
    folders.add("a b", block(), block())
    folders.add("a_b", block(), None)
    assert folders.run() == 3


def test_what_is_written_names_no_folder(folders: Folders) -> None:
    spoil_file(folders)
    assert folders.run() == 3
    for name in ("per_case.csv", "summary.json", "report.html"):
        assert str(folders.out.parent) not in (folders.out / name).read_text()
    assert "carl_seg.nii.gz" in folders.summary["failed"]["carl"]


def test_images_that_are_not_there_are_a_usage_error(folders: Folders) -> None:
    assert folders.run("--images", str(folders.out.parent / "nope")) == 1


def test_other_labels_may_be_ignored(folders: Folders) -> None:
    both = block()
    both[0, 0, 0] = 9
    folders.add("carl", both, block())
    assert folders.run() == 3
    assert folders.run("--other-labels", "ignore") == 0
    assert set(folders.statuses.values()) == {"ok"}


def test_whole_floats_are_accepted_with_a_note(folders: Folders, caplog: pytest.LogCaptureFixture) -> None:
    folders.add("carl", block().astype(np.float32), block().astype(np.float64))
    assert folders.run() == 0
    assert "NOTE 2 label maps are stored as floating-point numbers" in caplog.text
    assert "floating-point" in (folders.out / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "either a bundle's name, or --pred and --truth"),
        (["--pred", "a"], "either a bundle's name, or --pred and --truth"),
        (["hippocampus_segmentation", "--pred", "a", "--truth", "b"], "either a bundle's name"),
        (["hippocampus_segmentation"], "--data is missing"),
        (["--pred", ".", "--truth", "."], "--labels is missing"),
        (["--pred", "a.csv", "--truth", "."], "--pred is a table and --truth a folder"),
        (["--pred", ".", "--truth", ".", "--labels", "1", "--fold", "4"], "--fold means nothing for a folder"),
        (["--pred", "a.csv", "--truth", "b.csv", "--lesions"], "--lesions means nothing for a table"),
        (["--pred", "a.json", "--truth", "b.json", "--labels", "1"], "--labels means nothing for a JSON file"),
        (["hippocampus_segmentation", "--data", "d", "--tolerance", "2"], "--tolerance means nothing for a bundle"),
        (["--pred", ".", "--truth", ".", "--labels", "0"], "no structure"),
        (["--pred", ".", "--truth", ".", "--labels", "1", "--tolerance", "-1"], "tolerances"),
    ],
    ids=[
        *("nothing", "half", "both", "no-data", "no-labels", "kinds", "fold", "lesions", "labels", "bundle"),
        *("background", "tolerance"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    words: Sequence[str], says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 1
    assert says in caplog.text


# --- classes and boxes -----------------------------------------------------------------------------------------------


def test_a_table_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "truth.csv").write_text("case,truth,subject\na,glioma,p1\nb,glioma,p2\nc,none,p3\n")
    (tmp_path / "pred.csv").write_text("case,p_glioma,p_none\na,0.9,0.1\nb,0.4,0.6\nc,0.2,0.8\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["accuracy"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert summary["confusion"] == {"labels": ["glioma", "none"], "counts": [[1, 1], [0, 1]]}
    assert "balanced_accuracy" in capsys.readouterr().out
    assert "glioma" in (tmp_path / "out" / "report.html").read_text()


def test_a_table_that_lacks_a_case_and_has_a_stranger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,label\na,x\nb,y\n")
    (tmp_path / "pred.csv").write_text("case,prediction\na,x\nz,y\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 3
    assert "ERROR b " in caplog.text
    assert "ERROR z " in caplog.text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["n_cases"], summary["n_failed"], summary["accuracy"]["mean"]) == (2, 1, 0.5)


def test_a_blank_answer_is_a_failed_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,label\na,x\nb,y\n")
    (tmp_path / "pred.csv").write_text("case,p_x,p_y\na,0.8,0.2\nb,,\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 3
    assert "line 3 is blank" in caplog.text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["n_failed"], summary["accuracy"]["mean"]) == (1, 0.5)


def test_what_a_run_of_classes_wrote(tmp_path: Path) -> None:
    """A case of which no class was named is scored by its probabilities; one that failed is wrong."""
    sure, unsure = answer_of([0.9, 0.1], ["x", "y"]), answer_of([0.4, 0.6], ["x", "y"], abstain_below=0.7)
    answers: dict[str, Any] = {"a": asdict(sure), "b": asdict(unsure), "c": {}}
    write_predictions(tmp_path / "predictions.csv", ["x", "y"], answers)
    (tmp_path / "truth.csv").write_text("case,label\na,x\nb,y\nc,y\n")
    words = ["--pred", str(tmp_path / "predictions.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 3
    with (tmp_path / "out" / "per_case.csv").open() as file:
        rows = [(row["case"], row["prediction"], row["status"]) for row in csv.DictReader(file)]
    assert rows == [("a", "x", "ok"), ("b", "y", "ok"), ("c", "", "failed")]


def test_tables_without_a_common_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,label\na,x\nb,y\n")
    (tmp_path / "pred.csv").write_text("case,prediction\nq,x\nz,y\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 4
    assert "no case is in both tables" in caplog.text
    assert not (tmp_path / "out").exists()


def test_classes_under_other_names_are_a_usage_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,label\na,x\nb,y\n")
    (tmp_path / "pred.csv").write_text("case,prediction\na,0\nb,1\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv"), "-o", str(tmp_path / "out")]
    assert main(["evaluate", *words]) == 1
    assert "the predictions say 0, 1, the references x, y" in caplog.text
    assert main(["evaluate", *words, "--classes", "x,y"]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"]["mean"] == 1


def test_an_input_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "per_case.csv").write_text("case,label\na,x\nb,y\n")
    (tmp_path / "pred.csv").write_text("case,prediction\na,x\nb,y\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "per_case.csv"), "-o", str(tmp_path)]
    assert main(["evaluate", *words]) == 1
    assert (tmp_path / "per_case.csv").read_text().startswith("case,label")


def test_our_own_table_is_a_table_of_references(tmp_path: Path) -> None:
    """It has a truth and a prediction: the truth counts."""
    (tmp_path / "truth.csv").write_text("case,subject,truth,prediction,correct,status\na,a,x,y,0,ok\nb,b,y,y,1,ok\n")
    (tmp_path / "pred.csv").write_text("case,prediction\na,x\nb,y\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["accuracy"]["mean"] == 1


def validation(folder: Path, subject: str = "v") -> list[str]:
    """Eight answers that are surer than they are right: .9 sure, and three of four right."""
    lines = [("yes", 0.9), ("yes", 0.9), ("yes", 0.9), ("no", 0.9), ("no", 0.1), ("no", 0.1), ("no", 0.1), ("yes", 0.1)]
    (folder / "v_truth.csv").write_text(
        "case,truth,subject\n" + "".join(f"v{n},{label},{subject}{n}\n" for n, (label, _) in enumerate(lines))
    )
    (folder / "v_pred.csv").write_text(
        "case,p_no,p_yes\n" + "".join(f"v{n},{1 - p:.1f},{p}\n" for n, (_, p) in enumerate(lines))
    )
    return ["--tune-pred", str(folder / "v_pred.csv"), "--tune-truth", str(folder / "v_truth.csv")]


def test_temperature_and_threshold_are_chosen_on_validation_cases(tmp_path: Path) -> None:
    """Where .9 is right three times of four, it should say .75: a temperature of log 9 / log 3 = 2."""
    (tmp_path / "truth.csv").write_text("case,truth\na,yes\nb,no\nc,no\n")
    (tmp_path / "pred.csv").write_text("case,p_no,p_yes\na,0.1,0.9\nb,0.9,0.1\nc,0.4,0.6\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv"), *validation(tmp_path)]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    chosen = summary["chosen on validation"]
    assert chosen["temperature"]["value"] == pytest.approx(2, abs=1e-3)
    assert chosen["threshold"]["value"] == pytest.approx(0.75, abs=1e-4)
    with (tmp_path / "out" / "per_case.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    assert float(rows["a"]["p_yes"]) == pytest.approx(0.75, abs=1e-3)
    assert rows["c"]["prediction"] == "no", ".55 after cooling, below the threshold"
    assert summary["accuracy"]["mean"] == 1


def test_a_validation_case_that_failed_chooses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,truth\na,yes\nb,no\n")
    (tmp_path / "pred.csv").write_text("case,p_no,p_yes\na,0.1,0.9\nb,0.9,0.1\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv"), *validation(tmp_path)]
    for name, line in (("v_pred.csv", "failed,,\n"), ("v_truth.csv", "failed,yes,w\n")):
        with (tmp_path / name).open("a") as file:
            file.write(line)
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 0
    assert "1 validation cases have no prediction" in caplog.text
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["chosen on validation"]["temperature"]["value"] == pytest.approx(2, abs=1e-3)


def test_nothing_is_chosen_on_people_who_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,truth,subject\na,yes,v0\nb,no,w\n")
    (tmp_path / "pred.csv").write_text("case,p_no,p_yes\na,0.1,0.9\nb,0.9,0.1\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv"), *validation(tmp_path)]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 4
    assert "1 subjects or cases are in the validation and in what is reported, v0 for one" in caplog.text
    assert not (tmp_path / "out").exists()


def test_the_table_of_subjects_counts_for_the_validation_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same person under two case names."""
    (tmp_path / "truth.csv").write_text("case,truth\na,yes\nb,no\n")
    (tmp_path / "pred.csv").write_text("case,p_no,p_yes\na,0.1,0.9\nb,0.9,0.1\n")
    rows = ["case,subject", "a,anna", "b,ben", *(f"v{n},{'anna' if n == 3 else n}" for n in range(8))]
    (tmp_path / "who.csv").write_text("\n".join(rows) + "\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv"), *validation(tmp_path)]
    assert main(["evaluate", *words, "--subjects", str(tmp_path / "who.csv"), "-o", str(tmp_path / "out")]) == 4
    assert "anna for one" in caplog.text
    (tmp_path / "who.csv").write_text("case,subject\na,anna\nb,ben\n")
    assert main(["evaluate", *words, "--subjects", str(tmp_path / "who.csv"), "-o", str(tmp_path / "out")]) == 1


def test_nothing_is_chosen_without_probabilities(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "truth.csv").write_text("case,truth\na,yes\nb,no\n")
    (tmp_path / "pred.csv").write_text("case,p_no,p_yes\na,0.1,0.9\nb,0.9,0.1\n")
    tuning = validation(tmp_path)
    (tmp_path / "v_pred.csv").write_text("case,prediction\nv0,yes\nv4,no\n")
    words = ["--pred", str(tmp_path / "pred.csv"), "--truth", str(tmp_path / "truth.csv")]
    assert main(["evaluate", *words, *tuning, "-o", str(tmp_path / "out")]) == 4
    assert "has a class and no probabilities" in caplog.text
    assert main(["evaluate", *words, *tuning[:2], "-o", str(tmp_path / "out")]) == 1


def test_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = {"category_id": 1, "bbox": [2, 3, 10, 10]}
    truth = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "tumour"}],
        "annotations": [{"id": 1, "image_id": 1, **box}, {"id": 2, "image_id": 2, **box}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "pred.json").write_text(json.dumps([{"image_id": 1, "score": 0.9, **box}]))
    words = ["--pred", str(tmp_path / "pred.json"), "--truth", str(tmp_path / "truth.json"), "--iou", "0.75"]
    (tmp_path / "who.csv").write_text("case,subject\na,anna\nb,anna\n")
    words += ["--subjects", str(tmp_path / "who.csv")]
    assert main(["evaluate", *words, "-o", str(tmp_path / "out")]) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["recall"]["mean"], summary["precision"]["mean"], summary["iou_threshold"]) == (0.5, 1, 0.75)
    assert summary["recall"]["interval"] == [None, None], "one subject"
    assert set(summary["sha256"]) == {"predictions", "references"}
    assert "map50" in capsys.readouterr().out
    assert "tumour" in (tmp_path / "out" / "report.html").read_text()
