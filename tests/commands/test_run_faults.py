"""``neurobundle run`` at load, killed, twice at once, and with names in its input (numbers: the faults' list)."""

import contextlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobundle import memory
from neurobundle.bundle.runner import CaseRunner
from neurobundle.cli import main
from neurobundle.errors import EnvironmentFault
from neurobundle.networks.manifest import write_entry

from ..helpers import Maker

PLANTED = ("DOE^JANE", "DOE_JANE", "MRN-00042")


@pytest.fixture
def crops(tmp_path: Path, make_pair: Maker) -> Path:
    for n, case in enumerate(("anna", "otto")):
        make_pair(tmp_path, case, seed=n, shape=(24, 30, 24))
    return tmp_path / "images"


@pytest.fixture
def run(tiny_bundle: Path, tmp_path: Path) -> Callable[..., int]:
    def call(*inputs: Path, options: tuple[str, ...] = ("--no-pictures",)) -> int:
        words = ["run", str(tiny_bundle), "-i", *map(str, inputs), "-o", str(tmp_path / "out"), "--device", "cpu"]
        return main([*words, *options])

    return call


def cases(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "out" / "report.json").read_text())["cases"]


def times(tmp_path: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir() if path.name.endswith(".gz")}


# --- the report -------------------------------------------------------------------------------------------------------


def test_an_entry_says_what_its_result_depends_on(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    assert run(crops, options=()) == 0
    for entry in cases(tmp_path):
        case = entry["case"]
        assert set(entry["outputs"]) == {f"{case}_seg.nii.gz", f"{case}.png"}
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in entry["outputs"].values())
        assert {"input", "weights", "config", "versions"} == set(entry["key"])
        assert {"read", "segment", "write", "describe", "seconds", "peak_memory_mib"} == set(entry["timing"])
        assert entry["warnings"] == []


def test_reports_are_equal_apart_from_timing(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    """Failed cases too: no temporary folder and no address stands in an error."""
    (crops / "bad.nii.gz").write_bytes(b"hello")
    reports = []
    for _ in range(2):
        assert run(crops, options=("--redo",)) == 3
        entries = cases(tmp_path)
        assert all(entry.pop("timing") for entry in entries)
        reports.append(entries)
    assert reports[0] == reports[1]
    assert len(reports[0]) == 3


def test_finished_cases_are_skipped_65(
    run: Callable[..., int], crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make_pair: Maker
) -> None:
    assert run(crops) == 0
    before, report = times(tmp_path), (tmp_path / "out" / "report.json").read_bytes()
    assert run(crops) == 0
    assert "2 of 2 cases done (2 of them before)" in capsys.readouterr().out
    assert times(tmp_path) == before
    assert (tmp_path / "out" / "report.json").read_bytes() == report
    make_pair(tmp_path, "anna", seed=7, shape=(24, 30, 24))
    assert run(crops) == 0
    after = times(tmp_path)
    assert after["anna_seg.nii.gz"] != before["anna_seg.nii.gz"]
    assert after["otto_seg.nii.gz"] == before["otto_seg.nii.gz"]


@pytest.mark.parametrize(
    "options",
    [
        ("--redo",),
        ("--side", "right"),
        ("--set", "inferer::inferer::inferer::inferer::overlap=0.25"),
        ("--backend", "torchscript"),
        (),
    ],
)
def test_another_setting_redoes(run: Callable[..., int], crops: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    """The last one: a picture is wanted that the earlier run did not draw."""
    assert run(crops) == 0
    before = times(tmp_path)
    assert run(crops, options=options) == 0
    assert all(after != before[name] for name, after in times(tmp_path).items())


def test_another_calibration_redoes_what_it_decides(
    run: Callable[..., int], crops: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    """The numbers of an uncertainty depend on it; a run that was asked for none does not."""

    def scores(temperature: float) -> list[float]:
        content = {"temperature": temperature, "flag_above": None, "chosen_on": "nothing", "n": 0}
        (tiny_bundle / "models" / "calibration.json").write_text(json.dumps(content))
        write_entry(tiny_bundle / "models", "calibration.json", origin="trained-here")
        assert run(crops, options=("--no-pictures", "--uncertainty")) == 0
        return [entry["uncertainty"]["case_score"] for entry in cases(tmp_path)]

    first = scores(1.0)
    before = times(tmp_path)
    assert (scores(1.0), times(tmp_path)) == (first, before)
    assert all(new > old for new, old in zip(scores(9.0), first, strict=True)), "flatter probabilities"
    assert run(crops) == 0
    before = times(tmp_path)
    (tiny_bundle / "models" / "calibration.json").unlink()
    assert run(crops) == 0
    assert times(tmp_path) == before


def test_cases_of_two_runs_stand_in_one_report(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    assert run(crops / "otto.nii.gz") == 0
    assert run(crops / "anna.nii.gz") == 0
    assert [entry["case"] for entry in cases(tmp_path)] == ["anna", "otto"]
    assert len((tmp_path / "out" / "volumes.csv").read_text().splitlines()) == 1 + 4


def test_a_file_that_broke_takes_its_label_map_with_it(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    assert run(crops, options=()) == 0
    (crops / "anna.nii.gz").write_bytes(b"")
    assert run(crops, options=()) == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("otto_seg.nii.gz", "otto.png", "report.json", "volumes.csv")
    }


def test_an_edited_label_map_is_kept(
    run: Callable[..., int], crops: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(crops) == 0
    path = tmp_path / "out" / "anna_seg.nii.gz"
    image = nib.load(path)
    edited = np.asarray(image.dataobj).copy()
    edited[0, 0, 0] = 2
    nib.save(nib.Nifti1Image(edited, image.affine), path)
    assert run(crops) == 0
    (kept,) = (tmp_path / "out").glob("anna_seg.edited-*.nii.gz")
    assert np.array_equal(np.asarray(nib.load(kept).dataobj), edited)
    assert kept.name in caplog.text
    assert kept.name in cases(tmp_path)[0]["warnings"][0]


def test_what_was_kept_is_no_scan(tiny_bundle: Path, crops: Path) -> None:
    """Where results go beside their images, label maps of other hands lie there too."""
    words = ["run", str(tiny_bundle), "-i", str(crops), "-o", str(crops), "--no-pictures", "--device", "cpu"]
    nib.save(nib.Nifti1Image(np.ones((24, 30, 24), np.uint8), np.eye(4)), crops / "anna_seg.nii.gz")
    for _ in range(2):
        assert main(words) == 0
    names = sorted(re.sub("[0-9a-f]{8}", "X", path.name) for path in crops.glob("*.nii.gz"))
    assert names == ["anna.nii.gz", "anna_seg.edited-X.nii.gz", "anna_seg.nii.gz", "otto.nii.gz", "otto_seg.nii.gz"]


def test_another_scan_of_the_same_name_is_refused_25(
    run: Callable[..., int], crops: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a later run; within one run both get another name."""
    (tmp_path / "more").mkdir()
    shutil.copy(crops / "otto.nii.gz", tmp_path / "more" / "anna.nii.gz")
    assert run(crops / "anna.nii.gz") == 0
    before, (entry,) = times(tmp_path), cases(tmp_path)
    assert run(tmp_path / "more") == 4
    assert "of another scan" in caplog.text
    assert times(tmp_path) == before, "nothing of the first scan is lost"
    assert cases(tmp_path) == [entry]
    assert run(tmp_path / "more", options=("--redo", "--no-pictures")) == 0
    assert times(tmp_path) != before


def test_odd_names_become_safe_ones_and_the_report_maps_them_28(
    run: Callable[..., int], crops: Path, tmp_path: Path
) -> None:
    odd = {"two words": "two_words", "line\nbreak": "line_break", "Zoë": "Zoe", "..up": "up", "日本": "case-cf2abf0c"}
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in odd:
        shutil.copy(crops / "anna.nii.gz", folder / f"{name}.nii.gz")
    (folder / "..up.nii.gz").rename(tmp_path / "..up.nii.gz")  # hidden files of a folder are nobody's scan
    assert run(folder, tmp_path / "..up.nii.gz") == 0
    assert {path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")} == {f"{x}_seg.nii.gz" for x in odd.values()}
    mapping = {entry["case"]: Path(entry["file"]).name for entry in cases(tmp_path)}
    assert mapping == {case: f"{name}.nii.gz" for name, case in odd.items()}


# --- at load ----------------------------------------------------------------------------------------------------------


def test_the_first_of_four_is_corrupt_66(
    run: Callable[..., int], crops: Path, tmp_path: Path, make_pair: Maker
) -> None:
    make_pair(tmp_path, "peter", seed=3, shape=(24, 30, 24))
    (crops / "aaron.nii.gz").write_bytes((crops / "anna.nii.gz").read_bytes()[:500])
    assert run(crops) == 3
    assert set(times(tmp_path)) == {f"{case}_seg.nii.gz" for case in ("anna", "otto", "peter")}


def test_a_full_disk_stops_the_run_and_keeps_what_was_done_64(
    run: Callable[..., int],
    crops: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from neurobundle.commands import run_outputs as module

    def full(path: Path, *args: Any, **kwargs: Any) -> Path:
        if path.name.startswith("otto"):
            raise EnvironmentFault("the disk is full", "Free some space.", file=path)
        return whole(path, *args, **kwargs)

    whole = module.save_label_map
    monkeypatch.setattr(module, "save_label_map", full)
    assert run(crops) == 5
    assert "ERROR otto" in caplog.text
    assert set(times(tmp_path)) == {"anna_seg.nii.gz"}
    assert [entry["case"] for entry in cases(tmp_path)] == ["anna"]


def test_memory_that_is_exhausted_is_one_case_s_error_68(
    run: Callable[..., int],
    crops: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = CaseRunner.predict

    def predict(self: CaseRunner, image: Path, case: str) -> None:
        if case == "anna":
            raise MemoryError
        whole(self, image, case)

    monkeypatch.setattr(CaseRunner, "predict", predict)
    assert run(crops) == 3
    assert "memory is exhausted" in caplog.text
    assert set(times(tmp_path)) == {"otto_seg.nii.gz"}


LIMITED = """
import resource, sys
import monai.bundle, neurobundle.bundle.evaluator, torch
from neurobundle import memory
from neurobundle.cli import main
torch.set_num_threads(1)
limit = memory._status("VmSize") + 1024 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not memory.resident_mib(), reason="this system says nothing of a process's memory")
def test_a_scan_too_large_for_ulimit_v_fails_alone_68(tiny_bundle: Path, crops: Path, tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(1, 200, (330, 330, 330)).astype(np.uint8)
    nib.save(nib.Nifti1Image(large, np.eye(4)), crops / "aaron.nii.gz")
    words = ["run", tiny_bundle, "-i", crops, "-o", tmp_path / "out", "--device", "cpu", "--input", "crop"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, words), "--no-pictures"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "ERROR aaron" in done.stderr
    assert "memory is exhausted" in done.stderr
    assert set(times(tmp_path)) == {"anna_seg.nii.gz", "otto_seg.nii.gz"}


def open_files() -> set[tuple[str, str]]:
    """Each by its number and what it is; one that was closed while we looked is none."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add((link.name, str(link.readlink())))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not memory.resident_mib(), reason="this system says nothing of a process's memory")
def test_200_cases_in_flat_memory_69(run: Callable[..., int], tmp_path: Path, make_pair: Maker) -> None:
    """From the 20th to the last; and no file stays open: neither through the last twenty cases nor after them."""
    for n in range(200):
        make_pair(tmp_path, f"case_{n:03d}", seed=n, shape=(20, 24, 20))
    seen: list[tuple[float, set[tuple[str, str]]]] = []
    whole = CaseRunner.predict

    def predict(self: CaseRunner, image: Path, case: str) -> None:
        seen.append((memory.resident_mib(), open_files()))
        whole(self, image, case)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaseRunner, "predict", predict)
        assert run(tmp_path / "images", options=()) == 0
    resident, files = zip(*seen, strict=True)
    logging.getLogger(__name__).warning("MiB at 20, 100, 200: %s", [round(resident[n]) for n in (20, 100, 199)])
    assert len(resident) == 200
    assert resident[-1] <= 1.05 * resident[20]
    assert not set.intersection(*files[-20:]) - files[20]
    assert not open_files() - files[20]


@pytest.mark.slow
def test_two_runs_on_one_folder_67(tiny_bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    """Both end with 0, the report has all cases, and no result is taken for a person's."""
    for n in range(6):
        make_pair(tmp_path, f"case_{n}", seed=n, shape=(20, 24, 20))
    words = ["run", tiny_bundle, "-i", tmp_path / "images", "-o", tmp_path / "out", "--device", "cpu"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "neurobundle", *map(str, words)], env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        for _ in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert [entry["status"] for entry in cases(tmp_path)] == ["ok"] * 6
    names = {f"case_{n}{end}" for n in range(6) for end in ("_seg.nii.gz", ".png")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "report.json", "volumes.csv"}


# --- privacy ----------------------------------------------------------------------------------------------------------


def plant(path: Path) -> None:
    """Write names into every free text of a NIfTI file."""
    image = nib.load(path)
    image.header["descrip"] = b"DOE^JANE MRN-00042"
    image.header["aux_file"] = b"DOE^JANE"
    image.header["intent_name"] = b"DOE^JANE"
    image.header["db_name"] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JANE MRN-00042"))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), path)


def assert_clean(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert not any(word in str(path.relative_to(folder)) for word in PLANTED)
        if path.is_file():
            content = nib.load(path).to_bytes() if path.name.endswith(".nii.gz") else path.read_bytes()
            assert not any(word.encode() in content for word in PLANTED), path
    for text in texts:
        assert not any(word in text for word in PLANTED)


@pytest.mark.parametrize("options", [(), ("--debug",), ("--verbose",)], ids=["plain", "debug", "verbose"])
def test_names_in_a_header_reach_nothing_78_81(
    run: Callable[..., int],
    crops: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    for path in crops.iterdir():
        plant(path)
    assert run(crops, options=options) == 0
    told = capfd.readouterr()
    assert_clean(tmp_path / "out", caplog.text, told.out, told.err)
    assert len(times(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [False, True], ids=["good", "damaged"])
@pytest.mark.parametrize("options", [(), ("--debug",)], ids=["plain", "debug"])
def test_a_damaged_file_s_traceback_has_no_names_81(
    tiny_bundle: Path, crops: Path, tmp_path: Path, options: tuple[str, ...], spoil: bool
) -> None:
    """In a process of its own, so that all that it says is seen; the file's own name is salted away (79)."""
    folder = tmp_path / "DOE_JANE"
    folder.mkdir()
    (crops / "anna.nii.gz").rename(folder / "DOE_JANE_MRN-00042.nii.gz")
    plant(folder / "DOE_JANE_MRN-00042.nii.gz")
    if spoil:
        content = (folder / "DOE_JANE_MRN-00042.nii.gz").read_bytes()
        (folder / "DOE_JANE_MRN-00042.nii.gz").write_bytes(content[: len(content) // 2])
    words = ["run", tiny_bundle, "-i", folder, "-o", tmp_path / "out", "--device", "cpu", "--salted-names", *options]
    done = subprocess.run(
        [sys.executable, "-m", "neurobundle", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NEUROBUNDLE_SALT": "pepper", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == ((1 if options else 4) if spoil else 0), done.stderr
    assert ("Traceback" in done.stderr) == (spoil and bool(options))
    assert_clean(tmp_path / "out", done.stdout, done.stderr)
    assert not list(tmp_path.glob("neurobundle-*")), "the links are gone"


def test_salted_names_79(
    run: Callable[..., int],
    crops: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Eight hex digits, the same for the same salt; above DEBUG neither the file nor its folder is named."""
    monkeypatch.setenv("NEUROBUNDLE_SALT", "pepper")
    folder = tmp_path / "DOE_JANE"
    crops.rename(folder)
    (folder / "anna.nii.gz").rename(folder / "DOE_JANE.nii.gz")
    (folder / "otto.nii.gz").write_bytes(b"")
    options = ("--salted-names", "--verbose")
    assert run(folder, options=options) == 3
    assert_clean(tmp_path / "out", caplog.text)
    assert all(re.fullmatch("case-[0-9a-f]{8}", entry["case"]) for entry in cases(tmp_path))
    assert [entry["file"] for entry in cases(tmp_path)] == ["", ""]
    before = times(tmp_path)
    assert run(folder, options=options) == 3
    assert times(tmp_path) == before
    monkeypatch.setenv("NEUROBUNDLE_SALT", "salt")
    assert run(folder, options=options) == 3
    assert len(times(tmp_path)) == 2


def test_salted_names_of_nothing_name_nothing_79(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(tmp_path / "DOE_JANE", options=("--salted-names",)) == 2
    assert not any(word in caplog.text for word in PLANTED)


def test_a_salt_that_everybody_knows_is_said_79(
    run: Callable[..., int], crops: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NEUROBUNDLE_SALT", raising=False)
    assert run(crops, options=("--salted-names", "--no-pictures")) == 0
    assert "NEUROBUNDLE_SALT" in caplog.text
