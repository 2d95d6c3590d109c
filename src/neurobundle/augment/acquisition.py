"""What a scanner adds: the point spread, the coils' bias field, the slice, noise, and the brightness curve.

An *acquisition* is what was drawn of them for one sequence. Along each axis the point spread is a matrix, and so is a
thick slice: the mean of the voxels that it covers, and back by lines between the slices' middles. Noise is added to the
slices, as a scanner does, and is Rician: the magnitude of a complex signal (Gudbjartsson 1995, MRM 34:910).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from neurobundle.augment.deform import smooth_field
from neurobundle.prepare.separable import along_axis

#: Control points of a bias field, along each axis.
BIAS_POINTS = 5


@dataclass(frozen=True, eq=False)
class Acquisition:
    """What the scanner adds to one sequence.

    Attributes:
        blur_mm: standard deviation of the point spread along each axis.
        bias: ``(5, 5, 5)``, control points of the log field.
        thick_axis: the axis across the slices.
        thick_mm: slice thickness; 0 is that of the voxels.
        noise: standard deviation of each of the two parts of the complex noise.
        gamma: exponent of the brightness, of white matter's.
    """

    blur_mm: tuple[float, float, float]
    bias: np.ndarray
    thick_axis: int
    thick_mm: float
    noise: float
    gamma: float


def draw_acquisition(
    rng: np.random.Generator,
    spacing_mm: Sequence[float],
    bias: float,
    noise: float,
    thick: float,
    thick_mm: float,
    gamma: float,
) -> Acquisition:
    """Draw what the scanner adds to one sequence.

    Args:
        rng: what it is drawn from.
        spacing_mm: of the voxels.
        bias: largest standard deviation of the log field.
        noise: largest standard deviation of the noise, of white matter's brightness.
        thick: probability of thick slices.
        thick_mm: the largest thickness.
        gamma: largest absolute logarithm of the exponent.
    """
    step = np.asarray(spacing_mm)
    blur = tuple((step * rng.uniform(0.35, 0.65)).tolist())
    log_field = rng.standard_normal((BIAS_POINTS,) * 3) * rng.uniform(0, bias) * 3.0
    width = rng.uniform(step.max(), max(thick_mm, step.max())) if rng.random() < thick else 0.0
    # Two in three scans with thick slices are axial.
    axis = int(rng.choice([0, 1, 2], p=[0.15, 0.2, 0.65]))
    level = rng.uniform(0.005, max(noise, 0.005)) if noise else 0.0
    exponent = math.exp(rng.uniform(-1, 1) * gamma)
    return Acquisition(blur, log_field.astype(np.float32), axis, float(width), float(level), exponent)


def acquire(
    truth: torch.Tensor,
    acquisition: Acquisition,
    spacing_mm: Sequence[float],
    generator: torch.Generator,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What a scanner makes of an image.

    Args:
        truth: ``(i, j, k)`` float32; white matter is about 1. It may be changed.
        acquisition: as drawn.
        spacing_mm: of the voxels.
        generator: of the noise; its device is the image's.
        mask: boolean, ``(i, j, k)``: the image is 0 elsewhere, with no noise.
    """
    shape, device = truth.shape, truth.device
    image = truth if mask is None else truth.mul_(mask)
    for axis, (size, blur, step) in enumerate(zip(shape, acquisition.blur_mm, spacing_mm, strict=True)):
        image = along_axis(image, _blurring(size, blur / step), axis)
    image *= smooth_field(torch.as_tensor(acquisition.bias, device=device), shape).exp_()
    slices = _slices(acquisition, shape, spacing_mm)
    if slices is not None:
        image = along_axis(image, slices[0], acquisition.thick_axis)
    if acquisition.noise:
        image.add_(normal(image.shape, generator), alpha=acquisition.noise)
        image = torch.hypot(image, normal(image.shape, generator).mul_(acquisition.noise))
    if slices is not None:
        image = along_axis(image, slices[1], acquisition.thick_axis)
    if acquisition.gamma != 1:
        image = image.clamp_(min=0).pow_(acquisition.gamma)
    return image if mask is None else image.mul_(mask)


def normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Standard normal values, on the generator's device."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device)


def _blurring(size: int, sigma: float) -> torch.Tensor:
    """A Gaussian along one axis as a matrix ``(size, size)``; each row sums to 1."""
    at = torch.arange(size, dtype=torch.float32)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / max(sigma, 1e-3)) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def _slices(
    acquisition: Acquisition, shape: Sequence[int], spacing_mm: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """From voxels to thick slices, means, and back, by lines; None if the slices are no thicker than voxels."""
    size, step = shape[acquisition.thick_axis], spacing_mm[acquisition.thick_axis]
    count = max(2, round(size * step / acquisition.thick_mm)) if acquisition.thick_mm else size
    if count >= size:
        return None
    edges = torch.linspace(0, size, count + 1)
    voxel = torch.arange(size, dtype=torch.float32)
    covered = (torch.minimum(edges[1:, None], voxel + 1) - torch.maximum(edges[:-1, None], voxel)).clamp(min=0)
    position = ((voxel + 0.5) / size * count - 0.5).clamp(0, count - 1)
    back = (1 - (position[:, None] - torch.arange(count)).abs()).clamp(min=0)
    return covered / covered.sum(dim=1, keepdim=True), back
