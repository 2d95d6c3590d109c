"""``neurobundle run`` with a bundle that answers a class a case."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from neurobundle.bundle.workflow import make_plan
from neurobundle.cli import main
from neurobundle.commands.classify import Classify, make_run
from neurobundle.commands.run import Run
from neurobundle.errors import SettingError
from neurobundle.load.slice_folders import UNKNOWN_SIZE
from neurobundle.networks.classifier import classifier
from neurobundle.networks.manifest import write_entry

from ..conftest import ROOT

CLASSES = ["glioma", "meningioma", "pituitary"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle with tiny random weights."""
    folder = tmp_path_factory.mktemp("copy") / "tumor_type_classification"
    shutil.copytree(ROOT / "bundles" / folder.name, folder, ignore=shutil.ignore_patterns("models"))
    torch.manual_seed(1)
    width = make_plan(folder, "inference").value("width")
    network = classifier("resnet18", 1, 3, size="tiny", width=width, dropout=0.2, mask=True)
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    write_entry(folder / "models", "model.pt", origin="trained-here", parent=None)
    return folder


def brain(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    j, i = np.mgrid[:80, :72]
    image = 120.0 * ((i - 36) ** 2 + (j - 40) ** 2 < 30**2) + 90.0 * ((i - 30 - seed) ** 2 + (j - 44) ** 2 < 8**2)
    return (image + rng.normal(0, 3, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(3):
        Image.fromarray(brain(n)).save(folder / f"slice_{n}.png")
    return folder


def words(bundle: Path, inputs: Path, output: Path, *more: str) -> list[str]:
    return [
        "run",
        str(bundle),
        "--device",
        "cpu",
        "--set",
        "network_size=tiny",
        "-i",
        str(inputs),
        "-o",
        str(output),
        *more,
    ]


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def entries_of(output: Path) -> dict[str, dict]:
    return {case["case"]: case for case in json.loads((output / "report.json").read_text())["cases"]}


def test_a_folder_of_pictures(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(words(bundle, pictures, out)) == 0
    rows = rows_of(out)
    assert list(rows[0]) == ["case", "prediction", "confidence", *(f"p_{name}" for name in CLASSES), "abstained"]
    for row in rows:
        shares = {name: float(row[f"p_{name}"]) for name in CLASSES}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(shares, key=lambda name: shares[name])
        assert float(row["confidence"]) == max(shares.values())
    assert [row["case"] for row in rows] == ["slice_0", "slice_1", "slice_2"]
    entries = entries_of(out)
    assert entries["slice_0"]["output"] == "slice_0_class.json"
    assert set(entries["slice_0"]["outputs"]) == {"slice_0_class.json", "slice_0.png"}
    assert entries["slice_0"]["answer"]["prediction"] == rows[0]["prediction"]
    assert not list(out.glob("volumes.csv")) + list(out.glob("*_seg*"))
    with Image.open(out / "slice_0.png") as drawn:
        assert drawn.width == 2 * 320, "two panels"


def test_twice_the_same_bytes_and_nothing_is_done_again(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(words(bundle, pictures, tmp_path / name)) == 0
    for path in sorted((tmp_path / "a").glob("*.*")):
        if path.name != "report.json":
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*_class.json")}
    assert main(words(bundle, pictures, tmp_path / "a")) == 0
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*_class.json")}


def test_a_bad_picture_is_named_and_the_others_are_done(
    bundle: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands in the table, too, with blank cells, so that who scores the table counts it as wrong."""
    (pictures / "slice_1.png").write_bytes((pictures / "slice_1.png").read_bytes()[:200])
    photo = np.random.default_rng(0).integers(0, 255, (80, 72, 3)).astype(np.uint8)
    Image.fromarray(photo).save(pictures / "photo.png")
    assert main(words(bundle, pictures, tmp_path / "out", "--no-pictures")) == 3
    rows = {row["case"]: row for row in rows_of(tmp_path / "out")}
    assert [case for case, row in rows.items() if not row["confidence"]] == ["photo", "slice_1"]
    assert rows["slice_0"]["prediction"]
    assert rows["slice_2"]["prediction"]
    text = caplog.text
    assert "slice_1.png: it cannot be read" in text
    assert "photo.png: it is in colour" in text
    assert not (tmp_path / "out" / "photo_class.json").exists()


def test_a_head_is_answered_by_the_slices_that_count(bundle: Path, tmp_path: Path) -> None:
    volume = np.stack([brain(0)] * 6, axis=2)
    nib.save(nib.Nifti1Image(volume, np.diag([-3.0, -3.0, 6.0, 1.0])), tmp_path / "head.nii.gz")
    assert main(words(bundle, tmp_path / "head.nii.gz", tmp_path / "out")) == 0
    (row,) = rows_of(tmp_path / "out")
    slices = entries_of(tmp_path / "out")["head"]["answer"]["slices"]
    assert len(slices) == 5
    assert sum(each["weight"] for each in slices) == pytest.approx(5 / 6, abs=0.01)
    assert {each["prediction"] for each in slices} == {row["prediction"]}
    assert (tmp_path / "out" / "head.png").exists()


def test_it_abstains_below_the_confidence_that_was_chosen(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "tumor_type_classification"
    shutil.copytree(bundle, copy)
    plain = tmp_path / "plain"
    assert main(words(copy, pictures, plain)) == 0
    (copy / "models" / "calibration.json").write_text('{"temperature": 50.0, "abstain_below": 0.9}')
    assert main(words(copy, pictures, tmp_path / "out")) == 0
    for before, after in zip(rows_of(plain), rows_of(tmp_path / "out"), strict=True):
        assert (after["prediction"], after["abstained"]) == ("", "1")
        assert float(after["confidence"]) < float(before["confidence"])
    assert "no class is named" in entries_of(tmp_path / "out")["slice_0"]["warnings"][-1]
    # Another calibration is another answer: nothing of the first run is taken for finished.
    assert main(words(copy, pictures, plain)) == 0
    assert rows_of(plain) == rows_of(tmp_path / "out")


def test_stock_monai_writes_the_same(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    """What ``python -m monai.bundle run`` runs, in process."""
    assert main(words(bundle, pictures, tmp_path / "ours", "--no-pictures")) == 0
    settings = {"dataset_dir": str(pictures), "output_dir": str(tmp_path / "stock"), "device": "cpu"}
    workflow = make_plan(bundle, "inference", (), {**settings, "network_size": "tiny"}).workflow()
    workflow.initialize()
    workflow.run()
    names = sorted(path.name for path in (tmp_path / "ours").glob("*") if path.name != "report.json")
    assert names == ["predictions.csv", *(f"slice_{n}_class.json" for n in range(3))]
    for name in names:
        assert (tmp_path / "stock" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()


def test_results_beside_their_pictures(bundle: Path, pictures: Path) -> None:
    """No picture is replaced, and no drawing becomes the next run's case."""
    Image.open(pictures / "slice_0.png").save(pictures / "other.jpg")
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    for _ in range(2):
        assert main(words(bundle, pictures, pictures)) == 0
        assert sorted(entries_of(pictures)) == ["other", "slice_0", "slice_1", "slice_2"]
    assert {name: (pictures / name).read_bytes() for name in before} == before


def test_results_above_their_pictures_are_drawn(bundle: Path, pictures: Path) -> None:
    """Nothing looks for pictures there."""
    assert main(words(bundle, pictures, pictures.parent)) == 0
    assert (pictures.parent / "slice_0.png").exists()
    assert len(list(pictures.iterdir())) == 3


def test_the_run_that_fits_a_bundle(bundle: Path, tmp_path: Path) -> None:
    assert type(make_run(str(bundle), tmp_path)) is Classify
    assert type(make_run("hippocampus_segmentation", tmp_path)) is Run


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda bundle, out: Classify("hippocampus_segmentation", out), "answers no class"),
        (lambda bundle, out: make_run(str(bundle), out, side="right"), "knows no sides"),
        (lambda bundle, out: make_run(str(bundle), out, probabilities=True), "writes no probabilities"),
        (lambda bundle, out: make_run(str(bundle), out, settings={"calibration": "c.jsn"}), "no such calibration"),
    ],
)
def test_options_that_mean_nothing(make, cause: str, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=cause):
        make(bundle, tmp_path)


def test_what_holds_for_every_picture_is_said_once(
    bundle: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In each entry, and in one line of the run; by its name where it is one case, and not of those done before."""
    (pictures / "slice_2.png").rename(tmp_path / "slice_2.png")
    assert main(words(bundle, pictures, tmp_path / "out", "--no-pictures")) == 0
    entries = entries_of(tmp_path / "out")
    assert [entry["warnings"] for entry in entries.values()] == [[UNKNOWN_SIZE]] * 2
    assert [line for line in caplog.messages if UNKNOWN_SIZE in line] == [f"2 cases: {UNKNOWN_SIZE}"]
    (tmp_path / "slice_2.png").rename(pictures / "slice_2.png")
    caplog.clear()
    assert main(words(bundle, pictures, tmp_path / "out", "--no-pictures")) == 0
    assert [line for line in caplog.messages if UNKNOWN_SIZE in line] == [f"slice_2: {UNKNOWN_SIZE}"]


def test_pictures_and_answers_are_the_same_one_by_one(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    """The class activation map too, which takes its features from the network's own pass."""
    for overlap in (True, False):
        settings = {"device": "cpu", "network_size": "tiny"}
        run = make_run(str(bundle), tmp_path / str(overlap), settings=settings, overlap=overlap)
        assert [result.case for result in run([pictures]).results] == ["slice_0", "slice_1", "slice_2"]
    names = sorted(path.name for path in (tmp_path / "True").iterdir() if path.name != "report.json")
    assert names == ["predictions.csv", *(f"slice_{n}{end}" for n in range(3) for end in (".png", "_class.json"))]
    for name in names:
        assert (tmp_path / "True" / name).read_bytes() == (tmp_path / "False" / name).read_bytes(), name
    first, second = (entries_of(tmp_path / name) for name in ("True", "False"))
    for entry in (*first.values(), *second.values()):
        assert set(entry.pop("timing")) == {"read", "classify", "write", "describe", "seconds", "peak_memory_mib"}
    assert first == second
