"""Slices with a drawn core, as slabs in a volume: for a network of three axes, from pictures of two.

A *slab* is a slice of some millimetres in a volume that repeats it along the third axis: what a scan of thick slices
shows of one of them. Beyond the slab nothing is known, and the repeated picture is there so that the network, and the
normalisation, see a head and not a sheet in the air. The truth is not repeated: no tumour is a prism.

What is known inside a slab, given a mask of a tumour's *core* in T1 after contrast agent (its border as a reader drew
it, oedema left out):

- the core (TC) is the mask;
- the whole tumour (WT) contains the mask. Around it there may be oedema, which nobody drew: unknown within ``near_mm``,
  and none further away;
- the enhancing part (ET) lies in the core, so there is none outside the mask; which part of it enhances is unknown.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, MapTransform, Randomizable
from scipy.ndimage import distance_transform_edt

from neurobundle.augment.artefacts import check_range
from neurobundle.augment.deform import check_grid
from neurobundle.augment.online import NO_FOLD
from neurobundle.errors import InputError, SettingError
from neurobundle.load.datalist import fold_items
from neurobundle.prepare.channels import file_of
from neurobundle.prepare.label_regions import UNKNOWN
from neurobundle.prepare.slices import DISPLAY, slice_preprocessing

#: Regions in the order of their channels: whole tumour, core, enhancing part.
WHOLE, CORE, ENHANCING = 0, 1, 2


def slab_regions(mask: torch.Tensor, near: float) -> torch.Tensor:
    """What is known of the three regions in a slice.

    Args:
        mask: ``(i, j)`` boolean: the core.
        near: pixels around the core in which there may be oedema.

    Returns:
        ``(3, i, j)``: 1, 0, or below 0 where unknown.

    >>> slab_regions(torch.tensor([[False, True, False, False]]), near=1.0).int().tolist()
    [[[-1, 1, -1, 0]], [[0, 1, 0, 0]], [[0, -1, 0, 0]]]
    """
    regions = torch.zeros((3, *mask.shape))
    if not bool(mask.any()):
        return regions
    away = torch.from_numpy(distance_transform_edt(~mask.numpy()))
    regions[WHOLE][away <= near] = UNKNOWN
    regions[WHOLE][mask] = 1
    regions[CORE][mask] = 1
    regions[ENHANCING][mask] = UNKNOWN
    return regions


class RandSlabd(Randomizable, MapTransform):
    """A slice becomes a volume that repeats it, with known regions in a slab of it.

    The plane of such pictures is not known: it is drawn. The picture lies in it as a radiologist sees it.

    Args:
        keys: one key: a slice ``(1, column, row, 1)`` in display order, pixels of the volume's spacing.
        label_key: its mask, of the same shape, above 0 in the core; it becomes ``(3, i, j, k)``, WT, TC and ET.
        shape: voxels of the volume.
        spacing_mm: of its voxels, along R, A and S; one size for all.
        channels: of the volume.
        channel: which of them the slice is; the others are absent: 0.
        thick_mm: of the slab.
        near_mm: how far from a core oedema may reach.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for a setting that means nothing.
        InputError: for a picture of more than one slice or another shape than its mask's, or an empty mask; it names
            the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str = "label",
        shape: Sequence[int] = (96, 112, 96),
        spacing_mm: Sequence[float] = (2.0, 2.0, 2.0),
        channels: int = 4,
        channel: int = 1,
        thick_mm: float = 6.0,
        near_mm: float = 40.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise SettingError(f"keys are {self.keys!r}", "Give one key: that of the slice.")
        check_grid(shape, spacing_mm)
        if len(set(spacing_mm)) != 1:
            raise SettingError(f"spacing_mm is {list(spacing_mm)}", "Give one size along all axes.")
        if not 0 <= channel < channels:
            raise SettingError(f"channel is {channel} of {channels}", "Channels count from 0.")
        self.label_key, self.shape = label_key, tuple(int(n) for n in shape)
        self.channels, self.channel = channels, channel
        step = float(spacing_mm[0])
        self.step_mm = step
        self.thick = max(1, round(check_range("thick_mm", (0.0, thick_mm), 0)[1] / step))
        self.near = check_range("near_mm", (0.0, near_mm), 0)[1] / step
        self.stack = 2
        self.place: tuple[float, ...] = (0.5, 0.5, 0.5)

    def randomize(self, data: Any = None) -> None:
        """Draw the plane, and where the slab and the tumour lie: shares of the room that they have."""
        self.stack = int(self.R.randint(3))
        self.place = tuple(float(share) for share in self.R.random_sample(3))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """One slice, in an image and a label map of three axes."""
        result = dict(data)
        for key in self.key_iterator(result):
            picture, mask = (_plane(result[name]) for name in (key, self.label_key))
            if picture.shape != mask.shape or not bool((mask > 0).any()):
                cause = (
                    "its mask is empty" if picture.shape == mask.shape else f"its mask is {tuple(mask.shape)} pixels"
                )
                raise InputError(
                    f"the slice is {tuple(picture.shape)} pixels and {cause}",
                    "Give slices with a mask of the core, of one size; leave the others out of the datalist.",
                    file=file_of(result[self.label_key]),
                )
            self.randomize()
            result[key], result[self.label_key] = self._slab(picture, mask > 0)
        return result

    def _slab(self, picture: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # The axes of the display are in the order of RAS+, whatever the plane.
        (first, flip_first), (second, flip_second), _ = DISPLAY[self.stack]
        flips = [axis for axis, flip in ((0, flip_first), (1, flip_second)) if flip]
        plane, core = self._window(picture.flip(flips), mask.flip(flips), (self.shape[first], self.shape[second]))
        depth = self.shape[self.stack]
        # In the middle half, so that a crop of the volume still has it.
        start = depth // 4 + int(self.place[2] * max(1, depth // 2 - self.thick + 1))
        image = torch.zeros((self.channels, *self.shape))
        image[self.channel] = plane.unsqueeze(self.stack)
        label = torch.full((3, *self.shape), UNKNOWN)
        slab = label.narrow(1 + self.stack, start, min(self.thick, depth - start))
        slab.copy_(slab_regions(core, self.near).unsqueeze(1 + self.stack).expand_as(slab))
        affine = torch.diag(torch.tensor([*[self.step_mm] * 3, 1.0]))
        return MetaTensor(image, affine=affine), MetaTensor(label, affine=affine)

    def _window(
        self, plane: torch.Tensor, core: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A window of a slice with the core's middle in its middle half; beyond the slice the image is its edge."""
        middle = core.nonzero().float().mean(dim=0)
        at, there = [], []
        for axis, (n, share) in enumerate(zip(size, self.place[:2], strict=True)):
            whole = plane.shape[axis]
            start = round(float(middle[axis]) - n * (0.25 + 0.5 * share))
            # Not beyond the slice, unless it is smaller than the window: then it lies in the middle.
            start = min(max(start, 0), whole - n) if whole >= n else -((n - whole) // 2)
            places = torch.arange(start, start + n)
            at.append(places.clamp(0, whole - 1))
            there.append((places >= 0) & (places < whole))
        inside = there[0][:, None] & there[1]
        return plane[at[0]][:, at[1]].float(), core[at[0]][:, at[1]] & inside


class _RandPick(Randomizable):
    """Gives an item of a list, whatever it is called with: a group first, then one of it."""

    def __init__(self, groups: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        self.groups = groups

    def randomize(self, data: Any = None) -> None:
        self.which = (int(self.R.randint(len(self.groups))), float(self.R.random_sample()))

    def __call__(self, data: Any) -> dict[str, Any]:
        self.randomize()
        group = self.groups[self.which[0]]
        return dict(group[int(self.which[1] * len(group))])


def tumour_slabs(
    slices: str | Path | None,
    slabs: int,
    transform: Compose,
    key: str = "image",
    label_key: str = "label",
    spacing_mm: Sequence[float] = (2.0, 2.0, 2.0),
    dataset_dir: str | Path | None = None,
    fold: int = 0,
) -> Dataset:
    """A dataset of so many slabs an epoch: each time a person is drawn, then one of the person's slices.

    Args:
        slices: a datalist of slices (PNG, JPEG) with masks of the core, as that of the bundle
            ``tumor_slice_segmentation``. None for no slabs at all.
        slabs: items of the dataset.
        transform: begins with :class:`RandSlabd`.
        key: under which a slice is given to it.
        label_key: under which its mask is.
        spacing_mm: of the volume.
        dataset_dir: what the datalist's paths are relative to; its own folder if None.
        fold: persons of this fold give no slabs, so that they can be scored; -1 for none.

    Raises:
        SettingError: for a datalist that is none, an unknown fold, or one that holds out all.
        InputError: for a file that is missing.
    """
    if slices is None or not slabs:
        return Dataset([], transform)
    items = fold_items(slices, dataset_dir, fold, "train")
    unmasked = next((item for item in items if not isinstance(item.get("label"), str)), None)
    if unmasked is not None:
        raise SettingError("it has no mask", "Give slices with a mask each.", case=unmasked["case"], file=slices)
    if not items or slabs < 1:
        raise SettingError(f"no slab can be made: {slabs} of {len(items)} slices", "Give more slices.", file=slices)
    groups: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        kept = {key: item["image"], label_key: item["label"], "case": item["case"], "subject": item["subject"]}
        groups.setdefault(item["subject"], []).append({**kept, "fold": NO_FOLD})
    # All but the last step: the volume is normalised, not the slice.
    load = slice_preprocessing([key], [label_key], spacing_mm=float(spacing_mm[0])).transforms[:-1]
    return Dataset([{}] * slabs, Compose([_RandPick(list(groups.values())), *load, *transform.transforms]))


def _plane(volume: Any) -> torch.Tensor:
    tensor = torch.as_tensor(volume)
    values = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    if values.ndim != 4 or values.shape[0] != 1 or values.shape[-1] != 1:
        raise InputError(
            f"it is {tuple(values.shape)} and no single slice", "Give a picture in grey.", file=file_of(tensor)
        )
    return values[0, ..., 0]
