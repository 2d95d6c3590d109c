"""Our app on a real archive: a study of four series in Orthanc is one image, and what a person drew goes back to it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pydicom
import pytest

from neurobundle.cli import main
from neurobundle.geometry import same_grid
from neurobundle.label.dicomweb import DicomWeb, Series
from neurobundle.load.dicom.folder import study_key
from neurobundle.networks.manifest import sha256_of, verify

from ..export.dicom_results import read_back
from ..label.client import ServerError, SlicerClient
from ..label.places import TUMOUR, blank_bundle, four_series, serving, t2
from ..label.test_app import status_of
from ..load.dicom import make
from .conftest import Archive, archive

pytestmark = pytest.mark.slow

ONE, TWO = make.STUDY, f"{make.STUDY}.2"
#: That neurobundle.label.asgi looks at for one next sample.
MOST_REFUSED = 10
#: The T1, which the image shows, and the T2.
SHOWN, OTHER = f"{ONE}.1.3", f"{ONE}.1.0"


class Place(NamedTuple):
    """Where things are.

    Attributes:
        folder: holds the bundle, the store, and what the server prints.
        archive: has two studies: one of four series, one of a T2 alone.
        client: of the server.
    """

    folder: Path
    archive: Archive
    client: SlicerClient

    @property
    def image(self) -> str:
        """The image's id."""
        return study_key(ONE)

    @property
    def store(self) -> Path:
        """The folder that the app keeps."""
        return self.folder / "store"


def alone(folder: Path, study: str) -> list[Path]:
    """A study of one T2, which the bundle cannot use."""

    def edit(ds: Any, k: int) -> None:
        ds.StudyInstanceUID, ds.PatientID = study, f"MRN-{study}"
        t2(ds, k)

    return make.series(folder, uid=f"{study}.1", edit=edit).files


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, label_python: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("app")
    blank_bundle(folder)
    temporary = folder / "tmp"
    temporary.mkdir()
    files = four_series(folder / "studies" / "one")

    files += alone(folder / "studies" / "two", TWO)
    with archive(folder / "archive") as pacs:
        pacs.store(files)
        with serving(folder, label_python, pacs.address, TMPDIR=str(temporary)) as client:
            yield Place(folder, pacs, client)
        assert list(temporary.glob("neurobundle-studies-*")) == [], "what was fetched is gone when the server is"


@pytest.fixture(scope="module")
def ours(place: Place) -> Path:
    """What `neurobundle run` says of the same study in a folder."""
    words = ["run", str(place.folder / TUMOUR), "-i", str(place.folder / "studies" / "one"), "--device", "cpu"]
    assert main([*words, "-o", str(place.folder / "out"), "--no-pictures", "--output", "nifti,dicom-seg"]) == 0
    return place.folder / "out"


def masked(content: bytes | None, path: Path) -> Any:
    assert content is not None
    path.write_bytes(content)
    return nib.load(path)


def test_the_next_sample_names_what_a_viewer_needs(place: Place) -> None:
    """Two studies are listed, one is refused when it is fetched, and the other is handed out."""
    assert place.client.info()["datastore"]["total"] == 2
    assert list((place.store / "images").iterdir()) == []
    found = place.client.next_sample("first")
    assert found["id"] == place.image
    assert (found["StudyInstanceUID"], found["SeriesInstanceUID"], found["Modality"]) == (ONE, SHOWN, "MR")
    known = {one["case"]: one for one in json.loads((place.store / "studies.json").read_bytes())["studies"]}
    assert known[place.image]["status"] == "ok"
    for _ in range(2):
        assert place.client.next_sample("uncertain")["id"] == place.image
    with pytest.raises(ServerError, match="no T1"):
        place.client.infer(TUMOUR, study_key(TWO))


def test_four_series_of_an_archive_are_one_image(place: Place, ours: Path, tmp_path: Path) -> None:
    """Asked for by the case, and by a viewer's name for the series: as `neurobundle run` labels them."""
    run = nib.load(ours / f"{place.image}_seg.nii.gz")
    for image in (place.image, SHOWN):
        mask, numbers = place.client.infer(TUMOUR, image, result_extension=".nii.gz")
        found = masked(mask, tmp_path / "mask.nii.gz")
        assert same_grid(found.shape, found.affine, run.shape, run.affine)
        assert np.array_equal(np.asarray(found.dataobj), np.asarray(run.dataobj))
        assert [scan["channel"] for scan in numbers["study"]["chosen"]] == ["T1", "T1c", "T2", "FLAIR"]


def test_another_series_gets_its_own_grid(place: Place, tmp_path: Path) -> None:
    """Here it is the same one; of no series of the archive there is an answer."""
    mask, _ = place.client.infer(TUMOUR, OTHER, result_extension=".nii.gz", output="image")
    shown = nib.load(place.store / "images" / f"{place.image}.nii.gz")
    assert masked(mask, tmp_path / "mask.nii.gz").shape == shown.shape
    with pytest.raises(ServerError, match="422"):
        place.client.infer(TUMOUR, f"{ONE}.99")


def test_dicom_seg_is_that_of_run(place: Place, ours: Path, tmp_path: Path) -> None:
    """Byte for byte the object of `neurobundle run`, and voxel for voxel its label map."""
    path = tmp_path / "x_seg.dcm"
    seg, _ = place.client.infer(TUMOUR, SHOWN, output="dicom_seg", label_info=[{"name": "WT"}])
    assert seg is not None
    path.write_bytes(seg)
    assert seg == (ours / f"{place.image}_seg.dcm").read_bytes()
    run = nib.load(ours / f"{place.image}_seg.nii.gz")
    labels = np.asarray(run.dataobj)
    for number, values in enumerate(((1, 2, 3), (1, 3), (3,)), start=1):
        assert np.array_equal(read_back(path, run.affine, run.shape, number) > 0, np.isin(labels, values))


def test_a_final_label_is_in_the_archive(place: Place, tmp_path: Path) -> None:
    """As a segmentation of the study that refers to the image's series; the study is done."""
    shown = nib.load(place.store / "images" / f"{place.image}.nii.gz")
    labels = np.zeros(shown.shape, np.uint8)
    labels[4:9, 5:12, 6:9], labels[5:7, 6:8, 7] = 1, 3
    nib.save(nib.Nifti1Image(labels, shown.affine), tmp_path / "label.nii.gz")
    place.client.save_label(SHOWN, tmp_path / "label.nii.gz", ["necrotic core", "oedema", "enhancing tumour"])
    kept = nib.load(place.store / "labels" / "final" / f"{place.image}.nii.gz")
    assert np.array_equal(np.asarray(kept.dataobj), labels)
    (series,) = place.archive.series("SEG")
    assert series.study_uid == ONE
    (content,) = place.archive.fetch_series(*series)
    seg = pydicom.dcmread(io.BytesIO(content))
    assert str(seg.PatientName) == "DOE^JANE"
    assert SHOWN in [one.SeriesInstanceUID for one in seg.ReferencedSeriesSequence]
    assert {one.SegmentAlgorithmType for one in seg.SegmentSequence} == {"SEMIAUTOMATIC"}
    (tmp_path / "back_seg.dcm").write_bytes(content)
    assert np.array_equal(read_back(tmp_path / "back_seg.dcm", shown.affine, shown.shape), labels)
    assert place.client.next_sample("first") == {}


def test_ten_studies_that_are_refused(place: Place) -> None:
    """The next sample looks at so many, and says so; asked again it goes on."""
    for n in range(MOST_REFUSED):
        study = f"{make.STUDY}.4.{n}"
        place.archive.store(alone(place.folder / "studies" / study, study))
    with pytest.raises(ServerError, match=f"422 .*{MOST_REFUSED} studies were refused, the last: study-.* no T1"):
        place.client.next_sample("first")
    assert place.client.next_sample("first") == {}


def test_it_learns_from_what_lies_in_the_archive(place: Place) -> None:
    """A training is a process of its own, which fetches the labelled studies itself; what it learned answers next."""
    before = sha256_of(place.store / "bundles" / TUMOUR / "models" / "model.pt")
    status = place.client.train(TUMOUR, max_epochs=1)
    assert status["status"] == "DONE", place.client.logs()[-4000:]
    model = place.store / "bundles" / TUMOUR / "models" / "model.pt"
    assert verify(model).parent == before
    _, numbers = place.client.infer(TUMOUR, SHOWN)
    assert numbers["weights_sha256"] != before


def test_raw_voxels_of_a_viewer(place: Place, tmp_path: Path) -> None:
    """A byte a voxel, columns first, as OHIF has them; another number of them is refused, and another series."""
    shown = nib.load(place.store / "images" / f"{place.image}.nii.gz")
    labels = np.zeros(shown.shape, np.uint8)
    labels[3, 4, 5] = 2
    (tmp_path / "label.bin").write_bytes(labels.tobytes(order="F"))
    place.client.save_label(SHOWN, tmp_path / "label.bin", ["necrotic core", "oedema"])
    kept = nib.load(place.store / "labels" / "final" / f"{place.image}.nii.gz")
    assert np.array_equal(np.asarray(kept.dataobj), labels)
    (tmp_path / "label.bin").write_bytes(b"123")
    with pytest.raises(ServerError, match="3 bytes"):
        place.client.save_label(SHOWN, tmp_path / "label.bin", ["oedema"])
    (tmp_path / "label.txt").write_bytes(b"123")
    with pytest.raises(ServerError, match=r"Send NIfTI"):
        place.client.save_label(SHOWN, tmp_path / "label.txt", ["oedema"])


def test_75_the_proxy_of_a_viewer(place: Place) -> None:
    """What a viewer asks for comes from the archive, as it asks; nothing else of it does."""
    lists = f"{place.client.address}/proxy/dicom/qido"
    assert DicomWeb(lists).series() == DicomWeb(place.archive.address).series()
    assert DicomWeb(lists, search={"StudyInstanceUID": TWO}).series()[0].study == TWO
    assert len(DicomWeb(lists, search={"StudyInstanceUID": TWO}).series()) == 1
    assert status_of(place.client, "GET", f"/proxy/dicom/wado/studies/{ONE}/series/1.2.3") == 404
    fetched = place.folder / "proxied"
    size = DicomWeb(f"{place.client.address}/proxy/dicom/wado").fetch(Series(ONE, SHOWN), fetched, 1 << 30)
    assert len(list(fetched.iterdir())) == 26
    assert size > 26 * 30 * 24 * 2
    for path in ("..%2F..%2Fsystem", "wado/..%2Finstances", "http:%2F%2Fevil.example", "instances/x/file", "tools"):
        assert status_of(place.client, "GET", f"/proxy/dicom/{path}") == 400
    assert status_of(place.client, "POST", "/proxy/dicom/stow/studies") == 405


def test_a_new_study_is_noticed(place: Place) -> None:
    """By the next sample, without a new start."""
    third = f"{make.STUDY}.3"
    place.archive.store(four_series(place.folder / "studies" / "three", 3))
    found = place.client.next_sample("first")
    assert (found["id"], found["StudyInstanceUID"]) == (study_key(third), third)


def test_81_nothing_of_the_patient_is_kept_or_said(place: Place) -> None:
    """In no file of the store, in no log, in no answer but what a viewer asks by its own names."""
    kept = [path for path in (*place.store.rglob("*"), place.folder / "server.txt") if path.is_file()]
    assert any(path.name == "studies.json" for path in kept)
    text = b"".join(path.read_bytes() for path in kept) + json.dumps(place.client.info()).encode()
    text += place.client.logs().encode()
    assert place.image.encode() in text
    assert not [word for word in ("DOE", "Jane", "MRN", "1970", make.STUDY) if word.encode() in text]
    assert list(place.store.rglob("*.dcm")) == []
