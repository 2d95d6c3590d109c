"""A drawn lesion in real scans: a head that has been measured, and a tumour whose truth is known.

What is *local* is measured: the brightness of white matter near the lesion, in each sequence, and its spread. The
contrast says how bright each part of a lesion is against white matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from neurobundle.augment.cubes import box_mean
from neurobundle.augment.lesions import (
    RANK,
    Lesion,
    Painted,
    box_of,
    freedom,
    lesion_means,
    mass_effect,
    paint,
    place_of,
    radius_map,
)
from neurobundle.augment.tissues import INDEX, Contrast
from neurobundle.errors import InputError


class PaintedScans(NamedTuple):
    """Real scans with a lesion, or several.

    Attributes:
        images: sequence -> ``(i, j, k)`` float32.
        label: uint8, BraTS 2023's numbers.
        painted: where the first lesion is; None if there was no place for any.
    """

    images: dict[str, torch.Tensor]
    label: torch.Tensor
    painted: Painted | None


def paint_lesion(
    images: Mapping[str, torch.Tensor],
    brain: torch.Tensor,
    lesion: Lesion | Sequence[Lesion],
    contrasts: Sequence[Contrast],
    spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
    seed: int = 0,
) -> PaintedScans:
    """Put a drawn lesion into real scans of one head on one grid; they are left as they are.

    In each sequence a part of the lesion is as bright as the white matter near it times what the contrast says of the
    two; white matter is found by its brightness in T1 (or T1c), or as the brain's median without either.

    Args:
        images: sequence -> ``(i, j, k)``.
        brain: ``(i, j, k)``: above 0 in the brain, or numbers of tissues if it is uint8 and has more than one.
        lesion: of :func:`draw_tumour` or :func:`draw_white_matter_lesions`; all that these gave, or one of it.
        contrasts: one for each sequence, of :func:`neurobundle.augment.tissues.draw_contrasts`.
        spacing_mm: of the voxels.
        seed: of the texture.

    Raises:
        InputError: for scans of other shapes, an empty brain, or a sequence without a contrast.
    """
    tissue = tissue_of(images, brain).clone()
    by_name = {contrast.sequence: contrast for contrast in contrasts}
    missing = next((name for name in images if name not in by_name), None)
    if missing is not None:
        raise InputError(
            f"no contrast was given for {missing!r}", "Draw one for each sequence: draw_contrasts(rng, list(images))."
        )
    out = {name: image.detach().to(torch.float32).clone() for name, image in images.items()}
    label = torch.zeros(tissue.shape, dtype=torch.uint8, device=tissue.device)
    generator = torch.Generator(device=tissue.device).manual_seed(seed)
    lesions = [lesion] if isinstance(lesion, Lesion) else lesion
    painted = [_paint_one(out, label, tissue, one, by_name, spacing_mm, generator) for one in lesions]
    return PaintedScans(out, label, next((one for one in painted if one is not None), None))


def _paint_one(
    images: Mapping[str, torch.Tensor],
    label: torch.Tensor,
    tissue: torch.Tensor,
    lesion: Lesion,
    contrasts: Mapping[str, Contrast],
    spacing_mm: Sequence[float],
    generator: torch.Generator,
) -> Painted | None:
    """One lesion, in place: images, label and tissues are pushed aside alike, an earlier lesion too."""
    middle = place_of(lesion, tissue, spacing_mm)
    if middle is None:
        return None
    box = box_of(lesion, middle, tissue.shape, spacing_mm)
    radius = radius_map(lesion, middle, box, spacing_mm, tissue.device)
    shift = mass_effect(lesion, middle, box, radius, freedom(tissue[box], spacing_mm))
    for numbers in (tissue, label):
        numbers[box] = _pulled(numbers[box].float(), shift, "nearest").to(torch.uint8)
    painted = paint(lesion, middle, box, tissue[box], spacing_mm)
    healthy = (tissue[box] == INDEX["white"]) & (painted.share == 0) & (label[box] == 0)
    for name, image in images.items():
        pulled = _pulled(image[box], shift, "bilinear")
        near = pulled[healthy]
        white = near if len(near) >= 50 else image[tissue == INDEX["white"]]
        level, spread = float(white.median()), float((white - white.median()).abs().median()) * 1.4826
        means = lesion_means(painted, contrasts[name]) * level
        texture = torch.randn(pulled.shape, generator=generator, device=image.device) * spread * 0.5
        # The scan's own point spread: a voxel's edge is no scanner's.
        image[box] = torch.lerp(pulled, box_mean(means + texture, 1) * 0.5 + means * 0.5, painted.share)
    rank = torch.tensor(RANK, dtype=torch.uint8, device=label.device)
    better = rank[painted.label.to(torch.int32)] > rank[label[box].to(torch.int32)]
    label[box] = torch.where(better, painted.label, label[box])
    return painted


def nearest_contrasts(
    images: Mapping[str, torch.Tensor], tissue: torch.Tensor, choices: Sequence[Sequence[Contrast]]
) -> Sequence[Contrast]:
    """The contrasts in which cortex is to white matter most as it is in the scans: those of such a scanner.

    Args:
        images: sequence -> ``(i, j, k)``.
        tissue: their numbers, of :func:`tissue_of`.
        choices: several draws of :func:`neurobundle.augment.tissues.draw_contrasts`.
    """
    cortex, white = INDEX["cortex"], INDEX["white"]
    if not bool((tissue == cortex).any()) or not bool((tissue == white).any()):
        return choices[0]
    seen = {
        name: float(image[tissue == cortex].median()) / max(float(image[tissue == white].median()), 1e-6)
        for name, image in images.items()
    }

    def off(contrasts: Sequence[Contrast]) -> float:
        return sum(
            abs(one.means[cortex] / one.means[white] - seen[one.sequence]) for one in contrasts if one.sequence in seen
        )

    return min(choices, key=off)


def tissue_of(images: Mapping[str, torch.Tensor], brain: torch.Tensor) -> torch.Tensor:
    """Numbers of tissues: as given, or white, cortex and ventricle by brightness in T1 inside a mask.

    Args:
        images: sequence -> ``(i, j, k)``.
        brain: as :func:`paint_lesion` takes it.

    Raises:
        InputError: for scans of other shapes, or an empty brain.
    """
    strange = next((name for name, image in images.items() if image.shape != brain.shape), None)
    if strange is not None or not images:
        cause = (
            f"{strange} has the shape {tuple(images[strange].shape)} and the brain {tuple(brain.shape)}"
            if strange
            else "no scan was given"
        )
        raise InputError(cause, "Give scans and brain mask on one grid.")
    inside = brain > 0
    if not bool(inside.any()):
        raise InputError("the brain mask is empty", "Give one that covers the brain.")
    if brain.dtype == torch.uint8 and int(brain.max()) > 1:
        return brain
    name = next((name for name in ("T1", "T1c") if name in images), next(iter(images)))
    values = images[name][inside].float()
    # Half of a brain is white matter, the brightest in T1; what is under six tenths of it is fluid.
    bright = float(values.sort().values[int(0.75 * len(values))])
    tissue = torch.zeros(brain.shape, dtype=torch.uint8, device=brain.device)
    image = images[name]
    tissue[inside] = INDEX["cortex"]
    tissue[inside & (image > 0.92 * bright)] = INDEX["white"]
    tissue[inside & (image < 0.6 * bright)] = INDEX["ventricle"]
    return tissue


def _pulled(values: torch.Tensor, displacement: torch.Tensor, mode: str) -> torch.Tensor:
    """Each voxel shows what lies at its displacement (voxels)."""
    axes = [torch.arange(n, device=values.device, dtype=torch.float32) for n in values.shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement
    scale = torch.tensor([2 / max(1, n - 1) for n in values.shape], device=values.device)[:, None, None, None]
    grid = (positions * scale - 1).flip(0).permute(1, 2, 3, 0)
    return F.grid_sample(values[None, None], grid[None], mode=mode, padding_mode="border", align_corners=True)[0, 0]
