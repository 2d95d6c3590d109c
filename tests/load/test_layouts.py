from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.load.layouts import find_pairs


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def shown(root: Path, found: object) -> list[tuple]:
    """Case, images and label of each pair, relative to the root."""
    return [(pair.case, *[str(path.relative_to(root)) for path in (*pair.images, pair.label)]) for pair in found.pairs]


def causes(found: object) -> dict[str, str]:
    return {Path(problem.file).name: problem.cause for problem in found.problems}


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_folder_pair(tmp_path: Path, images: str, labels: str) -> None:
    touch(tmp_path, f"{images}/b.nii.gz", f"{images}/a.nii", f"{labels}/b_seg.nii.gz", f"{labels}/a.nii.gz")
    found = find_pairs(tmp_path)
    assert shown(tmp_path, found) == [
        ("a", f"{images}/a.nii", f"{labels}/a.nii.gz"),
        ("b", f"{images}/b.nii.gz", f"{labels}/b_seg.nii.gz"),
    ]
    assert not found.problems


def test_named_folders(tmp_path: Path) -> None:
    touch(tmp_path, "t1/anna.nii.gz", "drawn/anna/anna_seg.nii.gz")
    found = find_pairs(tmp_path, images="t1", labels=tmp_path / "drawn")
    assert found.layout == "folders"
    assert shown(tmp_path, found) == [("anna", "t1/anna.nii.gz", "drawn/anna/anna_seg.nii.gz")]


def test_odd_names_pair_with_our_own_outputs(tmp_path: Path) -> None:
    """faults.md 28: a label that ``run`` wrote under the safe name belongs to the image with the odd name."""
    touch(tmp_path, "images/my scan.nii.gz", "labels/my_scan_seg.nii.gz")
    assert [pair.case for pair in find_pairs(tmp_path).pairs] == ["my_scan"]


def test_hidden_files_are_nobodys(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz", "images/._a.nii.gz", "images/.DS_Store", "labels/._b.nii.gz")
    touch(tmp_path, "images/readme.txt", "images/.cache/c.nii.gz")
    found = find_pairs(tmp_path)
    assert len(found.pairs) == 1
    assert not found.problems


def test_image_without_label_and_label_without_image(tmp_path: Path) -> None:
    """Each is named, is not paired with the other, and the rest goes on."""
    touch(tmp_path, "images/a_118.nii.gz", "labels/a_281.nii.gz", "images/a_1.nii.gz", "labels/a_1.nii.gz")
    found = find_pairs(tmp_path)
    assert [pair.case for pair in found.pairs] == ["a_1"]
    assert causes(found) == {
        "a_118.nii.gz": "it is an image without a label",
        "a_281.nii.gz": "it is a label without an image",
    }
    assert all(isinstance(problem, InputError) and problem.case and problem.way_out for problem in found.problems)


def test_names_that_do_not_match(tmp_path: Path) -> None:
    touch(tmp_path, "images/anna.nii.gz", "labels/anna_lesions.nii.gz")
    found = find_pairs(tmp_path)
    assert causes(found) == {
        "anna.nii.gz": "its name does not match that of the label anna_lesions.nii.gz",
        "anna_lesions.nii.gz": "its name does not match that of the image anna.nii.gz",
    }


def test_two_files_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii", "images/a.nii.gz", "labels/a.nii.gz")
    found = find_pairs(tmp_path)
    assert not found.pairs
    assert any("two images are called 'a'" in problem.cause for problem in found.problems)


def test_images_without_labels_where_none_are_needed(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz")
    found = find_pairs(tmp_path, need_labels=False)
    assert [(pair.case, pair.label) for pair in found.pairs] == [("a", None)]


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="the folder is empty"):
        find_pairs(tmp_path)


def test_folders_without_images(tmp_path: Path) -> None:
    touch(tmp_path, "images/.DS_Store", "labels/notes.txt")
    with pytest.raises(NoInputError, match="there are no images"):
        find_pairs(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such folder"):
        find_pairs(tmp_path / "typo")


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="did you mean 'nnunet'"):
        find_pairs(tmp_path, layout="nnunett")


def test_unrecognised_layout(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    with pytest.raises(SettingError, match="not recognised") as caught:
        find_pairs(tmp_path)
    assert "--images" in caught.value.way_out


def test_named_folder_that_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz")
    with pytest.raises(SettingError, match="no such folder"):
        find_pairs(tmp_path, images="images", labels="typo")


def test_no_folder_of_labels(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz")
    with pytest.raises(SettingError, match="labelsTr"):
        find_pairs(tmp_path)


def write_json(root: Path, **settings: object) -> None:
    (root / "dataset.json").write_text(json.dumps(settings))


def test_decathlon_lists_its_pairs(tmp_path: Path) -> None:
    """The list decides: an image that it leaves out is left alone, a file that it lists must be there."""
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTr/unlisted.nii.gz")
    names = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in "ab"]
    write_json(
        tmp_path, training=[*names, {"image": 3}], labels={"0": "background", "1": "Anterior"}, modality={"0": "MRI"}
    )
    found = find_pairs(tmp_path)
    assert found.layout == "decathlon"
    assert shown(tmp_path, found) == [("a", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")]
    assert (found.labels, found.channels) == ({0: "background", 1: "Anterior"}, ("MRI",))
    assert "entry 1 of dataset.json lists it" in causes(found)["b.nii.gz"]
    assert "entry 2 of 'training' does not name an image" in causes(found)["dataset.json"]


def test_broken_dataset_json(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a.nii.gz", "dataset.json")
    with pytest.raises(InputError, match=r"dataset\.json: it is not readable JSON"):
        find_pairs(tmp_path)


def test_nnunet_channels(tmp_path: Path) -> None:
    """Channels come in the order of their numbers; a case that lacks one is named, with the channel's name."""
    for case in "ab":
        touch(tmp_path, f"imagesTr/{case}_0001.nii.gz", f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
    touch(tmp_path, "imagesTr/c_0000.nii.gz", "labelsTr/c.nii.gz", "imagesTr/stray.nii.gz", "labelsTr/d.nii.gz")
    write_json(
        tmp_path, channel_names={"0": "T1", "1": "FLAIR"}, labels={"background": 0, "lesion": 1}, file_ending=".nii.gz"
    )
    found = find_pairs(tmp_path)
    assert found.layout == "nnunet"
    assert shown(tmp_path, found) == [
        (case, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz", f"labelsTr/{case}.nii.gz")
        for case in "ab"
    ]
    assert (found.labels, found.channels) == ({0: "background", 1: "lesion"}, ("T1", "FLAIR"))
    assert causes(found) == {
        "c_0000.nii.gz": "channel 0001 (FLAIR) of 2 is missing",
        "stray.nii.gz": "its name does not end in a channel number such as _0000",
        "d.nii.gz": "it is a label without an image",
    }


def test_nnunet_without_a_json(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTr/b_0000.nii.gz")
    found = find_pairs(tmp_path)
    assert found.layout == "nnunet"
    assert [(pair.case, pair.image) for pair in found.pairs] == [("a", tmp_path / "imagesTr/a_0000.nii.gz")]
    assert causes(found) == {"b_0000.nii.gz": "it is an image without a label"}


def test_nnunet_regions_have_values(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    write_json(tmp_path, channel_names={"0": "T1"}, labels={"background": 0, "whole": [1, 2], "core": [2]})
    assert find_pairs(tmp_path).labels == {0: "background", 1: "label 1", 2: "label 2"}


def test_bids(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz")
    touch(tmp_path, "sub-03/anat/sub-03_T1w.nii.gz", "sub-01/func/sub-01_bold.nii.gz", "dataset_description.json")
    seg = tmp_path / "derivatives/drawn"
    touch(seg, "sub-01/anat/sub-01_space-orig_dseg.nii.gz", "sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    touch(seg, "sub-02/ses-b/anat/sub-02_ses-b_label-lesion_mask.nii.gz", "sub-09/anat/sub-09_dseg.nii.gz")
    found = find_pairs(tmp_path)
    assert found.layout == "bids"
    assert [(pair.case, pair.subject, pair.label.name) for pair in found.pairs] == [
        ("sub-01_T1w", "sub-01", "sub-01_space-orig_dseg.nii.gz"),
        ("sub-02_ses-b_T1w", "sub-02", "sub-02_ses-b_label-lesion_mask.nii.gz"),
    ]
    assert causes(found) == {
        "sub-03_T1w.nii.gz": "it is an image without a label",
        "sub-09_dseg.nii.gz": "it is a label without an image",
    }


def test_bids_two_labels_fit(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-01/anat/sub-01_T1w.nii.gz",
        "derivatives/x/sub-01_dseg.nii.gz",
        "derivatives/y/sub-01_dseg.nii.gz",
    )
    found = find_pairs(tmp_path)
    assert not found.pairs
    assert ["two labels fit it" in cause for cause in causes(found).values()] == [True]
    assert len(find_pairs(tmp_path, layout="bids", labels="derivatives/x").pairs) == 1


def test_bids_one_label_fits_two_runs(tmp_path: Path) -> None:
    touch(tmp_path, *[f"sub-01/anat/sub-01_run-{run}_T1w.nii.gz" for run in (1, 2)], "derivatives/x/sub-01_dseg.nii.gz")
    found = find_pairs(tmp_path)
    assert not found.pairs
    assert len(found.problems) == 2


def test_a_named_folder_wins_over_bids(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "images/a.nii.gz", "labels/a.nii.gz")
    assert find_pairs(tmp_path, images="images", labels="labels").layout == "folders"


def test_real_hippocampus(real_data: Path) -> None:
    found = find_pairs(real_data / "hippocampus")
    assert found.layout == "decathlon"
    assert len(found.pairs) == 202
    assert not found.problems


def test_real_dirt_is_named(real_data: Path, tmp_path: Path) -> None:
    """Image 118 and label 281, put back where they were published, are named; the other pair goes on."""
    source = real_data / "hippocampus"
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
        shutil.copy(source / folder / "hippocampus_025.nii.gz", tmp_path / folder)
    shutil.copy(source / "dirty/images/hippocampus_118.nii.gz", tmp_path / "imagesTr")
    shutil.copy(source / "dirty/labels/hippocampus_281.nii.gz", tmp_path / "labelsTr")
    found = find_pairs(tmp_path)
    assert [pair.case for pair in found.pairs] == ["hippocampus_025"]
    assert {problem.case for problem in found.problems} == {"hippocampus_118", "hippocampus_281"}
