"""The studies of an archive as a store has them; against a server that was made here, without MONAI Label."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from neurobundle.bundle.find import find_bundle
from neurobundle.commands.sources import Wanted
from neurobundle.errors import InputError, SettingError
from neurobundle.export.dicom_seg import SEG_ENDING
from neurobundle.export.nifti import save_label_map
from neurobundle.label import fetched
from neurobundle.label.archive import ArchiveStore, listed_studies, open_store
from neurobundle.label.dicomweb import PLAIN_HTTP, ArchiveFault, DicomWeb, Limits, Series
from neurobundle.label.fetched import FetchedStudies
from neurobundle.label.studies import StudyStore
from neurobundle.load.dicom.folder import study_key
from neurobundle.load.scan import read_scan

from ..export.dicom_results import read_back, result_on
from ..load.dicom import make
from .dicomweb_server import Handler, Made, serving_files
from .places import contrast, flair, t2

ONE, TWO = make.STUDY, f"{make.STUDY}.2"
T1 = Wanted(("T1",))
FOUR = Wanted(("T1", "T1c", "T2", "FLAIR"), "T1")


def study(folder: Path, uid: str, **options: Any) -> make.Made:
    """A T1 of a person of its own."""
    edit = options.pop("edit", None)

    def own(ds: Any, k: int) -> None:
        ds.StudyInstanceUID, ds.PatientID, ds.FrameOfReferenceUID = uid, f"MRN-{uid}", f"{uid}.9"
        if edit is not None:
            edit(ds, k)

    return make.series(folder / uid, uid=options.pop("series", f"{uid}.1"), edit=own, **options)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """An archive of two studies with a T1 each."""
    files = [path for uid in (ONE, TWO) for path in study(tmp_path / "made", uid).files]
    with serving_files(*files) as server:
        yield server


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of this test's own, where what is fetched lies."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def opened(made: Made, folder: Path, wanted: Wanted = T1, **options: Any) -> ArchiveStore:
    """A store that has asked what there is."""
    store = ArchiveStore(folder, DicomWeb(made.address), wanted, **options)
    store.refresh()
    return store


def dicom_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.dcm"))


def failing(series: str) -> Any:
    """A trick: a series that is not handed over."""

    def trick(handler: Handler) -> bool:
        if not handler.path.endswith(series):
            return False
        handler.answer(500, "text/plain", b"")
        return True

    return trick


def test_a_study_is_fetched_when_it_is_wanted(made: Made, tmp_path: Path, temporary: Path) -> None:
    """Listed in one request; its image is that of its folder, and it stays for who reads it."""
    store = opened(made, tmp_path / "store")
    assert store.waiting() == sorted([study_key(ONE), study_key(TWO)])
    assert len(made.asked) == 1
    assert dicom_in(temporary) == []
    case = study_key(TWO)
    store.bring(case)
    assert made.fetched() == [f"GET /studies/{TWO}/series/{TWO}.1"]
    assert store.waiting() == [study_key(ONE)]
    assert np.array_equal(read_scan(store.image(case)).data, read_scan(tmp_path / "made" / TWO).data)
    noted = (tmp_path / "store" / "studies.json").stat().st_ino
    with store.reading(case) as folder:
        assert [path.read_bytes() for path in dicom_in(folder)] == made.files[f"{TWO}.1"]
        place = folder.parent
    assert (tmp_path / "store" / "studies.json").stat().st_ino == noted, "it is judged once"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    store.bring(case)
    assert len(made.fetched()) == 1
    store.close()
    assert list(temporary.iterdir()) == []


def test_nothing_of_the_patient_is_kept(made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No name, number or UID in the store, nor in a message; the study is called as `neurobundle run` calls it."""
    caplog.set_level(0)
    store = opened(made, tmp_path / "store")
    store.bring(study_key(ONE))
    made.trick = failing(f"{TWO}.1")
    with pytest.raises(InputError) as found:
        store.bring(study_key(TWO))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    said = kept.decode("latin-1") + caplog.text + str(found.value)
    assert study_key(ONE) in said
    assert not [word for word in ("DOE", "Jane", "MRN", "1970", make.STUDY) if word in said]


def test_five_hundred_studies(made: Made, tmp_path: Path) -> None:
    """One request, and nothing is fetched."""
    made.files = {f"1.2.{n}.1": [b""] for n in range(500)}
    made.studies = {uid: uid[:-2] for uid in made.files}
    store = opened(made, tmp_path / "store")
    assert len(store.waiting()) == 500
    assert len(made.asked) == 1


def test_four_series_are_one_image(made: Made, tmp_path: Path) -> None:
    """In whatever order they are listed; which is which is said."""
    made.files.clear()
    for n, edit in enumerate((flair, None, t2, contrast)):
        made.add(study(tmp_path / f"{n}", ONE, series=f"{ONE}.{n}", slices=26, edit=edit).files)
    store = opened(made, tmp_path / "store", FOUR)
    (case,) = store.waiting()
    store.bring(case)
    chosen = store.entries[case].study["chosen"]
    assert [scan["channel"] for scan in chosen] == ["T1", "T1c", "T2", "FLAIR"]
    assert np.array_equal(read_scan(store.image(case)).data, read_scan(tmp_path / "1").data)
    assert store.shown(case) == {
        "StudyInstanceUID": ONE,
        "SeriesInstanceUID": f"{ONE}.1",
        "Modality": "MR",
        "StudyDate": "20200229",
        "StudyTime": "",
    }
    for n in range(4):
        assert store.named(f"{ONE}.{n}")[0] == case
        assert (store.grid_of(case, store.named(f"{ONE}.{n}")[1]) is None) == (n == 1)


def test_a_viewer_s_names(made: Made, tmp_path: Path) -> None:
    """A series of the archive is its study's image; another UID is nobody's, and is not said again."""
    store = opened(made, tmp_path / "store")
    case, scan = store.named(f"{TWO}.1")
    assert case == study_key(TWO)
    assert scan.startswith("series-")
    assert store.named(case) == (case, "")
    assert store.named("anna") == ("anna", "")
    assert len(made.asked) == 1, "for what it knows it asks nobody again"
    assert "1.2.3.4" not in store.named("1.2.3.4")[0]
    for image in ("1.2.3.4", store.named("1.2.3.4")[0], "../anna"):
        with pytest.raises(InputError, match="no image of that id"):
            store.bring(image)
        with pytest.raises(InputError, match="no such study"), store.reading(image):
            pass


def test_a_viewer_that_knows_a_study_before_we_do(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for in the archive, but not with each request."""
    store = opened(made, tmp_path / "store")
    lists = len(made.asked)
    for _ in range(50):
        store.named("1.2.3.4")
    assert len(made.asked) == lists, "it was listed a moment ago"
    monkeypatch.setattr("neurobundle.label.archive.LIST_AGAIN_S", -1.0)
    made.add(study(tmp_path / "made", f"{ONE}.3").files)
    assert store.named(f"{ONE}.3.1")[0] == study_key(f"{ONE}.3")


def test_a_series_on_another_grid(made: Made, tmp_path: Path) -> None:
    other = study(tmp_path / "other", ONE, series=f"{ONE}.7", slices=30, step=2.0, edit=t2)
    made.add(other.files)
    store = opened(made, tmp_path / "store")
    grid = store.grid_of(study_key(ONE), store.named(f"{ONE}.7")[1])
    assert grid is not None
    assert grid.shape == other.data.shape
    assert np.allclose(grid.affine, other.affine, atol=1e-6)
    with pytest.raises(InputError, match="no volume"):
        store.grid_of(study_key(ONE), "series-00000000")


def test_a_study_that_the_gate_refuses(made: Made, tmp_path: Path) -> None:
    """It is noted with the cause, once; the other is there."""
    made.files[f"{ONE}.1"] = made.files[f"{ONE}.1"][:5] + made.files[f"{ONE}.1"][9:]
    store = opened(made, tmp_path / "store")
    case = study_key(ONE)
    for _ in range(2):
        with pytest.raises(InputError, match="gap"):
            store.bring(case)
    assert len(made.fetched()) == 1
    assert not store.image(case).exists()
    store.bring(study_key(TWO))
    known = {one["case"]: one for one in json.loads((tmp_path / "store" / "studies.json").read_bytes())["studies"]}
    assert known[case]["status"] == "refused"
    assert known[case]["error"].startswith(f"{case}: ")
    assert "gap" in known[case]["error"]
    assert "neurobundle-" not in known[case]["error"]
    assert known[study_key(TWO)]["status"] == "ok"
    assert opened(made, tmp_path / "store").waiting() == []


def test_a_study_without_the_channels(made: Made, tmp_path: Path) -> None:
    store = opened(made, tmp_path / "store", FOUR)
    with pytest.raises(InputError, match="no T1c"):
        store.bring(study_key(ONE))
    assert store.entries[study_key(ONE)].status == "refused"


def test_a_study_that_is_not_handed_over(made: Made, tmp_path: Path, temporary: Path) -> None:
    """It fails by itself, leaves nothing, does not come up again by itself, and is tried again when it is asked for."""
    made.trick = failing(f"{ONE}.1")
    store = opened(made, tmp_path / "store")
    case = study_key(ONE)
    with pytest.raises(InputError, match=f"^{case}: the archive answers 500") as found:
        store.bring(case)
    assert case not in str(found.value).removeprefix(case)
    assert (store.entries[case].status, store.waiting()) == ("failed", [study_key(TWO)])
    assert dicom_in(temporary) == []
    store.bring(study_key(TWO))
    assert case in opened(made, tmp_path / "store").waiting()
    made.trick = None
    store.bring(case)
    assert store.entries[case].status == "ok"


def test_an_archive_that_goes_away(made: Made, tmp_path: Path) -> None:
    """Nothing is noted of a study that nobody could ask for; what was listed before still is."""
    store = opened(made, tmp_path / "store")
    made.trick = lambda handler: handler.answer(401, "text/plain", b"") is None
    for ask in (store.refresh, lambda: store.bring(study_key(ONE))):
        with pytest.raises(ArchiveFault, match="answers 401"):
            ask()
    assert store.entries == {}
    assert len(store.waiting()) == 2


def test_a_study_that_is_too_large(made: Made, tmp_path: Path, temporary: Path) -> None:
    """Of all of its series together; it is not asked for again by the next sample."""
    made.add(study(tmp_path / "other", ONE, series=f"{ONE}.7", edit=t2).files)
    limits = Limits(study_bytes=sum(map(len, made.files[f"{ONE}.1"])) + 1000)
    store = ArchiveStore(tmp_path / "store", DicomWeb(made.address, limits=limits), T1)
    store.refresh()
    with pytest.raises(InputError, match="larger than what is fetched of one study"):
        store.bring(study_key(ONE))
    store.bring(study_key(TWO))
    assert store.waiting() == []
    assert len({path.parent for path in dicom_in(temporary)}) == 1


def test_a_study_that_changed(made: Made, tmp_path: Path) -> None:
    """A new series is noticed; the image is made again only if it would be another one."""
    store = opened(made, tmp_path / "store")
    case = study_key(ONE)
    store.bring(case)
    before = store.image(case).stat().st_mtime_ns
    made.add(study(tmp_path / "other", ONE, series=f"{ONE}.7", edit=t2).files)
    store.relist()
    assert case in store.waiting()
    store.bring(case)
    assert store.image(case).stat().st_mtime_ns == before
    with store.reading(case) as folder:
        assert len(dicom_in(folder)) == 40
    made.files[f"{ONE}.1"] = made.files[f"{ONE}.1"][:-1]
    store.relist()
    store.bring(case)
    assert read_scan(store.image(case)).data.shape == (8, 10, 19)


def test_a_study_that_is_gone(made: Made, tmp_path: Path) -> None:
    store = opened(made, tmp_path / "store")
    case = study_key(ONE)
    store.bring(case)
    del made.files[f"{ONE}.1"]
    store.relist()
    with pytest.raises(InputError, match="lists no such study"), store.reading(case):
        pass


def test_the_next_server_fetches_no_image_again(made: Made, tmp_path: Path) -> None:
    """Its studies it fetches when they are read; an image that was taken away it brings again."""
    opened(made, tmp_path / "store").bring(study_key(ONE))
    made.asked.clear()
    store = opened(made, tmp_path / "store")
    assert store.waiting() == [study_key(TWO)]
    store.bring(study_key(ONE))
    assert made.fetched() == []
    with store.reading(study_key(ONE)):
        assert len(made.fetched()) == 1
    store.image(study_key(ONE)).unlink()
    store.bring(study_key(ONE))
    assert store.image(study_key(ONE)).is_file()


def test_what_another_process_noted_stays(made: Made, tmp_path: Path) -> None:
    """A scoring or a training has a store of its own on the same folder."""
    one, two = (opened(made, tmp_path / "store") for _ in range(2))
    one.bring(study_key(ONE))
    two.bring(study_key(TWO))
    assert set(StudyStore(tmp_path / "store").entries) == {study_key(ONE), study_key(TWO)}
    one.relist()
    assert one.waiting() == []


def test_two_who_want_the_same_study(made: Made, tmp_path: Path) -> None:
    """It is fetched once."""
    store, paths = opened(made, tmp_path / "store"), []

    def read() -> None:
        with store.reading(study_key(ONE)) as folder:
            paths.append(folder)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 8
    assert len({*paths}) == len(made.fetched()) == 1


def test_two_studies_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both get longer ones, and those that nobody shares stay as they are."""
    monkeypatch.setattr("neurobundle.label.archive.study_key", lambda uid: f"study-{uid[-1]}")
    found = listed_studies([Series("1.1", "1"), Series("2.1", "2"), Series("3.3", "3"), Series("3.3", "4")])
    assert "study-3" in found
    assert len(found["study-3"].series) == 2
    assert sorted(map(len, found)) == [7, 38, 38]


def test_the_last_few_stay(tmp_path: Path) -> None:
    """The oldest goes, unless somebody reads it; what cannot be fetched leaves nothing."""
    studies = FetchedStudies(kept=2)

    def fetch(folder: Path) -> None:
        (folder / "a.dcm").write_bytes(b"")

    with studies.held("a", fetch) as a:
        for key in "bcd":
            with studies.held(key, fetch):
                pass
        assert a.is_dir()
    assert len(dicom_in(a.parent)) == 2
    with studies.held("f", fetch):
        assert not a.is_dir()

    def refuse(folder: Path) -> None:
        fetch(folder)
        raise InputError("no")

    with pytest.raises(InputError), studies.held("e", refuse):
        pass
    assert len(dicom_in(a.parent)) == 2
    studies.close()


def test_what_a_killed_process_left(temporary: Path) -> None:
    """The next one removes it, and leaves that of a living one."""
    alive = FetchedStudies()
    with alive.held("a", lambda folder: (folder / "a.dcm").touch()):
        pass
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            dead = FetchedStudies()
            with dead.held("b", lambda folder: (folder / "b.dcm").touch()):
                os.write(writing, b"x")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"x"
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    assert {path.name for path in dicom_in(temporary)} == {"a.dcm", "b.dcm"}
    fetched.FetchedStudies().close()
    assert [path.name for path in dicom_in(temporary)] == ["a.dcm"]
    alive.close()


@pytest.mark.parametrize("made_by", ["", "brain_tumor_segmentation", "tumor_type_classification"])
def test_a_final_label_goes_to_the_archive(made: Made, tmp_path: Path, made_by: str) -> None:
    """A segmentation of the study, voxel for voxel, that says who made it; a name that no bundle has is tissue."""
    pytest.importorskip("highdicom")
    bundles = [find_bundle(name) for name in ("tumor_type_classification", "brain_tumor_segmentation")]
    store = opened(made, tmp_path / "store", bundles=bundles)
    case = study_key(ONE)
    store.bring(case)
    image = nib.load(store.image(case))
    labels = result_on(image.shape, values=2)
    save_label_map(tmp_path / "final.nii.gz", labels, image.affine)
    store.hand_back(case, tmp_path / "final.nii.gz", {1: "wt", 2: "what is this"}, made_by)
    (content,) = made.taken
    seg = pydicom.dcmread(io.BytesIO(content))
    assert (seg.StudyInstanceUID, str(seg.PatientName)) == (ONE, "DOE^JANE")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{ONE}.1"
    automatic = made_by == "brain_tumor_segmentation"
    for segment in seg.SegmentSequence:
        assert segment.SegmentAlgorithmType == ("SEMIAUTOMATIC" if automatic else "MANUAL")
        assert ("SegmentAlgorithmName" in segment) == automatic
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["wt", "what is this"]
    known, unknown = (segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for segment in seg.SegmentSequence)
    assert known != "Tissue"
    assert unknown == "Tissue"
    (tmp_path / f"x{SEG_ENDING}").write_bytes(content)
    assert np.array_equal(read_back(tmp_path / f"x{SEG_ENDING}", image.affine, image.shape), labels)


def test_a_final_label_that_cannot_go(made: Made, tmp_path: Path) -> None:
    """On another grid; refused by the archive. The label is where it was."""
    pytest.importorskip("highdicom")
    store = opened(made, tmp_path / "store", bundles=[find_bundle("brain_tumor_segmentation")])
    case = study_key(ONE)
    store.bring(case)
    image, label = nib.load(store.image(case)), tmp_path / "final.nii.gz"
    save_label_map(label, np.zeros((3, 3, 3), np.uint8), image.affine)
    with pytest.raises(InputError, match="does not lie on the grid"):
        store.hand_back(case, label, {}, "")
    save_label_map(label, result_on(image.shape), image.affine)
    made.trick = lambda handler: handler.answer(409, "text/plain", b"") is None
    with pytest.raises(InputError, match="did not take the segmentation"):
        store.hand_back(case, label, {}, "")
    assert label.is_file()


def test_a_folder_or_an_archive(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    assert type(open_store(tmp_path / "a", str(tmp_path / "studies"), T1, [])) is StudyStore
    found = open_store(tmp_path / "b", "http://pacs/x", T1, [], {PLAIN_HTTP: "pacs"})
    assert isinstance(found, ArchiveStore)
    assert found.archive.address == "http://pacs/x"
    with pytest.raises(SettingError, match="in the clear"):
        open_store(tmp_path / "c", "http://pacs/x", T1, [], {})
