from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.commands.split import split
from neurobundle.errors import EnvironmentFault, InputError, NoInputError, SettingError
from neurobundle.load.datalist import fold_items
from neurobundle.train.folds import audit_folds


@pytest.fixture
def data(tmp_path: Path, make_pair: Callable) -> Path:
    """Six small pairs in a folder pair."""
    for number in range(6):
        make_pair(tmp_path / "data", f"case_{number}", seed=number)
    return tmp_path / "data"


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_clean_folder(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = split(data, tmp_path / "d.json", folds=3, group_by="blocks:2", label_values=[0, 1, 2])
    assert report["passed"] == [f"case_{n}" for n in range(6)]
    assert (report["failed"], errors(caplog)) == ([], [])
    assert report["label_values"] == [0, 1, 2]
    assert "6 cases in 3 groups (blocks:2) dealt to 3 folds with 2, 2, 2 cases" in report["description"]
    assert len(fold_items(tmp_path / "d.json", fold=0)) == 4
    assert audit_folds(tmp_path / "d.json") == []


def test_what_stands_in_the_file(data: Path, tmp_path: Path) -> None:
    """Names, labels and how it was made; no absolute path, so that it can be shared."""
    split(data, tmp_path / "d.json", folds=2, group_by="case", test_share=0.34)
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["labels"] == {"0": "background", "1": "label 1", "2": "label 2"}
    assert (content["name"], content["numTraining"], content["numTest"]) == ("data", 4, 2)
    how = content["split"]
    assert (how["folds"], how["group_by"], how["seed"], how["groups"], how["left_out"]) == (2, "case", 0, 6, 0)
    assert set(content["training"][0]) == {"case", "subject", "fold", "image", "label"}
    assert content["test"][0]["image"].startswith("data/images/")
    assert str(tmp_path) not in (tmp_path / "d.json").read_text()


def test_twice_the_same_bytes(data: Path, tmp_path: Path) -> None:
    first = split(data, tmp_path / "a.json", folds=2, group_by="case")
    second = split(data, tmp_path / "b.json", folds=2, group_by="case")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert first["cases"] == second["cases"]


def test_relative_to_the_data(data: Path, tmp_path: Path) -> None:
    """As a bundle ships it: apart from the data, which is named when it is read."""
    split(data, tmp_path / "bundle/d.json", folds=2, group_by="case", relative_to_data=True)
    assert json.loads((tmp_path / "bundle/d.json").read_text())["training"][0]["image"] == "images/case_0.nii.gz"
    assert len(fold_items(tmp_path / "bundle/d.json", data, part="all")) == 6


def test_the_bad_are_named_and_the_others_done(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of each fault, in one run."""
    label = nib.load(data / "labels/case_1.nii.gz")
    seven = np.asarray(label.dataobj).copy()
    seven[0, 0, 0] = 7
    nib.save(nib.Nifti1Image(seven, label.affine), data / "labels/case_1.nii.gz")
    whole = (data / "images/case_2.nii.gz").read_bytes()
    (data / "images/case_2.nii.gz").write_bytes(whole[: len(whole) // 2])
    nib.save(nib.Nifti1Image(seven[1:], label.affine), data / "labels/case_3.nii.gz")
    (data / "labels/case_4.nii.gz").rename(data / "labels/case_9.nii.gz")
    report = split(data, tmp_path / "d.json", folds=2, group_by="case", label_values=[0, 1, 2])
    assert report["passed"] == ["case_0", "case_5"]
    said = {entry["case"]: entry["error"] for entry in report["failed"]}
    assert sorted(said) == ["case_1", "case_2", "case_3", "case_4", "case_9"]
    assert "labels {7} not in {0..2}" in said["case_1"]
    assert "truncated" in said["case_2"]
    assert "the label has shape (34, 50, 36)" in said["case_3"]
    assert "image without a label" in said["case_4"]
    assert "label without an image" in said["case_9"]
    lines = errors(caplog)
    assert len(lines) == 5
    assert f"ERROR case_2 {data / 'images/case_2.nii.gz'}: it is truncated" in " ".join(lines)
    assert all(line.startswith("ERROR case_") and "\n" not in line for line in lines)
    assert [row["passed"] for row in report["cases"]] == [True] * 2 + [False] * 5
    assert "5 left out" in report["description"]
    assert [item["case"] for item in fold_items(tmp_path / "d.json", part="all")] == ["case_0", "case_5"]


def test_nothing_is_good(data: Path, tmp_path: Path) -> None:
    report = split(data, tmp_path / "d.json", folds=2, group_by="case", label_values=[0])
    assert (report["passed"], len(report["failed"]), report["datalist"]) == ([], 6, None)
    assert not (tmp_path / "d.json").exists()


def test_known_labels_come_from_dataset_json(data: Path, tmp_path: Path) -> None:
    (data / "images").rename(data / "imagesTr")
    (data / "labels").rename(data / "labelsTr")
    names = [{"image": f"imagesTr/case_{n}.nii.gz", "label": f"labelsTr/case_{n}.nii.gz"} for n in range(6)]
    stated = {"training": names, "labels": {"0": "background", "1": "Anterior"}, "modality": {"0": "MRI"}}
    (data / "dataset.json").write_text(json.dumps(stated))
    assert len(split(data, tmp_path / "d.json", folds=2, group_by="case")["failed"]) == 6
    stated["labels"]["2"] = "Posterior"
    (data / "dataset.json").write_text(json.dumps(stated))
    assert split(data, tmp_path / "d.json", folds=2, group_by="case")["layout"] == "decathlon"
    content = json.loads((tmp_path / "d.json").read_text())
    assert content["labels"] == stated["labels"]
    assert content["modality"] == {"0": "MRI"}


def test_two_channels(tmp_path: Path, make_pair: Callable) -> None:
    root = tmp_path / "nnunet"
    for number in range(2):
        image, label = make_pair(root, f"c{number}", seed=number)
        (root / "imagesTr").mkdir(exist_ok=True)
        (root / "labelsTr").mkdir(exist_ok=True)
        for channel in range(2):
            shutil.copy(image, root / f"imagesTr/c{number}_{channel:04d}.nii.gz")
        shutil.copy(label, root / f"labelsTr/c{number}.nii.gz")
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "labels")
    assert split(root, tmp_path / "d.json", folds=2, group_by="case")["layout"] == "nnunet"
    assert [Path(name).name for name in fold_items(tmp_path / "d.json", part="all")[0]["image"]] == [
        "c0_0000.nii.gz",
        "c0_0001.nii.gz",
    ]


def test_bids_groups_by_subject_by_itself(tmp_path: Path, make_pair: Callable) -> None:
    root = tmp_path / "bids"
    for seed, (sub, ses) in enumerate([(1, 1), (1, 2), (2, 1)]):
        image, label = make_pair(tmp_path / "made", "x", seed)
        name = f"sub-{sub}_ses-{ses}"
        for folder, source, kind in ((root, image, "T1w"), (root / "derivatives/drawn", label, "dseg")):
            place = folder / f"sub-{sub}/ses-{ses}/anat"
            place.mkdir(parents=True)
            shutil.copy(source, place / f"{name}_{kind}.nii.gz")
    report = split(root, tmp_path / "d.json", folds=2)
    sides = {row["case"]: (row["subject"], row["fold"]) for row in report["cases"]}
    assert sides["sub-1_ses-1_T1w"] == sides["sub-1_ses-2_T1w"] == ("sub-1", 0)


def test_a_guess_is_not_made(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="does not say which cases are one person's"):
        split(data, tmp_path / "d.json")


def test_a_copy_under_another_name(data: Path, tmp_path: Path) -> None:
    """Refused with both files; merged if asked, and the report says so."""
    for folder in ("images", "labels"):
        shutil.copy(data / folder / "case_0.nii.gz", data / folder / "case_70.nii.gz")
    with pytest.raises(InputError, match="the same content is in two groups: case_0"):
        split(data, tmp_path / "d.json", folds=2, group_by="case")
    assert not (tmp_path / "d.json").exists()
    report = split(data, tmp_path / "d.json", folds=2, group_by="case", merge_duplicates=True)
    assert "Merged because of shared content or subject: case_0 + case_70." in report["description"]


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(NoInputError):
        split(tmp_path / "data", tmp_path / "d.json", group_by="case")


def test_output_in_a_files_place(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        split(data, tmp_path / "out/d.json", folds=2, group_by="case")


def test_output_is_a_folder(data: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="a folder, not a file"):
        split(data, tmp_path, folds=2, group_by="case")


def test_progress_sees_every_pair(data: Path, tmp_path: Path) -> None:
    seen = []

    def progress(pairs: list) -> object:
        for pair in pairs:
            seen.append(pair.case)
            yield pair

    split(data, tmp_path / "d.json", folds=2, group_by="case", progress=progress)
    assert len(seen) == 6


def test_real_hippocampus_with_its_dirt(real_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The set as published: 202 pairs pass, image 118 and label 281 are named, and so is 281 once it has an image."""
    source = real_data / "hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        for file in (source / folder).glob("*.nii.gz"):
            (tmp_path / folder / file.name).symlink_to(file)
    shutil.copy(source / "dirty/images/hippocampus_118.nii.gz", tmp_path / "imagesTr")
    shutil.copy(source / "dirty/labels/hippocampus_281.nii.gz", tmp_path / "labelsTr")
    report = split(tmp_path, tmp_path / "d.json", group_by="blocks:10", label_values=[0, 1, 2])
    assert len(report["passed"]) == 202
    assert sorted(entry["case"] for entry in report["failed"]) == ["hippocampus_118", "hippocampus_281"]
    assert len(errors(caplog)) == 2
    shutil.copy(source / "imagesTr/hippocampus_280.nii.gz", tmp_path / "imagesTr/hippocampus_281.nii.gz")
    report = split(tmp_path, tmp_path / "d.json", group_by="blocks:10", label_values=[0, 1, 2])
    assert "the label has shape (512, 512, 94)" in {e["case"]: e["error"] for e in report["failed"]}["hippocampus_281"]
