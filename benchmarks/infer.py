"""From files to a label map, window by window, against stock MONAI. Needs no data.

A skull-stripped head of 4 x 240 x 240 x 155 voxels of 1 mm, in four files, of which a sixth is brain. One thread.

- *host path*: everything but the network, which does nearly nothing: load, orient, normalise, window, invert, save.
  MONAI's way is LoadImaged, Orientationd, NormalizeIntensityd over what is not 0, SlidingWindowInferer, Invertd,
  Activationsd and AsDiscreted, then SaveImaged: of three regions, as the model zoo's BraTS bundle does it, or of one
  label map. Ours cuts the brain's box out before it normalises, and writes a label map. Labels are identical.
- *windows*: the inferer alone with the same network, over the whole image: logits within 1e-5.
- *SegResNet*: 16 filters, random weights, from the files to the label map. MONAI's way is the one above, over the whole
  image. Ours is over the whole image as well (logits within 1e-5), then over the brain's box, then with each backend
  that is installed. The box's logits are those of MONAI's inferer over the box, within 1e-5, or 1e-3 of another
  backend. Both normalise by the library's transform here: MONAI's leaves air at 0, and the network would see
  another image. The box has other windows, so its labels are others: "dice" is against MONAI's, of random weights;
  docs/concepts/inference.md says what a box is worth with trained ones. These are run once: a window of 128 voxels
  takes seconds; to convert a network for a backend, once a process, is not counted.

Memory is the most that a way held, above what was there, each in a process of its own.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness import Result, arguments, compare, peak_mib_of, report

SHAPE, SMALL_SHAPE = (240, 240, 155), (40, 36, 30)
WINDOW, SMALL_WINDOW = 128, 16
NAMES = ("t1", "t1ce", "t2", "flair")
LABELS = {"WT": 2, "TC": 1, "ET": 3}
AXES = (("L", "R"), ("P", "A"), ("I", "S"))
#: Of logits, absolute.
TOLERANCE, BACKEND_TOLERANCE = 1e-5, 1e-3
HOST_GOAL, WINDOW_GOAL, NETWORK_GOAL = 4.0, 1.0, 2.0


Steps = tuple[Callable[[list[Path]], Any], Any, Callable[[Any], Path]]


@dataclass
class Setting:
    """Sizes of a run."""

    shape: tuple[int, ...]
    window: int

    @property
    def windows(self) -> dict[str, Any]:
        """Of both inferers."""
        return {"roi_size": (self.window,) * 3, "sw_batch_size": 1, "overlap": 0.5, "mode": "gaussian"}


@dataclass
class NetworkResult(Result):
    """One run of either way, with the Dice of ours against MONAI's over all labels."""

    dice: float | None = None


class Answer(NamedTuple):
    """What a way ends with."""

    file: Path
    logits: Any


def write_head(folder: Path, shape: tuple[int, ...]) -> list[Path]:
    """Four files, in LPS as BraTS has them: noise about one grey in the brain, another in a tumour, and 0 outside."""
    import nibabel as nib
    import numpy as np

    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij", sparse=True)
    brain = (axes[0] / 0.57) ** 2 + (axes[1] / 0.7) ** 2 + (axes[2] / 0.85) ** 2 < 1
    tumour = (axes[0] - 0.2) ** 2 + (axes[1] - 0.2) ** 2 + (axes[2] / 0.7) ** 2 < 0.1
    files = []
    for name in NAMES:
        grey = np.where(tumour, 900, 300) + rng.integers(-20, 20, shape)
        scan = nib.Nifti1Image(np.where(brain, grey, 0).astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
        files.append(folder / f"head_{name}.nii.gz")
        nib.save(scan, files[-1])
    return files


def no_network(windows: Any) -> Any:
    """A network that does nearly nothing: of three channels, what is brighter than the brain's mean is tumour."""
    return windows[:, :3] - 1.0


def our_steps(setting: Setting, out: Path, box: bool = True, backend: str = "eager") -> Steps:
    """Preprocessing, inferer, and postprocessing of a batch; over the brain's box, or the whole image."""
    from monai.data import decollate_batch, list_data_collate
    from monai.transforms import Compose, LoadImaged

    from neurobundle.export.transforms import SaveLabelMapd
    from neurobundle.infer import BackendInferer, WindowInferer
    from neurobundle.postprocess.native_labels import LogitsToNativeLabelsd
    from neurobundle.prepare import NormalizeIntensityd, ToNetworkGridd

    there = Compose(
        [
            LoadImaged("image", reader="neurobundle.load.Reader", ensure_channel_first=True, dtype=None),
            ToNetworkGridd("image", crop="foreground" if box else "none"),
            NormalizeIntensityd("image"),
        ]
    )
    inferer = BackendInferer(WindowInferer(**setting.windows), backend)
    back = Compose([LogitsToNativeLabelsd("pred", "image", LABELS), SaveLabelMapd("pred", out)])

    def prepared(files: list[Path]) -> Any:
        return list_data_collate([there({"image": [str(file) for file in files], "case": "head"})])

    def saved(batch: Any) -> Path:
        (done,) = (back(item) for item in decollate_batch(batch))
        return Path(done["pred"].meta["saved_to"])

    return prepared, inferer, saved


def stock_steps(setting: Setting, out: Path, regions: bool = False, normalization: Any = None) -> Steps:
    """The same of MONAI; regions are saved as they are, or become labels by the library's transform: MONAI has none."""
    from monai.data import decollate_batch, list_data_collate
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Activationsd,
        AsDiscreted,
        Compose,
        Invertd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        SaveImaged,
    )

    from neurobundle.postprocess import RegionsToLabelsd

    there = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=AXES),
            normalization or NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )
    back = Compose(
        [
            Invertd("pred", there, orig_keys="image", nearest_interp=False, to_tensor=True),
            Activationsd("pred", sigmoid=True),
            AsDiscreted("pred", threshold=0.5),
            *([] if regions else [RegionsToLabelsd("pred", LABELS)]),
            SaveImaged(
                "pred",
                output_dir=out,
                output_postfix="seg",
                separate_folder=False,
                output_dtype="uint8",
                print_log=False,
            ),
        ]
    )

    def prepared(files: list[Path]) -> Any:
        return list_data_collate([there({"image": [str(file) for file in files]})])

    def saved(batch: Any) -> Path:
        for item in decollate_batch(batch):
            back(item)
        (path,) = out.glob("*_seg.nii.gz")
        return path

    return prepared, SlidingWindowInferer(**setting.windows), saved


def way(steps: Steps, files: list[Path], network: Any) -> Callable[[], Answer]:
    """From the files to the file that was written."""
    prepared, inferer, saved = steps

    def whole() -> Answer:
        import torch

        with torch.no_grad():
            batch = prepared(files)
            logits = batch["pred"] = inferer(batch["image"], network)
            return Answer(saved(batch), logits)

    return whole


def labels_in(file: Path) -> Any:
    """A label map; regions as one."""
    import nibabel as nib
    import numpy as np

    found = np.asarray(nib.load(file).dataobj).squeeze()
    if found.ndim == 3:
        return found.astype(np.uint8)
    labels = np.zeros(found.shape[:3], np.uint8)
    for region, label in zip(np.moveaxis(found, -1, 0), LABELS.values(), strict=True):
        labels[region > 0] = label
    return labels


def same_labels(mine: Answer, theirs: Answer) -> bool:
    """Voxel for voxel and in the same place, and there is a tumour."""
    import nibabel as nib
    import numpy as np

    a, b = labels_in(mine.file), labels_in(theirs.file)
    affines = [nib.load(answer.file).affine for answer in (mine, theirs)]
    return bool(np.array_equal(a, b) and np.allclose(*affines) and a.any() and not a.all())


def near(mine: Any, theirs: Any) -> bool:
    """Logits that differ by rounding alone."""
    return bool((mine - theirs).abs().max() <= TOLERANCE)


def dice_of(mine: Answer, theirs: Answer) -> float:
    """Of the labels of either, the mean."""
    a, b = labels_in(mine.file), labels_in(theirs.file)
    shares = [2 * ((a == n) & (b == n)).sum() / max(1, (a == n).sum() + (b == n).sum()) for n in LABELS.values()]
    return round(float(sum(shares) / len(shares)), 4)


def without_network(setting: Setting, folder: Path, files: list[Path], rounds: int) -> list[Result]:
    """The host path, and the windows alone."""
    import torch
    from monai.inferers import SlidingWindowInferer

    from neurobundle.infer import WindowInferer

    ours = way(our_steps(setting, folder / "ours"), files, no_network)
    results = []
    for what, regions in (("regions saved", True), ("a label map saved", False)):
        stock = way(stock_steps(setting, folder / f"stock-{regions}", regions), files, no_network)
        case = f"host path, by MONAI {what}"
        results.append(compare(case, ours, "stock MONAI", stock, same_labels, rounds, HOST_GOAL))
        results[-1].memory_mib, results[-1].baseline_memory_mib = peak_mib_of(ours), peak_mib_of(stock)
    image = our_steps(setting, folder, box=False)[0](files)["image"].as_tensor()
    mine, theirs = WindowInferer(**setting.windows), SlidingWindowInferer(**setting.windows)
    with torch.no_grad():
        alone = (lambda: mine(image, no_network)), (lambda: theirs(image, no_network))
        results.append(compare("windows", alone[0], "SlidingWindowInferer", alone[1], near, rounds, WINDOW_GOAL))
    return results


def with_network(setting: Setting, folder: Path, files: list[Path]) -> list[Result]:
    """A SegResNet, once by MONAI and once by each of our ways."""
    import torch
    from monai.networks.nets import SegResNet

    from neurobundle.infer.backends_choice import missing_packages
    from neurobundle.prepare import NormalizeIntensityd

    torch.manual_seed(0)
    network = SegResNet(init_filters=16, in_channels=4, out_channels=len(LABELS), blocks_down=(1, 2, 2, 4)).eval()
    steps = stock_steps(setting, folder / "stock-network", normalization=NormalizeIntensityd("image"))
    stock = way(steps, files, network)
    stock_ms, expected = timed(stock)
    stock_mib = peak_mib_of(stock)
    cut = our_steps(setting, folder)[0](files)["image"].as_tensor()
    with torch.no_grad():
        wanted = {False: expected.logits, True: steps[1](cut, network)}
    results: list[Result] = []
    for box, backend in ((False, "eager"), (True, "eager"), (True, "onnx"), (True, "openvino")):
        if missing_packages(backend):
            continue
        ours = way(our_steps(setting, folder / f"{backend}-{box}", box, backend), files, network)
        if backend != "eager":
            ours()  # converts the network, once a process
        ours_ms, answer = timed(ours)
        off = float((answer.logits - wanted[box]).abs().max())
        assert off <= (TOLERANCE if backend == "eager" else BACKEND_TOLERANCE), f"{backend}: the logits are {off} off"
        results.append(
            NetworkResult(
                f"SegResNet, {'the box' if box else 'whole image'}, {backend}",
                ours_ms,
                "stock MONAI",
                stock_ms,
                round(stock_ms / ours_ms, 2),
                NETWORK_GOAL if backend == "openvino" else None,
                True,
                peak_mib_of(ours) if backend == "eager" else None,
                stock_mib if backend == "eager" else None,
                dice_of(answer, expected),
            )
        )
    return results


def timed(function: Callable[[], Answer]) -> tuple[float, Answer]:
    """Milliseconds of the processor, and the answer."""
    began = time.process_time()
    answer = function()
    return round(1000 * (time.process_time() - began), 2), answer


def main() -> None:
    """All of them."""
    options = arguments(__doc__ or "")
    import torch

    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    setting = Setting(SMALL_SHAPE, SMALL_WINDOW) if options.small else Setting(SHAPE, WINDOW)
    with tempfile.TemporaryDirectory() as name:
        files = write_head(Path(name), setting.shape)
        results = without_network(setting, Path(name), files, options.rounds)
        results += with_network(setting, Path(name), files)
    report("infer", results)


if __name__ == "__main__":
    main()
