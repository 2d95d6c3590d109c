"""``neurobundle run`` beside itself: the next case is prepared and the last one written while the network runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neurobundle import memory
from neurobundle.bundle.runner import CaseRunner
from neurobundle.commands import run as module
from neurobundle.commands import run_outputs
from neurobundle.commands.run import Run, RunReport
from neurobundle.errors import EnvironmentFault
from neurobundle.load.nifti import read_nifti

from ..helpers import Maker

CASES = ("anna", "bert", "cleo", "dora")


@pytest.fixture
def crops(tmp_path: Path, make_pair: Maker) -> Path:
    for n, case in enumerate(CASES):
        make_pair(tmp_path, case, seed=n, shape=(24, 30, 24))
    return tmp_path / "images"


@pytest.fixture
def run(tiny_bundle: Path, tmp_path: Path, crops: Path) -> Callable[..., RunReport]:
    def call(name: str = "out", **options: Any) -> RunReport:
        return Run(str(tiny_bundle), tmp_path / name, settings={"device": "cpu"}, **options)([crops])

    return call


def entries(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "report.json").read_text())["cases"]


def without_timing(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in entry.items() if name != "timing"} for entry in entries(folder)]


def assert_equal(first: Path, second: Path) -> None:
    """The same files with the same bytes, and reports that differ in nothing but the timing."""
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        if name != "report.json":
            assert (first / name).read_bytes() == (second / name).read_bytes(), name
    assert without_timing(first) == without_timing(second)


def spoil(crops: Path, case: str) -> None:
    (crops / f"{case}.nii.gz").write_bytes((crops / f"{case}.nii.gz").read_bytes()[:500])


@pytest.mark.parametrize("broken", [(), ("anna",), ("bert", "cleo"), CASES], ids=["none", "first", "two", "all"])
def test_the_same_with_and_without(
    run: Callable[..., RunReport],
    crops: Path,
    tmp_path: Path,
    broken: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every byte, the report, the order of the results, and every line that is said."""
    for case in broken:
        spoil(crops, case)
    reports, said = [], []
    for overlap in (True, False):
        caplog.clear()
        reports.append(run(str(overlap), overlap=overlap))
        said.append([line for line in caplog.messages if line.startswith("ERROR")])
    assert [result.case for result in reports[0].results] == list(CASES)
    assert reports[0].exit_code == reports[1].exit_code
    assert said[0] == said[1]
    assert len(said[0]) == len(broken)
    assert_equal(tmp_path / "True", tmp_path / "False")


def test_the_network_runs_in_the_calling_thread_and_the_rest_beside_it(
    run: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"prepare": set(), "predict": set(), "write": set()}
    prepared, predict, save = CaseRunner._prepared, CaseRunner.predict, run_outputs.save_label_map

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            threads[name].add(threading.current_thread().name.partition("_")[0])
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(CaseRunner, "_prepared", noted("prepare", prepared))
    monkeypatch.setattr(CaseRunner, "predict", noted("predict", predict))
    monkeypatch.setattr(run_outputs, "save_label_map", noted("write", save))
    assert run().exit_code == 0
    assert threads == {"prepare": {"ahead"}, "predict": {"MainThread"}, "write": {"behind"}}


def test_a_fault_in_the_network_is_its_case_s(
    run: Callable[..., RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CaseRunner.predict

    def predict(self: CaseRunner, images: Any, case: str) -> Any:
        if case == "bert":
            raise ValueError("no such kernel")
        return whole(self, images, case)

    monkeypatch.setattr(CaseRunner, "predict", predict)
    assert [result.passed for result in run().results] == [True, False, True, True]
    assert "no such kernel" in entries(tmp_path / "out")[1]["error"]


def test_a_fault_in_writing_behind_is_its_case_s(
    run: Callable[..., RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what it had written nothing stays."""

    def broken(path: Path, *_: Any) -> Path:
        if path.name == "bert.png":
            raise ValueError("no such colour")
        return whole(path, *_)

    whole = module.save_png
    monkeypatch.setattr(module, "save_png", broken)
    assert [result.passed for result in run().results] == [True, False, True, True]
    assert "no such colour" in entries(tmp_path / "out")[1]["error"]
    assert sorted(path.name for path in (tmp_path / "out").glob("bert*")) == []


def test_a_full_disk_behind_ends_the_run(
    run: Callable[..., RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was in the network meanwhile is not written."""

    def full(path: Path, *args: Any, **kwargs: Any) -> Path:
        if path.name.startswith("bert"):
            raise EnvironmentFault("the disk is full", "Free some space.", file=path)
        return whole(path, *args, **kwargs)

    whole = run_outputs.save_label_map
    monkeypatch.setattr(run_outputs, "save_label_map", full)
    with pytest.raises(EnvironmentFault, match="full"):
        run()
    assert [entry["case"] for entry in entries(tmp_path / "out")] == ["anna"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "anna.png",
        "anna_seg.nii.gz",
        "report.json",
        "volumes.csv",
    ]


def test_an_interrupted_run_is_whole_and_goes_on(
    run: Callable[..., RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third case's network: the first two are in the report, and nothing half-written lies about."""
    whole = CaseRunner.predict

    def predict(self: CaseRunner, images: Any, case: str) -> Any:
        if case == "cleo":
            raise KeyboardInterrupt
        return whole(self, images, case)

    with monkeypatch.context() as patch:
        patch.setattr(CaseRunner, "predict", predict)
        with pytest.raises(KeyboardInterrupt):
            run()
    out = tmp_path / "out"
    assert [entry["case"] for entry in entries(out)] == ["anna", "bert"]
    assert not list(out.glob(".*"))
    assert {path.name.split(".")[0].removesuffix("_seg") for path in out.iterdir()} == {
        *("anna", "bert", "report", "volumes")
    }
    report = run()
    assert (report.skipped, report.exit_code) == (2, 0)
    assert run("whole", overlap=False).exit_code == 0
    assert_equal(out, tmp_path / "whole")


def test_what_does_not_fit_beside_others_is_done_alone(
    run: Callable[..., RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is short as long as a case is prepared ahead or being prepared; none is refused for that."""
    held: set[str] = set()
    refused = []
    ahead, forget, predict = CaseRunner.prepare_ahead, CaseRunner.forget_ahead, CaseRunner.predict

    def prepare_ahead(self: CaseRunner, images: Any, case: str, shape: Any) -> bool:
        held.add(case)
        return ahead(self, images, case, shape)

    def forget_ahead(self: CaseRunner, case: str | None = None) -> None:
        held.difference_update([case] if case else [*held])
        forget(self, case)

    def of_this_case(self: CaseRunner, images: Any, case: str) -> Any:
        if held:
            refused.append(case)
            raise MemoryError
        return predict(self, images, case)

    monkeypatch.setattr(CaseRunner, "prepare_ahead", prepare_ahead)
    monkeypatch.setattr(CaseRunner, "forget_ahead", forget_ahead)
    monkeypatch.setattr(CaseRunner, "predict", of_this_case)
    assert run().exit_code == 0
    assert refused, "each began beside others"
    monkeypatch.undo()
    assert run("whole", overlap=False).exit_code == 0
    assert_equal(tmp_path / "out", tmp_path / "whole")


def test_nothing_is_prepared_ahead_where_both_do_not_fit(
    run: Callable[..., RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A case in the network is promised its memory, and the next one gets what is left."""
    results: list[bool] = []
    ahead = CaseRunner.prepare_ahead

    def prepare_ahead(self: CaseRunner, images: Any, case: str, shape: Any) -> bool:
        self._promised[("another",)] = 10**9
        results.append(ahead(self, images, case, shape))
        del self._promised[("another",)]
        return results[-1]

    monkeypatch.setattr(CaseRunner, "prepare_ahead", prepare_ahead)
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9 + 10**5)
    assert run().exit_code == 4 or results, "the check of each case sees the promise too"
    assert results
    assert not any(results)


def test_a_scan_is_read_again_after_it_failed_ahead(
    run: Callable[..., RunReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have failed for what lay beside it; alone, it passes, and is no failed case."""
    from neurobundle.load import nifti

    failed: list[str] = []

    def once(path: Path, *args: Any) -> Any:
        if path.name == "cleo.nii.gz" and not failed:
            failed.append(path.name)
            raise MemoryError
        return read_nifti(path, *args)

    monkeypatch.setattr(nifti, "read_nifti", once)
    assert run().exit_code == 0
    assert failed == ["cleo.nii.gz"]
    assert [entry["warnings"] for entry in entries(tmp_path / "out")] == [[]] * 4
