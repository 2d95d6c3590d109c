"""A study for a bundle that takes one scan of any sequence: which one, and why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from neurobundle.commands.inputs import find_sources
from neurobundle.commands.sources import Source, Wanted
from neurobundle.errors import InputError, SettingError
from neurobundle.load.study import channels_named, find_studies, read_study
from neurobundle.load.study.channels import ANY

from .test_study import moved, one, touch, write

WANTED = (ANY,)
THICK, FINE = np.diag([1.0, 1.0, 5.0, 1.0]), np.diag([0.5, 0.5, 0.5, 1.0])


def sources(place: Path, work: Path) -> list[Source]:
    work.mkdir()
    return find_sources([place], work=work, wanted=Wanted(WANTED))


def test_any_stands_alone() -> None:
    assert channels_named(["Any"]) == WANTED
    with pytest.raises(SettingError, match="no channel 'any'"):
        channels_named(["any", "T1"])


def test_t1_is_preferred_to_finer_voxels(tmp_path: Path) -> None:
    """The report names it, and why the others were passed over."""
    written = write(tmp_path / "anna_T1w.nii.gz", affine=THICK)
    write(tmp_path / "anna_FLAIR.nii.gz", seed=1, affine=FINE)
    touch(tmp_path, "anna_dwi.nii.gz", "anna_seg.nii.gz")
    study = one(tmp_path, WANTED)
    assert study.choices[ANY].name == "anna_T1w.nii.gz"
    assert study.judge().refusals == []
    over = {choice.name: choice.reason for choice in study.passed_over}
    assert over["anna_FLAIR.nii.gz"] == "its name says FLAIR; a better one by: T1"
    assert over["anna_dwi.nii.gz"] == "its name says diffusion"
    scan = read_study(study, WANTED)
    assert np.array_equal(scan.data[0], written)
    assert scan.chosen[0]["channel"] == ANY
    assert "preferred to anna_FLAIR.nii.gz" in scan.chosen[0]["why"]


def test_without_t1_the_finest_isotropic_voxels(tmp_path: Path) -> None:
    for name, affine in {"T2": THICK, "FLAIR": FINE, "T1ce": np.eye(4)}.items():
        write(tmp_path / f"anna_{name}.nii.gz", affine=affine)
    assert one(tmp_path, WANTED).choices[ANY].name == "anna_FLAIR.nii.gz"


def test_two_that_are_alike_are_no_fault(tmp_path: Path) -> None:
    """The first by name; a bundle that wants T1 itself would ask."""
    write(tmp_path / "anna_T1_run-2.nii.gz")
    write(tmp_path / "anna_T1_run-1.nii.gz", affine=moved(3.0))
    study = one(tmp_path, WANTED)
    assert study.choices[ANY].name == "anna_T1_run-1.nii.gz"
    assert study.judge().refusals == []
    assert one(tmp_path, ("T1",)).judge().refusals


def test_a_mapping_is_a_persons_word(tmp_path: Path) -> None:
    for name in ("anna_T1", "anna_T2"):
        write(tmp_path / f"{name}.nii.gz")
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("T2: anna_T2.nii.gz\n")
    assert one(tmp_path, WANTED, mapping=mapping).choices[ANY].name == "anna_T2.nii.gz"


def test_nothing_of_a_known_sequence_is_said(tmp_path: Path) -> None:
    (study,) = find_studies(touch(tmp_path, "anna_dwi.nii.gz", "anna_x.nii.gz"), WANTED)
    with pytest.raises(InputError, match="no scan of a known sequence: no channel was found; passed over"):
        read_study(study, WANTED)


@pytest.mark.parametrize("name", ["scan", "T2", "proton_pd", "sub_stir"])
def test_a_lone_file_is_taken_whatever_its_name_says(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    write(folder / f"{name}.nii.gz")
    for n, place in enumerate((folder, folder / f"{name}.nii.gz")):
        (source,) = sources(place, tmp_path / f"work{n}")
        assert source.read().data.shape == (12, 14, 10)
    assert find_studies(folder / f"{name}.nii.gz", WANTED)[0].judge().findings == []


def test_a_label_map_by_its_name_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "anna_seg.nii.gz")
    (source,) = sources(tmp_path / "anna_seg.nii.gz", tmp_path / "work")
    with pytest.raises(InputError, match="its name says label map, and this bundle knows scans only"):
        source.read()


def test_a_folder_of_people_and_of_a_study(tmp_path: Path) -> None:
    """Each scan without a sequence is a case, and each study one."""
    folder = tmp_path / "in"
    for name in ("p1", "p2", "anna_T1", "anna_FLAIR"):
        write(folder / f"{name}.nii.gz")
    found = {source.case: source for source in sources(folder, tmp_path / "work")}
    assert set(found) == {"p1", "p2", "anna"}
    found["anna"].read()
    assert found["anna"].study["chosen"][0]["source"] == "anna_T1.nii.gz"
