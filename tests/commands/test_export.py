"""``neurobundle export``, and runs by what it wrote."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from neurobundle.cli import main
from neurobundle.commands import export as exporting
from neurobundle.errors import SettingError
from neurobundle.infer import backends_convert
from neurobundle.networks import residual_unet, save_weights
from neurobundle.networks.manifest import read_manifest, sha256_of

from ..conftest import ROOT
from ..helpers import Maker

#: Files that each format writes beside model.pt, the opened one first.
WRITTEN = {"openvino": ["model.xml", "model.bin"], "torchscript": ["model.ts"], "onnx": ["model.onnx"]}
PACKAGES = {"onnx": "onnxscript", "openvino": "openvino"}


def with_backend(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle whose inference has the setting ``backend``, as ours are nested."""
    copy = folder / bundle.name
    shutil.copytree(bundle, copy)
    path = copy / "configs" / "inference.yaml"
    config = yaml.safe_load(path.read_text())
    if "backend" not in config:
        settings = {"_target_": "neurobundle.infer.BackendInferer", "backend": "@backend", "weights": "@weights"}
        inner = config["inferer"]["inferer"]
        config |= {"backend": "eager", "exported": None}
        config["inferer"]["inferer"] = {**settings, "exported": "@exported", "device": "@device", "inferer": inner}
        path.write_text(yaml.safe_dump(config, sort_keys=False))
    return copy


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return with_backend(tiny_bundle, tmp_path / "copy")


def export(bundle: Path, to: str, *words: str | Path) -> int:
    return main(["export", str(bundle), "--to", to, "--device", "cpu", *map(str, words)])


def require_format(to: str) -> None:
    if to in PACKAGES and importlib.util.find_spec(PACKAGES[to]) is None:
        pytest.skip(f"{PACKAGES[to]} is not installed")


@pytest.mark.parametrize("to", ["openvino", "torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_export_and_run(
    to: str, bundle: Path, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files beside the weights, their parent in the manifest, and a run by them that labels as eager does."""
    require_format(to)
    assert export(bundle, to) == 0
    said = capsys.readouterr().out
    assert "of eager and equal labels, on a made scan of 40 x 56 x 40 voxels" in said
    listed, weights = read_manifest(bundle / "models"), bundle / "models" / "model.pt"
    for name in WRITTEN[to]:
        assert f"written: {bundle / 'models' / name}" in said
        assert listed[name].parent == sha256_of(weights)
        assert listed[name].sha256 == sha256_of(bundle / "models" / name)
    image, _ = make_pair(tmp_path, "anna", shape=(30, 34, 30))
    maps = []
    for backend in ("eager", to):
        out = tmp_path / backend
        assert (
            main(["run", str(bundle), "-i", str(image), "-o", str(out), "--backend", backend, "--device", "cpu"]) == 0
        )
        maps.append(np.asarray(nib.load(out / "anna_seg.nii.gz").dataobj))
    assert np.array_equal(*maps)


@pytest.mark.slow
def test_weights_that_were_trained_again_refuse_the_file(
    bundle: Path, tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    assert export(bundle, "torchscript") == 0
    torch.manual_seed(1)
    save_weights(residual_unet(1, 3, size="tiny"), bundle / "models" / "model.pt", origin="trained-here")
    image, _ = make_pair(tmp_path, "anna")
    words = ["run", str(bundle), "-i", str(image), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--backend", "torchscript"]) == 1
    assert "model.ts: it was made from other weights" in caplog.text
    assert f"neurobundle export {bundle.name} --to torchscript" in caplog.text
    assert export(bundle, "torchscript") == 0, "the way out"
    assert main([*words, "--backend", "torchscript"]) == 0


def test_another_backend_is_another_result(bundle: Path, tmp_path: Path, make_pair: Maker) -> None:
    """A finished case is done again when the backend changes, and skipped when it does not."""
    image, _ = make_pair(tmp_path, "anna", shape=(26, 26, 26))
    out = tmp_path / "out"

    def run(backend: str) -> float:
        words = ["run", str(bundle), "-i", str(image), "-o", str(out), "--backend", backend]
        assert main([*words, "--device", "cpu", "--no-pictures", "--redo"][: -1 if out.exists() else None]) == 0
        return (out / "anna_seg.nii.gz").stat().st_mtime_ns

    first = run("eager")
    assert run("eager") == first
    second = run("torchscript")
    assert second > first
    assert run("torchscript") == second


def test_a_case_of_the_user(bundle: Path, tmp_path: Path, make_pair: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    make_pair(tmp_path / "data", "anna")
    assert export(bundle, "torchscript", "--data", tmp_path / "data" / "images", "-o", tmp_path / "other") == 0
    assert "equal labels, on the case anna" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "other").iterdir()) == ["MANIFEST.sha256", "model.ts"]
    assert not (bundle / "models" / "model.ts").exists()
    words = [
        "run",
        str(bundle),
        "-i",
        str(tmp_path / "data" / "images"),
        "-o",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    assert main([*words, "--backend", "torchscript", "--set", f"exported={tmp_path / 'other'}"]) == 0


def test_what_differs_is_not_written(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is a thousandth and a half off."""
    real = backends_convert.load

    def off(*args: object) -> backends_convert.Engine:
        engine = real(*args)  # type: ignore[arg-type]
        compute = engine._compute
        engine._compute = lambda window: tuple(output + 0.0015 for output in compute(window))
        return engine

    monkeypatch.setattr(backends_convert, "load", off)
    with pytest.raises(SettingError, match=r"its logits are up to 1\.5e-03 from eager's .* Nothing was written"):
        exporting.export(str(bundle), "torchscript", settings={"device": "cpu"})
    assert not (bundle / "models" / "model.ts").exists()
    assert "model.ts" not in read_manifest(bundle / "models")


def test_a_folder_that_cannot_be_written(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file in the folder's place")
    assert export(bundle, "torchscript", "-o", tmp_path / "taken") == 5
    assert "a file is in the place of a folder" in caplog.text


def test_an_unknown_format(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert export(bundle, "onyx") == 1
    assert "--to knows no 'onyx'; did you mean 'onnx'? Use one of onnx, openvino" in caplog.text


def test_an_unknown_backend_of_a_run(
    bundle: Path, tmp_path: Path, make_pair: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    image, _ = make_pair(tmp_path, "anna")
    words = ["run", str(bundle), "-i", str(image), "-o", str(tmp_path / "out")]
    assert main([*words, "--backend", "openvine", "--device", "cpu"]) == 1
    assert "there is no backend 'openvine'; did you mean 'openvino'?" in caplog.text


def test_tensorrt_without_a_gpu(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert export(bundle, "tensorrt") == 1
    assert "wants a CUDA GPU" in caplog.text


def test_the_manifest_names_where_the_weights_came_from(bundle: Path) -> None:
    assert export(bundle, "torchscript") == 0
    lines = (bundle / "models" / "MANIFEST.sha256").read_text().splitlines()
    (about,) = [json.loads(line[2:]) for line in lines if line.startswith("#") and "model.ts" in line]
    assert about["origin"] == "released"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["openvino", "torchscript"])
def test_two_outputs_of_a_classifier(to: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The network as its inferer calls it, ``mask=True``: class and outline."""
    require_format(to)
    source = ROOT / "bundles" / "tumor_type_classification"
    if not (source / "models" / "model.pt").exists():
        pytest.skip("the bundle has no weights yet")
    assert export(source, to, "-o", tmp_path) == 0
    assert "equal labels" in capsys.readouterr().out
