"""Training crops a second: from a store, and with MONAI's CacheDataset and PersistentDataset. Needs no data.

Crops of 128 x 128 x 128 voxels and four channels, half of their centres with a label, out of 240 x 240 x 155 heads
whose brain is a fifth of the box; one thread. MONAI's way is the same deterministic transforms, kept in memory or on
disk as it does, then RandCropByPosNegLabeld. Each call is one crop.

Equal means two things. Each way's crops are, voxel for voxel, the crop of the prepared case at the place that their
affine says, the store's within float16 rounding. And over many draws the crops begin at places of one distribution:
Kolmogorov and Smirnov's distance along each axis stays below what chance exceeds once in a thousand times.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, RandCropByPosNegLabeld
from monai.transforms.utils import map_binary_to_indices

from harness import Result, arguments, compare, cost, report
from neurobundle.export.nifti import save_volume
from neurobundle.prepare.pipeline import mri_preprocessing
from neurobundle.prepare.store import Store
from neurobundle.prepare.store_dataset import RandStoredCrop, StoreDataset

warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
warnings.filterwarnings("ignore", message=".*weights_only", category=FutureWarning)
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

SHAPE, SMALL_SHAPE = (240, 240, 155), (32, 30, 24)
PATCH, SMALL_PATCH = (128, 128, 128), (16, 16, 16)
CHANNELS, CASES, DRAWS = 4, 2, 2000
#: Half of a float16's spacing at 8, above which no z-score of these cases lies.
ROUNDING = 2**-8


def write_cases(folder: Path, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Ellipsoids of noise, 0 around them, each with a lump of three labels somewhere else."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    inside = (grid[0] / 0.58) ** 2 + (grid[1] / 0.72) ** 2 + (grid[2] / 0.87) ** 2 < 1
    rng, items = np.random.default_rng(0), []
    for case in range(CASES):
        images = []
        for channel in range(CHANNELS):
            array = np.where(inside, rng.normal(400, 60, shape), 0).clip(0).astype(np.int16)
            images.append(str(save_volume(folder / f"case{case}_{channel}.nii.gz", array, np.eye(4))))
        radius = sum((axis - 0.3 * rng.uniform(-1, 1)) ** 2 for axis in grid)
        labels = np.digitize(-radius, [-0.09, -0.05, -0.02]).astype(np.uint8)
        nib.save(nib.Nifti1Image(labels, np.eye(4)), folder / f"case{case}_labels.nii.gz")
        items.append({"image": images, "label": str(folder / f"case{case}_labels.nii.gz"), "case": f"case{case}"})
    return items


def preparation() -> Compose:
    """To RAS+ and 1 mm, z-scored."""
    return mri_preprocessing(["image"], ["label"])


def stock_crop(patch: tuple[int, ...]) -> RandCropByPosNegLabeld:
    """Half of the centres with a label."""
    return RandCropByPosNegLabeld(("image", "label"), "label", patch, pos=1, neg=1, num_samples=1)


def place_of(crop: dict[str, Any], whole: dict[str, Any]) -> list[int]:
    """Where a crop begins."""
    return torch.linalg.solve(whole["image"].affine, crop["image"].affine)[:3, 3].round().int().tolist()


def is_a_crop(crop: dict[str, Any], whole: dict[str, Any], rounding: float) -> bool:
    """Whether it holds the voxels of its place."""
    starts = place_of(crop, whole)
    box = (slice(None), *(slice(a, a + n) for a, n in zip(starts, crop["image"].shape[1:], strict=True)))
    image = (crop["image"].as_tensor() - whole["image"].as_tensor()[box]).abs().max() <= rounding
    return bool(image) and torch.equal(crop["label"].as_tensor(), whole["label"].as_tensor()[box])


def same_places(folder: Path, item: dict[str, Any], whole: dict[str, Any], patch: tuple[int, ...]) -> bool:
    """Whether many crops of both ways begin alike; only the places are drawn."""
    entry = Store(folder, preparation()).keep([item]).entries[0]
    assert entry is not None
    ours, stock = RandStoredCrop(folder, [entry], patch, 0.5), stock_crop(patch).cropper
    ours.set_random_state(seed=1)
    stock.set_random_state(seed=2)
    foreground, background = map_binary_to_indices(whole["label"])
    mine, theirs = [], []
    for _ in range(DRAWS):
        ours.randomize(entry)
        mine.append(ours.starts[0])
        stock.randomize(whole["label"], foreground, background)
        theirs.append([c - n // 2 for c, n in zip(stock.centers[0], patch, strict=True)])
    a, b = np.array(mine), np.array(theirs)
    edges = range(max(whole["image"].shape[1:]))
    shares = [np.stack([(one <= edge).mean(axis=0) for edge in edges]) for one in (a, b)]
    return bool(np.abs(shares[0] - shares[1]).max() < 1.95 * np.sqrt(2 / DRAWS))


def feed(dataset: Any) -> Callable[[], dict[str, Any]]:
    """One crop a call, from one case after the other."""
    turn = itertools.cycle(range(len(dataset)))

    def one() -> dict[str, Any]:
        crop = dataset[next(turn)]
        return crop[0] if isinstance(crop, list) else crop

    return one


def main() -> None:
    """Float16 and float32 stores against both of MONAI's."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    shape, patch = (SMALL_SHAPE, SMALL_PATCH) if options.small else (SHAPE, PATCH)
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items = write_cases(folder, shape)
        wholes = {item["case"]: preparation()(item) for item in items}
        chain = Compose([*preparation().transforms, stock_crop(patch)])
        stock: list[tuple[str, Any]] = [("CacheDataset", CacheDataset(items, chain, progress=False))]
        stock.append(("PersistentDataset", PersistentDataset(items, chain, folder / "persistent")))
        for dtype in ("float16", "float32"):
            place = folder / dtype
            Store(place, preparation(), dtype).keep(items)
            ours = feed(StoreDataset(place, items, None, preparation(), patch_size=patch, pos_ratio=0.5))
            assert same_places(place, items[0], wholes["case0"], patch), "the crops' places are distributed otherwise"
            rounding = ROUNDING if dtype == "float16" else 0.0

            def equal(a: dict[str, Any], b: dict[str, Any], rounding: float = rounding) -> bool:
                return is_a_crop(a, wholes[a["case"]], rounding) and is_a_crop(b, wholes[b["case"]], 0)

            for title, dataset in stock:
                results.append(compare(f"a crop, {dtype}", ours, title, feed(dataset), equal, options.rounds, goal=10))
        begin = cost("opening the store: every byte compared with its hash", lambda: _open(place, items), 1)
    report("train_feed", [*results, begin])


def _open(place: Path, items: list[dict[str, Any]]) -> None:
    Store(place, preparation()).keep(items)


if __name__ == "__main__":
    main()
