"""Seconds and memory of a whole head, by `neurobundle run`'s Python door and by stock MONAI. Needs no data.

A synthesized head of 256 x 256 x 256 voxels of 1 mm, in one file (anatomy) or four (tumour). MONAI's way is LoadImaged,
Orientationd, Spacingd, the bundle's own normalisation, SlidingWindowInferer over the whole image in windows as large
as training's patches with an overlap of one half, Invertd of all logits, then the largest or those above one half, and
SaveImaged. It neither checks its input nor writes volumes or a report; `neurobundle run` does. Each way runs in a
process of its own, on one thread, in turns; weights are the bundle's where it has any, else random ones.

Before that both ways label the head by a network that looks at a voxel alone, so that crop and windows may not matter:
the mean Dice of its labels must be at least .99, and is "dice". "dice_network" is that of the real network's labels; it
sees other windows, and docs/concepts/preparation.md says how well it does with them. Memory is the most that a process
held while it labelled the last head, above its start and ("whole_mib") in all.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Result, arguments, report
from neurobundle import memory  # first: it notes what a process holds at its start

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("brain_anatomy_segmentation", "brain_tumor_segmentation")
#: Voxels of 1 mm a side, and of 2 mm: a head of half the size.
SIDE, SMALL_SIDE = 256, 64
#: A head takes seconds, and as many calls as the harness makes of milliseconds would take an hour.
MOST_ROUNDS = 3
#: Budget of a head of 256 voxels a side, with a core to itself.
GOAL_S, GOAL_MIB = 20.0, 4096.0
LEAST_DICE = 0.99
AXES = (("L", "R"), ("P", "A"), ("I", "S"))

#: Networks that look at a voxel alone.
POINTWISE = {
    NAMES[0]: {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 33, "kernel_size": 1},
    NAMES[1]: {"_target_": "torch.nn.Conv3d", "in_channels": 4, "out_channels": 3, "kernel_size": 1},
}

Way = Callable[[Path, Path], Path]
Heads = dict[str, dict[str, Any]]
#: What each process builds: the folder of a network's weights, and settings.
Networks = dict[str, tuple[Path, dict[str, Any]]]


@dataclass
class HeadResult(Result):
    """A comparison, and what only these have."""

    dice: float | None = None
    dice_network: float | None = None
    whole_mib: float | None = None
    baseline_whole_mib: float | None = None


def write_heads(folder: Path, side: int) -> dict[str, Path]:
    """The input folder of each bundle: one scan, and a study of four."""
    import nibabel as nib
    import numpy as np

    from neurobundle.augment.head_plan import HeadSettings, draw_head
    from neurobundle.augment.synthesis import synthesize_head
    from synthesis import nested_head

    step = 1.0 if side == SIDE else 2.0
    sizes = HeadSettings(shape=(side,) * 3, spacing_mm=(step,) * 3, skull=True, tumour=float(side == SIDE))
    head = synthesize_head(nested_head(side), draw_head(np.random.default_rng(0), sizes), (step,) * 3)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -step * (side - 1) / 2
    names = {"t1": "T1", "t1ce": "T1c", "t2": "T2", "flair": "FLAIR"}
    for name, image in zip(names, head.images.numpy(), strict=True):
        scan = nib.Nifti1Image((1000 * image / image.max()).clip(0).astype(np.int16), affine)
        path = folder / NAMES[1] / "head" / f"head_{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(scan, path)
        if name == "t1":
            (folder / NAMES[0]).mkdir()
            nib.save(scan, folder / NAMES[0] / "head.nii.gz")
    return {name: folder / name for name in NAMES}


def weights_of(name: str, folder: Path) -> tuple[Path, str]:
    """The folder of a bundle's weights; of random ones where it has none."""
    import torch
    from monai.bundle import ConfigParser

    from neurobundle.networks import save_weights

    models = ROOT / "bundles" / name / "models"
    if (models / "model.pt").is_file():
        return models, "the bundle's"
    torch.manual_seed(0)
    parser = ConfigParser(ConfigParser.load_config_file(str(ROOT / "bundles" / name / "configs" / "inference.yaml")))
    save_weights(parser.get_parsed_content("network_def"), folder / name / "model.pt", origin="trained-here")
    return folder / name, "random"


def pointwise(name: str, folder: Path) -> Path:
    """The folder of weights of one convolution of 1 x 1 x 1: classes, or regions in each other, by brightness alone."""
    import torch

    from neurobundle.networks import save_weights

    network = torch.nn.Conv3d(**{key: value for key, value in POINTWISE[name].items() if key != "_target_"})
    with torch.no_grad():
        if name == NAMES[0]:
            # The class whose middle is nearest; prepared air, the darkest, lies below -1, where it is background.
            middles = torch.cat([torch.tensor([-1.5]), torch.linspace(-0.5, 3.0, 32)])
            network.weight[:, 0, 0, 0, 0], network.bias[:] = 20 * middles, -10 * middles**2
        else:
            network.weight.fill_(2.0)
            network.bias[:] = -8 * torch.tensor([0.0, 0.5, 1.0])
    save_weights(network, folder / f"pointwise-{name}" / "model.pt", origin="trained-here")
    return folder / f"pointwise-{name}"


def our_way(name: str, models: Path, settings: dict[str, Any]) -> Way:
    """`neurobundle run`, without pictures."""
    from neurobundle.commands.run import Run

    def head(images: Path, out: Path) -> Path:
        known = {"device": "cpu", "ckpt_dir": str(models), **settings}
        run = Run(name, out, settings=known, pictures=False, redo=True)
        assert run([images]).exit_code == 0
        return out / "head_seg.nii.gz"

    return head


def stock_way(name: str, models: Path, settings: dict[str, Any]) -> Way:
    """MONAI's transforms and inferer, one after another."""
    import torch
    from monai.bundle import ConfigParser
    from monai.data import decollate_batch, list_data_collate
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Activationsd,
        AsDiscreted,
        Compose,
        Invertd,
        LoadImaged,
        Orientationd,
        SaveImaged,
        Spacingd,
    )

    from neurobundle.postprocess import RegionsToLabelsd
    from neurobundle.prepare import NormalizeForegroundd

    config = ConfigParser.load_config_file(str(ROOT / "bundles" / name / "configs" / "inference.yaml")) | settings
    train = ConfigParser.load_config_file(str(ROOT / "bundles" / name / "configs" / "train.yaml"))
    network = ConfigParser(config).get_parsed_content("network_def").eval()
    there = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            Orientationd("image", axcodes="RAS", labels=AXES),
            Spacingd("image", pixdim=config["spacing"], mode="bilinear", padding_mode="border"),
            NormalizeForegroundd("image", region="head", allow_empty=True),
        ]
    )
    inferer = SlidingWindowInferer(train["patch_size"], 1, 0.5, mode="gaussian", padding_mode="replicate")
    invert = Invertd("pred", there, orig_keys="image", nearest_interp=False, to_tensor=True)
    labels = [AsDiscreted("pred", argmax=True)]
    if "labels" in config:
        labels = [Activationsd("pred", sigmoid=True), RegionsToLabelsd("pred", config["labels"])]

    def head(images: Path, out: Path) -> Path:
        network.load_state_dict(torch.load(models / "model.pt", weights_only=True))
        files = sorted(map(str, images.rglob("*.nii.gz")), key=order)
        batch = list_data_collate([there({"image": files if len(files) > 1 else files[0]})])
        with torch.no_grad():
            batch["pred"] = inferer(batch["image"], network)
        save = SaveImaged(
            "pred", output_dir=out, output_postfix="seg", separate_folder=False, output_dtype="uint8", print_log=False
        )
        for item in decollate_batch(batch):
            Compose([invert, *labels, save])(item)
        return next(out.glob("*_seg.nii.gz"))

    return head


def order(file: str) -> int:
    """Of the sequences as the tumour bundle has them."""
    return next((n for n, end in enumerate(("_t1.", "_t1ce.", "_t2.", "_flair.")) if end in file), 0)


_WAYS: dict[str, Way] = {}


def start(kind: str, name: str, networks: Networks) -> None:
    """In a process of its own: everything that is built once."""
    import logging
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    make = {"ours": our_way, "stock": stock_way}[kind]
    _WAYS.update({network: make(name, models, settings) for network, (models, settings) in networks.items()})


def one(network: str, images: Path, out: Path) -> dict[str, Any]:
    """A head: processor seconds, the peaks meanwhile in MiB, and the label map's path."""
    memory.reset_peak()
    began = time.process_time()
    written = _WAYS[network](images, out / network)
    seconds = time.process_time() - began
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    whole = next((round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith("VmHWM")), None)
    return {"seconds": seconds, "above": memory.peak_mib(), "whole": whole, "labels": written}


def dice_of(done: Heads) -> float:
    """Of the label maps of both ways, the mean over the labels of either; background is none."""
    import nibabel as nib
    import numpy as np

    maps = [np.asarray(nib.load(head["labels"]).dataobj).astype(np.uint8) for head in done.values()]
    assert maps[0].shape == maps[1].shape
    same = np.bincount(maps[0][maps[0] == maps[1]], minlength=256)[1:]
    sizes = sum(np.bincount(labels.ravel(), minlength=256) for labels in maps)[1:]
    assert sizes.any(), "there are no labels"
    return float((2 * same[sizes > 0] / sizes[sizes > 0]).mean())


def race(name: str, images: Path, folder: Path, rounds: int) -> HeadResult:
    """The labels of both ways against each other, then their time and memory, in turns."""
    models, weights = weights_of(name, folder / "models")
    settings = {"network_def": POINTWISE[name]}
    networks: Networks = {"pointwise": (pointwise(name, folder / "models"), settings), "network": (models, {})}
    spawn = multiprocessing.get_context("spawn")
    pools = {kind: spawn.Pool(1, start, (kind, name, networks)) for kind in ("ours", "stock")}

    def both(network: str) -> Heads:
        return {kind: pool.apply(one, (network, images, folder / kind / name)) for kind, pool in pools.items()}

    alike = dice_of(both("pointwise"))
    assert alike >= LEAST_DICE, f"{name}: the labels differ: Dice {alike:.4f}"
    done = [both("network") for _ in range(1 + rounds)]
    for pool in pools.values():
        pool.terminate()
    ours_ms, stock_ms = (1000 * statistics.median(heads[kind]["seconds"] for heads in done[1:]) for kind in pools)
    ours, stock = done[-1]["ours"], done[-1]["stock"]
    return HeadResult(
        f"{name}, {weights} weights",
        round(ours_ms, 1),
        "stock MONAI",
        round(stock_ms, 1),
        round(stock_ms / ours_ms, 2),
        equal=True,
        memory_mib=round(ours["above"], 1),
        baseline_memory_mib=round(stock["above"], 1),
        dice=round(alike, 4),
        dice_network=round(dice_of(done[-1]), 4),
        whole_mib=ours["whole"],
        baseline_whole_mib=stock["whole"],
    )


def main() -> None:
    """Each bundle."""
    options = arguments(__doc__ or "")
    rounds = min(options.rounds, MOST_ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        heads = write_heads(Path(folder) / "in", SMALL_SIDE if options.small else SIDE)
        results = [race(name, images, Path(folder), rounds) for name, images in heads.items()]
    report("heads", list(results))
    for result in results:
        within = result.ours_ms <= 1000 * GOAL_S and (result.memory_mib or 0) <= GOAL_MIB
        assert options.small or within, f"{result.case}: more than {GOAL_S:g} s or {GOAL_MIB:g} MiB"


if __name__ == "__main__":
    main()
