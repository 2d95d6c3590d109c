"""Each bundle in a stock MONAI Label server on an archive, by the calls of its clients.

The next sample, a mask, a DICOM segmentation, labels handed in, an epoch learned, and a mask by what was learned.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from neurobundle.bundle.find import channels_of, structures_of
from neurobundle.cli import main
from neurobundle.networks.manifest import sha256_of, verify

from ..conftest import ROOT, blob
from ..export.dicom_results import read_back
from ..label.client import ServerError
from ..label.conftest import Server
from ..label.test_stock_server import CLASSES, TUMOUR, VOLUMES, annotated, grid_of, mask_of
from .conftest import Archive, archive, on_archive
from .scans import template_series

pydicom = pytest.importorskip("pydicom")

pytestmark = pytest.mark.slow

SERIES = 3


class Place(NamedTuple):
    """What runs.

    Attributes:
        store: the archive.
        server: on it.
        folders: of the files of each series, by its SeriesInstanceUID.
    """

    store: Archive
    server: Server
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def place(label_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An archive with three studies of a series each, and a server that has all bundles."""
    folder = tmp_path_factory.mktemp("archive")
    with archive(folder / "orthanc") as store:
        folders = {}
        for n in range(SERIES):
            made = template_series(folder / "dicom" / str(n), n, sagittal=n == 1)
            folders[str(pydicom.dcmread(made.files[0]).SeriesInstanceUID)] = made.files[0].parent
            store.store(made.files)
        (folder / "server").mkdir()
        with on_archive(store, folder / "server", label_python, [*VOLUMES, CLASSES, TUMOUR]) as server:
            yield Place(store, server, folders)


def by_our_command(bundle: Path, series: Path, out: Path) -> list[Path]:
    """What `neurobundle run` writes of a series, whatever sequence it is: such a server does not look."""
    out.mkdir()
    words = ["run", str(bundle), "-i", str(series), "-o", str(out), "--device", "cpu", "--no-pictures"]
    (channel,) = channels_of(bundle)
    if channel != "any":
        (out / "mapping.json").write_text(json.dumps({channel: {"series": 4}}))
        words += ["--mapping", str(out / "mapping.json")]
    assert main(words) == 0
    return sorted(out.iterdir())


def label_map(files: list[Path]) -> Path:
    (found,) = [path for path in files if path.name.endswith("_seg.nii.gz")]
    return found


def segmentations(store: Archive) -> list[Any]:
    """All that the archive has."""
    found = [content for series in store.series("SEG") for content in store.fetch_series(*series)]
    return [pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)) for content in found]


def seg_as_labels(path: Path, nifti: Path) -> np.ndarray:
    """A segmentation by dcmqi, in SimpleITK's order of axes; it numbers segments from 1 by what was found."""
    wanted: Any = nib.load(nifti)
    values = np.unique(np.asarray(wanted.dataobj))
    assert values[0] == 0
    return values[read_back(path, wanted.affine, wanted.shape)].transpose()


def test_the_next_sample(place: Place) -> None:
    """With what a viewer wants to know of it; the image is the series."""
    sample = place.server.client.next_sample("first")
    uid = sample["id"]
    first = pydicom.dcmread(next(place.folders[uid].iterdir()))
    assert sample["SeriesInstanceUID"] == uid
    assert (sample["StudyInstanceUID"], sample["Modality"]) == (first.StudyInstanceUID, "MR")
    assert place.server.client.info()["datastore"]["total"] == SERIES
    assert Path(sample["path"]).is_relative_to(place.server.studies)


@pytest.mark.parametrize(
    ("name", "paint", "train"),
    [
        ("hippocampus_segmentation", None, {}),
        ("brain_anatomy_segmentation", 13, {}),
        ("tumor_slice_segmentation", 1, {"val_split": 0.5}),
    ],
    ids=VOLUMES,
)
def test_a_bundle(place: Place, tmp_path: Path, name: str, paint: int | None, train: dict[str, object]) -> None:
    """The whole round."""
    client, bundle = place.server.client, place.server.bundles / name
    before = sha256_of(bundle / "models" / "model.pt")
    info = [{"name": label} for label in client.info()["models"][name]["labels"]]
    *annotate, last = place.folders
    for n, uid in enumerate(annotate):
        here = tmp_path / str(n)
        here.mkdir()
        content, answer = client.infer(name, uid)
        mask = mask_of(content, here / "mask.nrrd")
        (here / "image.nii.gz").write_bytes(client.image(uid))
        (shape, where), (wanted, there) = grid_of(mask), grid_of(sitk.ReadImage(str(here / "image.nii.gz")))
        assert shape == wanted
        assert np.abs(where - there).max() < 1e-3
        labels = sitk.GetArrayFromImage(mask)
        assert labels.any() or name == "tumor_slice_segmentation"
        assert set(np.unique(labels)) <= {0, *structures_of(bundle)}
        ours = label_map(by_our_command(ROOT / "bundles" / name, place.folders[uid], here / "ours"))
        assert np.array_equal(labels, sitk.GetArrayFromImage(sitk.ReadImage(str(ours))))
        # As the viewer asks: without a word of the numbers, uncompressed, and as the config's own numbers.
        viewers = {"result_dtype": "uint8", "result_compress": False, "restore_label_idx": False}
        drawn = mask_of(client.infer(name, uid, output="image", **viewers)[0], here / "viewer.nrrd")
        assert np.array_equal(sitk.GetArrayFromImage(drawn), labels)
        if labels.any():
            seg, _ = client.infer(name, uid, output="dicom_seg", label_info=info, result_extension=".nii.gz")
            assert seg
            (here / "x_seg.dcm").write_bytes(seg)
            assert np.array_equal(seg_as_labels(here / "x_seg.dcm", ours), labels)
        client.save_label(uid, annotated(mask, here / "label.nii.gz", paint), list(answer["label_names"]))
    assert client.next_sample("first")["id"] == last
    referred = {seg.ReferencedSeriesSequence[0].SeriesInstanceUID for seg in segmentations(place.store)}
    assert referred == set(annotate)

    status = client.train(name, max_epochs=1, **train)
    assert status["status"] == "DONE", client.logs()[-4000:]
    learned = verify(bundle / "models" / "model.pt")
    assert learned.sha256 != before
    assert (learned.origin, learned.parent) == ("trained-here", before)
    again = sitk.GetArrayFromImage(mask_of(client.infer(name, last)[0], tmp_path / "again.nrrd"))
    ours = label_map(by_our_command(bundle, place.folders[last], tmp_path / "second"))
    assert np.array_equal(again, sitk.GetArrayFromImage(sitk.ReadImage(str(ours))))


def test_the_bundle_that_answers_a_class(place: Place, tmp_path: Path) -> None:
    """Probabilities in place of a mask; a tumour that is outlined in the segment of its class teaches it."""
    client, bundle = place.server.client, place.server.bundles / CLASSES
    *annotate, last = place.folders
    before = sha256_of(bundle / "models" / "model.pt")

    def said(out: str) -> list[float]:
        files = by_our_command(bundle, place.folders[last], tmp_path / out)
        (ours,) = [json.loads(path.read_text())["probabilities"] for path in files if path.name.endswith("_class.json")]
        mask, answer = client.infer(CLASSES, last)
        assert mask is None
        assert [row["label"] for row in answer["prediction"]] == list(ours)
        scores = [float(row["score"]) for row in answer["prediction"]]
        assert scores == pytest.approx(list(ours.values()), abs=1e-4)
        return scores

    first = said("first")
    for n, uid in enumerate(annotate):
        (tmp_path / "image.nii.gz").write_bytes(client.image(uid))
        image = nib.load(tmp_path / "image.nii.gz")
        middle = tuple(size / 2 for size in image.shape)
        outlined = np.where(blob(image.shape, middle, 8), n + 1, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(outlined, image.affine), tmp_path / "label.nii.gz")
        client.save_label(uid, tmp_path / "label.nii.gz", ["glioma", "meningioma", "pituitary"])
    status = client.train(CLASSES, max_epochs=1)
    assert status["status"] == "DONE", client.logs()[-4000:]
    learned = verify(bundle / "models" / "model.pt")
    assert (learned.origin, learned.parent) == ("trained-here", before)
    assert said("second") != first


def test_four_series_are_no_image(place: Place) -> None:
    """The bundle of studies is refused by name, not by a shape of a tensor: it takes our app."""
    with pytest.raises(ServerError):
        place.server.client.infer(TUMOUR, next(iter(place.folders)))
    for _ in range(100):  # it answers first, and logs then
        if "it holds one volume, and 4 channels are wanted" in place.server.output.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(place.server.output.read_text()[-2000:])


def test_labels_that_are_the_archives_alone(place: Place, tmp_path: Path) -> None:
    """What was not submitted through this server is refused by name; the last test, since it loses the labels."""
    client, name = place.server.client, VOLUMES[0]
    uid = next(iter(place.folders))
    image = nib.load(place.server.studies.glob(f"*/{uid}.nii.gz").__next__())
    outlined = np.where(blob(image.shape, (24, 32, 24), 8), 1, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(outlined, image.affine), tmp_path / "label.nii.gz")
    client.save_label(uid, tmp_path / "label.nii.gz", ["anterior"])
    for kept in place.server.studies.glob("*/labels/final/*"):
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    before = sha256_of(place.server.bundles / name / "models" / "model.pt")
    assert client.train(name, max_epochs=1)["status"] == "ERROR"
    assert f"{uid}.nrrd: it is not a NIfTI file" in client.logs()
    assert sha256_of(place.server.bundles / name / "models" / "model.pt") == before
