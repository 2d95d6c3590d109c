from pathlib import Path

import pytest

from neurobundle.errors import InputError, NoInputError
from neurobundle.load.inputs import dicom_folders, inference_items
from neurobundle.load.scan import read_scan

from . import faults
from .dicom import make


def test_nifti_files_come_first(tmp_path: Path) -> None:
    faults.good(tmp_path)
    make.series(tmp_path / "dicom", slices=5)
    assert [item["case"] for item in inference_items(tmp_path)] == ["anna"]


def test_dicom_folders_are_cases_that_the_reader_reads(tmp_path: Path) -> None:
    """Named by the study, never by the folder, which a patient may be called like; by the series where one is two."""
    make.series(tmp_path / "DOE^JANE", slices=5)
    (item,) = inference_items(tmp_path)
    assert item["case"].startswith("study-")
    assert read_scan(item["image"]).data.shape == (8, 10, 5)
    make.series(tmp_path / "second", slices=5, uid=make.SERIES + ".2")
    names = [item["case"] for item in inference_items(tmp_path)]
    assert len(set(names)) == 2
    assert all("-series-" in name and "JANE" not in name for name in names)


def test_studies_of_one_file_a_channel(tmp_path: Path) -> None:
    """In the network's order, and not in the alphabet's."""
    for name in ("t1", "flair"):
        (faults.good(tmp_path)).rename(tmp_path / f"case_{name}.nii.gz")
    (item,) = inference_items(tmp_path, channels=["T1", "FLAIR"])
    assert [Path(file).name for file in item["image"]] == ["case_t1.nii.gz", "case_flair.nii.gz"]
    with pytest.raises(InputError, match="no T2") as caught:
        inference_items(tmp_path, channels=["T1", "T2", "FLAIR"])
    assert "convert" in caught.value.way_out
    assert "--channels T1,T2,FLAIR --missing fill" in caught.value.way_out


def test_56_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(NoInputError):
        inference_items(tmp_path)


def test_the_topmost_folders(tmp_path: Path) -> None:
    make.series(tmp_path / "a/study", slices=2)
    make.series(tmp_path / "a/study/deeper", slices=2)
    make.series(tmp_path / "b", slices=2)
    assert dicom_folders(tmp_path) == [tmp_path / "a/study", tmp_path / "b"]
