"""Scores against MONAI's metrics: Dice; HD95, ASSD and NSD together. Needs no data.

Both start from label maps of a 240 x 240 x 155 case with three overlapping regions and voxels of 1 x 1 x 3 mm, on one
thread; making the masks that MONAI's metrics want is part of MONAI's time. With a GPU, MONAI's masks live there.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.metrics import (
    DiceMetric,
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from scipy import ndimage

from harness import Result, arguments, compare, peak_mib_of, report
from neurobundle.measure import SegmentationMetric, score_case
from neurobundle.measure.overlap import joint_counts, overlap_of
from neurobundle.measure.surface import structure_distances

warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
warnings.filterwarnings("ignore", "the (ground truth|prediction) of class", UserWarning)

SHAPE, SMALL_SHAPE = (240, 240, 155), (24, 24, 16)
SPACING = (1.0, 1.0, 3.0)
TOLERANCE_MM = 1.0
#: Whole tumour, tumour core, enhancing tumour, in the numbers of BraTS 2023.
REGIONS = ((1, 2, 3), (1, 3), (3,))
VALUES = (1, 2, 3)
STRUCTURES = dict(zip(("WT", "TC", "ET"), REGIONS, strict=True))


def tumour(shape: tuple[int, ...], seed: int = 0, wobble: float = 0.0) -> np.ndarray:
    """A lump of three layers with a rough surface; ``wobble`` voxels of noise make a prediction of it."""
    grid = np.indices(shape, dtype=np.float32)
    centre, unit = np.array(shape) * (0.4, 0.55, 0.5), shape[0] / 240
    radius = np.sqrt(sum(((grid[n] - centre[n]) * (1, 1, 1.2)[n]) ** 2 for n in range(3))) / unit
    radius += 6 * roughness(shape, 1, 8 * unit) + wobble * roughness(shape, 2 + seed, 4 * unit)
    labels = np.zeros(shape, np.uint8)
    for inside, value in ((45, 2), (28, 3), (18, 1)):
        labels[radius < inside] = value
    return labels


def roughness(shape: tuple[int, ...], seed: int, voxels: float) -> np.ndarray:
    """Smooth noise of standard deviation 1."""
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, voxels)
    return smooth / smooth.std()


def cases(shape: tuple[int, ...]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Predictions and references; the first is the one that counts, the others are the edges."""
    truth, none, one = tumour(shape), np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    one[tuple(n // 2 for n in shape)] = 3
    rng, specks = np.random.default_rng(0), [np.zeros(shape, np.uint8) for _ in range(2)]
    for labels in specks:
        labels[tuple(rng.integers(0, n, 200) for n in shape)] = rng.integers(1, 4, 200)
    return {
        "three regions": (tumour(shape, wobble=2), truth),
        "20 voxels off": (np.roll(truth, 20 * shape[0] // 240, axis=0), truth),
        "empty": (none, none),
        "one voxel": (one, np.roll(one, 1, axis=1)),
        "whole volume": (np.full(shape, 3, np.uint8), np.full(shape, 3, np.uint8)),
        "200 specks": (specks[0], specks[1]),
    }


def our_dice(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """One count, three regions."""
    counts = joint_counts(prediction, reference, VALUES)
    return np.array([overlap_of(counts, VALUES, region).dice for region in REGIONS])


def our_surfaces(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """HD95, ASSD and NSD of three regions."""
    found = structure_distances(prediction, reference, REGIONS, SPACING)
    return np.array([[one.hd95_mm, one.assd_mm, one.nsd(TOLERANCE_MM)] for one in found])


def masks(labels: np.ndarray, device: str) -> torch.Tensor:
    """What MONAI's metrics want: ``(1, region, i, j, k)`` of 0 and 1."""
    on = torch.from_numpy(labels).to(device)
    return torch.stack([functools.reduce(torch.logical_or, [on == v for v in region]) for region in REGIONS])[
        None
    ].float()


def monai_dice(prediction: np.ndarray, reference: np.ndarray, device: str = "cpu") -> np.ndarray:
    """MONAI's Dice; an empty reference gives NaN."""
    return compute_dice(masks(prediction, device), masks(reference, device)).cpu().numpy()[0]


def monai_surfaces(prediction: np.ndarray, reference: np.ndarray, device: str = "cpu") -> np.ndarray:
    """MONAI's three, on masks that are made once."""
    pair = masks(prediction, device), masks(reference, device)
    kind: dict[str, Any] = {"include_background": True, "spacing": list(SPACING)}
    three = (
        compute_hausdorff_distance(*pair, percentile=95, **kind),
        compute_average_surface_distance(*pair, symmetric=True, **kind),
        compute_surface_dice(*pair, class_thresholds=[TOLERANCE_MM] * len(REGIONS), **kind),
    )
    return np.stack([one.cpu().numpy()[0] for one in three], axis=1)


def our_metric(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Dice by the class that a training's validation names, from label maps."""
    metric = SegmentationMetric("dice", STRUCTURES, reduction="none")
    metric(torch.from_numpy(prediction)[None, None], torch.from_numpy(reference)[None, None])
    return metric.aggregate().numpy()[0]


def monai_metric(prediction: np.ndarray, reference: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The same by MONAI's, from masks."""
    metric = DiceMetric(include_background=True, reduction="none")
    metric(masks(prediction, device), masks(reference, device))
    return metric.aggregate().cpu().numpy()[0]


def our_all(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """All scores of a case; those that MONAI gives too are compared."""
    scores = score_case(prediction, reference, STRUCTURES, SPACING, TOLERANCE_MM)
    return np.array([[one.dice, one.hd95_mm, one.assd_mm, one.nsd] for one in scores])


def monai_all(prediction: np.ndarray, reference: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Dice and MONAI's three, on masks that are made twice."""
    dice = monai_dice(prediction, reference, device)[:, None]
    return np.concatenate([dice, monai_surfaces(prediction, reference, device)], axis=1)


def same(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Equal within .001 (mm) wherever MONAI gives a number; where it gives none, neither do we."""
    given = np.isfinite(theirs)
    return bool(np.allclose(ours[given], theirs[given], atol=1e-3, rtol=0)) and not np.isfinite(ours[~given]).any()


def race(
    case: str,
    pair: tuple[np.ndarray, np.ndarray],
    ways: tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]],
    baseline: str,
    rounds: int,
    goal: float,
) -> list[Result]:
    """One comparison on the CPU with both peaks of memory, and one against the GPU if there is one."""
    ours, theirs = ways
    result = compare(case, lambda: ours(*pair), baseline, lambda: theirs(*pair), same, rounds, goal)
    result.memory_mib, result.baseline_memory_mib = (peak_mib_of(lambda w=way: w(*pair)) for way in ways)
    results = [result]
    if torch.cuda.is_available():

        def on_gpu() -> np.ndarray:
            return theirs(*pair, device="cuda")

        name = f"{baseline}, CUDA"
        results.append(compare(case, lambda: ours(*pair), name, on_gpu, same, rounds, clock=time.perf_counter))
    return results


def main() -> None:
    """Dice and surfaces of each case."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    results: list[Result] = []
    for name, pair in cases(SMALL_SHAPE if options.small else SHAPE).items():
        first = name == "three regions"
        dice, surfaces = (our_dice, monai_dice), (our_surfaces, monai_surfaces)
        results += race(f"Dice: {name}", pair, dice, "compute_dice", options.rounds, 40 if first else 1)
        kind = "HD95, ASSD, NSD"
        results += race(f"{kind}: {name}", pair, surfaces, "MONAI's three", options.rounds, 30 if first else 1)
        if first:
            ways = (our_metric, monai_metric), (our_all, monai_all)
            results += race(f"SegmentationMetric, Dice: {name}", pair, ways[0], "DiceMetric", options.rounds, 1)
            results += race(f"score_case, all scores: {name}", pair, ways[1], "Dice and three", options.rounds, 1)
    report("metrics", results)


if __name__ == "__main__":
    main()
