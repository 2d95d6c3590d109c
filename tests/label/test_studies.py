"""A store of studies, and what a bundle answers on one; without MONAI Label."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobundle.commands.sources import Wanted
from neurobundle.errors import InputError, MissingPackageError, NoInputError, SettingError
from neurobundle.geometry import same_grid
from neurobundle.label.answers import answer, on_grid, scan_names, source_of
from neurobundle.label.dicomweb import ArchiveFault
from neurobundle.label.studies import StudyEntry, StudyStore
from neurobundle.load.dicom.folder import study_key
from neurobundle.load.scan import Scan, read_scan
from tests.load.dicom import make

from ..helpers import Maker


def place(store: StudyStore, image: str) -> Path:
    """Where a study lies."""
    with store.reading(image) as path:
        return path


@pytest.fixture
def studies(tmp_path: Path, make_pair: Maker) -> Path:
    for n, case in enumerate(("anna", "otto")):
        make_pair(tmp_path, case, seed=n, shape=(24, 30, 24))
    return tmp_path / "images"


def test_an_image_of_each_study(studies: Path, tmp_path: Path) -> None:
    store = StudyStore(tmp_path / "store")
    assert [(entry.case, entry.status) for entry in store.gather([studies])] == [("anna", "ok"), ("otto", "ok")]
    image, study = nib.load(store.image("anna")), nib.load(studies / "anna.nii.gz")
    assert np.array_equal(np.asarray(image.dataobj), np.asarray(study.dataobj))
    assert np.array_equal(image.affine, study.affine)
    assert place(store, "anna") == (studies / "anna.nii.gz").absolute()
    with pytest.raises(InputError, match="no image of that id"):
        place(store, "../anna")


def test_what_is_refused_is_said_and_the_others_go_on(studies: Path, tmp_path: Path) -> None:
    (studies / "otto.nii.gz").write_bytes(b"")
    store = StudyStore(tmp_path / "store")
    anna, otto = store.gather([studies])
    assert (anna.status, otto.status) == ("ok", "refused")
    assert otto.error.startswith("otto otto.nii.gz: ")
    assert not store.image("otto").exists()
    with pytest.raises(InputError):
        place(store, "otto")


def test_a_study_is_read_once_and_again_when_it_changed(studies: Path, tmp_path: Path, make_pair: Maker) -> None:
    StudyStore(tmp_path / "store").gather([studies])
    store = StudyStore(tmp_path / "store")
    before = {case: store.image(case).stat().st_mtime_ns for case in ("anna", "otto")}
    make_pair(tmp_path, "otto", seed=7, shape=(24, 30, 24))
    store.gather([studies])
    after = {case: store.image(case).stat().st_mtime_ns for case in ("anna", "otto")}
    assert after["anna"] == before["anna"]
    assert after["otto"] > before["otto"]


def test_a_dicom_study_leaves_nothing_of_the_patient(tmp_path: Path) -> None:
    made = make.series(tmp_path / "studies" / "one")
    store = StudyStore(tmp_path / "store", Wanted(("T1",)))
    (entry,) = store.gather([tmp_path / "studies"])
    assert (entry.case[:6], entry.status) == ("study-", "ok"), entry.error
    assert np.array_equal(read_scan(store.image(entry.case)).data, made.data)
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert not [word for word in ("DOE", "Jane", "MRN", "1970", make.STUDY) if word.encode() in kept]


def test_no_studies(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError):
        StudyStore(tmp_path / "store").gather([tmp_path / "empty"])


def test_a_list_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "studies.json").write_text('{"studies": [{"name": "anna"}]}')
    with pytest.raises(InputError, match="this is no list of studies"):
        StudyStore(tmp_path)


def test_an_answer_is_that_of_run(studies: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    store = StudyStore(tmp_path / "store")
    store.gather([studies])
    found = answer(tiny_bundle, place(store, "anna"), store.image("anna"), device="cpu")
    image = nib.load(store.image("anna"))
    assert found.labels is not None
    assert same_grid(found.labels.data.shape, found.labels.affine, image.shape, image.affine)
    assert found.numbers["label_names"] == {"anterior": 1, "posterior": 2}
    assert set(found.numbers["volumes_ml"]) >= {"anterior", "posterior"}
    assert 0 <= found.numbers["uncertainty"]["case_score"] <= 1
    json.dumps(found.numbers)


def test_a_study_that_is_refused_is_no_answer(studies: Path, tmp_path: Path, tiny_bundle: Path) -> None:
    store = StudyStore(tmp_path / "store")
    store.gather([studies])
    (studies / "anna.nii.gz").write_bytes(b"")
    with pytest.raises(InputError, match="anna"):
        answer(tiny_bundle, place(store, "anna"), store.image("anna"), device="cpu")


def test_labels_come_onto_the_image_s_grid() -> None:
    """Voxels of 2 mm onto voxels of 1 mm, by the nearest; the same grid is left alone."""
    labels = Scan(np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.diag([2.0, 2, 2, 1]))
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -0.5
    found = on_grid(labels, Scan(np.zeros((4, 4, 4)), affine))
    assert np.array_equal(found.data, labels.data.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    assert on_grid(labels, labels) is labels


def test_a_server_may_be_addressed_by_its_host(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by the names that the user gives; the guard refuses all others."""
    from neurobundle.commands import label as module

    seen: list[dict[str, str]] = []
    monkeypatch.setattr(module, "_serve", lambda words, environment: seen.append(environment) or 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    given = {"MONAI_LABEL_AUTH_ENABLE": "true", module.HOSTS: "label.hospital", "MONAI_LABEL_SESSIONS": "true"}
    for host in ("10.0.0.7", "fd00::7"):
        bundles = ["hippocampus_segmentation"]
        assert module.label(bundles, studies, tmp_path / "store", host=host, environment=given) == 0
    assert [env[module.HOSTS] for env in seen] == ["label.hospital,10.0.0.7", "label.hospital,[fd00::7]"]
    assert seen[0]["MONAI_LABEL_SESSIONS"] == "false"


def test_an_archive_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before a server starts."""
    from neurobundle.commands import label as module

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(module, "_serve", lambda words, environment: pytest.fail("it started"))
    with pytest.raises(ArchiveFault, match="cannot be reached"):
        module.label(["hippocampus_segmentation"], "http://127.0.0.1:1/dicom-web", tmp_path / "store", environment={})


def test_the_server_s_command(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurobundle.commands.label import label, make_app, server_command

    name = "hippocampus_segmentation"
    words = server_command([name], studies, tmp_path / "store", "127.0.0.1", 8000, {})
    assert words[-4:] == ["--port", "8000", "--uvicorn_app", "neurobundle.label.asgi:app"]
    for host in ("0.0.0.0", "192.168.1.2", "label.hospital", "::"):
        with pytest.raises(SettingError, match="can be reached by others"):
            server_command([name], studies, tmp_path / "store", host, 8000, {})
    assert server_command([name], studies, tmp_path, "0.0.0.0", 8000, {"MONAI_LABEL_AUTH_ENABLE": "true"})
    with pytest.raises(SettingError, match="hipocampus"):
        server_command(["hipocampus_segmentation"], studies, tmp_path, "127.0.0.1", 8000, {})
    with pytest.raises(NoInputError):
        server_command([name], studies / "nowhere", tmp_path, "127.0.0.1", 8000, {})
    words = server_command([name], "HTTPS://pacs.hospital/dicom-web/", tmp_path, "127.0.0.1", 8000, {})
    assert words[words.index("--studies") + 1] == "https://pacs.hospital/dicom-web"
    for address in ("https://anna:sesame@pacs.hospital/dicom-web", "http://pacs.hospital/dicom-web"):
        with pytest.raises(SettingError, match="https://pacs" if "sesame" in address else "in the clear"):
            server_command([name], address, tmp_path, "127.0.0.1", 8000, {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="monailabel"):
        label([name], studies, tmp_path / "store")
    assert (make_app(tmp_path / "app") / "main.py").read_text().count("NeurobundleApp") == 2


def test_one_case_of_a_folder_is_answered_alone(tiny_bundle: Path, studies: Path, tmp_path: Path) -> None:
    """The other one is not even read."""
    store = StudyStore(tmp_path / "store")
    store.gather([studies])
    alone = answer(tiny_bundle, studies / "anna.nii.gz", store.image("anna"), device="cpu")
    (studies / "otto.nii.gz").write_bytes(b"damaged")
    beside = answer(tiny_bundle, studies, store.image("anna"), device="cpu")
    assert alone.labels is not None
    assert beside.labels is not None
    assert np.array_equal(beside.labels.data, alone.labels.data)
    with pytest.raises(InputError, match="not among what lies there"):
        answer(tiny_bundle, studies, tmp_path / "ida.nii.gz", device="cpu")


def test_scans_by_the_names_that_a_person_picks() -> None:
    one = StudyEntry(
        "a", "", "", study={"chosen": [{"source": "a_T1.nii.gz"}], "passed_over": [{"source": "a-T2.nii"}]}
    )
    two = StudyEntry("b", "", "", study={"chosen": [{"source": "b_T1.nii.gz"}, {"why": "its name is not to be said"}]})
    assert scan_names([one, two]) == ["T1", "T2"]
    dicom = StudyEntry("c", "", "", study={"chosen": [{"source": f"series {n}"} for n in (10, 2)]})
    assert scan_names([dicom]) == ["series 2", "series 10"]
    many = StudyEntry("d", "", "", study={"passed_over": [{"source": f"series {n}"} for n in range(41)]})
    assert scan_names([many]) == []


def test_a_study_that_is_gone_is_no_other(tmp_path: Path) -> None:
    """Not the one that lay beside it: that is another patient's."""
    for n in (1, 2):

        def edit(ds: Any, _: int, n: int = n) -> None:
            ds.StudyInstanceUID, ds.PatientID = f"{make.STUDY}.{n}", f"MRN{n}"

        size: dict[str, Any] = {"slices": 12, "rows": 16, "columns": 14, "step": 1.0 + n / 8}
        make.series(tmp_path / "studies" / f"p{n}", uid=f"{make.SERIES}.{n}", edit=edit, **size)
    wanted = Wanted(("T1",))
    store = StudyStore(tmp_path / "store", wanted, [tmp_path / "studies"])
    store.refresh()
    gone = study_key(f"{make.STUDY}.2")
    assert place(store, gone) == (tmp_path / "studies" / "p2").absolute(), "its own folder, not all of them"
    shutil.rmtree(tmp_path / "studies" / "p2")
    with pytest.raises(InputError, match="not where it was"):
        place(store, gone)
    with pytest.raises(InputError, match="not among what lies there"):
        source_of(tmp_path / "studies", gone, wanted, tmp_path)
