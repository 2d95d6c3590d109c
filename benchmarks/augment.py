"""Augmentation against MONAI's: crops about fore- and background, the bias field, pose and crop. Needs no data.

A case is two channels of 240 x 240 x 155 float32 with a label map, in memory, as MONAI's datasets cache it; one thread.
What is equal: the crops of one seed, voxel for voxel; that both fields are cubic along each axis; an affine patch, with
the same matrix, within interpolation. Whether what is drawn has the same distribution, the tests say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import (
    Affined,
    CenterSpatialCropd,
    Compose,
    Rand3DElasticd,
    RandAffined,
    RandBiasFieldd,
    RandCropByPosNegLabeld,
    RandSpatialCropd,
)

from harness import Result, arguments, compare, report
from neurobundle.augment.contrast import RandBiasFieldFastd
from neurobundle.augment.crops import FindForegroundIndicesd, RandPosNegCropd
from neurobundle.augment.spatial import RandSpatiald

warnings.filterwarnings("ignore", category=FutureWarning)

SHAPE, PATCH = (240, 240, 155), (128, 128, 128)
SMALL_SHAPE, SMALL_PATCH = (40, 36, 32), (24, 24, 24)
KEYS = ("image", "label")


def case(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """A smooth head of two channels, and a lump."""
    at = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    radius = torch.stack(at).square().sum(dim=0)
    image = torch.stack([torch.exp(-2 * radius), torch.cos(3 * radius) + 1.1]) * (radius < 0.8)
    return {"image": image, "label": (radius < 0.05).float()[None]}


def crops(data: dict[str, torch.Tensor], patch: tuple[int, ...], rounds: int) -> list[Result]:
    """Four crops; ours from places that the deterministic part of the preprocessing found; MONAI's may have them."""
    prepared = FindForegroundIndicesd("label")(data)
    mine = RandPosNegCropd(KEYS, "label", patch, num_samples=4)
    names = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
    theirs = RandCropByPosNegLabeld(KEYS, "label", patch, num_samples=4)
    given = RandCropByPosNegLabeld(KEYS, "label", patch, num_samples=4, **names)

    def equal(a: list[dict[str, torch.Tensor]], b: list[dict[str, torch.Tensor]]) -> bool:
        return all(np.array_equal(x[k].numpy(), y[k].numpy()) for x, y in zip(a, b, strict=True) for k in KEYS)

    def ours() -> Any:
        return mine.set_random_state(0)(prepared)

    def stock() -> Any:
        return theirs.set_random_state(0)(data)

    def stock_given() -> Any:
        return given.set_random_state(0)(prepared)

    name = "RandCropByPosNegLabeld"
    return [
        compare("positive/negative crops", ours, name, stock, equal, rounds, 15),
        compare("positive/negative crops", ours, f"{name}, indices given", stock_given, equal, rounds, 1),
    ]


def bias(data: dict[str, torch.Tensor], rounds: int) -> Result:
    """A field of degree three on both channels."""
    flat = {"image": torch.ones_like(data["image"])}
    mine = RandBiasFieldFastd("image", 1.0, (0.3, 0.3))
    theirs = RandBiasFieldd("image", prob=1.0, degree=3, coeff_range=(0.0, 0.1))

    def cubic(transform: Any) -> bool:
        # Two ones beside a two, so that no channel is constant.
        spotted = {"image": flat["image"].clone()}
        spotted["image"][:, 0, 0, 0] = 2
        logs = torch.as_tensor(transform.set_random_state(0)(spotted)["image"]).double().log()[:, 1:]
        return all(float(logs.diff(n=4, dim=axis).abs().max()) < 1e-5 for axis in (1, 2, 3)) and float(logs.std()) > 0

    def equal(_: Any, __: Any) -> bool:
        return cubic(mine) and cubic(theirs)

    return compare("bias field", lambda: mine(data), "RandBiasFieldd", lambda: theirs(data), equal, rounds, 3)


def affine(data: dict[str, torch.Tensor], patch: tuple[int, ...], rounds: int) -> Result:
    """The middle patch of a head that was moved by one matrix."""
    # MONAI's centre crop is half a voxel off the middle where an odd number of voxels is left over.
    patch = tuple(p - (n - p) % 2 for n, p in zip(data["image"].shape[1:], patch, strict=True))
    mine = RandSpatiald(KEYS, patch, 1.0, elastic_prob=0)
    shape = data["image"].shape[1:]
    # Alone in its place: the middle of the patch is that of the head.
    mine._start = lambda *_: tuple((n - p) / 2 for n, p in zip(shape, patch, strict=True))  # type: ignore[method-assign,assignment]
    mine.set_random_state(0).randomize(data)
    whole = np.eye(4)
    assert mine.pose.matrix is not None
    whole[:3, :3] = mine.pose.matrix
    mode = ("bilinear", "nearest")
    theirs = Compose([Affined(KEYS, affine=whole, mode=mode, padding_mode="border"), CenterSpatialCropd(KEYS, patch)])

    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        return bool((a["image"] - torch.as_tensor(b["image"])).abs().max() < 1e-2)

    def ours() -> Any:
        return mine.set_random_state(0)(data)

    return compare("one affine and a crop", ours, "Affined + crop", lambda: theirs(data), equal, rounds, 2)


def pose(data: dict[str, torch.Tensor], patch: tuple[int, ...], rounds: int) -> list[Result]:
    """Rotation, scaling, shear, elastic displacement and a random crop."""
    mode = ("bilinear", "nearest")
    ranges: dict[str, Any] = {"rotate_range": (0.26,) * 3, "scale_range": (0.15,) * 3}
    elastic: dict[str, Any] = {"sigma_range": (4, 6), "magnitude_range": (40, 120)}
    crop = RandSpatialCropd(KEYS, patch, random_size=False)
    frame: dict[str, Any] = {"prob": 1.0, "mode": mode, "padding_mode": "border"}
    stock: dict[str, Callable[[Any], Any]] = {
        "Rand3DElasticd + RandSpatialCropd": Compose([Rand3DElasticd(KEYS, **elastic, **ranges, **frame), crop]),
        "RandAffined + Rand3DElasticd + RandSpatialCropd": Compose(
            [RandAffined(KEYS, **ranges, **frame), Rand3DElasticd(KEYS, **elastic, **frame), crop]
        ),
    }
    mine = RandSpatiald(KEYS, patch, 1.0, elastic_prob=1.0).set_random_state(0)

    def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
        same = all(a[key].shape == b[key].shape for key in KEYS)
        return same and all(set(x["label"].unique().tolist()) <= {0.0, 1.0} for x in (a, b))

    return [
        compare("pose, elastic and a crop", lambda: mine(data), name, lambda t=t: t(data), equal, rounds, 4)
        for name, t in stock.items()
    ]


def main() -> None:
    """All of them."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    shape, patch = (SMALL_SHAPE, SMALL_PATCH) if options.small else (SHAPE, PATCH)
    data = case(shape)
    rounds = options.rounds
    results = [*crops(data, patch, rounds), bias(data, rounds), affine(data, patch, rounds), *pose(data, patch, rounds)]
    report("augment", results)


if __name__ == "__main__":
    main()
