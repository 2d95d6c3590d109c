"""Pictures of a result: three planes, with the outline of each structure over the image.

Slices are shown in *radiological display order*: the patient's right is on the left of the picture, anterior and
superior are up; a sagittal slice looks to the left of the picture. Letters at the border say so.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from neurobundle.files import write_atomic

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")

#: The array axis that a plane cuts, and the letters at the left, right, top and bottom of its picture.
AXIS: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}
LETTERS: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}

Colour = tuple[int, int, int]

#: Outline colours by label value, told apart by people who cannot tell red from green (Okabe & Ito 2008).
COLOURS: tuple[Colour, ...] = ((230, 159, 0), (86, 180, 233), (204, 121, 167), (0, 158, 115))

WHITE: Colour = (255, 255, 255)

#: Pixels of a panel's longer side.
PANEL_PIXELS = 320
#: Z_RLE of zlib.h, made for PNG: as small as level 4 for filtered pixels, in two thirds of the time.
RUN_LENGTHS = 3
#: How much of the picture a map covers where it is strongest.
HEAT_OPACITY = 0.7
#: Grey values are stretched between these percentiles of the image.
WINDOW_PERCENTILES = (1.0, 99.5)


@dataclass(frozen=True)
class View:
    """An image and its label map in RAS+ order, ready to be cut into slices."""

    image: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, image: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> View:
        """Turn an image and a label map of one grid into RAS+ order.

        Args:
            image: ``(i, j, k)``.
            labels: whole numbers of the same shape.
            affine: 4 x 4, voxel index to RAS+ millimetres.
        """
        turned = [
            nib.as_closest_canonical(nib.Nifti1Image(np.asarray(array, dtype=np.float32), affine))
            for array in (image, labels)
        ]
        i, j, k = (float(size) for size in nib.affines.voxel_sizes(turned[0].affine))
        first, second = (np.asarray(item.dataobj) for item in turned)
        return cls(first, np.rint(second).astype(np.int16), (i, j, k))

    def centre(self) -> tuple[int, int, int]:
        """The voxel in the middle of all structures, or of the image if there is none.

        Where the middle plane of an axis shows no structure (between the two sides of a head), the plane that shows
        the most is taken.
        """
        where = np.argwhere(self.labels > 0)
        if not len(where):
            i, j, k = (size // 2 for size in self.image.shape)
            return i, j, k
        i, j, k = (_middle(where[:, axis]) for axis in range(3))
        return i, j, k

    def zoom(self, margin_mm: float) -> View:
        """The same, cut to the box of all structures and a margin around it."""
        where = np.argwhere(self.labels > 0)
        if not len(where):
            return self
        margin = np.ceil(margin_mm / np.array(self.spacing_mm)).astype(int)
        low = np.maximum(where.min(axis=0) - margin, 0)
        high = np.minimum(where.max(axis=0) + margin + 1, self.image.shape)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        return View(self.image[box], self.labels[box], self.spacing_mm)


def _middle(indices: np.ndarray) -> int:
    middle = round(float(indices.mean()))
    return middle if (indices == middle).any() else int(np.bincount(indices).argmax())


def three_planes(
    view: View, title: str = "", at: Sequence[int] | None = None, legend: Mapping[int, str] | None = None
) -> Image.Image:
    """Axial, coronal and sagittal slices side by side, outlines over the image; of one slice, itself.

    Args:
        view: what to show.
        title: a line above the panels.
        at: the RAS+ voxel that the planes go through; the structures' centre if None.
        legend: names of label values, written in their colours; those that the view does not have are left out.
    """
    point = tuple(at) if at is not None else view.centre()
    low, high = np.percentile(view.image, WINDOW_PERCENTILES)
    # A single slice has one plane to look at; the others are lines.
    planes = [plane for plane in PLANES if view.image.shape[AXIS[plane]] == 1] or PLANES
    panels = [_panel(view, plane, point[AXIS[plane]], float(low), float(high)) for plane in planes]
    present = set(np.unique(view.labels).tolist())
    words = [(name, colour_of(value)) for value, name in (legend or {}).items() if value in present]
    return _row(panels, [(title, WHITE), *words] if title else words)


def with_heat(image: np.ndarray, heat: np.ndarray, title: str = "", pixels: int = PANEL_PIXELS) -> Image.Image:
    """A slice, and beside it the same slice under a map of what spoke for its answer.

    Args:
        image: ``(column, row)`` in display order.
        heat: of the same shape, in [0, 1]; nothing is drawn where it is 0.
        title: a line above the panels.
        pixels: of a panel's side.
    """
    low, high = np.percentile(image, WINDOW_PERCENTILES)
    plain = np.repeat(grey_levels(image, float(low), float(high)).T[..., None], 3, axis=2)
    share = HEAT_OPACITY * np.asarray(heat, float).T[..., None]
    warm = (1 - share) * plain + share * np.array(COLOURS[0], float)
    panels = [_square(np.rint(colours).astype(np.uint8), pixels) for colours in (plain, warm)]
    return _row(panels, [(title, WHITE)] if title else [])


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures below one another."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _square(colours: np.ndarray, side: int) -> Image.Image:
    """An RGB slice ``(row, column, 3)`` as a panel, in its own proportions."""
    height, width = colours.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return _centred(Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC), side)


def _centred(picture: Image.Image, side: int) -> Image.Image:
    """In the middle of a black panel."""
    canvas = Image.new("RGB", (side, side))
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def png_bytes(picture: Image.Image) -> bytes:
    """A picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=False, compress_level=1, compress_type=RUN_LENGTHS)
    return buffer.getvalue()


def save_png(path: Path, picture: Image.Image) -> Path:
    """Write a picture atomically."""
    return write_atomic(path, png_bytes(picture))


def _panel(view: View, plane: Plane, index: int, low: float, high: float) -> Image.Image:
    axis = AXIS[plane]
    index = min(max(index, 0), view.image.shape[axis] - 1)
    across, up = (n for n in range(3) if n != axis)
    size_mm = [view.image.shape[n] * view.spacing_mm[n] for n in (across, up)]
    width, height = (max(1, round(PANEL_PIXELS * mm / max(size_mm))) for mm in size_mm)
    grey = display(view.image, axis, index)
    levels = grey_levels(grey, low, high).astype(np.uint8)
    picture = Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    draw_outlines(picture, display(view.labels, axis, index))
    canvas = _centred(picture, PANEL_PIXELS)
    draw_letters(canvas, LETTERS[plane])
    return canvas


def grey_levels(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as shades from 0 (``low`` and below) to 255 (``high`` and above), not rounded."""
    levels: np.ndarray = np.clip((image - low) / max(high - low, 1e-6), 0, 1) * 255
    return levels


def display(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice as rows from top to bottom and columns from left to right; both RAS+ axes are shown reversed."""
    return array.take(index, axis=axis).T[::-1, ::-1]


def draw_outlines(picture: Image.Image, labels: np.ndarray) -> None:
    """Draw the border of each label into a picture, inside the label and two pixels wide.

    Args:
        picture: RGB, of any size; changed.
        labels: the slice's label map ``(row, column)``, enlarged to the picture without smoothing.
    """
    pixels = np.asarray(picture).copy()
    enlarged = Image.fromarray(labels.astype(np.int32)).resize(picture.size, Image.Resampling.NEAREST)
    shown = np.asarray(enlarged)
    for value in np.unique(shown[shown > 0]):
        mask = shown == value
        edge = mask & ~ndimage.binary_erosion(mask, iterations=2, border_value=1)
        pixels[edge] = colour_of(int(value))
    picture.paste(Image.fromarray(pixels))


def colour_of(value: int) -> Colour:
    """The outline's colour of a label value; after the last one they begin again."""
    return COLOURS[(value - 1) % len(COLOURS)]


def draw_letters(canvas: Image.Image, letters: str, pixels: float | None = None) -> None:
    """Write the directions at the left, right, top and bottom border of a panel; it is changed.

    Args:
        canvas: the panel.
        letters: four, in this order.
        pixels: their size; Pillow's own if None.
    """
    draw = ImageDraw.Draw(canvas)
    x, y, right, bottom = canvas.width // 2, canvas.height // 2, canvas.width - 4, canvas.height - 4
    spots = ((4, y, "lm"), (right, y, "rm"), (x, 4, "mt"), (x, bottom, "mb"))
    for (left, top, anchor), letter in zip(spots, letters, strict=True):
        draw.text(
            (left, top),
            letter,
            fill=WHITE,
            anchor=anchor,
            stroke_width=1,
            stroke_fill=(0, 0, 0),
            font_size=pixels,
        )


def _row(panels: Sequence[Image.Image], words: Sequence[tuple[str, Colour]]) -> Image.Image:
    top = 22 if words else 0
    side = panels[0].width
    sheet = Image.new("RGB", (side * len(panels), side + top))
    for n, panel in enumerate(panels):
        sheet.paste(panel, (n * side, top))
    draw, left = ImageDraw.Draw(sheet), 6.0
    for word, colour in words:
        draw.text((left, 5), word, fill=colour)
        left += draw.textlength(word) + 18
    return sheet
