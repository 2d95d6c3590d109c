"""From a whole head to two crops that a network knows, and back.

A *place* is a box of 1 mm voxels about one hippocampus: a grid (shape and affine) in the head's millimetres, turned
as the head is turned. A place is *mirrored* when its crop is flipped left to right before the network sees it, since
the network learned from one side only. *Left* and *right* are the person's, by the head's affine: left has the smaller
x. A crop is what lies in a place; *pasting back* puts a crop's labels on the head's own grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from neurobundle import geometry
from neurobundle.errors import InputError, SettingError
from neurobundle.prepare.itk_helpers import Grid
from neurobundle.prepare.register import Registration, register_head, resample

Side = Literal["left", "right"]

#: The middle of the left hippocampus in the template, mm; the right one's has the other sign of x. The middle of the
#: union of 28 hippocampi (14 label maps of SynthSeg's, registered): x 8 to 43, y -46 to 0, z -38 to 9.
LEFT_CENTRE_MM = (-26.0, -22.0, -15.0)
#: The crop's edges in voxels of 1 mm. The largest training crop is 43 x 59 x 47.
CROP_SHAPE = (48, 64, 48)

#: The least correlation of template and head in a fit that is believed. Measured: right fits .58 (a synthetic head
#: with skull) to .71, the template under affines .98; wrong fits and garbage with a whole brain in view at most .42.
SIMILARITY_MIN = 0.5
#: The least share of the template's brain inside the field of view. Measured: 1.00 in every right fit; a scan of which
#: the crown is cut off .97; a head cut in half at most .63.
COVERAGE_MIN = 0.85
#: A head's size relative to the template's, along any direction. Measured: .80 to 1.03 on 16 heads; the random affines
#: of the tests reach .85 to 1.14; some garbage fits at .15 to .67 in one direction (noise .27).
SIZE_RANGE = (0.65, 1.4)

#: The training crops are 24 to 59 mm long: what is no longer than this along every axis is a crop.
CROP_EXTENT_MAX_MM = 80.0
#: A brain is longer than this along every axis, and so is a scan that covers it: the thinnest at hand, of which the
#: crown is cut off, is 117 mm high.
HEAD_EXTENT_MIN_MM = 100.0

#: What the network's labels become on a head's grid.
HEAD_LABELS: dict[Side, dict[int, int]] = {"left": {1: 1, 2: 2}, "right": {1: 3, 2: 4}}


class PlaceError(InputError):
    """A head in which the hippocampi could not be found with certainty.

    Attributes:
        places: where they would be, for a picture; empty if there is no guess at all.
        registration: the fit that is not believed; None if it was what lies in the places.
    """

    def __init__(self, cause: str, places: Sequence[Place], registration: Registration | None = None) -> None:
        self.places = list(places)
        self.registration = registration
        super().__init__(
            cause,
            "Look at the picture; give a T1 scan of the whole head, better without its skull, or a crop of about "
            "4 cm around one hippocampus with --input crop.",
        )


class Place(NamedTuple):
    """A box about one hippocampus.

    Attributes:
        side: the person's side.
        shape: the crop's voxels.
        affine: (4, 4), crop voxel (before mirroring) -> the head's mm, RAS+.
        mirrored: whether the crop is flipped along its first axis before the network sees it.
    """

    side: Side
    shape: tuple[int, int, int]
    affine: geometry.Array
    mirrored: bool

    @property
    def centre_mm(self) -> geometry.Array:
        """The box's middle, mm."""
        return geometry.centre_mm(self.shape, self.affine)


class TemplateLocator:
    """Finds both hippocampi by registering a template.

    Args:
        mirror: the side whose crop is flipped left to right, or None. The training crops look like one side only:
            as the head lies, a network trained on them is surest on the template's left one.
        shape: the crop's voxels, of 1 mm.
        turn: ``head`` turns the box as the head is turned, so that a tilted head gives an upright crop; ``scanner``
            keeps the box along the scanner's axes.

    Raises:
        SettingError: if a setting is none of these.
    """

    def __init__(
        self,
        mirror: Side | None = "right",
        shape: Sequence[int] = CROP_SHAPE,
        turn: Literal["head", "scanner"] = "head",
    ) -> None:
        if mirror not in ("left", "right", None):
            raise SettingError(f"mirror must be 'left', 'right' or None, got {mirror!r}")
        if turn not in ("head", "scanner"):
            raise SettingError(f"turn must be 'head' or 'scanner', got {turn!r}")
        if len(shape) != 3 or min(shape) < 1:
            raise SettingError(f"shape must be three numbers of voxels, got {tuple(shape)}")
        self.mirror = mirror
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.turn = turn

    def locate(self, image: npt.NDArray[Any], affine: npt.ArrayLike) -> list[Place]:
        """The places of the left and the right hippocampus, in this order.

        Args:
            image: (i, j, k), a T1 scan of a whole head, any orientation and intensity scale.
            affine: (4, 4), RAS+ mm.

        Raises:
            PlaceError: if the fit is unsure.
            InputError: if the image is empty or not 3D.
            MissingPackageError: if nilearn is not installed.
        """
        registration = register_head(image, affine)
        places = self.places(registration)
        check_place(registration, places, image.shape, affine)
        return places

    def places(self, registration: Registration) -> list[Place]:
        """The two places that a registration gives, unchecked."""
        rotation = geometry.rotation_of(registration.matrix) if self.turn == "head" else np.eye(3)
        places = []
        sides: tuple[tuple[Side, float], ...] = (("left", 1.0), ("right", -1.0))
        for side, sign in sides:
            centre = geometry.apply(registration.matrix, np.array(LEFT_CENTRE_MM) * (sign, 1.0, 1.0))
            box = geometry.grid_about(centre, rotation, self.shape)
            places.append(Place(side, self.shape, box, mirrored=side == self.mirror))
        return places


def check_place(
    registration: Registration, places: Sequence[Place], shape: Sequence[int], affine: npt.ArrayLike
) -> None:
    """Refuse a fit that is not to be believed.

    Raises:
        PlaceError: naming the figure that is out of its range.
    """
    smallest, _, largest = registration.sizes
    causes = []
    if registration.similarity < SIMILARITY_MIN:
        causes.append(f"the head agrees with the template to {registration.similarity:.2f}, below {SIMILARITY_MIN}")
    if registration.coverage < COVERAGE_MIN:
        causes.append(f"only {registration.coverage:.0%} of a brain lies inside the image, below {COVERAGE_MIN:.0%}")
    if smallest < SIZE_RANGE[0] or largest > SIZE_RANGE[1]:
        causes.append(f"the head would be {smallest:.2f} to {largest:.2f} times the template's size")
    causes += [f"the {p.side} hippocampus would lie outside the image" for p in places if not _inside(p, shape, affine)]
    if causes:
        raise PlaceError("the hippocampi were not found with certainty: " + "; ".join(causes), places, registration)


def _inside(place: Place, shape: Sequence[int], affine: npt.ArrayLike) -> bool:
    """Whether the inner three quarters of the box, which hold the hippocampus, lie within a grid."""
    inner = place.centre_mm + (geometry.corners_mm(place.shape, place.affine) - place.centre_mm) * 0.75
    voxels = geometry.apply(np.linalg.inv(np.asarray(affine, float)), inner)
    return bool(((voxels >= -0.5) & (voxels <= np.asarray(shape) - 0.5)).all())


def crop_to(image: npt.NDArray[Any], affine: npt.ArrayLike, place: Place, order: int = 3) -> npt.NDArray[np.float32]:
    """What lies in a place, flipped if the place is mirrored.

    Args:
        image: (i, j, k).
        affine: (4, 4), RAS+ mm.
        place: the box.
        order: of the spline; cubic keeps edges as sharp as the training crops'.

    Returns:
        ``place.shape``, float32; 0 outside the image; never beyond the range of the values around it.
    """
    part = _part_about(Grid(np.nan_to_num(np.asarray(image, np.float32)), np.asarray(affine, float)), place)
    if min(part.array.shape) == 0:
        return np.zeros(place.shape, np.float32)
    crop = np.clip(resample(part, place.shape, place.affine, order).array, part.array.min(), part.array.max())
    return crop[::-1].copy() if place.mirrored else crop


def _part_about(image: Grid, place: Place, margin_voxels: int = 12) -> Grid:
    """The part of an image that a place needs; a cubic spline's reach fades within 12 voxels."""
    low, high = _voxel_range(image.array.shape, image.affine, place, margin_voxels)
    affine = image.affine.copy()
    affine[:3, 3] = geometry.apply(image.affine, low)
    return Grid(image.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], affine)


def _voxel_range(
    shape: Sequence[int], affine: npt.ArrayLike, place: Place, margin: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and one-past-last voxel, (3,) each, of a grid's part that holds a place; empty where they do not meet."""
    onto = np.linalg.inv(np.asarray(affine, float)) @ place.affine
    voxels = geometry.apply(onto, geometry.corners(place.shape))
    low = np.clip(np.floor(voxels.min(axis=0)).astype(np.int64) - margin, 0, np.asarray(shape[:3]))
    high = np.clip(np.ceil(voxels.max(axis=0)).astype(np.int64) + margin + 1, 0, np.asarray(shape[:3]))
    return low, np.maximum(low, high)


def paste_back(
    labels: npt.NDArray[Any],
    place: Place,
    native_shape: Sequence[int],
    native_affine: npt.ArrayLike,
    onto: npt.NDArray[np.uint8] | None = None,
) -> npt.NDArray[np.uint8]:
    """A crop's labels on the head's own grid.

    Each label's share of each native voxel is found by linear interpolation at points at most 1 mm apart, averaged
    over the voxel; the label with the largest share wins, the lower one in a tie. Where the grids are the same, the
    labels come back as they are.

    Args:
        labels: ``place.shape`` with values 0, 1, 2; or (3, *place.shape), the labels' probabilities.
        place: where the crop was taken.
        native_shape: the head's voxels.
        native_affine: (4, 4), RAS+ mm.
        onto: the other side's result, to add to; where both have a label the other side's stays.

    Returns:
        ``native_shape``, uint8, in the values of :data:`HEAD_LABELS`.

    Raises:
        ValueError: if the labels do not have the place's shape.
    """
    shares = np.stack([labels == value for value in range(3)]) if labels.ndim == 3 else labels
    if shares.shape != (3, *place.shape):
        raise ValueError(f"labels must have the place's shape {place.shape}, got {labels.shape}")
    shares = shares[:, ::-1] if place.mirrored else shares
    out = np.zeros(tuple(native_shape[:3]), np.uint8) if onto is None else onto.copy()
    low, high = _voxel_range(native_shape, native_affine, place, margin=1)
    if (high <= low).any():
        return out
    part = np.asarray(native_affine, float).copy()
    part[:3, 3] = geometry.apply(native_affine, low)
    winner = _shares_on(shares.astype(np.float32), place.affine, (high - low).tolist(), part).argmax(axis=0)
    values = np.array([0, *HEAD_LABELS[place.side].values()], np.uint8)[winner]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    out[box] = np.where(out[box] == 0, values, out[box])
    return out


def _shares_on(
    shares: npt.NDArray[np.float32], from_affine: geometry.Array, shape: Sequence[int], affine: geometry.Array
) -> npt.NDArray[np.float32]:
    """Each label's share of each voxel of a grid, (3, *shape); outside the crop all is background."""
    steps = [max(1, int(np.ceil(size - 0.01))) for size in geometry.voxel_sizes_mm(affine)]
    offsets = [[(n + 0.5) / count - 0.5 for n in range(count)] for count in steps]
    total = np.zeros((len(shares), *shape), np.float32)
    points = list(itertools.product(*offsets))
    for point in points:
        moved = affine.copy()
        moved[:3, 3] = geometry.apply(affine, point)
        for label in range(1, len(shares)):
            total[label] += resample(Grid(shares[label], from_affine), shape, moved).array
    total /= len(points)
    total[0] = 1 - total[1:].sum(axis=0)
    return np.round(total, 5)


def place_outline(places: Sequence[Place], shape: Sequence[int], affine: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """The boxes as a label map on the head's grid, for a picture: 0 outside, 1 left box, 2 right box; filled."""
    mask = np.zeros(tuple(shape[:3]), np.uint8)
    for place in places:
        low, high = _voxel_range(shape, affine, place, margin=1)
        index = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1)
        voxels = geometry.apply(np.linalg.inv(place.affine) @ np.asarray(affine, float), index)
        within = ((voxels >= -0.5) & (voxels <= np.asarray(place.shape) - 0.5)).all(axis=-1)
        box = mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        box[within] = 1 if place.side == "left" else 2
    return mask


def kind_of_input(shape: Sequence[int], affine: npt.ArrayLike) -> Literal["crop", "head", "unsure"]:
    """Whether an image is a crop or a whole head, by its extents.

    >>> kind_of_input((35, 50, 36), np.eye(4)), kind_of_input((182, 218, 182), np.eye(4))
    ('crop', 'head')
    >>> kind_of_input((90, 90, 90), np.eye(4))
    'unsure'
    """
    extents = geometry.extents_mm(shape, affine)
    if extents.max() <= CROP_EXTENT_MAX_MM:
        return "crop"
    return "head" if extents.min() >= HEAD_EXTENT_MIN_MM else "unsure"


def looks_like_crop(shape: Sequence[int], affine: npt.ArrayLike) -> bool:
    """True for a crop, False for a whole head.

    Raises:
        InputError: if the extents fit neither.

    >>> looks_like_crop((35, 50, 36), np.eye(4))
    True
    """
    kind = kind_of_input(shape, affine)
    if kind == "unsure":
        size = " x ".join(f"{extent:.0f}" for extent in geometry.extents_mm(shape, affine))
        raise InputError(
            f"an image of {size} mm is neither a crop (at most {CROP_EXTENT_MAX_MM:.0f} mm along each axis) "
            f"nor a head (at least {HEAD_EXTENT_MIN_MM:.0f} mm)",
            "Say which with --input crop or --input head.",
        )
    return kind == "crop"
