"""``neurobundle run``: what is written, and what happens to bad input (numbers are those of the faults' list)."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobundle.cli import main
from neurobundle.geometry import same_grid
from neurobundle.networks import residual_unet, save_weights
from neurobundle.networks.manifest import write_entry

from ..helpers import Maker


@pytest.fixture
def crops(tmp_path: Path, make_pair: Maker) -> Path:
    for n, case in enumerate(("anna", "otto")):
        make_pair(tmp_path, case, seed=n, shape=(24, 30, 24))
    return tmp_path / "images"


@pytest.fixture
def run(tiny_bundle: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*inputs: Path, bundle: Path | None = None, options: tuple[str, ...] = ()) -> int:
        words = ["run", str(bundle or tiny_bundle), "-i", *map(str, inputs), "-o", str(tmp_path / "out"), *options]
        return main([*words, "--device", "cpu"])

    return call


def test_what_is_written(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    assert run(crops) == 0
    out = tmp_path / "out"
    names = {"anna_seg.nii.gz", "anna.png", "otto_seg.nii.gz", "otto.png", "volumes.csv", "report.json"}
    assert {path.name for path in out.iterdir()} == names
    rows = (out / "volumes.csv").read_text().splitlines()
    assert rows[0] == "case,structure,ml"
    assert [row.split(",")[:2] for row in rows[1:]] == [
        [case, structure] for case in ("anna", "otto") for structure in ("anterior", "posterior")
    ]
    cases = json.loads((out / "report.json").read_text())["cases"]
    assert [(case["case"], case["status"], case["input"]) for case in cases] == [
        ("anna", "ok", "crop"),
        ("otto", "ok", "crop"),
    ]


def test_twice_gives_the_same_bytes(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    assert run(crops, options=("--no-pictures",)) == 0
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*_seg.nii.gz")}
    assert run(crops, options=("--no-pictures",)) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*_seg.nii.gz")} == first
    assert len(first) == 2


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_output_grid_is_input_grid(run: Callable[..., int], crops: Path, tmp_path: Path, codes: str) -> None:
    """And what is found lies at the same place in the head, however the file is stored."""
    image = nib.load(crops / "anna.nii.gz")
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    nib.save(turned, tmp_path / "turned.nii.gz")
    assert run(crops / "anna.nii.gz", tmp_path / "turned.nii.gz", options=("--no-pictures",)) == 0
    plain, other = (nib.load(tmp_path / "out" / f"{case}_seg.nii.gz") for case in ("anna", "turned"))
    assert other.shape == turned.shape
    assert np.allclose(other.affine, turned.affine, atol=1e-4)
    assert np.array_equal(np.asarray(nib.as_closest_canonical(other).dataobj), np.asarray(plain.dataobj))


def test_thick_oblique_slices_come_back_on_their_grid(run: Callable[..., int], tmp_path: Path) -> None:
    turn = nib.quaternions.quat2mat(np.array([0.9, 0.2, -0.3, 0.25]))
    affine = nib.affines.from_matvec(turn * (0.8, 0.9, 3.0), (-10.0, 5.0, 40.0))
    array = np.random.default_rng(0).uniform(50, 100, (26, 28, 9)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "oblique.nii.gz")
    assert run(tmp_path / "oblique.nii.gz") == 0
    written = nib.load(tmp_path / "out" / "oblique_seg.nii.gz")
    assert written.shape == array.shape
    assert np.allclose(written.affine, affine, atol=1e-4)


@pytest.mark.slow
def test_27_thick_slices_in_48_orientations(run: Callable[..., int], tmp_path: Path) -> None:
    """1 x 1 x 6 mm: each lies on its own grid, and what is found is what is found in the canonical one."""
    data = np.random.default_rng(0).uniform(50, 100, (24, 30, 6)).astype(np.float32)
    canonical = nib.Nifti1Image(data, np.diag([1.0, 1, 6, 1]))
    (tmp_path / "in").mkdir()
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = canonical.as_reoriented(np.column_stack([axes, flips]))
            nib.save(turned, tmp_path / "in" / f"turned{''.join(nib.aff2axcodes(turned.affine))}.nii.gz")
    assert run(tmp_path / "in", options=("--no-pictures",)) == 0
    reference = np.asarray(nib.load(tmp_path / "out" / "turnedRAS_seg.nii.gz").dataobj)
    assert len(list((tmp_path / "in").iterdir())) == 48
    for path in (tmp_path / "in").iterdir():
        source, written = nib.load(path), nib.load(tmp_path / "out" / path.name.replace(".nii.gz", "_seg.nii.gz"))
        assert same_grid(source.shape, source.affine, written.shape, written.affine, 0.01)
        assert np.array_equal(np.asarray(nib.as_closest_canonical(written).dataobj), reference)


def test_one_name_in_two_folders_gives_two_outputs_25(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(crops / "anna.nii.gz", tmp_path / "more" / "anna.nii.gz")
    assert run(crops / "anna.nii.gz", tmp_path / "more", options=("--no-pictures",)) == 0
    assert {path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")} == {
        "images-anna_seg.nii.gz",
        "more-anna_seg.nii.gz",
    }


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        pytest.param(halve, "truncated", id="1-truncated"),
        pytest.param(lambda path: path.write_bytes(b""), "empty", id="2-empty"),
        pytest.param(lambda path: path.write_text("hello"), "not a NIfTI file", id="4-text"),
        pytest.param(
            lambda path: nib.save(nib.Nifti1Image(np.full((24, 24, 24), 5.0, np.float32), np.eye(4)), path),
            "no signal",
            id="7-constant",
        ),
        pytest.param(
            lambda path: nib.save(nib.Nifti1Image(np.full((24, 24, 24), np.nan, np.float32), np.eye(4)), path),
            "NaN",
            id="6-nan",
        ),
    ],
)
def test_a_bad_file_is_named_and_the_others_are_done_66(
    run: Callable[..., int],
    crops: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], None],
    cause: str,
) -> None:
    spoil(crops / "anna.nii.gz")
    assert run(crops) == 3
    (message,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("ERROR")]
    assert message.startswith("ERROR anna ")
    assert "anna.nii.gz" in message
    assert cause in message
    assert {path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")} == {"otto_seg.nii.gz"}
    entries = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    assert [entry["status"] for entry in entries] == ["failed", "ok"]
    assert cause in entries[0]["error"]


@pytest.mark.parametrize("kind", ["auto", "crop"])
def test_a_flipped_bit_gives_no_output_3(
    run: Callable[..., int], crops: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    content = bytearray((crops / "anna.nii.gz").read_bytes())
    content[len(content) // 2] ^= 4
    (crops / "anna.nii.gz").write_bytes(content)
    assert run(crops, options=("--input", kind)) == 3
    assert "anna.nii.gz" in caplog.text
    assert not (tmp_path / "out" / "anna_seg.nii.gz").exists()


def test_a_name_that_is_not_there_fails_alone(
    run: Callable[..., int], crops: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(crops / "anna.nii.gz", crops / "bert.nii.gz") == 3
    assert "ERROR bert " in caplog.text


def test_results_are_not_taken_for_input(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    """The output folder may lie inside the input folder."""
    words = ("--no-pictures",)
    assert run(tmp_path / "images", options=words) == 0
    assert run(tmp_path, options=words) in (0, 3)
    assert not list((tmp_path / "out").glob("*_seg_seg.nii.gz"))


def test_results_may_go_beside_their_images(run: Callable[..., int], crops: Path, tiny_bundle: Path) -> None:
    words = ["run", str(tiny_bundle), "-i", str(crops), "-o", str(crops), "--no-pictures", "--device", "cpu"]
    assert main(words) == 0
    assert main(words) == 0
    names = {path.name for path in crops.glob("*.nii.gz")}
    assert names == {"anna.nii.gz", "anna_seg.nii.gz", "otto.nii.gz", "otto_seg.nii.gz"}


def test_a_failed_start_leaves_the_last_report(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    assert run(crops) == 0
    before = (tmp_path / "out" / "report.json").read_bytes()
    assert run(crops, options=("--set", "fold=9")) == 1
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_a_head_with_nan_is_refused_6(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.ones((110, 110, 110), np.float32)
    array[5, 5, 5] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "head.nii.gz")
    assert run(tmp_path / "head.nii.gz") == 4
    assert "1 NaN" in caplog.text


def test_all_bad_is_4(run: Callable[..., int], crops: Path) -> None:
    for path in crops.iterdir():
        path.write_bytes(b"")
    assert run(crops) == 4


def test_an_empty_folder_is_2_56(run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "nothing").mkdir()
    assert run(tmp_path / "nothing") == 2
    assert "holds no NIfTI file" in caplog.text
    assert run(tmp_path / "missing") == 2
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_5(
    run: Callable[..., int], crops: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").write_text("in the way")
    assert run(crops) == 5
    assert "cannot be written" in caplog.text
    assert (tmp_path / "out").read_text() == "in the way"


def test_neither_crop_nor_head_is_refused_until_said(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    array = np.random.default_rng(0).uniform(1, 2, (90, 30, 30)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "half.nii.gz")
    assert run(tmp_path / "half.nii.gz") == 4
    assert "--input crop or --input head" in caplog.text
    assert run(tmp_path / "half.nii.gz", options=("--input", "crop")) == 0


def broken_copy(tiny_bundle: Path, folder: Path) -> tuple[Path, Path]:
    copy = folder / "copy_segmentation"
    shutil.copytree(tiny_bundle, copy)
    return copy, copy / "models" / "model.pt"


def test_weights_of_another_hash_59(
    run: Callable[..., int], crops: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy, weights = broken_copy(tiny_bundle, tmp_path)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert run(crops, bundle=copy) == 1
    assert "is damaged or was changed" in caplog.text
    assert not list((tmp_path / "out").glob("*_seg.nii.gz"))


def test_weights_of_another_network_60(
    run: Callable[..., int], crops: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy, weights = broken_copy(tiny_bundle, tmp_path)
    save_weights(residual_unet(1, 3, size="full"), weights, origin="released")
    assert run(crops, bundle=copy) == 1
    assert "model.pt" in caplog.text


def test_nan_weights_61(
    run: Callable[..., int], crops: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy, weights = broken_copy(tiny_bundle, tmp_path)
    state = torch.load(weights, weights_only=True)
    next(iter(state.values())).fill_(float("nan"))
    torch.save(state, weights)
    write_entry(weights.parent, weights.name, "released")
    assert run(crops, bundle=copy) == 1
    assert "NaN" in caplog.text


def test_a_bundle_for_another_torch_55(
    run: Callable[..., int], crops: Path, tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy, _ = broken_copy(tiny_bundle, tmp_path)
    path = copy / "configs" / "metadata.json"
    path.write_text(path.read_text().replace('"pytorch_version": "2.13.0"', '"pytorch_version": "9.9.0"'))
    assert run(crops, bundle=copy) == 1
    assert "made for torch 9.9.0" in caplog.text


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (("--set", "max_casse=1"), "did you mean 'max_cases'"),
        (("--config", "smok"), "did you mean 'smoke'"),
        (("--set", "epochs"), "id=value"),
        (("--device", "gpu"), "auto, cpu, cuda"),
        (("--input", "brain"), "--input must be one of"),
    ],
    ids=["53-override", "overlay", "set", "device", "kind"],
)
def test_settings_that_nobody_knows_are_1(
    run: Callable[..., int],
    crops: Path,
    caplog: pytest.LogCaptureFixture,
    tiny_bundle: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    cause: str,
) -> None:
    words = ["run", str(tiny_bundle), "-i", str(crops), "-o", str(tmp_path / "out"), *options]
    assert main(words) == 1
    assert cause in caplog.text


def test_an_unknown_bundle_is_1(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["run", "hipocampus_segmentation", "-i", "x", "-o", str(tmp_path)]) == 1
    assert "did you mean 'hippocampus_segmentation'" in caplog.text
