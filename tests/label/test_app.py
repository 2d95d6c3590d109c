"""Our app in a real MONAI Label server: studies as cases, answers with numbers, the least sure image first."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobundle.cli import main
from neurobundle.geometry import same_grid
from neurobundle.label.guard import Limits
from neurobundle.networks.manifest import verify

from ..load.dicom import make
from .client import ServerError, SlicerClient
from .places import TUMOUR, blank_bundle, four_series, serving

pytestmark = pytest.mark.slow

CLASSES = "tumor_type_classification"


def of_another(ds: Any, _: int) -> None:
    ds.StudyInstanceUID, ds.PatientID = f"{make.STUDY}.7", "MRN-7"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DICOM study of four series in no order, one that lacks three of them, and a bundle that knows nothing."""
    folder = tmp_path_factory.mktemp("app")
    four_series(folder / "studies" / "one")
    make.series(folder / "studies" / "two", uid=f"{make.SERIES}.7", edit=of_another)
    blank_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def server(place: Path, label_python: Path) -> Iterator[SlicerClient]:
    """A server of this machine's own."""
    with serving(place, label_python) as client:
        yield client


def status_of(client: SlicerClient, method: str, path: str, **headers: str) -> int:
    """Of a request without a body."""
    request = urllib.request.Request(client.address + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def run(bundle: Path, place: Path, out: Path, *more: str) -> None:
    """`neurobundle run` on the study of four series."""
    words = ["run", str(bundle), "-i", str(place / "studies" / "one"), "-o", str(out), "--device", "cpu"]
    assert main([*words, "--no-pictures", *more]) == 0


def test_a_study_of_four_series_is_one_image(server: SlicerClient, place: Path, tmp_path: Path) -> None:
    """Labelled from four channels, on the reference's grid, as `neurobundle run` labels it."""
    info = server.info()
    assert list(info["models"]) == [TUMOUR]
    assert list(info["strategies"]) == ["uncertain", "first", "random"]
    assert info["datastore"]["total"] == 1
    ((refused, why),) = info["datastore"]["refused"].items()
    assert refused.startswith("study-")
    assert "no T1c: found T1 (series 4)" in why
    image = server.next_sample("uncertain")["id"]
    assert image.startswith("study-")
    mask, numbers = server.infer(TUMOUR, image, result_extension=".nii.gz")
    assert mask is not None
    (tmp_path / "mask.nii.gz").write_bytes(mask)
    chosen = {entry["channel"]: entry["source"] for entry in numbers["study"]["chosen"]}
    assert list(chosen) == ["T1", "T1c", "T2", "FLAIR"]
    assert len(set(chosen.values())) == 4
    assert set(numbers["uncertainty"]["structures"]) == {"WT", "TC", "ET"}
    run(place / TUMOUR, place, tmp_path / "out")
    ours, theirs = nib.load(tmp_path / "out" / f"{image}_seg.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    shown = nib.load(place / "store" / "images" / f"{image}.nii.gz")
    assert same_grid(theirs.shape, theirs.affine, shown.shape, shown.affine)
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))


def test_a_dicom_segmentation_of_a_folder_s_study(server: SlicerClient, place: Path, tmp_path: Path) -> None:
    """MONAI Label makes none of a store of files; here it is the object of `neurobundle run`."""
    (image,) = [path.name.removesuffix(".nii.gz") for path in (place / "store" / "images").iterdir()]
    seg, _ = server.infer(TUMOUR, image, output="dicom_seg")
    run(place / TUMOUR, place, tmp_path / "out", "--output", "dicom-seg")
    assert seg == (tmp_path / "out" / f"{image}_seg.dcm").read_bytes()


def test_a_label_is_kept_and_the_study_is_done(server: SlicerClient, place: Path, tmp_path: Path) -> None:
    (image,) = [path.name.removesuffix(".nii.gz") for path in (place / "store" / "images").iterdir()]
    mask, _ = server.infer(TUMOUR, image, result_extension=".nii.gz")
    assert mask is not None
    (tmp_path / "mask.nii.gz").write_bytes(mask)
    answered = nib.load(tmp_path / "mask.nii.gz")
    corrected = np.roll(np.asarray(answered.dataobj), 1, axis=0)
    nib.save(nib.Nifti1Image(corrected, answered.affine), tmp_path / "corrected.nii.gz")
    server.save_label(image, tmp_path / "corrected.nii.gz", ["wt", "tc", "et"])
    kept = place / "store" / "labels" / "final" / f"{image}.nii.gz"
    before = kept.read_bytes()
    assert not np.array_equal(np.asarray(answered.dataobj), corrected)
    server.infer(TUMOUR, image, result_extension=".nii.gz", save_label=True, label_tag="final")
    assert kept.read_bytes() == before, "an answer is no label, whatever a request says"
    assert server.next_sample("uncertain") == {}


def test_a_person_picks_the_scans(server: SlicerClient, place: Path) -> None:
    """In the place of the rules; a scan that is not there is named."""
    config = server.info()["models"][TUMOUR]["config"]
    assert list(config) == ["scan_T1", "scan_T1c", "scan_T2", "scan_FLAIR"]
    assert config["scan_T2"][0] == "by rule"
    numbers = [name for name in config["scan_T2"] if name.startswith("series ")]
    assert len(numbers) == 4
    (image,) = [path.name.removesuffix(".nii.gz") for path in (place / "store" / "images").iterdir()]
    chosen = {one["channel"]: one["source"] for one in server.infer(TUMOUR, image)[1]["study"]["chosen"]}
    picked = {"scan_T2": chosen["FLAIR"], "scan_FLAIR": chosen["T2"]}
    _, answer = server.infer(TUMOUR, image, **picked)
    found = {one["channel"]: one["source"] for one in answer["study"]["chosen"]}
    assert found == {**chosen, "T2": chosen["FLAIR"], "FLAIR": chosen["T2"]}
    with pytest.raises(ServerError, match=r"no scan 'series 99'.*It has series"):
        server.infer(TUMOUR, image, scan_T1="series 99")


def test_it_learns_from_the_labels_and_is_compared_with_them(server: SlicerClient, place: Path, tmp_path: Path) -> None:
    (image,) = [path.name.removesuffix(".nii.gz") for path in (place / "store" / "images").iterdir()]
    mask, before = server.infer(TUMOUR, image, result_extension=".nii.gz")
    assert mask is not None
    (tmp_path / "mask.nii.gz").write_bytes(mask)
    server.save_label(image, tmp_path / "mask.nii.gz", list(before["label_names"]))
    method = f"agreement_{TUMOUR}"
    (own,) = server.score(method).values()
    assert not own["learned_from"]
    assert own["scores"]
    assert {score["dice"] for score in own["scores"].values()} == {1.0}, "its own answer, saved as it was"

    status = server.train(TUMOUR, max_epochs=1, device="cpu")
    assert status["status"] == "DONE", server.logs()[-4000:]
    lesson = server.info()["train_stats"][TUMOUR]
    assert (lesson["cases"], lesson["held_out"], lesson["taken"]) == ([image], [], True)
    mask, after = server.infer(TUMOUR, image, result_extension=".nii.gz")
    assert mask is not None
    assert after["weights_sha256"] != before["weights_sha256"]
    assert after["weights_sha256"] == verify(place / "store" / "bundles" / TUMOUR / "models" / "model.pt").sha256
    (again,) = server.score(method).values()
    assert again["learned_from"]
    (tmp_path / "mask.nii.gz").write_bytes(mask)
    run(place / "store" / "bundles" / TUMOUR, place, tmp_path / "out")
    ours, theirs = nib.load(tmp_path / "out" / f"{image}_seg.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))


def test_70_and_77_by_the_routes(server: SlicerClient, place: Path) -> None:
    before = sorted(path for path in place.rglob("*") if path.suffix not in (".log", ".txt"))
    assert status_of(server, "PUT", "/datastore/label?image=..%2F..%2Fx&tag=final") == 400
    assert status_of(server, "PUT", "/datastore/label?image=a&tag=..%2F..%2Fx") == 400
    assert status_of(server, "GET", "/proxy/dicom/..%2Fsystem") == 400
    assert status_of(server, "PUT", "/session/?uncompress=true") == 400
    assert status_of(server, "GET", "/info/", Origin="http://evil.example") == 403
    assert status_of(server, "GET", "/info/", Host="evil.example") == 421
    with pytest.raises(ServerError, match="no image of that id"):
        server.infer(TUMOUR, "nobody")
    assert sorted(path for path in place.rglob("*") if path.suffix not in (".log", ".txt")) == before


def test_74_twenty_at_once_and_one_of_them_bad(server: SlicerClient, place: Path) -> None:
    """Those for whom there is no room are told so; the bad one fails alone; the others have the same mask."""
    (image,) = [path.name.removesuffix(".nii.gz") for path in (place / "store" / "images").iterdir()]

    def ask(n: int) -> bytes | str | None:
        try:
            return server.infer(TUMOUR, "nobody" if n == 3 else image, output="image")[0]
        except ServerError as error:
            return str(error)

    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(ask, range(20)))
    assert isinstance(found[3], str)
    assert "no image of that id" in found[3] or " 429 " in found[3]
    good = found[:3] + found[4:]
    masks = [one for one in good if isinstance(one, bytes)]
    refused = [one for one in good if isinstance(one, str)]
    assert len(masks) >= Limits().inferences - 1
    assert len(masks) + len(refused) == 19
    assert all(" 429 " in one for one in refused), refused
    assert len(set(masks)) == 1
    assert ask(0) == masks[0]


def test_81_nothing_of_the_patient_is_kept_or_said(server: SlicerClient, place: Path) -> None:
    kept = [path for path in (*(place / "store").rglob("*"), place / "server.txt") if path.is_file()]
    assert any(path.name == "studies.json" for path in kept)
    text = b"".join(path.read_bytes() for path in kept) + json.dumps(server.info()).encode()
    assert not [word for word in ("DOE", "Jane", "MRN", "1970", make.STUDY) if word.encode() in text]


def test_72_with_authentication_no_route_answers_without_a_token(place: Path, label_python: Path) -> None:
    """Nobody can be asked for a token here: the realm is a port on which nobody listens."""
    realm = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": "http://127.0.0.1:9/realms/x"}
    routes = [
        *(("GET", path) for path in ("/info/", "/datastore/", "/datastore/image?image=a", "/train/", "/logs/")),
        *(("GET", path) for path in ("/datastore/label?label=a&tag=final", "/proxy/dicom/studies", "/scoring/")),
        *(("POST", path) for path in (f"/infer/{TUMOUR}?image=a", "/activelearning/first", f"/train/{TUMOUR}")),
        *(("POST", path) for path in (f"/batch/infer/{TUMOUR}", "/scoring/")),
        *(("DELETE", path) for path in ("/datastore/image?id=a", "/datastore/label?id=a&tag=final", "/train/")),
        ("PUT", "/datastore/label?image=a&tag=final"),
    ]
    with serving(place, label_python, **realm) as client:
        found = {(method, path): status_of(client, method, path) for method, path in routes}
        uploaded = status_of(client, "PUT", "/datastore/image?image=a")
        forged = status_of(client, "GET", "/info/", Authorization="Bearer eyJhbGciOiJub25lIn0.e30.")
    assert set(found.values()) <= {401, 403}, found
    assert uploaded == 405, "whoever asks"
    assert forged >= 400, "the realm cannot be asked, so nobody is let in"


def a_class_is_answered(client: SlicerClient, image: str, folder: Path) -> None:
    """By the second bundle, with the probabilities of `neurobundle run`, which sees the T1c of the study itself."""
    mask, answer = client.infer(CLASSES, image)
    assert mask is None
    words = ["run", CLASSES, "-i", str(folder / "studies"), "-o", str(folder / "class"), "--device", "cpu"]
    assert main([*words, "--no-pictures"]) == 0
    ours = json.loads((folder / "class" / f"{image}_class.json").read_text())
    assert answer["answer"]["probabilities"] == pytest.approx(ours["probabilities"], abs=1e-4)
    with pytest.raises(ServerError, match=r"422.*answers a class"):
        client.infer(CLASSES, image, output="image")


def test_a_person_who_is_held_out_judges_what_was_learned(label_python: Path, tmp_path: Path) -> None:
    """The new weights are taken if they are no worse on it, and nothing that a hospital calls it is kept."""
    for number in range(2):
        four_series(tmp_path / "studies" / str(number), number)
    blank_bundle(tmp_path)
    with serving(tmp_path, label_python, more=[CLASSES]) as client:
        images = [client.next_sample("first")["id"]]
        for n in range(2):
            mask, answer = client.infer(TUMOUR, images[n], result_extension=".nii.gz")
            assert mask is not None
            (tmp_path / "mask.nii.gz").write_bytes(mask)
            client.save_label(images[n], tmp_path / "mask.nii.gz", list(answer["label_names"]))
            images.append(client.next_sample("first").get("id", ""))
        status = client.train(TUMOUR, max_epochs=1, device="cpu")
        assert status["status"] == "DONE", client.logs()[-4000:]
        lesson = client.info()["train_stats"][TUMOUR]
        a_class_is_answered(client, images[0], tmp_path)
    assert sorted(lesson["cases"] + lesson["held_out"]) == sorted(images[:2])
    assert len(lesson["held_out"]) == 1
    assert lesson["before"] == 1.0, "the label is its own answer"
    assert lesson["taken"] == (lesson["after"] >= 1.0)
    assert lesson["best_metric"] == lesson["after"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    patients = [f"MRN-12345{number or ''}" for number in range(2)]
    hashes = [hashlib.sha256(name.encode()).hexdigest() for name in patients]
    assert not [word for word in (*patients, *hashes) if word.encode() in kept]
