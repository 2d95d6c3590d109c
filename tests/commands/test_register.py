"""``--register``: a study whose scans do not lie where their headers say, noticed and mended."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from neurobundle import geometry
from neurobundle.augment.head_plan import HeadSettings, draw_head, grid_affine
from neurobundle.augment.label_maps import read_label_map
from neurobundle.augment.synthesis import synthesize_head
from neurobundle.cli import main
from neurobundle.errors import InputError
from neurobundle.load.study import Placement, find_studies, read_study
from neurobundle.load.study.regrid import onto_grid
from neurobundle.prepare.alignment import checked, moved_mm, reference_of

from ..prepare.test_alignment import moved, phantom, planted, resampled
from .test_run_studies import bundle_of_two

Image = tuple[np.ndarray, np.ndarray]

#: Asked for at the corners of the head's box.
GOAL_MM = 1.0
TRUTH = planted(0)


def head(contrast: int, seed: int = 0) -> Image:
    """A head of ellipsoids, 6 mm voxels: FLAIR is contrast 0, T1 is 1."""
    return phantom(contrast, (32, 38, 30), (6.0, 6.0, 6.0), seed)


def noise() -> Image:
    array, affine = head(1)
    return np.random.default_rng(0).random(array.shape).astype(np.float32), affine


def study(folder: Path, case: str = "anna", **scans: Image) -> Path:
    """A folder of one case, not called like its files as in BraTS; FLAIR and T1 are aligned unless they are given."""
    (folder / f"of_{case}").mkdir(parents=True, exist_ok=True)
    for channel, (array, affine) in ({"FLAIR": head(0), "T1": head(1, 1)} | scans).items():
        nib.save(nib.Nifti1Image(array.astype(np.float32), affine), folder / f"of_{case}" / f"{case}_{channel}.nii.gz")
    return folder


def convert(tmp_path: Path, *options: str, channels: str = "FLAIR,T1", out: str = "out") -> int:
    return main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / out), "--channels", channels, *options])


def converted(tmp_path: Path, out: str = "out") -> list[dict[str, Any]]:
    return json.loads((tmp_path / out / "conversion.json").read_text())["cases"]


def entry(case: dict[str, Any], channel: str) -> dict[str, Any]:
    """Of ``chosen``."""
    (found,) = (one for one in case["chosen"] if one["channel"] == channel)
    return found


def written(tmp_path: Path, channel: str, out: str = "out", case: str = "anna") -> Image:
    image = nib.load(tmp_path / out / case / f"{case}_{channel}.nii.gz")
    return np.asarray(image.dataobj), image.affine


def left_mm(fixed: Image, truth: np.ndarray, found: dict[str, Any]) -> float:
    """What is left of a planted displacement at the corners of the head's box."""
    box = reference_of(checked(fixed, "it")).box_mm
    return moved_mm(np.linalg.inv(truth) @ np.array(found["matrix"]), box)


def taken_back(scan: Image, truth: np.ndarray, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A displaced scan on the grid that it was displaced from, by the motion that was planted."""
    onto = np.linalg.inv(scan[1]) @ truth @ affine
    return ndimage.affine_transform(scan[0].astype(float), onto[:3, :3], onto[:3, 3], output_shape=shape, order=1)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of two images of one contrast."""
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


# --- the hook, counted by hand ---------------------------------------------------------------------------------------


def test_a_placement_is_applied_in_the_one_resampling(tmp_path: Path) -> None:
    """A scan that is placed one voxel further along i is read one voxel earlier, whole voxels unchanged."""
    study(tmp_path / "in")
    (found,) = find_studies(tmp_path / "in", ("FLAIR", "T1"))
    step = np.eye(4)
    step[0, 3] = 6.0
    names = []

    def place(scan: Any, reference: Any, name: str, reference_name: str) -> Placement:
        names.append((name, reference_name))
        return Placement(step @ scan.affine, {"mark": 1}, ("it was moved",), settled=True)

    read = read_study(found, ("FLAIR", "T1"), place=place)
    assert names == [("T1 (anna_T1.nii.gz)", "FLAIR (anna_FLAIR.nii.gz)")]
    assert np.allclose(read.data[1][1:], head(1, 1)[0][:-1], atol=1e-3)
    assert np.array_equal(read.data[0], head(0)[0])
    assert read.chosen[1]["mark"] == 1
    assert "mark" not in read.chosen[0]
    assert read.warnings == ("it was moved",)


def test_an_error_of_a_placement_names_the_case(tmp_path: Path) -> None:
    study(tmp_path / "in")
    (found,) = find_studies(tmp_path / "in", ("FLAIR", "T1"))

    def place(*_: Any) -> Placement:
        raise InputError("it cannot be placed")

    with pytest.raises(InputError, match="cannot be placed") as caught:
        read_study(found, ("FLAIR", "T1"), place=place)
    assert caught.value.case == "anna"
    assert caught.value.file.endswith("of_anna")


# --- convert ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("move", "least"), [(moved, 0.97), (resampled, 0.85)])
def test_5_mm_and_5_degrees_are_mended(
    move: Any, least: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Displaced in the header, or in the head, which blurs it; the report has the figures, and the screen a line."""
    study(tmp_path / "in", T1=move(head(1, 1), TRUTH))
    assert convert(tmp_path, out="before") == 0
    assert "registered" not in capsys.readouterr().out
    assert "registration" not in json.dumps(converted(tmp_path, "before"))
    assert convert(tmp_path, "--register") == 0
    assert "registered: 1 scan; 1 moved, by up to 12." in capsys.readouterr().out
    (case,) = converted(tmp_path)
    found = entry(case, "T1")["registration"]
    assert found["accepted"]
    assert found["after"]["nmi"] > found["before"]["nmi"] + 0.1
    assert left_mm(head(0), TRUTH, found) < GOAL_MM
    assert entry(case, "T1")["grid"].startswith("resampled")
    assert "registration" not in entry(case, "FLAIR")
    truth = head(1, 1)[0][4:-4, 4:-4, 4:-4]
    before, after = (written(tmp_path, "T1", out)[0][4:-4, 4:-4, 4:-4] for out in ("before", "out"))
    assert alike(after, truth) > least
    assert 1 - alike(after, truth) < (1 - alike(before, truth)) / 2


def test_one_resampling(tmp_path: Path) -> None:
    """What is written is the scan as it was read, once interpolated, at the corrected affine."""
    array, affine = moved(head(1, 1), TRUTH)
    study(tmp_path / "in", T1=(array, affine))
    assert convert(tmp_path, "--register") == 0
    (case,) = converted(tmp_path)
    corrected = np.linalg.inv(entry(case, "T1")["registration"]["matrix"]) @ affine
    fixed, fixed_affine = head(0)
    assert np.allclose(written(tmp_path, "T1")[0], onto_grid(array, corrected, fixed.shape, fixed_affine), atol=1e-2)


@pytest.mark.slow
def test_the_same_again(tmp_path: Path) -> None:
    """Fixed seeds and one thread: the same bytes."""
    study(tmp_path / "in", T1=moved(head(1, 1), TRUTH))
    for out in ("a", "b"):
        assert convert(tmp_path, "--register", out=out) == 0
    files = [sorted(path for path in (tmp_path / out).rglob("*") if path.is_file()) for out in ("a", "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_scan_that_lies_right_passes_voxel_for_voxel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path / "in")
    assert convert(tmp_path, "--register") == 0
    assert "registered: 1 scan; 1 stayed where the header says" in capsys.readouterr().out
    (case,) = converted(tmp_path)
    assert entry(case, "T1")["registration"]["reason"].startswith("kept")
    assert entry(case, "T1")["grid"] == "as it was read"
    assert np.array_equal(written(tmp_path, "T1")[0], head(1, 1)[0])


@pytest.mark.slow
def test_a_lost_origin_is_found_again(tmp_path: Path) -> None:
    """Without the registration it is refused: it shows another place by its header."""
    away = np.eye(4)
    away[:3, 3] = 300, -200, 100
    study(tmp_path / "in", T1=moved(head(1, 1), away))
    assert convert(tmp_path) == 4
    assert convert(tmp_path, "--register") == 0
    (case,) = converted(tmp_path)
    assert left_mm(head(0), away, entry(case, "T1")["registration"]) < GOAL_MM


def test_a_scan_with_nothing_in_common_is_that_case_s_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It names case, scan, cause and way out; the others go on, and nothing stays that was written without it."""
    study(tmp_path / "in", T1=noise())
    study(tmp_path / "in", "otto")
    assert convert(tmp_path) == 0
    capsys.readouterr()
    assert convert(tmp_path, "--register") == 3
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ERROR"))
    assert line.startswith("ERROR anna")
    assert "T1 (anna_T1.nii.gz) cannot be registered to FLAIR (anna_FLAIR.nii.gz): nothing in common" in line
    assert line.endswith("Without --register the places are taken that the headers say.")
    assert [case["status"] for case in converted(tmp_path)] == ["failed", "ok"]
    assert list((tmp_path / "out/anna").iterdir()) == []
    assert (tmp_path / "out/otto/otto_T1.nii.gz").exists()


def test_a_reference_that_cannot_be_compared_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array, affine = head(0)
    study(tmp_path / "in", FLAIR=(array[:, :, 14:17], affine))
    assert convert(tmp_path, "--register") == 4
    said = capsys.readouterr().err
    assert "FLAIR (anna_FLAIR.nii.gz) has the shape (32, 38, 3)" in said
    assert "Without --register" in said


def test_a_promised_grid_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of a BraTS case on another grid is refused; whoever registers says that it has to be brought there."""
    array, affine = head(1, 1)
    for channel, scan in (("flair", head(0)), ("t1", moved((array[:-1], affine), TRUTH))):
        study(tmp_path / "made", "anna", **{channel: scan})
        (tmp_path / "in/anna").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"made/of_anna/anna_{channel}.nii.gz").rename(tmp_path / f"in/anna/anna_{channel}.nii.gz")
    assert convert(tmp_path) == 4
    assert "is not on the grid of" in capsys.readouterr().err
    assert convert(tmp_path, "--register") == 0
    (case,) = converted(tmp_path)
    assert any("T1 (anna_t1.nii.gz) is not on the grid of" in text for text in case["warnings"])
    assert left_mm(head(0), TRUTH, entry(case, "T1")["registration"]) < GOAL_MM


def test_a_missing_channel_is_not_registered(tmp_path: Path) -> None:
    study(tmp_path / "in", T1=moved(head(1, 1), TRUTH))
    assert convert(tmp_path, "--register", "--missing", "fill", channels="FLAIR,T2,T1") == 0
    (case,) = converted(tmp_path)
    assert case["missing"] == ["T2"]
    assert entry(case, "T1")["registration"]["accepted"]
    assert not written(tmp_path, "T2")[0].any()


# --- check -----------------------------------------------------------------------------------------------------------


def check(tmp_path: Path, *options: str, channels: str = "FLAIR,T1") -> int:
    return main(["check", str(tmp_path / "in"), "--channels", channels, *options])


def test_a_misaligned_study_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, with the figures and the way out; the study beside it is not."""
    study(tmp_path / "in", T1=moved(head(1, 1), TRUTH))
    study(tmp_path / "in", "otto")
    assert check(tmp_path) == 0
    said = capsys.readouterr().out
    assert "T1 (anna_T1.nii.gz) and FLAIR (anna_FLAIR.nii.gz): the scans look misaligned: agreement 1.1" in said
    assert "with the head moved by 1" in said
    assert "--register" in said
    assert "otto_T1.nii.gz) and" not in said
    assert check(tmp_path, "--json") == 0
    anna, otto = json.loads(capsys.readouterr().out)["files"]
    assert (anna["level"], otto["level"]) == ("warn", "ok")
    assert anna["facts"]["chosen"][1]["alignment"]["suspicious"]
    assert not otto["facts"]["chosen"][1]["alignment"]["suspicious"]


def test_the_check_with_registration_says_what_a_run_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path / "in", T1=moved(head(1, 1), TRUTH))
    study(tmp_path / "in", "otto", T1=noise())
    assert check(tmp_path, "--register") == 3
    said = capsys.readouterr().out
    assert "registration of T1: agreement 1.1" in said
    assert "misaligned" not in said
    assert "T1 (otto_T1.nii.gz) cannot be registered" in said


def test_scans_that_cannot_be_compared_are_used_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three slices have no depth to align: no reason to refuse them."""
    array, affine = head(0)
    study(tmp_path / "in", FLAIR=(array[:, :, 14:17], affine))
    assert check(tmp_path) == 0
    said = capsys.readouterr().out
    assert "whether T1 (anna_T1.nii.gz) lies on FLAIR (anna_FLAIR.nii.gz) cannot be told" in said


# --- run -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of T1 and FLAIR, at 6 mm."""
    folder = bundle_of_two(tiny_bundle, tmp_path_factory.mktemp("register") / "two_segmentation")
    config = folder / "configs" / "inference.yaml"
    config.write_text(config.read_text().replace("spacing_mm: [1.0, 1.0, 1.0]", "spacing_mm: [6.0, 6.0, 6.0]"))
    return folder


def run(tmp_path: Path, bundle: Path, *options: str, inputs: str = "in") -> int:
    words = ["run", str(bundle), "-i", str(tmp_path / inputs), "-o", str(tmp_path / "out"), "--device", "cpu"]
    return main([*words, "--input", "crop", "--no-pictures", *options])


def reported(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "out" / "report.json").read_text())["cases"]


def test_a_run_registers_reports_and_does_not_skip(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A case that was finished without the registration is done again with it, and the other way round."""
    study(tmp_path / "in", T1=moved(head(1, 1), TRUTH))
    assert run(tmp_path, bundle) == 0
    (plain,) = reported(tmp_path)
    assert "registration" not in json.dumps(plain)
    capsys.readouterr()
    assert run(tmp_path, bundle, "--register") == 0
    said = capsys.readouterr().out
    assert "registered: 1 scan; 1 moved, by up to 12." in said
    assert "before" not in said
    (case,) = reported(tmp_path)
    assert case["key"]["config"] != plain["key"]["config"]
    assert left_mm(head(0), TRUTH, entry(case["study"], "T1")["registration"]) < GOAL_MM
    labels = nib.load(tmp_path / "out" / case["output"])
    assert geometry.same_grid(labels.shape, labels.affine, head(0)[0].shape, head(0)[1])
    assert run(tmp_path, bundle, "--register") == 0
    assert "(1 of them before)" in capsys.readouterr().out
    assert run(tmp_path, bundle) == 0
    assert "before" not in capsys.readouterr().out
    assert reported(tmp_path)[0]["key"] == plain["key"]


def test_79_a_salted_study_that_cannot_be_registered_tells_no_name(
    tmp_path: Path, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study(tmp_path / "in", "JANE", T1=noise())
    assert run(tmp_path, bundle, "--register", "--salted-names") == 4
    (failed,) = reported(tmp_path)
    assert "nothing in common" in failed["error"]
    assert "JANE" not in json.dumps(failed) + caplog.text


# --- refused nonsense ------------------------------------------------------------------------------------------------


def test_one_channel_has_nothing_to_be_registered_to(
    tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the bundle or by --channels; twice the same is one."""
    study(tmp_path / "in")
    assert run(tmp_path, tiny_bundle, "--register") == 1
    assert "--register brings the scans of a study together, and the channels here are: T1" in capsys.readouterr().err
    assert convert(tmp_path, "--register", channels="T1") == 1
    assert check(tmp_path, "--register", channels="T1") == 1
    assert not (tmp_path / "out").exists()


def test_registration_goes_with_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path / "in")
    assert main(["check", str(tmp_path / "in"), "--register"]) == 1
    assert main(["convert", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--register"]) == 1
    assert capsys.readouterr().err.count("--mapping, --missing and --register go with --channels") == 2


def test_one_file_is_no_study(tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path / "in")
    assert run(tmp_path, bundle, "--register", inputs="in/of_anna/anna_T1.nii.gz") == 4
    assert "this is one file, and --register brings the scans of a study together" in capsys.readouterr().err


def test_without_simpleitk_nothing_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    study(tmp_path / "in")
    assert convert(tmp_path, "--register") == 1
    assert "Registering the scans of a study needs the package 'SimpleITK'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- heads that look like MR -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_study_of_four_sequences(number: int, tmp_path: Path, real_data: Path) -> None:
    """T1, T1c, T2 and FLAIR of one synthesized head with a tumour; T2 is displaced in its header, T1c in the head.

    All come back within 1 mm, and each scan is then what it would have been had nobody moved, but for what
    interpolation takes: the planted motion itself, taken back, gives no more.
    """
    settings = HeadSettings(shape=(90, 108, 90), spacing_mm=(2.0, 2.0, 2.0), thick=0.0)
    labels = read_label_map(real_data / "labelmaps" / f"training_seg_0{number}.nii.gz")
    plan = draw_head(np.random.default_rng(number), settings)
    images = synthesize_head(torch.from_numpy(labels.labels), plan, labels.spacing_mm).images.numpy()
    affine = grid_affine(settings)
    truths = {"T2": planted(number), "T1c": planted(number + 10)}
    scans = {name: (image, affine) for name, image in zip(settings.sequences, images, strict=True)}
    displaced = {"T2": moved(scans["T2"], truths["T2"]), "T1c": resampled(scans["T1c"], truths["T1c"])}
    study(tmp_path / "in", **scans | displaced)
    assert convert(tmp_path, "--register", channels="FLAIR,T1,T1c,T2") == 0
    (case,) = converted(tmp_path)
    for name, truth in truths.items():
        found = entry(case, name)["registration"]
        assert found["accepted"]
        assert left_mm(scans["FLAIR"], truth, found) < GOAL_MM
        inner, still = (slice(8, -8),) * 3, scans[name][0]
        best = taken_back(displaced[name], truth, affine, still.shape)
        found_again = alike(written(tmp_path, name)[0][inner], still[inner])
        assert found_again > 0.95
        assert found_again > alike(best[inner], still[inner]) - 0.002
    assert not entry(case, "T1")["registration"]["accepted"]
