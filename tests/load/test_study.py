"""Studies of NIfTI files: which layout, which cases, which file is which channel, and all of them on one grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.errors import InputError, NoInputError, SettingError
from neurobundle.load.gate import Level
from neurobundle.load.study import CHANNELS, Study, find_studies, read_study

FOUR = CHANNELS
GRID = ((12, 14, 10), np.diag([1.0, 1.0, 2.0, 1.0]))


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def write(path: Path, seed: int = 0, shape: tuple[int, ...] = GRID[0], affine: np.ndarray = GRID[1]) -> np.ndarray:
    """A small scan of noise; returns its voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).uniform(1, 2, shape).astype(np.float32)
    nib.save(nib.Nifti1Image(data, affine), path)
    return data


def moved(x_mm: float = 0.0, affine: np.ndarray = GRID[1]) -> np.ndarray:
    shifted = affine.copy()
    shifted[0, 3] += x_mm
    return shifted


def one(path: Path, channels: tuple[str, ...] = FOUR, **more: object) -> Study:
    (study,) = find_studies(path, channels, **more)  # type: ignore[arg-type]
    return study


def names(study: Study) -> dict[str, str]:
    return {channel: choice.name for channel, choice in study.choices.items()}


BRATS_OLD = [f"B20_001/B20_001_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair", "seg")]
BRATS_NEW = [f"BraTS-GLI-00002-001/BraTS-GLI-00002-001-{name}.nii.gz" for name in ("t1n", "t1c", "t2w", "t2f", "seg")]


@pytest.mark.parametrize(
    ("files", "case", "subject"),
    [(BRATS_OLD, "B20_001", "B20_001"), (BRATS_NEW, "BraTS-GLI-00002-001", "BraTS-GLI-00002")],
    ids=["2020", "2023"],
)
def test_brats(tmp_path: Path, files: list[str], case: str, subject: str) -> None:
    study = one(touch(tmp_path, *files))
    assert (study.case, study.subject, study.layout, study.registered) == (case, subject, "brats", True)
    assert names(study) == dict(zip(FOUR, [Path(file).name for file in files], strict=False))
    assert [choice.reason for choice in study.passed_over] == ["its name says label map"]


def test_bids(tmp_path: Path) -> None:
    """Subjects and sessions are studies; a T1 after contrast is T1c; derivatives are no inputs."""
    anat = "sub-01/ses-02/anat/sub-01_ses-02"
    touch(tmp_path, f"{anat}_T1w.nii.gz", f"{anat}_ce-gadolinium_T1w.nii.gz", f"{anat}_T2w.nii.gz", f"{anat}_FLAIR.nii")
    touch(tmp_path, "sub-02/anat/sub-02_T1w.nii.gz", "sub-02/anat/sub-02_PDw.nii.gz", "sub-02/func/sub-02_bold.nii.gz")
    touch(tmp_path, "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz")
    first, second = find_studies(tmp_path, FOUR)
    assert (first.case, first.subject, first.layout) == ("sub-01_ses-02", "sub-01", "bids")
    assert list(names(first)) == list(FOUR)
    assert "ce-gadolinium" in names(first)["T1c"]
    assert (second.case, second.subject, names(second)) == ("sub-02", "sub-02", {"T1": "sub-02_T1w.nii.gz"})
    assert [choice.name for choice in second.passed_over] == ["sub-02_PDw.nii.gz"]
    assert one(tmp_path / "sub-01").case == "sub-01_ses-02"


def test_bids_sidecar_knows_of_the_agent(tmp_path: Path) -> None:
    """T1 after contrast is never silently T1: the sidecar speaks where the name is silent."""
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz")
    sidecar = tmp_path / "sub-01/anat/sub-01_T1w.json"
    sidecar.write_text(json.dumps({"ContrastBolusIngredient": "GADOLINIUM"}))
    study = one(tmp_path)
    assert list(study.choices) == ["T1c"]
    assert study.choices["T1c"].level is Level.WARN


def test_two_visits_in_one_folder(tmp_path: Path) -> None:
    files = [f"p1/study{n}_{name}.nii.gz" for n in (1, 2) for name in ("T1W", "FLAIR")]
    found = find_studies(touch(tmp_path, *files, "p1/gt.nii.gz"), ("T1", "FLAIR"))
    assert [(study.case, study.subject) for study in found] == [("p1-study1", "p1"), ("p1-study2", "p1")]
    assert names(found[1]) == {"T1": "study2_T1W.nii.gz", "FLAIR": "study2_FLAIR.nii.gz"}
    assert all([choice.name for choice in study.passed_over] == ["gt.nii.gz"] for study in found)


def test_several_cases_in_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "anna_T1.nii.gz", "anna_FLAIR.nii.gz", "bob_T1.nii.gz", "bob_FLAIR.nii.gz", "anna_mask.nii.gz")
    found = find_studies(tmp_path, ("T1", "FLAIR"))
    assert [(study.case, study.subject, len(study.choices)) for study in found] == [
        ("anna", "anna", 2),
        ("bob", "bob", 2),
    ]
    assert [len(study.passed_over) for study in found] == [1, 0]


def test_series_numbers_are_no_cases(tmp_path: Path) -> None:
    found = find_studies(touch(tmp_path, "p/5_T1.nii.gz", "p/6_T2.nii.gz"), ("T1", "T2"))
    assert [(study.case, len(study.choices)) for study in found] == [("p", 2)]
    assert len(find_studies(touch(tmp_path, "q/001_T1.nii.gz", "q/002_T1.nii.gz") / "q", ("T1",))) == 2


def test_same_names_in_two_folders(tmp_path: Path) -> None:
    """faults.md 25: no two studies share a case's name."""
    found = find_studies(touch(tmp_path, "a/s/s_t1.nii.gz", "b/s/s_t1.nii.gz"), ("T1",))
    assert [study.case for study in found] == ["a-s", "b-s"]
    assert [study.subject for study in found] == ["a-s", "b-s"]


def test_nnunet_by_dataset_json(tmp_path: Path) -> None:
    touch(tmp_path, *[f"imagesTs/{case}_000{n}.nii.gz" for case in ("a", "b") for n in (0, 1)], "labelsTr/a.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "FLAIR", "1": "T1w"}}))
    first, second = find_studies(tmp_path, ("T1", "FLAIR"))
    assert (first.case, second.case, first.layout, first.registered) == ("a", "b", "nnunet", True)
    assert names(first) == {"T1": "a_0001.nii.gz", "FLAIR": "a_0000.nii.gz"}
    assert first.verdict.level is Level.OK


def test_nnunet_without_names_warns(tmp_path: Path) -> None:
    study = one(touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz"), ("T1", "FLAIR"))
    assert names(study) == {"T1": "a_0000.nii.gz", "FLAIR": "a_0001.nii.gz"}
    assert study.verdict.level is Level.WARN


def test_sidecar_where_the_name_is_silent(tmp_path: Path) -> None:
    """Times in seconds are held against the rules for DICOM."""
    touch(tmp_path, "p/004.nii.gz", "p/005.nii.gz", "p/006.nii.gz")
    flair = {"EchoTime": 0.12, "RepetitionTime": 9, "InversionTime": 2.5, "ScanningSequence": "SE_IR"}
    mprage = {"EchoTime": 0.003, "RepetitionTime": 2.3, "InversionTime": 0.9, "ScanningSequence": ["GR", "IR"]}
    for name, content in {"004": flair, "005": mprage}.items():
        (tmp_path / f"p/{name}.json").write_text(json.dumps(content))
    study = one(tmp_path)
    assert names(study) == {"T1": "005.nii.gz", "FLAIR": "004.nii.gz"}
    assert "TI 2500 ms" in study.choices["FLAIR"].reason
    assert [(choice.name, choice.reason) for choice in study.passed_over] == [
        ("006.nii.gz", "its name says no sequence")
    ]


def test_one_file_for_one_channel(tmp_path: Path) -> None:
    write(tmp_path / "scan.nii.gz")
    study = one(tmp_path / "scan.nii.gz", ("T1",))
    assert (study.case, study.choices["T1"].level) == ("scan", Level.OK)
    assert read_study(study, ("T1",)).data.shape == (1, *GRID[0])
    write(tmp_path / "flair.nii.gz")
    assert one(tmp_path / "flair.nii.gz", ("T1",)).choices["T1"].level is Level.WARN


def test_two_files_fit_one_channel(tmp_path: Path) -> None:
    """Files that nothing tells apart are never chosen by chance."""
    write(tmp_path / "p/T1.nii.gz")
    write(tmp_path / "p/T1_brain.nii.gz")
    study = one(tmp_path, ("T1",))
    assert not study.choices
    with pytest.raises(InputError, match=r"two files fit T1: T1\.nii\.gz and T1_brain\.nii\.gz.*--mapping"):
        read_study(study, ("T1",), missing="fill")


def test_the_header_breaks_a_tie(tmp_path: Path) -> None:
    write(tmp_path / "p/T1_ax.nii.gz", shape=(12, 12, 4), affine=np.diag([1, 1, 5, 1]))
    write(tmp_path / "p/T1_sag.nii.gz", shape=(12, 12, 12), affine=np.eye(4))
    study = one(tmp_path, ("T1",))
    assert names(study) == {"T1": "T1_sag.nii.gz"}
    assert study.choices["T1"].reason == "its name says T1; preferred to T1_ax.nii.gz (isotropic voxels)"
    assert study.passed_over[0].reason == "its name says T1; a better one by: isotropic voxels"


def test_only_t1_after_contrast(tmp_path: Path) -> None:
    """T1c is never taken for T1; the message says what there is."""
    write(tmp_path / "p/T1_post.nii.gz")
    study = one(tmp_path, ("T1",))
    with pytest.raises(InputError, match=r"no T1: .*T1_post\.nii\.gz \(its name says T1 after contrast; T1c is not"):
        read_study(study, ("T1",))


def test_missing_channel(tmp_path: Path) -> None:
    """Refused by name, with what was found, or filled with zeros and told."""
    data = write(tmp_path / "p/T1.nii.gz")
    touch(tmp_path, "p/seg.nii.gz", "p/other.nii.gz")
    study = one(tmp_path, ("T1", "FLAIR"))
    assert study.missing == ("FLAIR",)
    with pytest.raises(InputError) as caught:
        read_study(study, ("T1", "FLAIR"))
    assert "no FLAIR: found T1 (T1.nii.gz); passed over" in str(caught.value)
    assert "seg.nii.gz (its name says label map)" in str(caught.value)
    scan = read_study(study, ("FLAIR", "T1"), missing="fill")
    assert (scan.missing, scan.channels) == (("FLAIR",), ("FLAIR", "T1"))
    assert not scan.data[0].any()
    assert np.array_equal(scan.data[1], data)
    assert any("no FLAIR" in text for text in scan.warnings)
    assert any("the reference FLAIR is missing: the grid is that of T1" in text for text in scan.warnings)
    with pytest.raises(SettingError, match="missing must be"):
        read_study(study, ("T1",), missing="skip")  # type: ignore[arg-type]


def test_channels_on_one_grid_pass_unchanged(tmp_path: Path) -> None:
    """Voxel for voxel, in the order that was asked for."""
    voxels = {
        name: write(tmp_path / f"c/c_{name}.nii.gz", seed) for seed, name in enumerate(("t1", "t1ce", "t2", "flair"))
    }
    scan = read_study(one(tmp_path), ("flair", "t1w", "T2", "T1gd"))
    assert scan.channels == ("FLAIR", "T1", "T2", "T1c")
    assert np.array_equal(scan.data, np.stack([voxels[name] for name in ("flair", "t1", "t2", "t1ce")]))
    assert scan.data.dtype == np.float32
    assert np.array_equal(scan.affine, GRID[1])
    assert [entry["grid"] for entry in scan.chosen] == ["as it was read"] * 4
    assert json.loads(json.dumps([*scan.chosen, *scan.passed_over]))[0]["source"] == "c_flair.nii.gz"


@pytest.mark.parametrize(
    ("shape", "affine", "match"),
    [
        ((12, 14, 9), GRID[1], r"its shape is \(12, 14, 9\), not \(12, 14, 10\)"),
        (GRID[0], moved(30), r"its corners lie up to 30\.0 mm away"),
    ],
    ids=["15-shape", "16-shifted-30mm"],
)
@pytest.mark.parametrize("files", ["c/c_{}.nii.gz", "c/{}_regtoMNI.nii.gz"], ids=["brats", "registered-names"])
def test_one_grid_is_promised(
    tmp_path: Path, shape: tuple[int, ...], affine: np.ndarray, match: str, files: str
) -> None:
    """faults.md 15, 16: files that should share a grid and do not are both named."""
    write(tmp_path / files.format("t1"))
    write(tmp_path / files.format("flair"), 1, shape, affine)
    with pytest.raises(InputError, match=match) as caught:
        read_study(one(tmp_path, ("T1", "FLAIR")), ("T1", "FLAIR"))
    assert all(Path(files.format(name)).name in str(caught.value) for name in ("t1", "flair"))
    assert caught.value.case == "c"


def test_16_a_lost_origin_among_names(tmp_path: Path) -> None:
    """The same voxels in another place: named files alone cannot say that this is as it was scanned."""
    big = ((100, 100, 50), GRID[1])
    write(tmp_path / "c/T1.nii.gz", 0, *big)
    write(tmp_path / "c/FLAIR.nii.gz", 1, big[0], moved(30))
    with pytest.raises(
        InputError, match=r"FLAIR \(FLAIR\.nii\.gz\) has the voxels of T1 \(T1\.nii\.gz\) and lies elsewh"
    ):
        read_study(one(tmp_path, ("T1", "FLAIR")), ("T1", "FLAIR"))
    (tmp_path / "map.yaml").write_text("c: {T1: c/T1.nii.gz, FLAIR: c/FLAIR.nii.gz}")
    scan = read_study(one(tmp_path, ("T1", "FLAIR"), mapping=tmp_path / "map.yaml"), ("T1", "FLAIR"))
    assert not scan.data[1, :29].any()
    assert scan.data[1, 31:].all()


@pytest.mark.parametrize("layout", ["sub-1/anat/sub-1_{}.nii.gz", "c/{}.nii.gz"], ids=["bids", "names"])
def test_another_place(tmp_path: Path, layout: str) -> None:
    """A neck beside a head is no channel of it."""
    write(tmp_path / layout.format("T1w"))
    write(tmp_path / layout.format("FLAIR"), 1, (12, 14, 11), moved(8))
    with pytest.raises(InputError, match=r"FLAIR \(.*FLAIR\.nii\.gz\) shows another place than T1 \(.*T1w\.nii\.gz\)"):
        read_study(one(tmp_path, ("T1", "FLAIR")), ("T1", "FLAIR"))


def test_a_slab_warns(tmp_path: Path) -> None:
    """A channel inside of the reference that covers less than half of it is used, and told."""
    write(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    write(tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz", 1, (12, 14, 3))
    scan = read_study(one(tmp_path, ("T1", "FLAIR")), ("T1", "FLAIR"))
    assert scan.warnings == ("FLAIR covers 30% of T1; the rest of it is zero",)
    assert scan.chosen[1]["grid"] == "resampled from 1.00 x 1.00 x 2.00 mm to 1.00 x 1.00 x 2.00 mm"


def test_reference(tmp_path: Path) -> None:
    """The output lies on the grid of the channel that the metadata calls reference, whatever the order."""
    write(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    data = write(tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz", 1, (10, 10, 20), moved(1, np.eye(4)))
    study = one(tmp_path, ("T1", "FLAIR"))
    scan = read_study(study, ("T1", "FLAIR"), reference="flair")
    assert scan.data.shape == (2, 10, 10, 20)
    assert np.array_equal(scan.affine, moved(1, np.eye(4)))
    assert np.array_equal(scan.data[1], data)
    with pytest.raises(SettingError, match="the reference T2 is none of the channels T1, FLAIR"):
        read_study(study, ("T1", "FLAIR"), reference="T2")


def test_a_channel_that_was_not_looked_for(tmp_path: Path) -> None:
    write(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    with pytest.raises(InputError, match="no T2: found T1"):
        read_study(one(tmp_path, ("T1",)), ("T1", "T2"))


def test_a_damaged_channel_names_the_case(tmp_path: Path) -> None:
    write(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    touch(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz")
    with pytest.raises(InputError, match=r"sub-1_FLAIR\.nii\.gz") as caught:
        read_study(one(tmp_path, ("T1", "FLAIR")), ("T1", "FLAIR"))
    assert caught.value.case == "sub-1"


@pytest.mark.parametrize(
    ("name", "case", "subject"),
    [
        ("anna_ses-2_run-1_T1.nii.gz", "anna_ses-2_run-1", "anna"),
        ("visit03_T1.nii.gz", "p-visit03", "p"),
        ("studyman_T1.nii.gz", "studyman", "studyman"),
    ],
)
def test_a_visit_in_a_name(tmp_path: Path, name: str, case: str, subject: str) -> None:
    study = one(touch(tmp_path, f"p/{name}"), ("T1",))
    assert (study.case, study.subject) == (case, subject)


def test_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has a name also where it is called by a dot."""
    monkeypatch.chdir(touch(tmp_path, "p/T1.nii.gz") / "p")
    assert one(Path(), ("T1",)).case == "p"


def test_only_label_maps(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no scans by their names"):
        find_studies(touch(tmp_path, "a_seg.nii.gz"), ("T1",))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no such file"):
        find_studies(tmp_path / "typo", FOUR)
    with pytest.raises(NoInputError):
        find_studies(tmp_path, FOUR)


def test_a_study_without_a_channel_is_not_lost(tmp_path: Path) -> None:
    """A folder whose names say nothing is a study that fails, not one that is forgotten; one of labels is neither."""
    touch(tmp_path, "a/T1.nii.gz", "b/scan.nii.gz", "c/seg.nii.gz")
    assert [(study.case, study.missing) for study in find_studies(tmp_path, ("T1",))] == [("a", ()), ("b", ("T1",))]


def test_light_door() -> None:
    """Finding studies imports neither torch nor MONAI nor SimpleITK."""
    code = (
        "import sys; from neurobundle.load.study import find_studies, read_study;"
        "sys.exit(bool({'torch', 'monai', 'SimpleITK'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_four_channels(real_data: Path) -> None:
    """Four channels on one grid per patient; the mask is no channel."""
    first, second = find_studies(real_data / "ms_lesions", FOUR)
    assert (first.case, second.case) == ("patient07", "patient26")
    for study in (first, second):
        assert [names(study)[channel].split("_")[0] for channel in FOUR] == ["T1", "T1POST", "T2", "FLAIR"]
        assert study.registered
    scan = read_study(second, FOUR, reference="FLAIR")
    assert scan.data.shape == (4, 182, 218, 182)
    assert not scan.warnings
    for channel, data in zip(FOUR, scan.data, strict=True):
        image = nib.load(second.choices[channel].source)
        assert np.array_equal(data, np.asarray(image.dataobj, np.float32))


def test_real_two_visits_on_three_grids(real_data: Path) -> None:
    """Two studies of one subject; T2 and FLAIR come onto T1's grid, and the change mask is no channel."""
    found = find_studies(real_data / "ms_lesions_raw", ("T1", "T2", "FLAIR"))
    assert [(study.case, study.subject) for study in found] == [
        ("patient01-study1", "patient01"),
        ("patient01-study2", "patient01"),
    ]
    assert all([choice.name for choice in study.passed_over] == ["gt.nii.gz"] for study in found)
    scan = read_study(found[1], ("T1", "T2", "FLAIR"))
    image = nib.load(found[1].choices["T1"].source)
    assert scan.data.shape == (3, 256, 256, 48)
    assert np.allclose(scan.affine, image.affine)
    assert np.array_equal(scan.data[0], np.asarray(image.dataobj, np.float32))
    assert [entry["grid"].split(" ")[0] for entry in scan.chosen] == ["as", "resampled", "resampled"]
    # Scans of one head on one grid cover the same voxels; a resampling in the wrong direction would not.
    heads = [data > data.mean() / 2 for data in scan.data]
    for head in heads[1:]:
        assert 2 * (heads[0] & head).sum() / (heads[0].sum() + head.sum()) > 0.9
