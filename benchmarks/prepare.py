"""The whole way from files to the network's grid against stock MONAI: load, orient, resample, crop, normalise.

Four channels of a 240 x 240 x 155 head in files of their own and a label map, made up, on one thread. MONAI's chain is
LoadImaged, Orientationd, Spacingd, CropForegroundd and NormalizeIntensityd over the voxels that are not 0. Where the
files have the network's spacing MONAI resamples nothing either, and the ratio is that of reading and normalising; the
goal is for files that have not. Needs no data.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    Invertd,
    LoadImaged,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
)

from harness import Result, arguments, compare, cost, report
from neurobundle.export.nifti import save_volume
from neurobundle.prepare import intensity
from neurobundle.prepare.space import ON_VOXEL, ToNetworkGridd

warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

SHAPE, SMALL_SHAPE = (240, 240, 155), (30, 32, 24)
#: Voxel sizes of the files; the network's are 1 mm. The first are BraTS': voxels are only put elsewhere.
GOAL = 3
SIZES = {"1 x 1 x 1 mm, LPS": (1.0, 1.0, 1.0), "0.93 x 0.91 x 1.17 mm, LPS": (0.93, 0.91, 1.17)}
AXES = (("L", "R"), ("P", "A"), ("I", "S"))
CHANNELS = 4
#: Standard deviations that interpolation in float32 on two ways may differ by.
TOLERANCE = 2e-3


def write_case(folder: Path, shape: tuple[int, ...], sizes: tuple[float, ...]) -> dict[str, Any]:
    """A brain of a fifth of the box: noise in an ellipsoid, 0 around it, and a lump with three labels."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij", sparse=True)
    radius = (grid[0] / 0.58) ** 2 + (grid[1] / 0.72) ** 2 + (grid[2] / 0.87) ** 2
    affine = np.diag([-sizes[0], -sizes[1], sizes[2], 1])
    affine[:3, 3] = (119, 119, -70)
    rng, images = np.random.default_rng(0), []
    for channel in range(CHANNELS):
        array = np.where(radius < 1, rng.normal(400, 60, shape), 0).clip(0).astype(np.int16)
        images.append(str(save_volume(folder / f"channel{channel}.nii.gz", array, affine)))
    labels = np.digitize(-((grid[0] - 0.2) ** 2 + grid[1] ** 2 + grid[2] ** 2), [-0.09, -0.05, -0.02]).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, affine), folder / "labels.nii.gz")
    return {"image": images, "label": str(folder / "labels.nii.gz")}


def our_chain() -> Compose:
    """The gate, one sampling, z-score."""
    reading = {"reader": "neurobundle.load.Reader", "dtype": None, "ensure_channel_first": True}
    return Compose(
        [
            LoadImaged("image", kind="image", **reading),
            LoadImaged("label", kind="label", **reading),
            ToNetworkGridd(("image", "label"), (1, 1, 1), ("bilinear", "nearest"), crop="foreground"),
            intensity.NormalizeIntensityd("image", method="zscore", region="foreground"),
        ]
    )


def stock_chain() -> Compose:
    """MONAI's documented way."""
    keys = ("image", "label")
    return Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            Orientationd(keys, axcodes="RAS", labels=AXES),
            Spacingd(keys, pixdim=(1.0, 1.0, 1.0), mode=("bilinear", "nearest"), padding_mode="border"),
            CropForegroundd(keys, source_key="image", allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        ]
    )


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Equal images where there is signal (MONAI leaves 0 elsewhere, ours shifts it too); equal labels.

    Our crop keeps up to a voxel more on each side, so that all of the box lies between kept voxels on the way back.
    A label map's voxel halfway between two others may take either; these are fewer than one in a thousand.
    """
    box = part_of(ours["image"], theirs["image"])
    if box is None or box != part_of(ours["label"], theirs["label"]):
        return False
    a, b = ours["image"].as_tensor()[box], theirs["image"].as_tensor()
    signal = b != 0
    labels = (ours["label"].as_tensor()[box] != theirs["label"].as_tensor()).float().mean()
    return bool(torch.allclose(a[signal], b[signal], atol=TOLERANCE, rtol=0) and labels < 1e-3)


def part_of(ours: Any, theirs: Any) -> tuple[slice, ...] | None:
    """Which part of our grid is theirs; None if none is, or if ours has over a voxel more on a side."""
    onto = np.linalg.solve(np.asarray(ours.affine), np.asarray(theirs.affine))
    first = onto[:3, 3].round()
    after = np.array(ours.shape[1:]) - np.array(theirs.shape[1:]) - first
    if not np.allclose(onto[:3, :3], np.eye(3), atol=1e-4) or np.abs(onto[:3, 3] - first).max() > ON_VOXEL:
        return None
    if min(*first, *after) < 0 or max(*first, *after) > 1:
        return None
    return (slice(None), *(slice(int(a), int(a) + n) for a, n in zip(first, theirs.shape[1:], strict=True)))


def way_back(case: dict[str, Any], chain: Compose) -> Any:
    """Three logits a voxel from the network's grid to the file's."""
    logits = case["image"][:3]
    return lambda: Invertd("pred", chain, "image", nearest_interp=False)({**case, "pred": logits})["pred"]


def race(folder: Path, name: str, sizes: tuple[float, ...], shape: tuple[int, ...], rounds: int) -> list[Result]:
    """There, and back."""
    case, ours, theirs = write_case(folder, shape, sizes), our_chain(), stock_chain()
    there = compare(f"{name}: there", lambda: ours(case), "MONAI's chain", lambda: theirs(case), same, rounds)
    there.goal = None if set(sizes) == {1.0} else GOAL
    back = way_back(ours(case), ours)
    stock_back = way_back(theirs(case), theirs)

    def same_back(a: torch.Tensor, b: torch.Tensor) -> bool:
        """One native grid; values agree where the brain is, away from the crop's edge and from 0."""
        inside = tuple(slice(n * 2 // 5, n * 3 // 5) for n in shape)
        apart = (a.as_tensor()[(slice(None), *inside)] - b.as_tensor()[(slice(None), *inside)]).abs().max()
        return a.shape == b.shape and torch.equal(a.affine, b.affine) and float(apart) < TOLERANCE

    returned = compare(f"{name}: back", back, "Invertd", stock_back, same_back, rounds)
    loaded = {key: value for key, value in Compose(ours.transforms[:2])(case).items() if key in ("image", "label")}
    return [there, returned, cost(f"{name}: the sampling alone", lambda: ours.transforms[2](loaded), rounds)]


def main() -> None:
    """Each kind of file."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    shape = SMALL_SHAPE if options.small else SHAPE
    results: list[Result] = []
    for name, sizes in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            results += race(Path(folder), name, sizes, shape, options.rounds)
    report("prepare", results)


if __name__ == "__main__":
    main()
