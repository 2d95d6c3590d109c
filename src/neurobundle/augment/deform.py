"""Where each voxel of a new image comes from: affine, flip, crop and a smooth elastic field, in one sampling.

A *deformation* is what is drawn; it says, for a point of the new image in millimetres from its middle, which point of
the label map it shows. Its elastic part is a stationary velocity, integrated by scaling and squaring (Arsigny et al.
2006, MICCAI), so that it folds nowhere for the sizes that are drawn. A *lattice* holds values at the control points of
cubic B-splines; on a regular grid their sum is three small matrix products. Label maps take the nearest voxel:
their values are never mixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.separable import ORDER, spline_basis

Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

#: Millimetres, about, from one control point of the integrated field to the next.
LATTICE_MM = 10.0
#: Squarings of the velocity: 2 to this power steps.
SQUARINGS = 5


@dataclass(frozen=True)
class DeformationRange:
    """What deformations are drawn from.

    Attributes:
        rotation_deg: largest about each axis.
        scaling: largest relative change along each axis.
        shear: largest shear of each axis against each other.
        elastic_mm: largest standard deviation of the elastic displacement.
        elastic_scale_mm: from one bump of it to the next.
        shift_mm: largest shift along each axis.
        flip: probability that left and right change places.
    """

    rotation_deg: float = 12.0
    scaling: float = 0.12
    shear: float = 0.02
    elastic_mm: float = 4.0
    elastic_scale_mm: float = 40.0
    shift_mm: float = 4.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise SettingError(f"{name} is {value!r}", "Give a number of 0 or more.")
        if self.scaling >= 1 or self.elastic_scale_mm <= 0 or self.flip > 1:
            raise SettingError("scaling must be below 1, elastic_scale_mm above 0, flip a probability")


@dataclass(frozen=True, eq=False)
class Deformation:
    """What was drawn.

    Attributes:
        matrix: 3 x 3, a displacement in the new image (mm) to one in the label map (mm); a flip has determinant < 0.
        shift_mm: where the new image's middle lies, from the label map's own middle.
        place: -1 to 1 along each axis: where a crop lies between the ends of what it may show.
        velocity: ``(3, n, n, n)``, mm; values at control points over ``extent_mm`` about the middle.
        extent_mm: side of the cube that the velocity covers.
    """

    matrix: np.ndarray
    shift_mm: np.ndarray
    place: np.ndarray
    velocity: np.ndarray
    extent_mm: float


def draw_deformation(rng: np.random.Generator, ranges: DeformationRange, extent_mm: float = 260.0) -> Deformation:
    """Draw an affine, a flip, a place and a velocity.

    Args:
        rng: what they are drawn from.
        ranges: how far they go.
        extent_mm: side of the cube that the velocity covers; beyond, its edge's value goes on.
    """
    angles = np.radians(rng.uniform(-1, 1, 3) * ranges.rotation_deg)
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(-1, 1, 3) * ranges.shear
    scale = np.exp(rng.uniform(-1, 1, 3) * math.log1p(ranges.scaling))
    mirror = np.diag([-1.0 if rng.random() < ranges.flip else 1.0, 1, 1])
    matrix = rotation(angles) @ shear @ np.diag(scale) @ mirror
    n = max(1, round(extent_mm / ranges.elastic_scale_mm)) + ORDER
    # The sum of B-splines of independent values has about a third of their standard deviation.
    velocity = rng.standard_normal((3, n, n, n)) * rng.uniform(0, ranges.elastic_mm) * 3.0
    return Deformation(
        matrix, rng.uniform(-1, 1, 3) * ranges.shift_mm, rng.uniform(-1, 1, 3), velocity.astype(np.float32), extent_mm
    )


def rotation(angles: npt.ArrayLike) -> np.ndarray:
    """Of so many radians about the first, then the second, then the third axis.

    >>> rotation([0, 0, math.pi / 2]).round().tolist()
    [[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    turned = np.eye(3)
    for axis, angle in enumerate(np.asarray(angles, float)):
        turn = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, b], [a, b]] = math.cos(angle)
        turn[b, a], turn[a, b] = math.sin(angle), -math.sin(angle)
        turned = turn @ turned
    return turned


def expand(lattice: torch.Tensor, bases: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum of B-splines: ``(..., a, b, c)`` and three bases ``(i, a), (j, b), (k, c)`` give ``(..., i, j, k)``."""
    out = torch.einsum("...abc,ia->...ibc", lattice, bases[0])
    out = torch.matmul(bases[1], out)
    return torch.matmul(out, bases[2].T)


def smooth_field(lattice: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A lattice ``(a, b, c)`` spread over a grid of a shape.

    >>> float((smooth_field(torch.ones(4, 5, 4), (3, 3, 2)) - 1).abs().max()) < 1e-6
    True
    """
    bases = [
        spline_basis(torch.linspace(0, 1, size, device=lattice.device), n)
        for size, n in zip(shape, lattice.shape, strict=True)
    ]
    return expand(lattice, bases)


def check_grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> None:
    """Refuse a grid on which nothing can be seen.

    Raises:
        SettingError: for a size under 8 voxels, or a spacing that is no length.
    """
    if len(shape) != 3 or min(shape) < 8:
        raise SettingError(f"the shape is {tuple(shape)}", "Give three sizes of 8 voxels or more.")
    if len(spacing_mm) != 3 or not all(math.isfinite(s) and s > 0 for s in spacing_mm):
        raise SettingError(f"the spacing is {tuple(spacing_mm)} mm", "Give three lengths above 0.")


class Warp:
    """A deformation of one label map onto one grid, ready to be sampled.

    Args:
        labels: ``(i, j, k)``, whole numbers; kept.
        spacing_mm: of its voxels, along RAS axes.
        deformation: what was drawn.
        shape: of the new image.
        new_spacing_mm: of its voxels.
        about: label map's box ``(low, high)``, voxels, that the image is centred on and crops are taken from.

    Raises:
        InputError: if the label map has not three axes, or nothing in it.
        SettingError: for a grid that means nothing.
    """

    def __init__(
        self,
        labels: torch.Tensor,
        spacing_mm: Sequence[float],
        deformation: Deformation,
        shape: Sequence[int],
        new_spacing_mm: Sequence[float],
        about: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        check_grid(shape, new_spacing_mm)
        if labels.ndim != 3 or not labels.numel():
            raise InputError(f"the label map has the shape {tuple(labels.shape)}", "Give one with axes i, j and k.")
        if not all(math.isfinite(s) and s > 0 for s in spacing_mm):
            raise InputError(f"the label map's spacing is {tuple(spacing_mm)} mm", "Mend its header.")
        self.labels, self.shape = labels, (int(shape[0]), int(shape[1]), int(shape[2]))
        device = labels.device
        step, new_step = np.asarray(spacing_mm, float), np.asarray(new_spacing_mm, float)
        low, high = (np.asarray(end, float) for end in about or ([0] * 3, np.array(labels.shape) - 1))
        # A crop smaller than the box moves about in it; an image larger than it stays on its middle.
        play = np.maximum(((high - low + 1) * step - np.asarray(shape) * new_step) / 2, 0)
        self.middle = (low + high) / 2 + (deformation.place * play + deformation.shift_mm) / step
        #: A displacement in new voxels to one in voxels of the label map.
        self.jacobian = torch.as_tensor(
            (deformation.matrix * new_step) / step[:, None], dtype=torch.float32, device=device
        )
        self._lattice, self._bases = self._source(deformation, new_step, step)

    def _source(
        self, deformation: Deformation, new_step: np.ndarray, step: np.ndarray
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Control points of the source position, in voxels of the label map. B-splines reproduce what is linear."""
        device, size = self.labels.device, np.asarray(self.shape)
        pieces = np.maximum(1, np.round((size - 1) * new_step / LATTICE_MM)).astype(int)
        axes = [
            (torch.arange(n + ORDER, device=device, dtype=torch.float32) - 1) * float((s - 1) * d / n)
            - float((s - 1) * d / 2)
            for n, s, d in zip(pieces, self.shape, new_step, strict=True)
        ]
        point = torch.stack(torch.meshgrid(*axes, indexing="ij"))  # mm from the new image's middle
        moved = point + integrated(deformation, axes)
        matrix = torch.as_tensor(deformation.matrix, dtype=torch.float32, device=device)
        in_mm = torch.einsum("xy,yabc->xabc", matrix, moved)
        scale = torch.as_tensor(1 / step, dtype=torch.float32, device=device)
        middle = torch.as_tensor(self.middle, dtype=torch.float32, device=device)
        bases = [
            spline_basis(torch.linspace(0, 1, s, device=device), int(n) + ORDER)
            for s, n in zip(self.shape, pieces, strict=True)
        ]
        return in_mm * scale[:, None, None, None] + middle[:, None, None, None], bases

    def sources(self, box: Box | None = None, displacement: torch.Tensor | None = None) -> torch.Tensor:
        """The positions that voxels show.

        Args:
            box: of the new image; all of it if None.
            displacement: ``(3, ...)`` of the box, in new voxels: each voxel shows what would be there.

        Returns:
            ``(3, i, j, k)``, voxels of the label map.
        """
        bases = self._bases if box is None else [b[side] for b, side in zip(self._bases, box, strict=True)]
        positions = expand(self._lattice, bases)
        if displacement is not None:
            positions += torch.einsum("xy,yijk->xijk", self.jacobian, displacement)
        return positions

    def sample(self, box: Box | None = None, displacement: torch.Tensor | None = None) -> torch.Tensor:
        """The labels of a box, each from the nearest voxel; 0 where the label map ends."""
        flat: torch.Tensor | None = None
        outside: torch.Tensor | None = None
        for at, size in zip(self.sources(box, displacement), self.labels.shape, strict=True):
            index = at.round_().to(torch.int32)
            kept = index.clamp(0, size - 1)
            beyond = kept != index
            outside = beyond if outside is None else outside.logical_or_(beyond)
            flat = kept if flat is None else flat.mul_(size).add_(kept)
        assert flat is not None
        assert outside is not None
        # index_select on a flat view reads 8 bytes a voxel less than advanced indexing with long would.
        found = self.labels.reshape(-1).index_select(0, flat.reshape(-1)).reshape(flat.shape)
        return found.masked_fill_(outside, 0)


def integrated(deformation: Deformation, axes: Sequence[torch.Tensor]) -> torch.Tensor:
    """The displacement (mm) that a stationary velocity leads to, at the points of a regular lattice.

    Args:
        deformation: its velocity is used.
        axes: positions (mm from the middle) along each axis.

    Returns:
        ``(3, a, b, c)``.
    """
    velocity = torch.as_tensor(deformation.velocity, device=axes[0].device)
    if not velocity.any():
        return torch.zeros((3, *map(len, axes)), device=velocity.device)
    bases = [spline_basis(axis / deformation.extent_mm + 0.5, velocity.shape[-1]) for axis in axes]
    field = expand(velocity, bases) / 2**SQUARINGS
    # grid_sample's coordinates: the last axis first, -1 to 1 from the first point to the last.
    unit = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, len(a), device=a.device) for a in axes], indexing="ij"))
    per_mm = torch.tensor([2 / float(a[-1] - a[0]) for a in axes], device=velocity.device)[:, None, None, None]
    for _ in range(SQUARINGS):
        there = (unit + field * per_mm).flip(0).permute(1, 2, 3, 0)
        field = (
            field
            + F.grid_sample(field[None], there[None], mode="bilinear", padding_mode="border", align_corners=True)[0]
        )
    return field


def swap_sides(labels: torch.Tensor, mirrored: Mapping[int, int]) -> torch.Tensor:
    """Labels of left and right exchanged, as a flipped head needs it.

    >>> swap_sides(torch.tensor([0, 2, 41, 14]), {2: 41, 41: 2}).tolist()
    [0, 41, 2, 14]
    """
    top = max(int(labels.max()) if labels.numel() else 0, *mirrored)
    look_up = torch.arange(top + 1, dtype=labels.dtype, device=labels.device)
    look_up[list(mirrored)] = torch.tensor(list(mirrored.values()), dtype=labels.dtype, device=labels.device)
    return look_up[labels.to(torch.int64)]


def deform_labels(
    labels: torch.Tensor, spacing_mm: Sequence[float], deformation: Deformation, **grid: Any
) -> torch.Tensor:
    """A deformed label map whose sides are named right: a flip exchanges left and right labels.

    Args:
        labels: ``(i, j, k)``, FreeSurfer's numbers.
        spacing_mm: of its voxels.
        deformation: what was drawn.
        grid: ``shape`` and ``new_spacing_mm`` (and ``about``) as :class:`Warp` takes them.
    """
    from neurobundle.augment.tissues import MIRRORED

    found = Warp(labels, spacing_mm, deformation, **grid).sample()
    return swap_sides(found, MIRRORED) if np.linalg.det(deformation.matrix) < 0 else found
