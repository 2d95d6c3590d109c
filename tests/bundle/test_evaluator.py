"""Stock MONAI on our inference config: one case's fault is that case's (numbers are those of the faults' list)."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader

from neurobundle.bundle import CaseDataset, CaseEvaluator, case_collate
from neurobundle.bundle.runner import guarded, infer, require_memory
from neurobundle.bundle.workflow import make_plan
from neurobundle.errors import EnvironmentFault, InputError, NoInputError, WeightsError

from ..helpers import Maker


@pytest.fixture
def crops(tmp_path: Path, make_pair: Maker) -> Path:
    """Four; the first one is corrupt."""
    for n, case in enumerate("abcd"):
        make_pair(tmp_path, case, seed=n, shape=(24, 30, 24))
    content = (tmp_path / "images" / "a.nii.gz").read_bytes()
    (tmp_path / "images" / "a.nii.gz").write_bytes(content[: len(content) // 2])
    return tmp_path / "images"


@pytest.fixture
def run(tiny_bundle: Path, crops: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the config as stock MONAI would, in this process; gives the exit code."""

    def call(**settings: Any) -> int:
        given = {"dataset_dir": str(crops), "output_dir": str(tmp_path / "out"), "device": "cpu", **settings}
        workflow = make_plan(tiny_bundle, "inference", (), given).workflow()
        workflow.initialize()
        try:
            workflow.run()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return call


def report(tmp_path: Path) -> list[dict[str, Any]]:
    return json.loads((tmp_path / "out" / "report.json").read_text())["cases"]


def label_maps(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "out").glob("*.nii.gz")}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_first_of_four_is_corrupt_66(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    assert run(num_workers=workers) == 3
    assert label_maps(tmp_path) == {f"{case}_seg.nii.gz" for case in "bcd"}
    assert [(entry["case"], entry["status"]) for entry in report(tmp_path)] == [
        ("a", "failed"),
        ("b", "ok"),
        ("c", "ok"),
        ("d", "ok"),
    ]
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert message.startswith(f"ERROR a {tmp_path / 'images' / 'a.nii.gz'}: ")
    assert set(report(tmp_path)[1]["volumes_ml"]) == {"anterior", "posterior"}


@pytest.mark.slow
def test_the_first_of_four_is_corrupt_in_a_process_of_its_own_66(
    tiny_bundle: Path, crops: Path, tmp_path: Path
) -> None:
    done = stock(tiny_bundle, crops, tmp_path / "out")
    assert done.returncode == 3, done.stdout + done.stderr
    assert label_maps(tmp_path) == {f"{case}_seg.nii.gz" for case in "bcd"}
    assert "ERROR a " in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_an_empty_folder_is_2_in_a_process_of_its_own_56(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = stock(tiny_bundle, tmp_path / "nothing", tmp_path / "out")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "holds no NIfTI file" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def stock(bundle: Path, images: Path, output: Path) -> "subprocess.CompletedProcess[str]":
    words = ["--config_file", bundle / "configs" / "inference.yaml", "--bundle_root", bundle]
    words += ["--meta_file", bundle / "configs" / "metadata.json"]
    words += ["--logging_file", bundle / "configs" / "logging.conf"]
    words += ["--dataset_dir", images, "--output_dir", output, "--device", "cpu"]
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tempfile.gettempdir(),
    )


def test_an_empty_folder_is_2_56(run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "nothing").mkdir()
    assert run(dataset_dir=str(tmp_path / "nothing")) == 2
    assert "holds no NIfTI file" in caplog.text
    assert not (tmp_path / "out").exists()


def test_all_bad_is_4(run: Callable[..., int], crops: Path) -> None:
    for path in crops.iterdir():
        path.write_bytes(b"")
    assert run() == 4


def test_finished_cases_are_skipped_and_the_rest_is_done_65(
    run: Callable[..., int], crops: Path, tmp_path: Path, make_pair: Maker
) -> None:
    assert run() == 3
    before = report(tmp_path)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.nii.gz")}
    make_pair(tmp_path, "a", seed=9, shape=(24, 30, 24))
    assert run() == 0
    assert label_maps(tmp_path) == {f"{case}_seg.nii.gz" for case in "abcd"}
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in times} == times
    assert report(tmp_path)[1:] == before[1:]


@pytest.mark.parametrize(
    "settings", [{"inferer::inferer::inferer::inferer::overlap": 0.25}, {"evaluator::redo": True}], ids=str
)
def test_another_setting_redoes(run: Callable[..., int], tmp_path: Path, settings: dict[str, Any]) -> None:
    assert run() == 3
    before = (tmp_path / "out" / "b_seg.nii.gz").stat().st_mtime_ns
    assert run(**settings) == 3
    assert (tmp_path / "out" / "b_seg.nii.gz").stat().st_mtime_ns != before


def test_reports_are_equal_apart_from_timing(run: Callable[..., int], tmp_path: Path) -> None:
    assert run() == 3
    first = report(tmp_path)
    assert run(**{"evaluator::redo": True}) == 3
    second = report(tmp_path)
    assert all(entry.pop("timing") for entry in first)
    assert all(entry.pop("timing") for entry in second)
    assert first == second


def test_results_inside_the_data_folder_are_no_cases(run: Callable[..., int], crops: Path) -> None:
    out = str(crops / "labels")
    assert run(output_dir=out) == 3
    assert run(output_dir=out) == 3
    assert len(list((crops / "labels").glob("*.nii.gz"))) == 3


@pytest.mark.parametrize("part", ["inferer", "postprocessing"])
def test_whatever_fails_in_a_case_is_that_case_s(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    from neurobundle.export.transforms import SaveLabelMapd
    from neurobundle.infer import AutocastInferer

    kind = AutocastInferer if part == "inferer" else SaveLabelMapd
    whole, calls = kind.__call__, []

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(kind, "__call__", broken)
    assert run() == 3
    assert label_maps(tmp_path) == {"b_seg.nii.gz", "d_seg.nii.gz"}
    assert "memory is exhausted" in report(tmp_path)[2]["error"]


def test_a_full_disk_ends_the_run_with_5_64(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from neurobundle.export import transforms

    def full(path: Path, *args: Any, **kwargs: Any) -> Path:
        if path.name.startswith("c"):
            raise EnvironmentFault("the disk is full", "Free some space.", file=path)
        return whole(path, *args, **kwargs)

    whole = transforms.save_label_map
    monkeypatch.setattr(transforms, "save_label_map", full)
    assert run() == 5
    assert label_maps(tmp_path) == {"b_seg.nii.gz"}
    assert [entry["case"] for entry in report(tmp_path)] == ["a", "b"]
    assert "ERROR c " in caplog.text


def test_weights_that_are_not_believed_stop_before_any_case_59(
    run: Callable[..., int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(ckpt_dir=str(tmp_path)) == 1
    assert [record.levelname for record in caplog.records if "model.pt" in record.getMessage()] == ["ERROR"]
    assert not (tmp_path / "out").exists()


def test_the_cause_of_an_end_is_there_for_python(tiny_bundle: Path, crops: Path, tmp_path: Path) -> None:
    given = {"dataset_dir": str(crops), "output_dir": str(tmp_path / "out"), "ckpt_dir": str(tmp_path)}
    workflow = make_plan(tiny_bundle, "inference", (), {**given, "device": "cpu"}).workflow()
    workflow.initialize()
    with pytest.raises(SystemExit) as end:
        workflow.run()
    assert isinstance(end.value.__cause__, WeightsError)


# --- the parts --------------------------------------------------------------------------------------------------------


def test_without_an_evaluator_the_dataset_is_monai_s() -> None:
    dataset = CaseDataset([{"image": 1}, {"image": 2}], lambda item: {"image": torch.full((1, 2), item["image"])})
    assert len(dataset) == 2
    (batch,) = DataLoader(dataset, batch_size=2, collate_fn=case_collate)
    assert batch["image"].shape == (2, 1, 2)


def test_a_list_that_cannot_be_made_is_the_evaluator_s_to_report() -> None:
    def listing() -> list[Any]:
        raise NoInputError("there is nothing")

    dataset = CaseDataset(listing)
    assert len(dataset) == 0
    assert isinstance(dataset.fault, NoInputError)


def test_the_evaluator_wants_its_dataset() -> None:
    loader = DataLoader([{"image": torch.zeros(1, 2, 2, 2)}])
    evaluator = CaseEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=torch.nn.Identity(), output_dir="nowhere"
    )
    with pytest.raises(SystemExit) as end:
        evaluator.run()
    assert end.value.code == 1


def test_what_fits_runs_and_what_does_not_is_a_case_s_error_68() -> None:
    require_memory((8, 8, 8), 4)
    require_memory((100, 100, 100), 4, available=2**30)
    with pytest.raises(InputError, match="512 x 512 x 512 voxels and 4 classes need about 14"):
        require_memory((512, 512, 512), 4, available=2**33)


def test_a_small_gpu_falls_back_to_the_cpu_68() -> None:
    calls = []

    def inferer(inputs: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        calls.append(inputs.device.type)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return network(inputs)

    network = torch.nn.Conv3d(1, 2, 1)
    assert infer(inferer, torch.zeros(1, 1, 4, 4, 4), network).shape == (1, 2, 4, 4, 4)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("error", "kind", "cause"),
    [
        (MemoryError(), InputError, "memory is exhausted"),
        (torch.OutOfMemoryError("CUDA out of memory"), InputError, "memory is exhausted"),
        (OSError(28, "No space left on device", "/tmp/x"), EnvironmentFault, "the disk is full"),
        (ValueError("odd\nshape"), InputError, r"cannot be processed \(odd shape\)"),
        (InputError("it is empty"), InputError, "it is empty"),
    ],
    ids=["68-python", "68-gpu", "64-disk", "unforeseen", "ours"],
)
def test_every_exception_becomes_one_of_ours(error: Exception, kind: type[Exception], cause: str) -> None:
    with pytest.raises(kind, match=cause) as caught, guarded("anna", "anna.nii.gz"):
        raise RuntimeError("applying transform failed") from error
    assert caught.value.case == "anna"  # type: ignore[attr-defined]
    assert caught.value.file  # type: ignore[attr-defined]


def test_raw_tags_reach_no_file_80(run: Callable[..., int], crops: Path, tmp_path: Path) -> None:
    """What the reader keeps beside the voxels goes into no output."""
    image = nib.load(crops / "b.nii.gz")
    image.header["descrip"] = b"DOE^JANE"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"PatientID MRN-00042"))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), crops / "b.nii.gz")
    assert run() == 3
    for path in (tmp_path / "out").iterdir():
        content = nib.load(path) if path.name.endswith(".gz") else None
        text = path.read_bytes() if content is None else content.to_bytes()
        assert b"DOE" not in text
        assert b"MRN-00042" not in text


def test_what_the_gate_warns_of_is_in_the_report(run: Callable[..., int], tmp_path: Path) -> None:
    path = tmp_path / "images" / "b.nii.gz"
    image = nib.load(path)
    image.header["scl_slope"], image.header["scl_inter"] = 1, 0
    image.header.set_zooms((9, 9, 9))  # other programs may believe these; the affine speaks
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[:348] = image.header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))
    run()
    (entry,) = (entry for entry in report(tmp_path) if entry["case"] == "b")
    assert ["the affine speaks" in warning for warning in entry["warnings"]] == [True]
