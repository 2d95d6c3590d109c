"""A network over windows: MONAI's answer, in the memory that there is."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from neurobundle.errors import InputError, NeurobundleError, SettingError
from neurobundle.infer import windows
from neurobundle.infer.windows import SURE, WindowInferer

#: No memory, as torch says it.
EXHAUSTED = "[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(2, 3, 3, padding=1).eval().requires_grad_(False)


def image(*shape: int, channels: int = 2, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, channels, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("shape", [(30, 41, 25), (10, 50, 33), (16, 16, 16), (9, 9, 9)])
@pytest.mark.parametrize("together", [1, 4])
def test_monais_logits(network: torch.nn.Module, mode: str, shape: tuple[int, ...], together: int) -> None:
    settings: dict[str, Any] = {
        "roi_size": (16, 16, 16),
        "sw_batch_size": together,
        "overlap": 0.5,
        "mode": mode,
        "padding_mode": "replicate",
    }
    inputs = image(*shape, batch=2)
    ours, stock = WindowInferer(**settings)(inputs, network), SlidingWindowInferer(**settings)(inputs, network)
    assert isinstance(stock, torch.Tensor)
    assert ours.shape == stock.shape
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)


def test_its_defaults_are_monais(network: torch.nn.Module) -> None:
    inputs = image(20, 12, 30)
    stock = SlidingWindowInferer((16, 16, 16))(inputs, network)
    torch.testing.assert_close(WindowInferer((16, 16, 16))(inputs, network), stock, rtol=0, atol=1e-5)
    torch.testing.assert_close(WindowInferer(16)(inputs, network), stock, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stitch", ["device", "cpu", "file"])
def test_wherever_the_sums_lie(network: torch.nn.Module, stitch: str, tmp_path: Path) -> None:
    """The same bits, and no file is left."""
    inputs = image(30, 20, 25)
    settings: dict[str, Any] = {"roi_size": (16, 16, 16), "overlap": 0.5, "mode": "gaussian"}
    found = WindowInferer(**settings, stitch=stitch, folder=tmp_path)(inputs, network)
    assert torch.equal(found, WindowInferer(**settings)(inputs, network))
    assert not list(tmp_path.iterdir())


def test_in_a_script_of_monais_own(network: torch.nn.Module, tmp_path: Path) -> None:
    """MONAI's evaluator, loader and transforms; nothing else of this library."""
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(image(30, 24, 20)[0].permute(1, 2, 3, 0).numpy(), np.eye(4)), path)
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    found = []
    for inferer in (WindowInferer((16, 16, 16), overlap=0.5), SlidingWindowInferer((16, 16, 16), overlap=0.5)):
        evaluator = SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(Dataset([{"image": str(path)}], load), batch_size=1),
            network=network,
            inferer=inferer,
            decollate=False,
        )
        evaluator.run()
        found.append(evaluator.state.output["pred"])
    assert found[0].shape == (1, 3, 30, 24, 20)
    assert torch.allclose(found[0].as_tensor(), found[1].as_tensor(), atol=1e-5)
    assert torch.equal(found[0].affine, found[1].affine)


def test_a_single_window_is_passed_on() -> None:
    """Bit for bit, and the network is called once with the image."""
    seen = []

    def network(window: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(window.shape))
        return window / 3

    inputs = image(5, 16, 16)
    found = WindowInferer((16, 16, 16), mode="gaussian", padding_mode="replicate")(inputs, network)
    assert torch.equal(found, inputs / 3)
    assert seen == [(1, 2, 16, 16, 16)]


def test_metadata_stay(network: torch.nn.Module) -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    inputs = MetaTensor(image(20, 20, 20), affine=affine, meta={"filename_or_obj": "a.nii"})
    found = WindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, inputs.affine)
    assert found.meta["filename_or_obj"] == "a.nii"


def test_only_the_foreground() -> None:
    """Air is not sent to the network; where no window was, background is sure."""
    inputs = torch.zeros(1, 1, 40, 16, 16)
    inputs[:, :, 24:30, 4:9, 4:9] = 1.0
    seen = []

    def network(window: torch.Tensor) -> torch.Tensor:
        seen.append(window)
        return torch.cat([window, 2 * window], dim=1)

    found = WindowInferer((16, 16, 16), overlap=0.5, crop="foreground")(inputs, network)
    # The box of 6 grows to 16 about its middle: 19 to 35.
    assert len(seen) == 1
    assert torch.equal(seen[0], inputs[:, :, 19:35])
    assert torch.equal(found[0, 1, 19:35], 2 * inputs[0, 0, 19:35])
    outside = torch.cat([found[:, :, :19], found[:, :, 35:]], dim=2)
    assert (outside[:, 0] == SURE).all()
    assert (outside[:, 1] == 0).all()


def test_only_the_foreground_of_regions() -> None:
    """Each is a sigmoid by itself, and none is where no window was."""
    inputs = torch.zeros(1, 1, 40, 16, 16)
    inputs[:, :, 24:30, 4:9, 4:9] = 1.0
    found = WindowInferer((16, 16, 16), crop="foreground", regions=True)(
        inputs, lambda window: window.repeat(1, 2, 1, 1, 1)
    )
    assert (found[:, :, :19] == -SURE).all()
    assert (found[:, :, 24:30, 4:9, 4:9] == 1).all()


def test_an_image_without_foreground_is_computed_whole(network: torch.nn.Module) -> None:
    inputs = torch.zeros(1, 2, 20, 20, 20)
    stock = SlidingWindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    found = WindowInferer((16, 16, 16), overlap=0.5, crop="foreground")(inputs, network)
    torch.testing.assert_close(found, stock, rtol=0, atol=1e-5)


def test_the_plan_is_logged(network: torch.nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=windows.__name__):
        WindowInferer((16, 16, 16), overlap=0.5)(image(24, 16, 10), network)
    assert [record.message for record in caplog.records] == [
        "2 windows of 16 x 16 x 16 over 24 x 16 x 16 voxels, padded from 24 x 16 x 10, 1 at a time",
        "sums of 3 channels in 0 MiB: on the device",
    ]


def too_large(network: Callable[..., Any], most: int) -> Callable[[torch.Tensor], Any]:
    """A network that has no memory for more voxels than these."""

    def limited(window: torch.Tensor) -> Any:
        if window[:, 0].numel() > most:
            raise RuntimeError(EXHAUSTED)
        return network(window)

    return limited


def test_fewer_windows_at_a_time(network: torch.nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    """Four do not fit, nor two: one at a time, and the result is the same."""
    inputs = image(40, 16, 16)
    settings: dict[str, Any] = {"roi_size": (16, 16, 16), "overlap": 0.5}
    found = WindowInferer(**settings, sw_batch_size=4)(inputs, too_large(network, 16**3))
    torch.testing.assert_close(found, WindowInferer(**settings)(inputs, network), rtol=0, atol=1e-5)
    assert [record.message for record in caplog.records] == [
        "memory is exhausted: the same windows again, 2 at a time",
        "memory is exhausted: the same windows again, 1 at a time",
    ]


def test_then_the_sums_move(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No memory for sums: they go to a file, and the result is the same."""
    inputs = image(40, 16, 16)
    expected = WindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    make = windows._Sums

    def without_memory(plan: Any, size: Any, device: Any, folder: Path | None, weights: Any) -> Any:
        if folder is None:
            raise RuntimeError(EXHAUSTED)
        return make(plan, size, device, folder, weights)

    monkeypatch.setattr(windows, "_Sums", without_memory)
    found = WindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    assert torch.equal(found, expected)
    assert "the sums in a temporary file" in caplog.text


def test_last_the_windows_are_halved(network: torch.nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    """And a warning says that the result is another one."""
    inputs = image(40, 33, 32)
    found = WindowInferer((32, 32, 32), overlap=0.5)(inputs, too_large(network, 16**3))
    expected = WindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    assert torch.equal(found, expected)
    assert "windows of 16 x 16 x 16 from now on" in caplog.text
    assert "the result is not the same" in caplog.text


def test_memory_that_never_suffices(network: torch.nn.Module) -> None:
    """What torch said is raised: whoever runs the case makes it that case's error."""
    with pytest.raises(RuntimeError, match="can't allocate"):
        WindowInferer((32, 32, 32))(image(40, 40, 40), too_large(network, 10))


def test_another_fault_is_not_tried_again() -> None:
    calls = []

    def network(window: torch.Tensor) -> torch.Tensor:
        calls.append(window)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        WindowInferer((16, 16, 16), sw_batch_size=2)(image(40, 16, 16), network)
    assert len(calls) == 1


def test_a_full_disk(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file's space is taken first: a mapped file on a full disk would end the process without a word."""

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(windows.os, "posix_fallocate", full)
    with pytest.raises(NeurobundleError, match="the disk is full"):
        WindowInferer((16, 16, 16), stitch="file", folder=tmp_path)(image(40, 16, 16), network)


@pytest.mark.parametrize(
    "network",
    [lambda x: (x, x), lambda x: {"a": x}, lambda x: x[..., ::2, ::2, ::2]],
    ids=["two outputs", "named outputs", "half the size"],
)
def test_other_outputs_are_left_to_monai(network: Callable[[torch.Tensor], Any]) -> None:
    inputs = image(32, 16, 16)
    ours = WindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    stock = SlidingWindowInferer((16, 16, 16), overlap=0.5)(inputs, network)
    assert type(ours) is type(stock)
    torch.testing.assert_close(ours, stock)


def test_options_of_monai_alone(network: torch.nn.Module) -> None:
    """Buffered stitching is MONAI's own."""
    inputs = image(32, 16, 32)
    found = WindowInferer((16, 16, 16), overlap=0.5, buffer_steps=1)(inputs, network)
    stock = SlidingWindowInferer((16, 16, 16), overlap=0.5, buffer_steps=1)(inputs, network)
    torch.testing.assert_close(found, stock)


def test_channels_that_do_not_fit(network: torch.nn.Module) -> None:
    with pytest.raises(InputError, match="the image has 1 channel, and the network takes 2"):
        WindowInferer((16, 16, 16))(image(20, 20, 20, channels=1), network)


def test_an_image_that_cannot_be_reflected(network: torch.nn.Module) -> None:
    with pytest.raises(InputError, match="4 x 16 x 16 voxels cannot be padded by reflect to a window of 16 x 16 x 16"):
        WindowInferer((16, 16, 16), padding_mode="reflect")(image(4, 16, 16), network)


def test_no_overlap_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    WindowInferer((16, 16, 16), overlap=0)
    assert "seams may show" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"overlap": -0.25},
        {"overlap": 1.0},
        {"crop": "brain"},
        {"stitch": "gpu"},
        {"mode": "gauss"},
        {"sw_batch_size": 0},
        {"margin": -1},
    ],
)
def test_settings_that_are_none(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        WindowInferer((16, 16, 16), **settings)


CAPPED = """
import logging, resource, torch
from neurobundle.infer import WindowInferer
torch.set_num_threads(1)
torch.manual_seed(0)
layers = torch.nn.Conv3d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(32, 2, 3, padding=1)
network, image = torch.nn.Sequential(*layers).eval(), torch.randn(1, 1, 96, 96, 96)
def logits(together):
    with torch.no_grad():
        return WindowInferer((48, 48, 48), sw_batch_size=together, overlap=0.5, mode="gaussian")(image, network)
one = logits(1)
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, ((used << 10) + (200 << 20),) * 2)
logging.basicConfig(level=logging.INFO, format="%(message)s")
print(float((logits(27) - one).abs().max()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the cap is Linux's")
def test_under_a_real_cap_it_falls_back_and_ends() -> None:
    """The process may have 200 MiB more than it has; 27 windows together would take 400 in one layer alone."""
    done = subprocess.run([sys.executable, "-c", CAPPED], capture_output=True, text=True, check=True)
    assert "memory is exhausted: the same windows again, 13 at a time" in done.stderr
    assert float(done.stdout) <= 1e-5
