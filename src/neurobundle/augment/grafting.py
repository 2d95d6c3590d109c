"""A drawn lesion in real scans: a head that has been measured, and a tumour whose truth is known.

What is *local* is measured: the brightness of white matter near the lesion, in each sequence, and its spread. The
contrast says how bright each part of a lesion is against white matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from neurobundle.augment.lesions import (
    Lesion,
    Painted,
    box_mean,
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
    """Real scans with a lesion.

    Attributes:
        images: sequence -> ``(i, j, k)`` float32.
        label: uint8, BraTS 2023's numbers.
        painted: where it is; None if there was no place for it.
    """

    images: dict[str, torch.Tensor]
    label: torch.Tensor
    painted: Painted | None


def paint_lesion(
    images: Mapping[str, torch.Tensor],
    brain: torch.Tensor,
    lesion: Lesion,
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
        lesion: of :func:`draw_tumour` or :func:`draw_white_matter_lesions`.
        contrasts: one for each sequence, of :func:`neurobundle.augment.tissues.draw_contrasts`.
        spacing_mm: of the voxels.
        seed: of the texture.

    Raises:
        InputError: for scans of other shapes, an empty brain, or a sequence without a contrast.
    """
    tissue = _tissue_of(images, brain)
    by_name = {contrast.sequence: contrast for contrast in contrasts}
    missing = next((name for name in images if name not in by_name), None)
    if missing is not None:
        raise InputError(
            f"no contrast was given for {missing!r}", "Draw one for each sequence: draw_contrasts(rng, list(images))."
        )
    out = {name: image.detach().to(torch.float32).clone() for name, image in images.items()}
    label = torch.zeros(tissue.shape, dtype=torch.uint8, device=tissue.device)
    middle = place_of(lesion, tissue, spacing_mm)
    if middle is None:
        return PaintedScans(out, label, None)
    box = box_of(lesion, middle, tissue.shape, spacing_mm)
    radius = radius_map(lesion, middle, box, spacing_mm, tissue.device)
    shift = mass_effect(lesion, middle, box, radius, freedom(tissue[box], spacing_mm))
    moved = _pulled(tissue[box].float(), shift, "nearest").to(torch.uint8)
    painted = paint(lesion, middle, box, moved, spacing_mm)
    generator = torch.Generator(device=tissue.device).manual_seed(seed)
    for name, image in out.items():
        part = image[box]
        near = part[(moved == INDEX["white"]) & (painted.share == 0)]
        white = near if len(near) >= 50 else image[tissue == INDEX["white"]]
        level, spread = float(white.median()), float((white - white.median()).abs().median()) * 1.4826
        pulled = _pulled(part, shift, "bilinear")
        means = lesion_means(painted, by_name[name]) * level
        texture = torch.randn(part.shape, generator=generator, device=image.device) * spread * 0.5
        # The scan's own point spread: a voxel's edge is no scanner's.
        image[box] = torch.lerp(pulled, box_mean(means + texture, 1) * 0.5 + means * 0.5, painted.share)
    label[box] = painted.label
    return PaintedScans(out, label, painted)


def _tissue_of(images: Mapping[str, torch.Tensor], brain: torch.Tensor) -> torch.Tensor:
    """Numbers of tissues: as given, or white, cortex and ventricle by brightness in T1 inside a mask."""
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
