"""Another pose, another shape and another place, in one sampling of the patch that a network is given.

Rotation, scaling, shear, mirroring, a smooth elastic displacement and the crop are one map from the patch's voxels to
the image's. Only the patch is sampled, so that the cost does not depend on the head: images linearly, label maps from
the nearest voxel, at the same places. The map is a sum of cubic B-splines on a *lattice* over the patch: they reproduce
what is linear, so that the affine part lies in the lattice too and one evaluation gives everything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import ensure_tuple_rep

from neurobundle.augment.artefacts import Range, check_range
from neurobundle.augment.crops import (
    BACKGROUND,
    FOREGROUND,
    check_patch,
    cropped,
    draw_start,
    placed,
    places_of,
    share_of_positive,
)
from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.separable import ORDER, along_axes, spline_basis

#: Cubic B-splines of independent normal control points have this standard deviation along an axis, on average: the
#: root of the mean of the sum of squared weights, 151/315.
SPLINE_SPREAD = math.sqrt(151 / 315)
PADDINGS = ("border", "floor")
#: Images whose corners are off each other by less, in voxels, lie on one grid.
SAME_PLACE = 0.1


class Pose(NamedTuple):
    """What was drawn.

    Attributes:
        start: the first voxel of the crop, before anything else.
        flipped: spatial axes that are mirrored.
        matrix: a displacement from the patch's middle to one in the image, voxels, without mirroring; None if the
            patch is a plain crop.
        elastic: ``(axes, *lattice)``, voxels of the image, at control points; None for none.
    """

    start: tuple[int, ...]
    flipped: tuple[int, ...] = ()
    matrix: np.ndarray | None = None
    elastic: np.ndarray | None = None


def lattice_shape(size: Sequence[int], step: float) -> tuple[int, ...]:
    """How many control points a patch has, if they are about so many voxels apart.

    >>> lattice_shape((97, 33), 32.0)
    (6, 4)
    """
    return tuple(max(1, round((n - 1) / step)) + ORDER for n in size)


def sampling_grid(
    shape: Sequence[int], size: Sequence[int], pose: Pose, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Where each voxel of a patch comes from, for ``grid_sample`` with ``align_corners=True``.

    Args:
        shape: of the image.
        size: of the patch.
        pose: with a matrix.
        device: where.

    Returns:
        ``(*size, axes)``, the last axis first.
    """
    ndim = len(size)
    points = pose.elastic.shape[1:] if pose.elastic is not None else (1 + ORDER,) * ndim
    middle = (np.asarray(size) - 1) / 2
    # A spline whose control points lie on a line follows that line.
    axes = [(np.arange(n) - 1) * (s - 1) / (n - ORDER) - m for n, s, m in zip(points, size, middle, strict=True)]
    lattice = np.einsum("xy,y...->x...", _mirrored(pose), np.stack(np.meshgrid(*axes, indexing="ij")))
    if pose.elastic is not None:
        lattice = lattice + pose.elastic
    column = (slice(None),) + (None,) * ndim
    lattice = lattice + (np.asarray(pose.start) + middle)[column]
    extent = np.maximum(np.asarray(shape) - 1, 1)[column]
    grid = torch.as_tensor((2 * lattice / extent - 1)[::-1].copy(), dtype=torch.float32, device=device)
    bases = [spline_basis(torch.linspace(0, 1, s, device=device), n) for n, s in zip(points, size, strict=True)]
    return along_axes(grid, bases).movedim(0, -1)


def sample(image: torch.Tensor, grid: torch.Tensor, nearest: bool) -> torch.Tensor:
    """Voxels ``(channel, *size)`` of an image ``(channel, *shape)``; beyond its edge those of the edge.

    A type that is no floating point comes back as it was, so that a label map keeps its values; they are exact up to
    2**24.
    """
    found = F.grid_sample(
        image.float()[None],
        grid[None],
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=True,
    )[0]
    return found.to(image.dtype) if image.is_floating_point() or nearest else found


def _mirrored(pose: Pose) -> np.ndarray:
    assert pose.matrix is not None
    signs = np.ones(len(pose.matrix))
    signs[list(pose.flipped)] = -1
    return pose.matrix * signs


class RandSpatiald(RandomizableTransform, MapTransform):
    """A patch in another pose: affine and elastic, the crop included, in one sampling.

    It replaces padding, RandAffined, Rand3DElasticd, RandFlipd and a random crop. With the probability ``1 - prob`` the
    patch is a plain crop, whose voxels are copied. Mirror images are drawn apart: a plain crop is mirrored as often.

    Args:
        keys: images and label maps on one grid, channel first; two or three spatial axes.
        patch_size: voxels of the patch.
        prob: how often the pose changes; 0 still mirrors along ``flip_axes``.
        mode: ``bilinear`` or ``nearest``, one for all keys or one a key.
        rotation_deg: largest about each axis.
        scaling: largest relative change along each axis.
        shear: largest of each axis against each other.
        elastic_prob: of the poses that change, how many are bent, too.
        elastic: range of the standard deviation of the elastic displacement along an axis, voxels.
        elastic_step: voxels, about, from one control point to the next. Above six times the largest ``elastic``
            nothing is folded, in practice.
        flip_axes: spatial axes along which a mirror image is as plausible as the image; along each, half of all
            patches are mirrored, whatever ``prob`` is.
        padding: what lies beyond the image: its ``border``, or the ``floor``: the image's least voxel or 0, whichever
            is less, and 0 for what is sampled from the nearest.
        label_key: crops are put about its foreground and background, as :class:`RandPosNegCropd` does it; anywhere
            in the image if None.
        pos: how often the foreground, in proportion to ``neg``.
        neg: how often the background.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a setting that means nothing, or a ``label_key`` that the case lacks.
        InputError: for images on different grids (by shape, and by affine where they have one), or with another number
            of axes than the patch.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: Sequence[int],
        prob: float = 0.6,
        mode: str | Sequence[str] = ("bilinear", "nearest"),
        rotation_deg: float = 15.0,
        scaling: float = 0.15,
        shear: float = 0.05,
        elastic_prob: float = 0.5,
        elastic: Range = (0.5, 2.0),
        elastic_step: float = 24.0,
        flip_axes: Sequence[int] = (),
        padding: str = "border",
        label_key: str | None = None,
        pos: float = 1.0,
        neg: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, check_range("prob", (0.0, prob), 0, 1)[1])
        self.patch_size = check_patch(patch_size)
        self.modes = self._checked_modes(mode)
        self.rotation_deg = check_range("rotation_deg", (0.0, rotation_deg), 0, 180)[1]
        self.scaling = check_range("scaling", (0.0, scaling), 0, 0.9)[1]
        self.shear = check_range("shear", (0.0, shear), 0, 1)[1]
        self.elastic_prob = check_range("elastic_prob", (0.0, elastic_prob), 0, 1)[1]
        self.elastic = check_range("elastic", elastic, 0)
        self.elastic_step = check_range("elastic_step", (1.0, elastic_step), 1)[1]
        if padding not in PADDINGS:
            raise SettingError(f"padding is {padding!r}", f"It is one of {', '.join(PADDINGS)}.")
        if not all(0 <= axis < len(self.patch_size) for axis in flip_axes):
            raise SettingError(f"flip_axes is {list(flip_axes)}", f"Axes are 0 to {len(self.patch_size) - 1}.")
        self.flip_axes, self.padding = tuple(flip_axes), padding
        self.label_key, self.positive = label_key, share_of_positive(pos, neg)
        self.pose = Pose((0,) * len(self.patch_size))

    def _checked_modes(self, mode: str | Sequence[str]) -> dict[Hashable, str]:
        known = ("bilinear", "nearest")
        try:
            modes = ensure_tuple_rep(mode, len(self.keys))
        except ValueError as error:
            raise SettingError(
                f"mode is {mode!r} for {len(self.keys)} keys", "Give one for all, or one a key."
            ) from error
        if not all(one in known for one in modes):
            raise SettingError(f"mode is {mode!r}", f"Each is one of {', '.join(known)}.")
        return dict(zip(self.keys, modes, strict=True))

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw a pose for the images of a case."""
        super().randomize(None)
        first = next(iter(self.key_iterator(dict(data))))
        image = data[first]
        shape = tuple(image.shape[1:])
        start = self._start(data, shape)
        flipped = tuple(axis for axis in self.flip_axes if self.R.rand() < 0.5)
        self.pose = Pose(start, flipped)
        if self._do_transform:
            matrix = self._matrix(_spacing(image, len(shape)))
            self.pose = Pose(start, flipped, matrix, self._elastic())

    def _start(self, data: Mapping[Hashable, Any], shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.label_key is not None:
            carried = all(f"{self.label_key}{name}" in data for name in (FOREGROUND, BACKGROUND))
            if self.label_key not in data and not carried:
                raise SettingError(
                    f"there is no label map {self.label_key!r} to put crops about",
                    "Load it before, or leave label_key out.",
                )
            places = places_of(data, self.label_key, None, 0.0)
            inside = draw_start(self.R, places, self.positive, shape, self.patch_size)
        else:
            room = [max(whole - n, 0) for whole, n in zip(shape, self.patch_size, strict=True)]
            inside = tuple(int(self.R.randint(n + 1)) for n in room)
        # An image smaller than the patch lies in its middle.
        short = [max(n - whole, 0) // 2 for whole, n in zip(shape, self.patch_size, strict=True)]
        return tuple(a - b for a, b in zip(inside, short, strict=True))

    def _matrix(self, spacing: np.ndarray) -> np.ndarray:
        """Rotation is in millimetres: voxels may be oblong."""
        ndim = len(self.patch_size)
        turn = np.eye(ndim)
        for a, b in itertools.combinations(range(ndim), 2):
            angle = math.radians(self.R.uniform(-self.rotation_deg, self.rotation_deg))
            one = np.eye(ndim)
            one[[a, b], [a, b]], one[a, b], one[b, a] = math.cos(angle), -math.sin(angle), math.sin(angle)
            turn = turn @ one
        stretch = self.R.uniform(-self.shear, self.shear, (ndim, ndim))
        np.fill_diagonal(stretch, 1 + self.R.uniform(-self.scaling, self.scaling, ndim))
        return (turn @ stretch) * spacing / spacing[:, None]

    def _elastic(self) -> np.ndarray | None:
        if self.R.rand() >= self.elastic_prob:
            return None
        spread = self.R.uniform(self.elastic[0], self.elastic[1])
        ndim = len(self.patch_size)
        shape = (ndim, *lattice_shape(self.patch_size, self.elastic_step))
        return self.R.standard_normal(shape) * spread / SPLINE_SPREAD**ndim

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The patch of one case."""
        result = dict(data)
        keys = list(self.key_iterator(dict(data)))
        if not keys:
            return result
        shape = self._one_grid(data, keys)
        self.randomize(data)
        grid = sampling_grid(shape, self.patch_size, self.pose, data[keys[0]].device) if self._do_transform else None
        for key in keys:
            image = torch.as_tensor(data[key])
            result[key] = self._copied(image, key) if grid is None else self._sampled(image, key, grid)
        for name in (FOREGROUND, BACKGROUND):
            result.pop(f"{self.label_key}{name}", None)
        return result

    def _one_grid(self, data: Mapping[Hashable, Any], keys: Sequence[Hashable]) -> tuple[int, ...]:
        if self.label_key is not None and self.label_key in data and self.label_key not in keys:
            keys = [*keys, self.label_key]
        shapes = {key: tuple(data[key].shape[1:]) for key in keys}
        shape = shapes[keys[0]]
        for key, other in shapes.items():
            if other != shape:
                raise InputError(f"{keys[0]} is {shape} and {key} {other} voxels", "Bring both to one grid before.")
        if len(shape) != len(self.patch_size):
            raise InputError(f"{keys[0]} is {shape} voxels and patch_size {self.patch_size}", "Give as many axes.")
        located = [key for key in keys if isinstance(data[key], MetaTensor)]
        for key in located[1:]:
            if not _same_place(shape, data[located[0]].affine, data[key].affine):
                raise InputError(
                    f"{located[0]} and {key} have one shape, {shape}, but their affines differ",
                    "Bring both to one grid before, with ToNetworkGridd for instance.",
                )
        return shape

    def _sampled(self, image: torch.Tensor, key: Hashable, grid: torch.Tensor) -> torch.Tensor:
        nearest = self.modes[key] == "nearest"
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        found = sample(plain, grid, nearest)
        if self.padding == "floor":
            outside = (grid.abs() > 1).any(dim=-1)
            if bool(outside.any()):
                found = found.masked_fill(outside, 0.0 if nearest else _floor(plain))
        matrix = _mirrored(self.pose)
        middle = (np.asarray(self.patch_size) - 1) / 2
        # The affine says where the patch would be without the elastic part.
        return placed(image, found, matrix, np.asarray(self.pose.start) + middle - matrix @ middle)

    def _copied(self, image: torch.Tensor, key: Hashable) -> torch.Tensor:
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        shape, start, size = plain.shape[1:], self.pose.start, self.patch_size
        inside = [slice(max(a, 0), min(a + n, whole)) for a, n, whole in zip(start, size, shape, strict=True)]
        patch = cropped(plain, [s.start for s in inside], [s.stop - s.start for s in inside])
        if tuple(patch.shape[1:]) != size:
            patch = self._padded(patch, plain, [s.start - a for s, a in zip(inside, start, strict=True)], key)
        matrix, origin = np.eye(len(size)), np.asarray(start, float)
        for axis in self.pose.flipped:
            matrix[axis, axis], origin[axis] = -1, start[axis] + size[axis] - 1
        if self.pose.flipped:
            patch = patch.flip([axis + 1 for axis in self.pose.flipped])
        # What is done to a patch in place is not done to the image, which a dataset may keep.
        if patch.untyped_storage().data_ptr() == plain.untyped_storage().data_ptr():
            patch = patch.clone(memory_format=torch.contiguous_format)
        return placed(image, patch, matrix, origin)

    def _padded(self, patch: torch.Tensor, image: torch.Tensor, before: Sequence[int], key: Hashable) -> torch.Tensor:
        for axis, (n, room) in enumerate(zip(self.patch_size, before, strict=True)):
            at = (torch.arange(n, device=patch.device) - room).clamp(0, patch.shape[axis + 1] - 1)
            outside = (torch.arange(n, device=patch.device) - room) != at
            patch = patch.index_select(axis + 1, at)
            if self.padding == "floor":
                fill = 0.0 if self.modes[key] == "nearest" else _floor(image)
                patch = patch.index_fill(axis + 1, outside.nonzero()[:, 0], fill)
        return patch


def _floor(image: torch.Tensor) -> float:
    return min(0.0, float(image.min()))


def _same_place(shape: Sequence[int], one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether no corner of an image is off by a tenth of a voxel: a mirrored label map is, rounding is not."""
    if one.shape != other.shape:
        return False
    rank = len(one) - 1
    ends = [(0, n - 1) for n in shape[:rank]] + [(0, 0)] * (rank - len(shape))
    corners = np.array([(*corner, 1) for corner in itertools.product(*ends)], float)
    first, second = (affine.detach().cpu().double().numpy() for affine in (one, other))
    apart = np.linalg.norm((corners @ (first - second).T)[:, :rank], axis=1).max()
    edges = np.linalg.norm(first[:rank, :rank], axis=0)[: len(shape)]
    return bool(apart <= SAME_PLACE * edges.min())


def _spacing(image: Any, ndim: int) -> np.ndarray:
    """Voxel sizes by the affine of a MetaTensor, else 1."""
    if not isinstance(image, MetaTensor):
        return np.ones(ndim)
    affine = image.affine.detach().cpu().double().numpy()[:ndim, :ndim]
    sizes = np.sqrt((affine**2).sum(axis=0))
    return sizes if len(sizes) == ndim and bool((sizes > 0).all()) else np.ones(ndim)
