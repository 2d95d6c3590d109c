"""``neurobundle strip``, with the anatomy bundle's stub."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle import cli
from neurobundle.bundle.find import PATH_VARIABLE
from neurobundle.cli.strip import add_strip

from ..anatomy_stub import dice, make_stub, phantom


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stub(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def strip(stub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls the command with words, and the folder ``tmp_path/out``."""
    monkeypatch.setenv(PATH_VARIABLE, str(stub))
    if add_strip not in cli._COMMANDS:
        monkeypatch.setattr(cli, "_COMMANDS", (*cli._COMMANDS, add_strip))

    def call(*words: object, command: str = "strip") -> int:
        return cli.main([*command.split(), "-o", str(tmp_path / "out"), "--device", "cpu", *map(str, words)])

    return call


@pytest.fixture
def head(tmp_path: Path) -> Path:
    path = tmp_path / "anna.nii.gz"
    nib.save(phantom()[0], path)
    return path


def loaded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    return np.asarray(image.dataobj), image.affine


def entries(out: Path) -> dict[str, dict]:
    return {entry["case"]: entry for entry in json.loads((out / "report.json").read_text())["cases"]}


def test_the_brain_and_its_mask(strip, head: Path, tmp_path: Path) -> None:
    """The scan's own voxels in its own type within the mask, and 0 outside; both on its grid."""
    assert strip("-i", head) == 0
    source, affine = loaded(head)
    brain, brain_affine = loaded(tmp_path / "out" / "anna_brain.nii.gz")
    mask, mask_affine = loaded(tmp_path / "out" / "anna_mask.nii.gz")
    assert (brain.dtype, mask.dtype) == (np.int16, np.uint8)
    assert np.array_equal(affine, brain_affine)
    assert np.array_equal(affine, mask_affine)
    assert dice(mask > 0, phantom()[1] > 0) > 0.97
    assert set(np.unique(mask)) == {0, 1}
    assert np.array_equal(brain, np.where(mask, source, 0))
    entry = entries(tmp_path / "out")["anna"]
    assert entry["output"] == "anna_brain.nii.gz"
    assert set(entry["outputs"]) == {"anna_brain.nii.gz", "anna_mask.nii.gz", "anna.png"}
    assert entry["volumes_ml"] == {"brain mask": pytest.approx(mask.sum() * 0.01, abs=0.01)}
    assert any(text.startswith("not found, or hardly") for text in entry["warnings"]), "the phantom has two structures"


def test_a_margin_keeps_more(strip, head: Path, tmp_path: Path) -> None:
    """10 mm, and another result than without: it is done again."""
    assert strip("-i", head, "--no-pictures") == 0
    small = loaded(tmp_path / "out" / "anna_mask.nii.gz")[0]
    assert strip("-i", head, "--no-pictures", "--margin", 10) == 0
    large = loaded(tmp_path / "out" / "anna_mask.nii.gz")[0]
    middle = tuple(n // 2 for n in small.shape[1:])
    assert small[:, *middle].sum() + 10 == large[:, *middle].sum(), "2 x 10 mm in voxels of 2 mm"


def test_types_and_orientations(strip, tmp_path: Path) -> None:
    """Each in its own type, on its own grid."""
    folder = tmp_path / "in"
    folder.mkdir()
    image = phantom()[0]
    data = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(data.astype(np.uint8), image.affine), folder / "bytes.nii.gz")
    turned = image.as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nib.save(turned, folder / "turned.nii.gz")
    swapped = nib.Nifti1Image(data, image.affine, nib.Nifti1Header(endianness=">"))
    swapped.set_data_dtype(">i2")
    nib.save(swapped, folder / "swapped.nii")
    assert strip("-i", folder, "--no-pictures") == 0
    out = tmp_path / "out"
    types = {name: loaded(out / f"{name}_brain.nii.gz")[0].dtype for name in ("bytes", "turned", "swapped")}
    assert types == {"bytes": np.uint8, "turned": np.int16, "swapped": np.int16}
    mask, affine = loaded(out / "turned_mask.nii.gz")
    assert np.array_equal(affine, turned.affine)
    straight = loaded(out / "bytes_mask.nii.gz")[0]
    back = nib.as_closest_canonical(nib.Nifti1Image(mask, affine))
    assert dice(np.asarray(back.dataobj) > 0, straight > 0) > 0.99
    for name in ("swapped", "bytes"):
        assert np.array_equal(loaded(out / f"{name}_brain.nii.gz")[0], np.where(straight, data, 0))


def test_a_study_gives_its_best_scan(strip, tmp_path: Path) -> None:
    """T1 in its own type, whatever else lies there; the report says which."""
    folder = tmp_path / "in"
    folder.mkdir()
    image = phantom()[0]
    for name in ("anna_FLAIR", "anna_T1w"):
        nib.save(image, folder / f"{name}.nii.gz")
    assert strip("-i", folder, "--no-pictures") == 0
    (entry,) = entries(tmp_path / "out").values()
    assert entry["study"]["chosen"][0]["source"] == "anna_T1w.nii.gz"
    assert loaded(tmp_path / "out" / entry["output"])[0].dtype == np.int16


def test_a_second_call_does_what_is_left(strip, head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert strip("-i", head) == 0
    stamp = (tmp_path / "out" / "anna_brain.nii.gz").stat().st_mtime_ns
    assert strip("-i", head) == 0
    assert (tmp_path / "out" / "anna_brain.nii.gz").stat().st_mtime_ns == stamp
    assert "1 of 1 cases done (1 of them before)" in capsys.readouterr().out


def test_a_bad_case_is_named_and_the_others_are_done(
    strip, head: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    assert strip("-i", head, tmp_path / "bad.nii.gz") == 3
    assert "ERROR bad" in caplog.text
    assert (tmp_path / "out" / "anna_brain.nii.gz").exists()
    assert not list((tmp_path / "out").glob("bad*"))
    assert strip("-i", tmp_path / "nowhere") == 2
    assert strip("-i", tmp_path / "bad.nii.gz", "--redo") == 4


@pytest.mark.parametrize("margin", ["-1", "nan", "inf"])
def test_a_margin_that_is_none(strip, head: Path, margin: str, caplog: pytest.LogCaptureFixture) -> None:
    assert strip("-i", head, f"--margin={margin}") == 1
    assert "--margin must be 0 or more millimetres" in caplog.text


def test_run_and_strip_do_not_replace_each_other(
    strip, head: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In one folder the second is refused, and nothing of the first is lost."""
    assert strip("-i", head, "--no-pictures", command="run brain_anatomy_segmentation") == 0
    before = (tmp_path / "out" / "report.json").read_bytes()
    assert strip("-i", head, "--no-pictures") == 1
    assert "holds anna_seg.nii.gz, which another command wrote" in caplog.text
    assert (tmp_path / "out" / "anna_seg.nii.gz").exists()
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_without_weights(strip, stub: Path, head: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = stub / "brain_anatomy_segmentation" / "models" / "model.pt"
    aside = weights.rename(weights.with_suffix(".aside"))
    try:
        assert strip("-i", head) == 1
        assert "model.pt" in caplog.text
    finally:
        aside.rename(weights)
