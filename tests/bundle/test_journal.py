"""What a run leaves survives kills, two processes, a full disk and people (numbers are those of the faults' list)."""

import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.journal import Journal
from neurobundle.errors import EnvironmentFault, InputError
from neurobundle.export.nifti import save_label_map
from neurobundle.files import LOCK_NAME, folder_lock, sweep_folder, write_atomic

KEY = {"input": "i", "weights": "w", "config": "c", "versions": {"numpy": "2"}}
HEAD = {"bundle": "tiny_segmentation"}


def labels(value: int = 1) -> np.ndarray:
    array = np.zeros((8, 9, 10), np.uint8)
    array[2:5, 2:5, 2:5] = value
    return array


def do(journal: Journal, case: str, value: int = 1, **key: str) -> CaseResult:
    """One case, done and recorded."""
    result = CaseResult(case, f"in/{case}.nii.gz", key={**KEY, **key}, volumes_ml={"anterior": 0.027})
    target = journal.folder / f"{case}_seg.nii.gz"
    with journal.writing(result, target):
        save_label_map(target, labels(value), np.eye(4))
    result.output = target.name
    journal.record(result)
    return result


def fail(journal: Journal, case: str) -> CaseResult:
    result = CaseResult(case, f"in/{case}.nii.gz", "failed", key=dict(KEY), error="it is empty")
    journal.record(result)
    return result


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "out", HEAD).open()


def names(journal: Journal) -> set[str]:
    return {path.name for path in journal.folder.iterdir()}


def kept_report(journal: Journal) -> bytes:
    """The one report that was kept, its name that of its content."""
    (kept,) = journal.folder.glob("report.unreadable-*.json")
    content = kept.read_bytes()
    assert kept.name == f"report.unreadable-{hashlib.sha256(content).hexdigest()[:8]}.json"
    return content


def test_each_case_is_written_down_at_once(journal: Journal) -> None:
    do(journal, "otto")
    do(journal, "anna")
    report = json.loads((journal.folder / "report.json").read_text())
    assert report["bundle"] == "tiny_segmentation"
    assert [entry["case"] for entry in report["cases"]] == ["anna", "otto"]
    assert (journal.folder / "volumes.csv").read_text().splitlines() == [
        "case,structure,ml",
        "anna,anterior,0.0270",
        "otto,anterior,0.0270",
    ]
    assert names(journal) == {"anna_seg.nii.gz", "otto_seg.nii.gz", "report.json", "volumes.csv"}


@pytest.mark.parametrize("part", ["input", "weights", "config", "versions"])
def test_finished_is_the_same_key_and_the_same_outputs(journal: Journal, part: str) -> None:
    do(journal, "anna")
    assert journal.finished("anna", KEY) is not None
    assert journal.finished("anna", {**KEY, part: "other"}) is None
    assert journal.finished("otto", KEY) is None
    (journal.folder / "anna_seg.nii.gz").unlink()
    assert journal.finished("anna", KEY) is None


def test_a_failed_case_is_never_finished(journal: Journal) -> None:
    fail(journal, "anna")
    assert journal.finished("anna", KEY) is None


def test_a_case_that_fails_takes_its_earlier_outputs_with_it(journal: Journal) -> None:
    do(journal, "anna")
    fail(journal, "anna")
    assert names(journal) == {"report.json", "volumes.csv"}
    assert len((journal.folder / "volumes.csv").read_text().splitlines()) == 1


def test_but_not_what_a_person_edited(journal: Journal) -> None:
    do(journal, "anna")
    edited = save_label_map(journal.folder / "anna_seg.nii.gz", labels(2), np.eye(4)).read_bytes()
    result = fail(journal, "anna")
    assert (journal.folder / "anna_seg.nii.gz").read_bytes() == edited
    assert "anna_seg.nii.gz was edited by hand" in result.warnings[0]


def test_an_edited_label_map_is_kept_beside_the_new_one(journal: Journal) -> None:
    do(journal, "anna")
    edited = save_label_map(journal.folder / "anna_seg.nii.gz", labels(2), np.eye(4)).read_bytes()
    assert journal.finished("anna", KEY) is None
    result = do(journal, "anna")
    (kept,) = journal.folder.glob("anna_seg.edited-????????.nii.gz")
    assert kept.read_bytes() == edited
    assert kept.name in result.warnings[0]
    assert np.asarray(nib.load(journal.folder / "anna_seg.nii.gz").dataobj).max() == 1
    assert journal.finished("anna", KEY) is not None


def test_a_label_map_that_no_run_wrote_is_kept_too(journal: Journal) -> None:
    """Results may go beside the images, where somebody's own labels may lie."""
    save_label_map(journal.folder / "anna_seg.nii.gz", labels(2), np.eye(4))
    do(journal, "anna")
    assert len(list(journal.folder.glob("anna_seg.edited-*.nii.gz"))) == 1


def test_nothing_is_kept_of_a_run_that_was_killed_before_it_wrote_its_entry_65(journal: Journal) -> None:
    save_label_map(journal.folder / "anna_seg.nii.gz", labels(), np.eye(4))
    result = do(journal, "anna")
    assert names(journal) == {"anna_seg.nii.gz", "report.json", "volumes.csv"}
    assert result.warnings == []


def test_what_fails_while_it_is_written_leaves_the_edited_map_in_its_place(journal: Journal) -> None:
    do(journal, "anna")
    edited = save_label_map(journal.folder / "anna_seg.nii.gz", labels(2), np.eye(4)).read_bytes()
    target = journal.folder / "anna_seg.nii.gz"
    with pytest.raises(InputError), journal.writing(CaseResult("anna", "x"), target):
        save_label_map(target, labels() * 0.5, np.eye(4))
    assert target.read_bytes() == edited
    assert not list(journal.folder.glob("*edited*"))


def test_another_scan_of_the_same_name_is_refused_25(journal: Journal) -> None:
    do(journal, "anna")
    journal.refuse_another("anna", "in/anna.nii.gz", {**KEY, "input": "changed"})
    journal.refuse_another("anna", "moved/anna.nii.gz", KEY)
    with pytest.raises(InputError, match="of another scan") as caught:
        journal.refuse_another("anna", "other/anna.nii.gz", {**KEY, "input": "other"})
    assert "--redo" in caught.value.way_out


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"cases": 1}', b'{"cases": [{"file": "x"}]}'])
def test_a_report_that_cannot_be_read_begins_anew(journal: Journal, content: bytes) -> None:
    (journal.folder / "report.json").write_bytes(content)
    do(journal, "anna")
    assert list(journal.entries()) == ["anna"]
    assert kept_report(journal) == content


ENTRY = {"case": "otto", "file": "in/otto.nii.gz", "status": "ok", "key": {"input": "i"}}
FOREIGN = {
    "a converter's": {"case": "study-1/series-1", "status": "ok", "output": "x.nii.gz", "warnings": [], "error": ""},
    "no mapping": 3,
    "case int": {**ENTRY, "case": 3},
    "case empty": {**ENTRY, "case": ""},
    "case surrogate": {**ENTRY, "case": "\ud800"},
    "volumes null": {**ENTRY, "volumes_ml": None},
    "volumes list": {**ENTRY, "volumes_ml": [1]},
    "volumes text": {**ENTRY, "volumes_ml": {"anterior": "1"}},
    "volumes nan": {**ENTRY, "volumes_ml": {"anterior": float("nan")}},
    "volumes huge": {**ENTRY, "volumes_ml": {"anterior": 10**400}},
    "outputs list": {**ENTRY, "outputs": ["a"]},
    "outputs of numbers": {**ENTRY, "outputs": {"a": 1}},
    "key text": {**ENTRY, "key": "x"},
    "key null": {**ENTRY, "key": None},
    "places of texts": {**ENTRY, "places": ["x"]},
    "warnings null": {**ENTRY, "warnings": None},
    "infinite, deep inside": {**ENTRY, "study": {"chosen": [{"te": float("inf")}]}},
    "timing text": {**ENTRY, "timing": {"seconds": "1"}},
    "too deep": {**ENTRY, "study": json.loads('{"a":' * 300 + "1" + "}" * 300)},
    "twice": ENTRY,
}


@pytest.mark.parametrize("bad", FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_entry_is_dropped_and_the_report_kept(
    journal: Journal, bad: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised, the good entries stay, and one warning says what became of the old report."""
    path = journal.folder / "report.json"
    path.write_text(json.dumps({"bundle": "x", "cases": [ENTRY, bad]}))
    before = path.read_bytes()
    assert journal.finished("otto", {"input": "other"}) is None
    with pytest.raises(InputError, match="of another scan"):
        journal.refuse_another("otto", "elsewhere/otto.nii.gz", {"input": "other"})
    do(journal, "anna")
    do(journal, "berta")
    assert list(journal.entries()) == ["anna", "berta", "otto"]
    assert kept_report(journal) == before
    (warning,) = caplog.messages
    assert next(journal.folder.glob("report.unreadable-*")).name in warning


def test_a_report_of_another_program_is_kept_too(journal: Journal) -> None:
    content = b'{"cases": [], "summary": "a year of work"}'
    (journal.folder / "report.json").write_bytes(content)
    do(journal, "anna")
    assert kept_report(journal) == content


def test_our_own_report_is_replaced_without_a_copy(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that a file's odd name went into, and that of a run with another head."""
    result = CaseResult("zoe", "in/zo\udce9.nii.gz", study={"chosen": [{"channel": "T1", "te": 2.5}]})
    Journal(journal.folder, {"bundle": "x", "mine": 1}).record(result)
    Journal(journal.folder, {"bundle": "x", "mine": 2}).record(CaseResult("otto", "in/otto.nii.gz"))
    assert names(journal) == {"report.json", "volumes.csv"}
    assert caplog.messages == []
    assert journal.entries()["zoe"] == result


def test_a_deep_report_begins_anew(journal: Journal) -> None:
    content = b"[" * 100_000
    (journal.folder / "report.json").write_bytes(content)
    do(journal, "anna")
    assert kept_report(journal) == content


def test_a_folder_in_the_report_s_place_is_left_alone(journal: Journal) -> None:
    (journal.folder / "report.json").mkdir()
    assert journal.entries() == {}
    with pytest.raises(EnvironmentFault, match="directory"):
        fail(journal, "anna")


def test_an_output_s_name_that_no_file_can_have(journal: Journal) -> None:
    entry = {**ENTRY, "key": KEY, "outputs": {"a" * 300: "0", "a\0b": "0"}}
    (journal.folder / "report.json").write_text(json.dumps({"cases": [entry]}))
    assert journal.finished("otto", KEY) is None
    fail(journal, "otto")


def test_an_entry_cannot_lead_out_of_the_folder(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_bytes(b"")
    do(journal, "anna")
    path = journal.folder / "report.json"
    report = json.loads(path.read_text())
    report["cases"][0]["outputs"]["../mine.txt"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_text(json.dumps(report))
    fail(journal, "anna")
    assert (tmp_path / "mine.txt").exists()


def test_a_later_failure_does_not_undo_what_another_run_finished_67(journal: Journal) -> None:
    mine = Journal(journal.folder, HEAD)
    assert mine.finished("anna", KEY) is None
    do(journal, "anna")
    fail(mine, "anna")
    assert journal.finished("anna", KEY) is not None


# --- litter and the lock ----------------------------------------------------------------------------------------------


def test_litter_of_the_dead_is_swept_and_work_of_the_living_is_not(tmp_path: Path) -> None:
    (tmp_path / ".anna_seg.nii.gz.abcd1234.part").write_bytes(b"half")
    (tmp_path / ".somebody.else.part").write_bytes(b"theirs")

    def check(temporary: Path) -> None:
        assert sweep_folder(tmp_path) == 1
        assert temporary.exists()

    write_atomic(tmp_path / "otto_seg.nii.gz", b"whole", check)
    assert {path.name for path in tmp_path.iterdir()} == {"otto_seg.nii.gz", ".somebody.else.part"}


def test_a_lock_leaves_nothing_behind_and_is_free_after_a_kill(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with folder_lock(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK_NAME).exists()
    assert not (tmp_path / LOCK_NAME).exists()


# --- a full disk ------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """The exit code of a forked child: 0, 5 for an EnvironmentFault, 99 for anything else."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except EnvironmentFault as error:
            code = int(error.exit_code)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (80, 80, 80)).astype(np.uint8)


def fill(folder: Path) -> None:
    journal = Journal(folder, HEAD).open()
    do(journal, "small")
    result = CaseResult("large", "in/large.nii.gz", key=dict(KEY))
    with journal.writing(result, folder / "large_seg.nii.gz"):
        save_label_map(folder / "large_seg.nii.gz", noise(), np.eye(4))
    journal.record(result)


def assert_only_whole(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"small_seg.nii.gz", "report.json", "volumes.csv"}
    assert Journal(folder).finished("small", KEY) is not None


def test_a_file_size_limit_is_5_and_leaves_no_final_name_64(tmp_path: Path) -> None:
    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        fill(tmp_path)

    assert in_child(work) == 5
    assert_only_whole(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a tmpfs cannot be mounted here; it takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_5_and_leaves_no_final_name_64(small_disk: Path) -> None:
    with pytest.raises(EnvironmentFault, match="disk is full"):
        fill(small_disk)
    assert_only_whole(small_disk)


# --- kill -9, and two processes ---------------------------------------------------------------------------------------

WRITER = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
import numpy as np
from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.journal import Journal
from neurobundle.export.nifti import save_label_map
assert "torch" not in sys.modules and "monai" not in sys.modules
folder, key = Path(sys.argv[1]), {key!r}
shape, forever, done = (40, 40, 40), sys.argv[2] == "forever", 0
print("ready", flush=True)
while forever or not done:
    journal = Journal(folder, {{"bundle": "tiny_segmentation"}}).open()
    for n in range(6):
        case = f"case_{{n}}"
        if not forever and journal.finished(case, key):
            print("skipped", case, flush=True)
            continue
        result = CaseResult(case, f"in/{{case}}.nii.gz", key=key, volumes_ml={{"anterior": float(n)}})
        target = folder / f"{{case}}_seg.nii.gz"
        with journal.writing(result, target):
            save_label_map(target, np.random.default_rng(n).integers(0, 3, shape), np.eye(4))
        result.output = target.name
        journal.record(result)
    done += 1
"""


def writer(folder: Path, how: str) -> subprocess.Popen[str]:
    script = WRITER.format(path=[entry for entry in sys.path if entry], key=KEY)
    process = subprocess.Popen([sys.executable, "-c", script, str(folder), how], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def broken(folder: Path) -> list[str]:
    """Files under a final name that cannot be read whole."""
    bad = []
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        try:
            if path.suffix == ".json":
                assert json.loads(path.read_bytes())["cases"]
            elif path.suffix == ".csv":
                assert path.read_text().endswith("\n")
            else:
                assert np.asarray(nib.load(path).dataobj).shape == (40, 40, 40)
        except FileNotFoundError:
            continue
        except Exception:
            bad.append(path.name)
    return bad


@pytest.mark.slow
def test_kill_at_50_random_moments_65(tmp_path: Path) -> None:
    """No broken file under a final name, and the next run skips what is finished and does the rest."""
    rng = random.Random(0)
    skipped = 0
    for attempt in range(50):
        folder = tmp_path / str(attempt)
        process = writer(folder, "once")
        time.sleep(rng.uniform(0, 0.08))
        process.kill()
        process.communicate()
        if folder.exists():
            assert broken(folder) == []
        finished = {case for case in Journal(folder).entries() if Journal(folder).finished(case, KEY)}
        again = writer(folder, "once")
        told = {line.split()[1] for line in again.communicate()[0].splitlines()}
        assert again.returncode == 0
        assert told == finished
        skipped += len(told)
        assert {path.name for path in folder.iterdir()} == {
            *(f"case_{n}_seg.nii.gz" for n in range(6)),
            "report.json",
            "volumes.csv",
        }
        assert all(Journal(folder).finished(f"case_{n}", KEY) for n in range(6))
    assert 0 < skipped < 50 * 6, "the kills came too early, or too late"


@pytest.mark.slow
def test_two_processes_and_a_reader_67(tmp_path: Path) -> None:
    """50 looks while two runs write into one folder: nothing is ever broken, and neither loses the other's entries."""
    processes = [writer(tmp_path, "forever") for _ in range(2)]
    try:
        while len(Journal(tmp_path).entries()) < 6:
            time.sleep(0.01)
        for _ in range(50):
            assert broken(tmp_path) == []
            assert len(Journal(tmp_path).entries()) == 6
            time.sleep(0.02)
        assert all(process.poll() is None for process in processes), "a writer died"
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert not list(tmp_path.glob("*edited*"))
