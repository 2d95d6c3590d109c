"""``neurobundle export``: a bundle's network in the format of another runtime, checked against PyTorch.

The network is exported as the bundle's inferer calls it, with the keywords of that call, and what is written was read
again and gave the same logits and labels on a scan: one of the user's, or a *made* one of the bundle's window.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from neurobundle.bundle.configfile import read_config
from neurobundle.bundle.find import answers_of, channels_of, find_bundle, read_metadata, takes_pictures
from neurobundle.bundle.runner import CaseRunner
from neurobundle.bundle.workflow import config_file, make_plan
from neurobundle.commands.inputs import find_sources
from neurobundle.commands.sources import Wanted
from neurobundle.errors import SettingError, WeightsError, closest
from neurobundle.files import require_writable, write_atomic
from neurobundle.networks import manifest

if TYPE_CHECKING:
    import torch

#: What can be exported to.
FORMATS = ("onnx", "openvino", "torchscript", "tensorrt")

#: The id by which a bundle's inference config chooses its backend.
BACKEND_ID = "backend"

#: Slices of a made scan for a network of slices.
_MADE_SLICES = 4

_CASE = "made"


@dataclass(frozen=True)
class Export:
    """What was written, and how near it is.

    Attributes:
        files: the first is the one that is opened.
        difference: the largest of the logits.
        scan: what it was compared on, in words.
    """

    files: list[Path]
    difference: float
    scan: str

    def __str__(self) -> str:
        """One line for people.

        >>> print(Export([Path("m/model.onnx")], 3.03e-5, "a made scan of 40 x 56 x 40 voxels"))
        logits within 3.0e-05 of eager and equal labels, on a made scan of 40 x 56 x 40 voxels
        """
        return f"logits within {self.difference:.1e} of eager and equal labels, on {self.scan}"


def export(
    bundle: str,
    to: str,
    output: Path | None = None,
    *,
    data: Path | None = None,
    overlays: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Export:
    """Write a bundle's network in another format.

    Args:
        bundle: a name or a folder.
        to: one of :data:`FORMATS`.
        output: a folder; None is that of the weights.
        data: a case, or a folder of such, whose first one is compared; None makes one up.
        overlays: names or paths of config overlays.
        settings: values by id.

    Returns:
        What was written; ``MANIFEST.sha256`` in the same folder lists it, with the weights as its parent.

    Raises:
        SettingError: for another format, a network that cannot be converted, or one that gives other logits or labels;
            nothing is written then.
        MissingPackageError: if the format's package is not installed.
        WeightsError: if the weights cannot be trusted.
        EnvironmentFault: if the folder cannot be written.
    """
    from neurobundle.infer.backends_choice import chosen_backend

    if to not in FORMATS:
        raise SettingError(f"--to knows no {to!r}{closest(to, FORMATS)}", f"Use one of {', '.join(FORMATS)}.")
    bundle_dir, given = find_bundle(bundle), dict(settings or {})
    if to != "tensorrt":
        given.setdefault("device", "cpu")  # the file says no device
    elif "device" not in given:
        given["device"] = "cuda"
    chosen_backend(to, given["device"])
    if BACKEND_ID in read_config(config_file(bundle_dir, "inference")):
        given[BACKEND_ID] = "eager"
    with tempfile.TemporaryDirectory(prefix="neurobundle-") as folder:
        work = Path(folder)
        runner = CaseRunner(make_plan(bundle_dir, "inference", overlays, {**given, "output_dir": str(work)}))
        weights = _weights_of(runner)
        target = output if output is not None else weights.parent
        require_writable(target)
        images, scan = _given_scan(bundle_dir, data, work) if data is not None else _made_scan(runner, bundle_dir, work)
        files = _Comparison(runner, bundle_dir, images, to, weights.stem)
        written = files.checked(work / "exported", scan, target)
        _write(target, files.content, manifest.verify(weights))
    return written


@dataclass
class _Comparison:
    """One scan through a bundle's chain, by PyTorch and by a copy of its network."""

    runner: CaseRunner
    bundle_dir: Path
    images: list[Path]
    to: str
    stem: str
    content: dict[str, bytes] = field(default_factory=dict)

    def checked(self, folder: Path, scan: str, target: Path) -> Export:
        """Convert, write into a folder of the run's own, read again, and compare.

        Raises:
            SettingError: if logits or labels differ.
        """
        from neurobundle.infer.backends import BackendInferer
        from neurobundle.infer.backends_convert import LOGIT_TOLERANCE, export_bytes, load

        network, inferer = self.runner.network, self.runner.inferer
        calls = _Calls(network)
        eager, labels = self._run(inferer)
        window, keywords = calls.first()
        self.content = export_bytes(self.to, network, window, keywords, self.stem)
        folder.mkdir()
        paths = [write_atomic(folder / name, content) for name, content in self.content.items()]
        other = BackendInferer(inferer, self.to, device=window.device)
        other.use(network, load(self.to, paths[0], window.device))
        found, found_labels = self._run(other)
        difference, differing = float((found - eager).abs().max()), int((found_labels != labels).sum())
        files = [target / name for name in self.content]
        if not difference <= LOGIT_TOLERANCE or differing:
            raise SettingError(
                f"what was exported is not the network: its logits are up to {difference:.1e} from eager's and "
                f"{differing} of {labels.numel()} labels differ, on {scan}",
                "Nothing was written. Use another format, or another scan with --data.",
            )
        return Export(files, difference, scan)

    def _run(self, inferer: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits on the network's grid, and the labels or the class that become of them."""
        import torch

        listening = _Listening(inferer)
        self.runner.inferer = listening
        pred = torch.as_tensor(self.runner.predict(self.images, _CASE)["pred"]).detach().cpu()
        return listening.logits, pred.flatten().argmax() if answers_of(self.bundle_dir) is not None else pred


class _Listening:
    """An inferer that keeps what it gives."""

    def __init__(self, inferer: Any) -> None:
        self.inferer = inferer
        self.logits: torch.Tensor

    def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        logits = self.inferer(inputs, network, *args, **kwargs)
        self.logits = (logits.as_tensor() if hasattr(logits, "as_tensor") else logits).detach().cpu().clone()
        return logits


class _Calls:
    """How a network is called first."""

    def __init__(self, network: Any) -> None:
        self._hook = network.register_forward_pre_hook(self._note, with_kwargs=True)
        self._seen: list[tuple[Any, dict[str, Any]]] = []

    def _note(self, _: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not self._seen:
            window = args[0].as_tensor() if hasattr(args[0], "as_tensor") else args[0]
            self._seen.append((window.detach().clone(), dict(keywords)))

    def first(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """The windows and the keywords; listens no longer."""
        self._hook.remove()
        return self._seen[0]


def _weights_of(runner: CaseRunner) -> Path:
    """The file that the run loads, as the exported one's parent.

    Raises:
        WeightsError: if it is not one.
    """
    paths = [Path(getattr(one, "path", None) or one.load_path) for one in runner.loaders()]
    if len(paths) != 1:
        cause = f"the bundle loads {len(paths)} weights files, and an exported network has one parent"
        raise WeightsError(cause, "Export a bundle whose handlers load one file.")
    return paths[0]


def _given_scan(bundle_dir: Path, data: Path, work: Path) -> tuple[list[Path], str]:
    """The first case of a user's, as the files that the config opens."""
    wanted = Wanted(channels=channels_of(bundle_dir), pictures=takes_pictures(bundle_dir))
    source = find_sources([data], work=work, wanted=wanted)[0]
    source.read()
    return source.opened, f"the case {source.case}"


def _made_scan(runner: CaseRunner, bundle_dir: Path, work: Path) -> tuple[list[Path], str]:
    """A scan of the size that the network sees at once: a lump of smooth noise, one a channel."""
    image = next(iter(read_metadata(bundle_dir)["network_data_format"]["inputs"].values()))
    shape = [int(side) for side in image["spatial_shape"]]
    spacing = _spacing(runner, len(shape))
    if len(shape) == 2:
        shape, spacing = [*shape, _MADE_SLICES], [*spacing, 5.0]
    rng, paths = np.random.default_rng(0), []
    radii = [(np.arange(side) - (side - 1) / 2) / (0.45 * side) for side in shape]
    lump = sum(np.meshgrid(*(radius**2 for radius in radii), indexing="ij")) < 1
    for channel in range(int(image["num_channels"])):
        noise = ndimage.gaussian_filter(rng.standard_normal(shape), 2)
        array = np.where(lump, 100 + 20 * noise / noise.std(), 0).clip(min=0).astype(np.float32)
        paths.append(work / f"{_CASE}_{channel}.nii.gz")
        nib.save(nib.Nifti1Image(array, np.diag([*spacing, 1.0])), paths[-1])
    return paths, f"a made scan of {' x '.join(map(str, shape))} voxels"


def _spacing(runner: CaseRunner, axes: int) -> list[float]:
    """The network's voxels in mm, by the ids that our configs have for it; 1 mm without."""
    for name in ("spacing", "pixel_mm"):
        if runner.has(name):
            value = runner.part(name)
            return [float(one) for one in value] if isinstance(value, list | tuple) else [float(value)] * axes
    return [1.0] * axes


def _write(target: Path, content: Mapping[str, bytes], weights: manifest.Entry) -> None:
    """Write the files and their lines, first those that the opened one needs."""
    for name, data in reversed(list(content.items())):

        def announce(temporary: Path, name: str = name) -> None:
            manifest.announce(target, manifest.make_entry(temporary, weights.origin, weights.sha256, name=name))

        write_atomic(target / name, data, announce)
        manifest.write_entry(target, name, weights.origin, weights.sha256)
