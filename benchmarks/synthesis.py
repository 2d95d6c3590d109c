"""What one synthetic head costs, at 1 mm and at the 2 mm that a training makes online. Needs no data.

The part that another library has, nearest sampling of a label map at given positions, is compared with MONAI's.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import torch
from monai.transforms import Resample

from harness import Result, arguments, compare, cost, report
from neurobundle.augment.deform import DeformationRange, Warp, draw_deformation
from neurobundle.augment.head_plan import HeadSettings, draw_head
from neurobundle.augment.synthesis import synthesize_head

#: Label maps as SynthSeg's: 256 voxels of 1 mm a side.
SIDE, SMALL_SIDE = 256, 64
#: Heads that a cost is the mean of: small and large tumours, foci, thick and thin slices.
HEADS = 8


def nested_head(side: int) -> torch.Tensor:
    """Ellipsoids in each other that fill most of a cube: skin to ventricle."""
    grid = torch.meshgrid(*[torch.linspace(-1.28, 1.28, side)] * 3, indexing="ij")
    radius = torch.sqrt((grid[0] / 0.8) ** 2 + (grid[1] / 0.95) ** 2 + (grid[2] / 0.8) ** 2)
    labels = torch.zeros((side,) * 3, dtype=torch.int16)
    layers = ((1.0, 511), (0.95, 507), (0.9, 515), (0.83, 24), (0.76, 3), (0.66, 2), (0.2, 4))
    for size, label in layers:
        labels[radius < size] = label
    return labels


def whole_heads(labels: torch.Tensor, spacing: float, small: bool, rounds: int) -> list[Result]:
    """Four sequences with a tumour, with and without the skull; one head after the other, the median counts."""
    step = 256 / len(labels)
    shape = (16, 16, 16) if small else tuple(int(side / spacing) for side in (160, 192, 160))
    results = []
    for skull in (True, False):
        spacing_mm = (12.0,) * 3 if small else (spacing,) * 3
        settings = HeadSettings(shape=shape, spacing_mm=spacing_mm, skull=skull)
        plans = itertools.cycle([draw_head(np.random.default_rng(seed), settings) for seed in range(HEADS)])

        def one(plans: Any = plans) -> Any:
            return synthesize_head(labels, next(plans), (step,) * 3)

        head = "head" if skull else "brain"
        name = f"{head}, {' x '.join(map(str, shape))} at {spacing:g} mm, 4 sequences, tumour"
        results.append(cost(name, one, max(rounds, HEADS if not small else 1)))
    return results


def sampling(labels: torch.Tensor, rounds: int) -> Result:
    """Ours from the drawn deformation to labels; MONAI's is given the positions, and only samples."""
    shape = tuple(side * 5 // 8 for side in labels.shape)
    still = DeformationRange(rotation_deg=0, scaling=0, shear=0)
    deformation = dataclasses.replace(draw_deformation(np.random.default_rng(0), still))

    def ours() -> torch.Tensor:
        return Warp(labels, (1, 1, 1), deformation, shape, (1, 1, 1)).sample()

    positions = Warp(labels, (1, 1, 1), deformation, shape, (1, 1, 1)).sources()
    middle = torch.tensor([(side - 1) / 2 for side in labels.shape])[:, None, None, None]
    stock, grid, image = Resample(mode="nearest", padding_mode="zeros"), positions - middle, labels[None].float()

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        # Where a position lies half way between two voxels, rounding decides.
        return float((a != b.to(a.dtype)).float().mean()) < 1e-4

    return compare("labels on the new grid", ours, "Resample, nearest", lambda: stock(image, grid)[0], same, rounds)


def main() -> None:
    """All of it on one thread."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    labels = nested_head(SMALL_SIDE if options.small else SIDE)
    results = [sampling(labels, options.rounds)]
    for spacing in (1.0, 2.0):
        results += whole_heads(labels, spacing, options.small, options.rounds)
    report("synthesis", results)


if __name__ == "__main__":
    main()
