"""Other runtimes give what PyTorch gives, follow the weights, and are refused where they cannot."""

from __future__ import annotations

import copy
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import nn

from neurobundle.bundle import fingerprint
from neurobundle.errors import MissingPackageError, SettingError, WeightsError
from neurobundle.infer import (
    AutocastInferer,
    BackendInferer,
    EnsembleInferer,
    SliceAnswersInferer,
    SlicesInferer,
    backend_key,
    backends_choice,
)
from neurobundle.infer.backends_choice import chosen_backend
from neurobundle.infer.backends_convert import export_bytes
from neurobundle.infer.backends_files import exported_names
from neurobundle.infer.backends_norm import SpelledNorm, spelled_out
from neurobundle.networks import save_weights
from neurobundle.networks.classifier import classifier
from neurobundle.networks.manifest import sha256_of, write_entry
from neurobundle.networks.slice_unet import slice_unet

PACKAGES = {"onnx": ("onnxruntime", "onnxscript"), "openvino": ("openvino",), "torchscript": ()}


def require_backend(name: str) -> None:
    """Skip without its packages; they are not imported here, which is the library's to do."""
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


@pytest.fixture(params=["openvino", "torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def backend(request: pytest.FixtureRequest) -> str:
    require_backend(request.param)
    return request.param


def network(channels: int = 1, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = (nn.Conv3d(channels, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.PReLU(), nn.Conv3d(4, 2, 1))
    return nn.Sequential(*layers).eval()


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WINDOW = SlidingWindowInferer((8, 10, 12), sw_batch_size=2, overlap=0.5)


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).detach().abs().max())


def test_eager_is_the_wrapped_inferer_to_the_last_bit() -> None:
    net, x = network(), image(1, 1, 12, 14, 16)
    assert torch.equal(BackendInferer(WINDOW)(x, net), WINDOW(x, net))
    assert torch.equal(BackendInferer(backend="eager")(x, net), net(x))
    assert backend_key(AutocastInferer(BackendInferer(WINDOW))) == {}


def test_windows_of_a_volume(backend: str) -> None:
    """13 windows two at a time: the last batch is smaller; nested as the bundles nest it."""
    net, x = network(), image(1, 1, 12, 14, 16)
    found = AutocastInferer(BackendInferer(WINDOW, backend))(x, net)
    assert found.dtype == torch.float32
    assert far(found, WINDOW(x, net)) < 1e-5


def test_onnx_in_memory() -> None:
    """The others of this file with onnx are slow: its exporter takes seconds."""
    require_backend("onnx")
    net, x = network(), image(1, 1, 12, 14, 16)
    assert far(BackendInferer(WINDOW, "onnx")(x, net), WINDOW(x, net)) < 1e-5


def test_other_sizes_and_batches_need_no_second_copy(backend: str) -> None:
    net, inferer = network(), BackendInferer(backend=backend)
    for shape in ((1, 1, 8, 8, 8), (3, 1, 10, 12, 9)):
        x = image(*shape)
        assert far(inferer(x, net), net(x)) < 1e-5
    assert len(inferer._copies.of(net)) == 1


class Halved(nn.Module):
    """Works out from its input's size what a trace freezes: a shift by half of it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.roll(int(x.shape[-1]) // 2, dims=-1) * float(x.shape[-1])


def test_what_a_copy_froze_is_seen_and_copied_for_each_size() -> None:
    require_backend("openvino")
    net, inferer = Halved().eval(), BackendInferer(backend="openvino")
    for size in (6, 10, 14):
        x = image(1, 1, 4, size)
        assert far(inferer(x, net), net(x)) < 1e-5, size


def test_metadata_stay_outside(backend: str) -> None:
    """The windows reach a runtime without them; what leaves the sliding window has them."""
    net, x = network(), MetaTensor(image(1, 1, 12, 14, 16), affine=2 * torch.eye(4))
    found = BackendInferer(WINDOW, backend)(x, net)
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, x.affine)
    assert far(found.as_tensor(), WINDOW(x.as_tensor(), net)) < 1e-5


def test_slices_mirrored(backend: str) -> None:
    """A network of slices, whose size differs from case to case."""
    net, slices = slice_unet(1, 1, "tiny", unshuffle=2).eval(), SlicesInferer(mirror=True)
    inferer = BackendInferer(slices, backend)
    with torch.no_grad():
        for shape in ((1, 1, 40, 50, 3), (1, 1, 33, 47, 2)):
            x = image(*shape)
            assert far(inferer(x, net), slices(x, net)) < 1e-4


def test_two_outputs_by_a_keyword(backend: str) -> None:
    """``mask=True`` is a part of the copy; without it there is another copy, of one output."""
    net = classifier("resnet18", 1, 3, size="tiny", mask=True).eval()
    answers, x = SliceAnswersInferer(mask=True, mirror=True), image(1, 1, 64, 64, 3)
    inferer = BackendInferer(answers, backend)
    with torch.no_grad():
        assert far(inferer(x, net), answers(x, net)) < 1e-4
        logits = BackendInferer(backend=backend)(x[..., 0], net)
        assert far(logits, net(x[..., 0])) < 1e-4


def test_new_weights_are_followed(backend: str) -> None:
    net, x = network(), image(1, 1, 8, 8, 8)
    inferer = BackendInferer(backend=backend)
    before = inferer(x, net)
    net.load_state_dict(network(seed=1).state_dict())
    after = inferer(x, net)
    assert far(after, net(x)) < 1e-5
    assert far(after, before) > 0.01


def test_two_networks_do_not_mix(backend: str) -> None:
    """Members of an ensemble are called by turns."""
    one, other, x = network(), network(seed=1), image(1, 1, 8, 8, 8)
    inferer = BackendInferer(backend=backend)
    for net in (one, other, one):
        assert far(inferer(x, net), net(x)) < 1e-5


def test_autocast_does_not_reach_a_copy(backend: str) -> None:
    """A copy is made and run in float32 whatever autocast says."""
    net, x = network(), image(1, 1, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = BackendInferer(backend=backend)(x, net)
    assert far(found, net(x)) < 1e-5


def test_dropout_at_test_time_is_eager(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.5)).eval()
    net[1].train()
    inferer, x = BackendInferer(backend="torchscript"), torch.ones(1, 1, 9, 9)
    found = [inferer(x, net) for _ in range(2)]
    assert not torch.equal(*found)
    assert [record.getMessage() for record in caplog.records if "training mode" in record.getMessage()] != []
    assert len(caplog.records) == 1, "said once"


@pytest.mark.slow
def test_compile() -> None:
    net, x = network(), image(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert far(BackendInferer(backend="compile")(x, net), net(x)) < 1e-4


class Named(nn.Module):
    """A copy gives tensors by their place, not by their names."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"double": 2 * x}


def test_what_cannot_be_converted(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused where it was asked for by name; eager with one warning where auto chose it."""
    require_backend("openvino")
    x, net = torch.ones(1, 1, 4, 4), Named().eval()
    with pytest.raises(SettingError, match=r"the Named cannot be converted for openvino .*eager computes every"):
        BackendInferer(backend="openvino")(x, net)
    inferer = BackendInferer(backend="auto")
    assert inferer.backend == "openvino"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(inferer(x, net)["double"], 2 * x)
    assert sum("computed by eager" in record.getMessage() for record in caplog.records) == 1


def test_a_function_is_no_network() -> None:
    with pytest.raises(SettingError, match="wants the network itself"):
        BackendInferer(backend="torchscript")(torch.ones(1, 1, 4, 4), lambda x: x)


def test_mirroring_goes_inside() -> None:
    net, x = network(), image(1, 1, 8, 8, 8)
    mirrored = EnsembleInferer(axes=(0,))
    assert far(BackendInferer(mirrored, "torchscript")(x, net), mirrored(x, net)) < 1e-5


def test_a_tensor_as_keyword_is_refused() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, by: torch.Tensor | None = None) -> torch.Tensor:
            return x if by is None else x * by

    with pytest.raises(SettingError, match="keywords that are numbers or words"):
        BackendInferer(backend="torchscript")(torch.ones(1, 1, 4), Scaled().eval(), by=torch.ones(1))


def test_an_unknown_name() -> None:
    with pytest.raises(SettingError, match=r"no backend 'openvine'; did you mean 'openvino'\? Use one of eager, "):
        BackendInferer(backend="openvine")


def test_tensorrt_wants_a_gpu() -> None:
    with pytest.raises(SettingError, match="wants a CUDA GPU, and the device is cpu"):
        BackendInferer(backend="tensorrt")


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    gone = {"openvino", "onnxscript", "torch_tensorrt"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in gone else real(name, *a))
    with pytest.raises(MissingPackageError, match=r"needs the package openvino.*pip install 'neurobundle\[openvino\]'"):
        BackendInferer(backend="openvino")
    with pytest.raises(MissingPackageError, match=r"torch_tensorrt.*pip install torch-tensorrt"):
        BackendInferer(backend="tensorrt", device="cuda")
    assert chosen_backend("auto") == "eager", "neither of the CPU's is whole"
    assert chosen_backend("auto", "cuda") == "eager"


def test_auto_takes_the_first_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends_choice, "missing_packages", lambda name, exported=False: [])
    assert chosen_backend("auto") == "openvino"
    assert chosen_backend("auto", "cuda:1") == "tensorrt"
    monkeypatch.setattr(backends_choice, "missing_packages", lambda name, exported=False: [name] * (name != "onnx"))
    assert chosen_backend("auto") == "onnx"
    assert chosen_backend("auto", "cuda") == "eager"


def test_a_spelled_norm_is_the_norm() -> None:
    """With weights of its own and without, in two and three dimensions; one with running statistics stays."""
    for norm, shape in (
        (nn.InstanceNorm3d(3), (2, 3, 5, 6, 7)),
        (nn.InstanceNorm2d(3, affine=True, eps=0.1), (2, 3, 5, 6)),
        (nn.GroupNorm(2, 6), (2, 6, 5, 6, 7)),
        (nn.GroupNorm(4, 4, affine=False), (1, 4, 5, 6)),
    ):
        if norm.affine:
            nn.init.uniform_(norm.weight)
            nn.init.uniform_(norm.bias)
        x = image(*shape) * 3 - 2
        spelled = spelled_out(nn.Sequential(copy.deepcopy(norm)))
        assert isinstance(spelled[0], SpelledNorm)
        assert far(spelled(x), norm(x)) < 1e-5
    running = nn.Sequential(nn.InstanceNorm2d(3, track_running_stats=True))
    assert isinstance(spelled_out(running)[0], nn.InstanceNorm2d)


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(3), nn.GroupNorm(1, 3)], ids=["instance", "group"])
def test_many_voxels_are_normalised_exactly(backend: str, norm: nn.Module) -> None:
    """Where a runtime sums float32 numbers one after the other, this is 3e-3 away."""
    require_backend(backend)
    torch.manual_seed(0)
    layers = (nn.ConvTranspose3d(8, 3, 3, 2, 1, 1), norm, nn.PReLU(), nn.Conv3d(3, 3, 3, padding=1))
    net, x = nn.Sequential(*layers).eval(), image(1, 8, 40, 48, 40)
    with torch.no_grad():
        expected = net.double()(x.double()).float()
        assert far(BackendInferer(backend=backend)(x, net.float()), expected) < 2e-5


# --- exported files -----------------------------------------------------------------------------------------------


def exported(folder: Path, backend: str, net: nn.Module, channels: int = 1) -> Path:
    """Weights and what was exported from them, both listed; returns the weights."""
    weights = folder / "model.pt"
    save_weights(net, weights, half=False, origin="released")
    for name, content in export_bytes(backend, net, image(1, channels, 8, 8, 8), {}, "model").items():
        (folder / name).write_bytes(content)
        write_entry(folder, name, "released", sha256_of(weights))
    return weights


def test_an_exported_file_is_used(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = network(), image(1, 1, 12, 14, 16)
    weights = exported(tmp_path, backend, net)
    inferer = BackendInferer(WINDOW, backend, weights=weights)
    monkeypatch.setattr("neurobundle.infer.backends.convert", None)
    assert far(inferer(x, net), WINDOW(x, net)) < 1e-5
    named = BackendInferer(WINDOW, backend, exported=tmp_path / exported_names(backend, weights)[0], weights=weights)
    assert far(named(x, net), WINDOW(x, net)) < 1e-5


def test_no_exported_file_is_offered_as_a_model(backend: str) -> None:
    assert not [name for name in exported_names(backend, Path("m/fold0.pt")) if name.endswith((".pt", ".pth"))]
    assert all(name.startswith("fold0") for name in exported_names(backend, Path("m/fold0.pt")))


def test_weights_that_were_trained_again(backend: str, tmp_path: Path) -> None:
    weights = exported(tmp_path, backend, network())
    save_weights(network(seed=1), weights, half=False, origin="trained-here")
    with pytest.raises(
        WeightsError, match=f"made from other weights .* than model.pt .*neurobundle export .*{backend}"
    ):
        BackendInferer(WINDOW, backend, weights=weights)


def test_a_network_that_holds_other_weights_than_the_file(
    backend: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MONAI Label loads whichever model its user chose; the exported one is not of these."""
    weights = exported(tmp_path, backend, network())
    net, x = network(seed=1), image(1, 1, 8, 8, 8)
    assert far(BackendInferer(backend=backend, weights=weights)(x, net), net(x)) < 1e-5
    assert "holds other weights than model.pt" in caplog.text


@pytest.mark.parametrize("harm", ["cut", "unlisted"])
def test_a_file_that_is_not_believed(harm: str, backend: str, tmp_path: Path) -> None:
    weights = exported(tmp_path, backend, network())
    name = exported_names(backend, weights)[-1]
    if harm == "cut":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-7])
    else:
        lines = (tmp_path / "MANIFEST.sha256").read_text().splitlines()
        (tmp_path / "MANIFEST.sha256").write_text("\n".join(line for line in lines if name not in line) + "\n")
    with pytest.raises(WeightsError, match=f"{name}: .*(damaged|not listed).*neurobundle export"):
        BackendInferer(WINDOW, backend, weights=weights)


def test_a_listed_file_that_the_runtime_cannot_read(backend: str, tmp_path: Path) -> None:
    weights = exported(tmp_path, backend, network())
    name = exported_names(backend, weights)[0]
    (tmp_path / name).write_bytes(b"no network")
    write_entry(tmp_path, name, "released", sha256_of(weights))
    net = network()
    with pytest.raises(WeightsError, match=f"{name}: {backend} cannot read the exported network .*neurobundle export"):
        BackendInferer(backend=backend, weights=weights)(image(1, 1, 8, 8, 8), net)


def test_channels_that_do_not_fit_an_exported_network(backend: str, tmp_path: Path) -> None:
    net = network(channels=2)
    weights = exported(tmp_path, backend, net, channels=2)
    with pytest.raises(SettingError, match="takes 2 channels, and the image has 1"):
        BackendInferer(backend=backend, weights=weights)(image(1, 1, 8, 8, 8), net)


def test_a_named_file_that_is_missing(tmp_path: Path) -> None:
    weights = exported(tmp_path, "torchscript", network())
    with pytest.raises(WeightsError, match="does not exist"):
        BackendInferer(backend="torchscript", weights=weights, exported=tmp_path / "other.ts")
    with pytest.raises(SettingError, match="exported is set, and weights are not"):
        BackendInferer(backend="torchscript", exported=tmp_path)


def parts(**settings: Any) -> str:
    return fingerprint.of_parts(inferer=AutocastInferer(BackendInferer(WINDOW, **settings)))


def test_the_fingerprint_follows_the_backend_and_the_file(tmp_path: Path) -> None:
    """It is the same before and after a call, whatever copies were made."""
    weights = exported(tmp_path, "torchscript", network())
    inferer = BackendInferer(WINDOW, "torchscript")
    before = fingerprint.of_parts(inferer=inferer)
    inferer(image(1, 1, 12, 14, 16), network())
    assert fingerprint.of_parts(inferer=inferer) == before
    found = {parts(), parts(backend="torchscript"), parts(backend="torchscript", weights=weights)}
    assert len(found) == 3
    key = backend_key(AutocastInferer(BackendInferer(WINDOW, "torchscript", weights=weights)))
    assert key == {"backend": "torchscript", "version": torch.__version__, "exported": sha256_of(tmp_path / "model.ts")}


CONVERTS = """
import sys, torch
from neurobundle.infer import BackendInferer
found = BackendInferer(backend="openvino")(torch.ones(1, 1, 4, 4), torch.nn.ReLU().eval())
assert torch.equal(found, torch.ones(1, 1, 4, 4))
import openvino.tools.ovc.telemetry_utils as used
print(used.tm.__name__, sys.modules["openvino_telemetry"])
"""


@pytest.mark.slow
def test_openvino_sends_no_word_of_its_use(tmp_path: Path) -> None:
    """Its telemetry, which would be sent when it is imported and when a network is converted, is never imported."""
    require_backend("openvino")
    home = {**os.environ, "HOME": str(tmp_path)}
    words = [sys.executable, "-W", "ignore", "-c", CONVERTS]
    done = subprocess.run(words, env=home, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["openvino.tools.ovc.telemetry_stub", "None"]
    assert not (tmp_path / "intel").exists(), "where it keeps an id"
