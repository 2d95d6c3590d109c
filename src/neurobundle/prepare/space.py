"""From a scan's own grid to the network's in one sampling, and back.

Orientation, spacing, crop and padding are composed into one affine before a voxel is touched. Where the axes of two
grids are parallel, which :func:`~neurobundle.prepare.grid.network_grid` sees to, the sampling is *separable*: three
interpolations along one axis each; an axis on which voxels fall on voxels is sliced, flipped or permuted, and its
values are copied. Grids that are turned against each other, after a registration for instance, are sampled point by
point.

A place within half a voxel of the outermost centres, of the coarser one of the two grids' voxels, has the value of the
edge there; beyond is 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, ensure_tuple_rep

from neurobundle.errors import InputError, NeurobundleError, SettingError, closest
from neurobundle.geometry import same_grid, voxel_sizes_mm
from neurobundle.prepare.grid import Grid, Range, box_of, network_grid

#: How a voxel gets its value: linear interpolation, the nearest voxel, or the label with the largest share.
MODES = ("bilinear", "nearest", "label")
CROPS = ("none", "foreground", "mask")

#: A place that is off a voxel's centre by less, in voxels, lies on it: what float32 headers leave of a whole number.
ON_VOXEL = 1e-3
#: Of so many values, a picture's, all are gathered at once: a call of torch for each line takes longer.
_SMALL = 2**20
#: A mask that is off its image's grid by less, in voxels, crops the same box.
CROP_TOLERANCE = 0.1


class _Axis(NamedTuple):
    """Where the voxels of one axis of the new grid lie on one axis of the old: ``start + step * n``."""

    source: int
    start: float
    step: float


def sample(array: torch.Tensor, affine: npt.ArrayLike, grid: Grid, mode: str = "bilinear") -> torch.Tensor:
    """The values of an array at the voxels of another grid.

    Args:
        array: ``(channel, i, j, k)`` on any device; never changed, and no gradient goes back to it.
        affine: of the array.
        grid: of the result. Where it says which of its voxels are inside, all of these get a value.
        mode: ``bilinear`` (linear along each axis; the result is floating point), ``nearest`` or ``label`` (the label
            with the largest linear weight, the lower one of two alike); both keep the array's type.

    Returns:
        ``(channel, *grid.shape)``, 0 outside.

    Raises:
        SettingError: for an unknown mode.
    """
    if mode not in MODES:
        raise SettingError(f"mode must be one of {', '.join(MODES)}, got {mode!r}{closest(str(mode), MODES)}")
    if mode == "label":
        return _sample_labels(array, affine, grid)
    array = array.detach()
    if array.dtype == torch.bfloat16:  # which numpy lacks
        return sample(array.float(), affine, grid, mode).bfloat16()
    matrix = np.linalg.solve(np.asarray(affine, float), grid.affine)
    axes = _axes(matrix, grid.shape)
    if axes is None:
        return _sample_points(array, matrix, grid, mode)
    ranges = grid.inside or tuple(
        _reached(axis, n, array.shape[1 + axis.source]) for axis, n in zip(axes, grid.shape, strict=True)
    )
    places = [_places(axis, *r, array.shape[1 + axis.source]) for axis, r in zip(axes, ranges, strict=True)]
    if any(not len(place) for place in places):
        return array.new_zeros((array.shape[0], *grid.shape))
    values = _separable(array, axes, places, mode)
    return _placed(values, grid.shape, ranges)


def _axes(matrix: npt.NDArray[np.float64], shape: Sequence[int]) -> list[_Axis] | None:
    """Which old axis each new one runs along; None if the grids are turned against each other."""
    linear = matrix[:3, :3]
    source = np.abs(linear).argmax(axis=0)
    if len(set(source.tolist())) < 3:
        return None
    across = np.abs(linear) * (np.array(shape) - 1)
    across[source, np.arange(3)] = 0
    if across.sum(axis=1).max() > ON_VOXEL:
        return None
    return [_Axis(int(a), float(matrix[a, 3]), float(linear[a, n])) for n, a in enumerate(source)]


def _reached(axis: _Axis, n: int, size: int) -> Range:
    """The voxels of a new axis that lie within the old one, or within half a voxel of it."""
    reach = 0.5 * max(1, abs(axis.step)) + ON_VOXEL
    ends = sorted((edge - axis.start) / axis.step for edge in (-reach, size - 1 + reach))
    first, last = max(0, int(np.ceil(ends[0]))), min(n - 1, int(np.floor(ends[1])))
    return (first, last + 1) if last >= first else (0, 0)


def _places(axis: _Axis, first: int, stop: int, size: int) -> npt.NDArray[np.float64]:
    """Where new voxels lie on an old axis, within its ends; on whole numbers where all are nearly."""
    places = np.clip(axis.start + axis.step * np.arange(first, stop), 0, size - 1)
    whole = np.round(places)
    return whole if np.abs(places - whole).max(initial=0) <= ON_VOXEL else places


def _separable(
    array: torch.Tensor, axes: Sequence[_Axis], places: Sequence[npt.NDArray[np.float64]], mode: str
) -> torch.Tensor:
    """Copy along the axes where voxels fall on voxels, then interpolate, along the axis that shrinks most first."""
    values = array.permute(0, *(1 + axis.source for axis in axes))
    if mode == "nearest":
        places = [np.floor(place + 0.5).clip(max=n - 1) for place, n in zip(places, values.shape[1:], strict=True)]
    starts = [int(np.floor(place.min())) for place in places]
    for axis, (place, start) in enumerate(zip(places, starts, strict=True)):
        values = values.narrow(1 + axis, start, int(np.ceil(place.max())) - start + 1)
    between = [axis for axis in range(3) if (places[axis] % 1).any()]
    for axis in set(range(3)) - set(between):
        values = _copied(values, 1 + axis, places[axis] - starts[axis])
    if mode == "bilinear" and not values.is_floating_point():
        values = _empty(values[:0].float(), values.shape).copy_(values)
    if between:
        values = values.contiguous()
    for axis in sorted(between, key=lambda axis: len(places[axis]) / values.shape[1 + axis]):
        values = _interpolated(values, 1 + axis, places[axis] - starts[axis])
    # Slices of a whole array may not have been copied so far.
    shared = values.untyped_storage().data_ptr() == array.untyped_storage().data_ptr()
    return values.clone(memory_format=torch.contiguous_format) if shared else values.contiguous()


def _copied(values: torch.Tensor, dim: int, place: npt.NDArray[np.float64]) -> torch.Tensor:
    """The values at whole numbers along one axis; a view where they follow on each other."""
    steps = np.diff(place)
    if (steps == 1).all():
        return values.narrow(dim, int(place[0]), len(place))
    return values.flip(dim) if (steps == -1).all() else _taken(values, dim, place)


def _interpolated(values: torch.Tensor, dim: int, place: npt.NDArray[np.float64]) -> torch.Tensor:
    """Linear interpolation along one axis."""
    low = np.floor(place)
    weight = place - low
    high = np.minimum(low + 1, values.shape[dim] - 1)
    if dim == values.ndim - 1:
        share = torch.from_numpy(weight).to(values)
        return _taken(values, dim, low).lerp_(_taken(values, dim, high), share)
    if values.numel() <= _SMALL:
        share = torch.from_numpy(weight).to(values).reshape([-1 if axis == dim else 1 for axis in range(values.ndim)])
        return _taken(values, dim, low).lerp_(_taken(values, dim, high), share)
    # Plane by plane, two are read and one is written: twice as fast as gathering them all first.
    shape = list(values.shape)
    shape[dim] = len(place)
    result = _empty(values, shape)
    for n, (below, above, share) in enumerate(zip(low.astype(int), high.astype(int), weight.tolist(), strict=True)):
        torch.lerp(values.select(dim, below), values.select(dim, above), share, out=result.select(dim, n))
    return result


def _empty(like: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Memory of another tensor's type; on the CPU from numpy, which asks for huge pages where torch does not."""
    if like.device.type == "cpu":
        return torch.from_numpy(np.empty(shape, like[:0].detach().numpy().dtype))
    return like.new_empty(shape)


def _taken(values: torch.Tensor, dim: int, places: npt.NDArray[np.float64]) -> torch.Tensor:
    index = places.astype(np.int64)
    if values.device.type == "cpu":  # numpy's take is four times as fast as index_select along the last axis
        return torch.from_numpy(np.take(values.numpy(), index, axis=dim))
    return values.index_select(dim, torch.from_numpy(index).to(values.device))


def _placed(values: torch.Tensor, shape: Sequence[int], ranges: Sequence[Range]) -> torch.Tensor:
    if tuple(values.shape[1:]) == tuple(shape):
        return values
    padded = _empty(values, (values.shape[0], *shape)).zero_()
    padded[(slice(None), *(slice(*r) for r in ranges))] = values
    return padded


def _sample_points(array: torch.Tensor, matrix: npt.NDArray[np.float64], grid: Grid, mode: str) -> torch.Tensor:
    """Each voxel on its own, on the CPU."""
    from scipy import ndimage

    source = array.cpu()
    kind = source.dtype if source.is_floating_point() or mode == "nearest" else torch.float32
    if kind == torch.float16:  # which scipy lacks
        return _sample_points(array.float(), matrix, grid, mode).half()
    out = np.empty((len(source), *grid.shape), source.to(kind).numpy().dtype)
    for channel, values in zip(out, source.to(kind).numpy(), strict=True):
        ndimage.affine_transform(values, matrix, output=channel, order=int(mode == "bilinear"), mode="nearest")
    index = np.ogrid[tuple(slice(n) for n in grid.shape)]
    inside = np.ones(grid.shape, bool)
    for row, n in zip(matrix[:3], array.shape[1:], strict=True):
        place = sum((row[axis] * index[axis] for axis in range(3)), row[3])
        reach = 0.5 * max(1, np.abs(row[:3]).max()) + ON_VOXEL
        inside &= (place >= -reach) & (place <= n - 1 + reach)
    out[:, ~inside] = 0
    return torch.from_numpy(out).to(array.device)


def _sample_labels(array: torch.Tensor, affine: npt.ArrayLike, grid: Grid) -> torch.Tensor:
    """The label with the largest linear weight."""
    array = array.detach()
    best = torch.zeros((array.shape[0], *grid.shape), device=array.device)
    found = array.new_zeros(best.shape)
    for value in torch.unique(array).tolist():
        share = sample((array == value).float(), affine, grid, "bilinear")
        # Shares that differ by rounding alone are alike.
        found = torch.where(share > best + 1e-6, torch.full_like(found, value), found)
        best = torch.maximum(best, share)
    return found


class ToNetworkGridd(MapTransform, InvertibleTransform):
    """Orient to RAS+, resample, crop and pad in one sampling; the inverse lands on the native grid.

    The grid is made once, for the first key (or for ``crop_key``), and all keys are sampled on it, wherever they
    lie; so image and label of one case fit each other even where their files do not.

    Args:
        keys: images and label maps, each ``(channel, i, j, k)`` with an affine.
        spacing_mm: voxel sizes along R, A and S.
        mode: one for each key, or one for all: ``bilinear``, ``nearest`` or ``label``; see :func:`sample`.
        crop: ``none``, ``foreground`` (the voxels of ``crop_key`` above 0 in any channel) or ``mask`` (the same, said
            of a mask).
        crop_key: what is cropped to; the first key if None. A mask need not be among the keys.
        multiple_of: the shape is padded to a multiple of this.
        margin_mm: kept around the crop.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for an unknown mode or crop, a spacing that is none, or a ``crop_key`` that the case lacks.
        InputError: for a volume without voxels, one that would be too large, a mask on another grid, or if there is
            nothing to crop to; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: Sequence[float] = (1.0, 1.0, 1.0),
        mode: str | Sequence[str] = "bilinear",
        crop: str = "none",
        crop_key: str | None = None,
        multiple_of: int | Sequence[int] | None = None,
        margin_mm: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.modes = ensure_tuple_rep(mode, len(self.keys))
        for name, word, known in [("mode", word, MODES) for word in self.modes] + [("crop", crop, CROPS)]:
            if word not in known:
                raise SettingError(f"{name} must be one of {', '.join(known)}, got {word!r}{closest(str(word), known)}")
        if crop == "mask" and crop_key is None:
            raise SettingError("crop: mask wants crop_key", "Name the key of the mask.")
        network_grid((1, 1, 1), np.eye(4), spacing_mm, None, multiple_of, margin_mm)  # refuses settings at once
        self.spacing_mm, self.crop, self.crop_key = tuple(spacing_mm), crop, crop_key
        self.multiple_of, self.margin_mm = multiple_of, margin_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Sample the volumes of one case on one grid."""
        result = dict(data)
        first: MetaTensor | None = None
        for key, mode in self.key_iterator(result, self.modes):
            image = _as_meta(result[key])
            try:
                if image.ndim != 4:
                    raise InputError(f"it has the shape {tuple(image.shape)}, not (channel, i, j, k)", "Load it as 3D.")
                if not image.numel():
                    raise InputError(f"it has the shape {tuple(image.shape)}, without a voxel", "Export it again.")
                if first is None:
                    first, grid = image, self.grid(data, image)
                on = same_grid(image.shape[1:], image.affine, first.shape[1:], first.affine)
                # Which voxels are inside is known of the grid's own scan alone.
                result[key] = self._sampled(image, grid if on else grid._replace(inside=None), mode)
            except NeurobundleError as error:
                error.file = error.file or str(image.meta.get("filename_or_obj", ""))
                raise
        return result

    def grid(self, data: Mapping[Hashable, Any], first: MetaTensor) -> Grid:
        """The network grid of one case.

        Args:
            data: the case; it has ``crop_key`` where that is set.
            first: the volume whose grid counts.
        """
        box = None
        if self.crop != "none":
            of = self._cropped_to(data, first).detach().cpu()
            box = box_of((of.float() if of.dtype == torch.bfloat16 else of).numpy())
        affine = first.affine.numpy()
        return network_grid(first.shape[1:], affine, self.spacing_mm, box, self.multiple_of, self.margin_mm)

    def _cropped_to(self, data: Mapping[Hashable, Any], first: MetaTensor) -> torch.Tensor:
        if self.crop_key is None:
            return first.as_tensor()
        if self.crop_key not in data:
            raise SettingError(f"there is no {self.crop_key!r} to crop to", "Load it before, or name another crop_key.")
        of = data[self.crop_key]
        if of.shape[1:] != first.shape[1:]:
            raise InputError(
                f"what is cropped to has the shape {tuple(of.shape[1:])}, the image {tuple(first.shape[1:])}",
                "Make the mask again on the image's grid.",
            )
        near = CROP_TOLERANCE * float(voxel_sizes_mm(first.affine.numpy()).min())
        # An array without an affine is taken to lie on the image's grid.
        if isinstance(of, MetaTensor) and not same_grid(of.shape[1:], of.affine, first.shape[1:], first.affine, near):
            raise InputError(
                f"{self.crop_key!r}, which is cropped to, has the image's shape but another affine",
                "Resample the mask onto the image's grid, with the nearest neighbour.",
            )
        return torch.as_tensor(of)

    def _sampled(self, image: MetaTensor, grid: Grid, mode: str) -> MetaTensor:
        native = image.affine.numpy().astype(float)
        with_meta = MetaTensor(sample(image.as_tensor(), native, grid, mode)).copy_meta_from(image)
        with_meta.affine = torch.from_numpy(grid.affine.copy())
        record = {"mode": mode, "native_affine": native, "network_affine": grid.affine.copy()}
        self.push_transform(with_meta, orig_size=tuple(image.shape[1:]), extra_info=record)
        return with_meta

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Back to the native grid; 0 where the network grid does not reach."""
        result = dict(data)
        for key in self.key_iterator(result):
            applied = self.pop_transform(result[key])
            record, size = applied[TraceKeys.EXTRA_INFO], [int(n) for n in applied[TraceKeys.ORIG_SIZE]]
            native, network = (np.asarray(record[name], float) for name in ("native_affine", "network_affine"))
            target = Grid((size[0], size[1], size[2]), native)
            image = result[key]
            back = MetaTensor(sample(image.as_tensor(), network, target, record["mode"]))
            back = back.copy_meta_from(image)
            back.affine = torch.from_numpy(native.copy())
            result[key] = back
        return result


def _as_meta(image: Any) -> MetaTensor:
    return image if isinstance(image, MetaTensor) else MetaTensor(torch.as_tensor(image))
