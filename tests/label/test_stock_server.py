"""Each bundle in a stock MONAI Label server, by the calls of 3D Slicer's plugin.

The next sample, a mask, labels handed in, an epoch learned, and a mask by what was learned.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from neurobundle.bundle.find import channels_of, structures_of
from neurobundle.cli import main
from neurobundle.networks.manifest import sha256_of, verify
from neurobundle.prepare.register import template_path

from ..conftest import ROOT, blob
from .client import ServerError
from .conftest import PAGE, Server, commands, running

pytestmark = pytest.mark.slow

VOLUMES = ["hippocampus_segmentation", "brain_anatomy_segmentation", "tumor_slice_segmentation"]
CLASSES = "tumor_type_classification"
TUMOUR = "brain_tumor_segmentation"
SHAPE = (48, 64, 48)
SCANS = 3


def write_scan(file: Path, seed: int, gain: float = 1.0) -> None:
    """A crop of nilearn's template about the left hippocampus, in an order and on axes that no scanner has."""
    template = nib.load(template_path())
    middle = nib.affines.apply_affine(np.linalg.inv(template.affine), (-26, -22, -15)).round().astype(int)
    low = middle - np.array(SHAPE) // 2
    crop = template.slicer[tuple(slice(a, a + n) for a, n in zip(low, SHAPE, strict=True))]
    array = gain * np.asarray(crop.dataobj, np.float32) + np.random.default_rng(seed).normal(0, 2, SHAPE)
    angle = np.deg2rad(6)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    order = np.array([[0, -1, 0, SHAPE[0] - 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    array = np.ascontiguousarray(array[::-1].transpose(1, 0, 2), dtype=np.float32)
    file.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, turn @ crop.affine @ order), file)


@pytest.fixture(scope="module")
def volumes(label_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that has all bundles of one scan a case."""
    folder = tmp_path_factory.mktemp("volumes")
    for n in range(SCANS):
        write_scan(folder / "my_images" / f"case_{n}.nii.gz", n)
    with running(folder, label_python, [*VOLUMES, CLASSES]) as server:
        yield server


@pytest.fixture(scope="module")
def studies(label_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whose cases are four sequences in a 4D file, made as the page has it."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "my_images").mkdir()
    (script,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for n in range(SCANS):
        for channel, name in enumerate(channels_of(ROOT / "bundles" / TUMOUR)):
            write_scan(folder / "study" / f"case_{n}" / f"case_{n}_{name}.nii.gz", 10 * n + channel, 1 - channel / 10)
        subprocess.run([sys.executable, "-c", script.replace("case_0", f"case_{n}")], cwd=folder, check=True)
    with running(folder, label_python, [TUMOUR]) as server:
        yield server


def mask_of(content: bytes | None, file: Path) -> sitk.Image:
    """A mask as a client reads it."""
    assert content
    file.write_bytes(content)
    return sitk.ReadImage(str(file))


def grid_of(image: sitk.Image) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine, in ITK's axes; of 4D, those of a volume."""
    if image.GetDimension() == 4:
        image = image[:, :, :, 0]
    return image.GetSize(), np.array([*image.GetOrigin(), *image.GetSpacing(), *image.GetDirection()])


def by_our_command(bundle: Path, image: Path, out: Path) -> np.ndarray:
    """What `neurobundle run` says of an image, in SimpleITK's order of axes; of 4D, of a file a sequence."""
    if len(channels_of(bundle)) > 1:
        image = image.parents[1] / "study" / image.name.removesuffix(".nii.gz")
    assert main(["run", str(bundle), "-i", str(image), "-o", str(out), "--device", "cpu", "--no-pictures"]) == 0
    return sitk.GetArrayFromImage(sitk.ReadImage(str(next(out.glob("*_seg.nii.gz")))))


def annotated(mask: sitk.Image, file: Path, value: int | None) -> Path:
    """A mask as a person hands it in, corrected: a ball of one label was painted."""
    array = sitk.GetArrayFromImage(mask)
    if value is not None:
        array[blob(array.shape, tuple(n / 2 for n in array.shape), 7)] = value
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(mask)
    sitk.WriteImage(changed, str(file))
    return file


def play(server: Server, name: str, folder: Path, paint: int | None, **train: object) -> None:
    """The whole round for one bundle."""
    client, bundle = server.client, server.bundles / name
    before = sha256_of(bundle / "models" / "model.pt")
    info = client.info()
    assert info["models"][name]["type"] == "segmentation"
    assert info["models"][name]["config"]["model_filename"][0] == "model.pt"
    assert name in info["trainers"]

    sample = client.next_sample("random")
    file = server.studies / f"{sample['id']}.nii.gz"
    assert client.image(sample["id"]) == file.read_bytes()

    content, answer = client.infer(name, sample["id"])
    mask = mask_of(content, folder / "mask.nrrd")
    (shape, place), (wanted, there) = grid_of(mask), grid_of(sitk.ReadImage(str(file)))
    assert shape == wanted
    assert np.abs(place - there).max() < 1e-3
    labels = sitk.GetArrayFromImage(mask)
    assert set(np.unique(labels)) <= {0, *structures_of(bundle)}
    assert list(answer["label_names"]) == [label for label in info["labels"] if label in answer["label_names"]]
    assert np.array_equal(labels, by_our_command(ROOT / "bundles" / name, file, folder / "first"))
    assert client.infer(name, sample["id"], output="image")[0] == content

    names = list(answer["label_names"])
    for n in range(SCANS - 1):
        said = mask_of(client.infer(name, f"case_{n}")[0], folder / f"case_{n}.nrrd")
        handed_in = annotated(said, folder / f"case_{n}.nii.gz", paint)
        client.save_label(f"case_{n}", handed_in, names)
        assert (server.studies / "labels" / "final" / handed_in.name).read_bytes() == handed_in.read_bytes()
    assert client.info()["datastore"]["completed"] == SCANS - 1

    status = client.train(name, max_epochs=1, **train)
    assert status["status"] == "DONE", client.logs()[-4000:]
    assert "Training Finished" in client.logs()
    learned = verify(bundle / "models" / "model.pt")
    assert learned.sha256 != before
    assert (learned.origin, learned.parent) == ("trained-here", before)

    again = sitk.GetArrayFromImage(mask_of(client.infer(name, sample["id"])[0], folder / "again.nrrd"))
    assert np.array_equal(again, by_our_command(bundle, file, folder / "second"))
    if name in commands()[3]:
        by_the_page(server, file, again)


def by_the_page(server: Server, image: Path, wanted: np.ndarray) -> None:
    """Its last command, on an image of which the server has just said what it sees."""
    folder = server.studies.parent
    shutil.copy(image, folder / "new_scan.nii.gz")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", commands()[3]], cwd=folder, check=True, env={**os.environ, "PATH": path})
    found = sitk.ReadImage(str(folder / "out" / "new_scan_seg.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(found), wanted)


@pytest.mark.parametrize(
    ("name", "paint", "train"),
    [
        ("hippocampus_segmentation", None, {}),
        ("brain_anatomy_segmentation", 13, {}),
        ("tumor_slice_segmentation", 1, {"val_split": 0.5}),
    ],
    ids=VOLUMES,
)
def test_a_bundle_of_scans(
    volumes: Server, tmp_path: Path, name: str, paint: int | None, train: dict[str, object]
) -> None:
    play(volumes, name, tmp_path, paint, **train)


def test_the_bundle_of_studies(studies: Server, tmp_path: Path) -> None:
    play(studies, TUMOUR, tmp_path, 2)


def test_a_bundle_that_answers_a_class(volumes: Server, tmp_path: Path) -> None:
    """Probabilities in place of a mask; a tumour that is outlined in the segment of its class teaches it."""
    client, bundle = volumes.client, volumes.bundles / CLASSES
    before = sha256_of(bundle / "models" / "model.pt")
    assert client.info()["models"][CLASSES]["type"] == "classification"
    file = volumes.studies / "case_2.nii.gz"

    def said(out: str) -> list[float]:
        assert main(["run", str(bundle), "-i", str(file), "-o", str(tmp_path / out), "--device", "cpu"]) == 0
        ours = json.loads((tmp_path / out / "case_2_class.json").read_text())["probabilities"]
        mask, answer = client.infer(CLASSES, "case_2")
        assert mask is None
        assert [row["label"] for row in answer["prediction"]] == list(ours) == ["glioma", "meningioma", "pituitary"]
        scores = [row["score"] for row in answer["prediction"]]
        assert scores == pytest.approx(list(ours.values()), abs=1e-4)
        return scores

    first = said("first")
    assert sum(first) == pytest.approx(1)
    for n in range(2):
        image = nib.load(volumes.studies / f"case_{n}.nii.gz")
        outlined = nib.Nifti1Image(
            np.where(blob(image.shape, (30, 24, 20), 8), n + 1, 0).astype(np.uint8), image.affine
        )
        nib.save(outlined, tmp_path / f"case_{n}.nii.gz")
        client.save_label(f"case_{n}", tmp_path / f"case_{n}.nii.gz", ["glioma", "meningioma", "pituitary"])
    status = client.train(CLASSES, max_epochs=1)
    assert status["status"] == "DONE", client.logs()[-4000:]
    learned = verify(bundle / "models" / "model.pt")
    assert (learned.origin, learned.parent) == ("trained-here", before)
    assert said("second") != first


def test_what_cannot_be_is_refused_by_name(studies: Server, tmp_path: Path) -> None:
    """One volume for a network of four: the log says so, not a shape of a tensor."""
    write_scan(tmp_path / "alone.nii.gz", 9)
    with pytest.raises(ServerError):
        studies.client.infer(TUMOUR, str(tmp_path / "alone.nii.gz"))
    for _ in range(100):  # it answers first, and logs then
        if "it holds one volume, and 4 channels are wanted" in studies.output.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(studies.output.read_text()[-2000:])
