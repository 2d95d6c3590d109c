"""From a scan to slices as a radiologist looks at them, and back.

Each slice of a volume is an image of its own, in *display order*: the first axis runs along a row of the screen and the
second down it. An axial slice has the patient's left on the right of the screen and the back below; a coronal one the
left on the right and the feet below; a sagittal one the back on the right and the feet below. The *stack* is the third
axis: the one with the thickest voxels where one is clearly thicker, else up and down. Slices are resampled in
their own plane and never between each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Transform

from neurobundle.errors import SettingError
from neurobundle.geometry import voxel_sizes_mm
from neurobundle.load.names import is_picture_name
from neurobundle.prepare.channels import Region
from neurobundle.prepare.grid import Grid, Range, network_grid
from neurobundle.prepare.intensity import NormalizeForegroundd
from neurobundle.prepare.pipeline import _loaders
from neurobundle.prepare.space import ToNetworkGridd

#: For each axis of RAS+ that slices may be stacked along: which axes the display's are, and whether they run the
#: opposite way.
DISPLAY: dict[int, tuple[tuple[int, bool], ...]] = {
    2: ((0, True), (1, True), (2, False)),
    1: ((0, True), (2, True), (1, False)),
    0: ((1, True), (2, True), (0, False)),
}

#: Voxels so many times as long along one axis as along each other one are slices along it.
THICK = 1.5

#: Millimetres that a picture's longer side shows, where nobody says: an MRI of a head has 220 to 256.
FIELD_OF_VIEW_MM = 250.0


def stacked_along(affine: npt.ArrayLike) -> int:
    """The axis of RAS+ along which slices are stacked: 0 for sagittal, 1 for coronal, 2 for axial ones.

    >>> stacked_along(np.diag([1, 1, 1, 1])), stacked_along(np.diag([1, 5, 1, 1]))
    (2, 1)
    """
    matrix = np.asarray(affine, float)
    sizes = voxel_sizes_mm(matrix)
    thickest = int(np.argmax(sizes))
    # Sizes in headers are exact to about 1e-6, and exactly THICK is a usual protocol: it counts as thick.
    if sizes[thickest] < (THICK - 1e-3) * np.delete(sizes, thickest).max():
        return 2
    return int(np.argmax(np.abs(matrix[:3, thickest])))


def displayed(grid: Grid, stack: int) -> Grid:
    """A grid in RAS+ order with its axes in the order of the display.

    Args:
        grid: what :func:`neurobundle.prepare.grid.network_grid` gives.
        stack: 0, 1 or 2, as :func:`stacked_along` says it.
    """
    affine = np.eye(4)
    origin = grid.affine[:3, 3].copy()
    inside: list[Range] = []
    for new, (old, opposite) in enumerate(DISPLAY[stack]):
        n, column = grid.shape[old], grid.affine[:3, old]
        affine[:3, new] = -column if opposite else column
        origin += column * (n - 1) if opposite else 0.0
        first, stop = grid.inside[old] if grid.inside is not None else (0, n)
        inside.append((n - stop, n - first) if opposite else (first, stop))
    affine[:3, 3] = origin
    first, second, third = (grid.shape[old] for old, _ in DISPLAY[stack])
    return Grid((first, second, third), affine, (inside[0], inside[1], inside[2]))


class ToSlicesd(ToNetworkGridd):
    """Orient to display order and resample each slice in its plane, in one sampling.

    The inverse lands on the native grid.

    Args:
        keys: images and label maps, each ``(channel, i, j, k)`` with an affine.
        spacing_mm: edge of a pixel.
        mode: one for each key, or one for all: ``bilinear``, ``nearest`` or ``label``.
        field_of_view_mm: what the longer side of a PNG or JPEG shows, whose pixels have no size of their own.
        allow_missing_keys: as in MONAI.

    Raises:
        SettingError: for sizes that are not above 0, or an unknown mode.
        InputError: for a volume without voxels, or one that would be too large; it names the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing_mm: float = 1.0,
        mode: str | Sequence[str] = "bilinear",
        field_of_view_mm: float = FIELD_OF_VIEW_MM,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, (spacing_mm,) * 3, mode, allow_missing_keys=allow_missing_keys)
        if not field_of_view_mm > 0:
            raise SettingError(f"field_of_view_mm is {field_of_view_mm!r}", "A head's is about 250.")
        self.pixel_mm, self.field_of_view_mm = float(spacing_mm), float(field_of_view_mm)

    def grid(self, data: Mapping[Any, Any], first: MetaTensor) -> Grid:
        """The slices of one case.

        Args:
            data: the case.
            first: the volume whose grid counts.
        """
        affine = first.affine.numpy().astype(float)
        stack = stacked_along(affine)
        # The size of a voxel along the axis of RAS+ nearest to the stack stays.
        nearest = int(np.argmax(np.abs(affine[stack, :3])))
        pixel = self.pixel_mm
        if is_picture_name(str(first.meta.get("filename_or_obj", ""))):
            stated = max(n * size for n, size in zip(first.shape[1:3], voxel_sizes_mm(affine)[:2], strict=True))
            pixel *= float(stated) / self.field_of_view_mm
        spacing = [pixel] * 3
        spacing[stack] = float(voxel_sizes_mm(affine)[nearest])
        return displayed(network_grid(first.shape[1:], affine, spacing), stack)


def slice_preprocessing(
    image_keys: Sequence[str],
    label_keys: Sequence[str] = (),
    spacing_mm: float = 1.0,
    lower: float = 0.5,
    upper: float = 99.5,
    allow_empty: bool = False,
    region: Region = "head",
    field_of_view_mm: float = FIELD_OF_VIEW_MM,
) -> Compose:
    """Load a volume or a picture, bring its slices to display order and one pixel size, clip and z-score over a region.

    Args:
        image_keys: keys of the images; each is a file, or a list of files that become channels.
        label_keys: keys of the label maps; a pixel gets the label with the largest share.
        spacing_mm: edge of a pixel.
        lower: percentile to clip at from below.
        upper: percentile to clip at from above.
        allow_empty: let a channel without a signal pass.
        region: what percentiles, mean and spread are measured over, of all slices together.
        field_of_view_mm: what the longer side of a picture shows.

    Returns:
        A flat ``Compose``: images become ``(channel, column, row, slice)`` float32, label maps the same.
    """
    keys = [*image_keys, *label_keys]
    modes = ["bilinear"] * len(image_keys) + ["label"] * len(label_keys)
    steps: list[Transform] = [
        *_loaders(image_keys, label_keys, allow_empty, pictures=True),
        EnsureTyped(keys, dtype=torch.float32),
        ToSlicesd(keys, spacing_mm, modes, field_of_view_mm),
        NormalizeForegroundd(image_keys, lower, upper, region, allow_empty),
    ]
    return Compose(steps)
