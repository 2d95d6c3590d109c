"""Pictures of two label maps of one case: an image, a *reference*, a *prediction*, and where they differ.

A *row* is four panels of one slice: the image; the outline of the reference over it; the outline of the prediction; and
the *error* over the darkened image. A voxel in error is *missed* (in a structure of the reference only), *false* (in a
structure of the prediction only) or has the *wrong label* (in a structure of both, but not the same). Slices are shown
in radiological display order, as in :mod:`neurobundle.export.pictures`.

A flat case is a picture ``(row, column)`` without an affine, shown as it is, or a grid of one slice, shown in its
plane.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw, features

from neurobundle.export.pictures import (
    AXIS,
    LETTERS,
    PLANES,
    WHITE,
    WINDOW_PERCENTILES,
    Colour,
    Plane,
    display,
    draw_letters,
    draw_outlines,
    stack,
)

#: Colours of the error, told apart by people who cannot tell red from green (after Okabe & Ito 2008), and none of them
#: an outline's.
MISSED: Colour = (240, 228, 66)
FALSE: Colour = (64, 128, 255)
WRONG_LABEL: Colour = (240, 80, 20)

#: Pixels of a panel's longer side; in a report they are many, and each byte counts.
PANEL_PIXELS = 240
REPORT_PIXELS = 208
#: Millimetres of image around all structures in a close-up.
MARGIN_MM = 20.0
#: Of 0 to 100; 66 leaves outlines of two pixels sharp.
QUALITY = 66
#: How much of its brightness an image keeps under its errors.
DARKENED = 0.5
#: Brightness, 0 to 1, of what is shown where there is no image.
NO_IMAGE = 0.35
#: An image's grey window is taken from about this many of its voxels.
WINDOW_VOXELS = 200_000

_TEXT_PIXELS = 14
_HEADER_PIXELS = 20
_GAP_PIXELS = 2


@dataclass(frozen=True)
class CasePictures:
    """The pictures of one case, encoded.

    Attributes:
        row: one row of panels, with the whole slice.
        planes: a row for each plane, close to the structures; of a flat case the same as ``row``.
        alt: what both show, for those who cannot see them.
    """

    row: bytes
    planes: bytes
    alt: str


def comparison_row(
    image: np.ndarray | None,
    reference: np.ndarray,
    prediction: np.ndarray,
    affine: np.ndarray | None,
    plane: Plane = "axial",
    at: int | None = None,
    panel_pixels: int = PANEL_PIXELS,
) -> Image.Image:
    """Four panels of one slice side by side: image, reference, prediction, error.

    Args:
        image: ``(i, j, k)`` or ``(i, j)``, or ``(row, column)`` without an affine; None shows grey around the
            structures.
        reference: label map of the same shape.
        prediction: label map of the same shape.
        affine: 4 x 4, voxel index to RAS+ millimetres; None for a picture, or for a volume that is taken as RAS+.
        plane: which way to cut a volume; a flat case is shown in its own plane.
        at: the slice, counted along the plane's RAS+ axis; the one with most voxels in error if None, or where the
            structures are largest if there is no error.
        panel_pixels: of a panel's longer side.
    """
    case = _Comparison.of(image, reference, prediction, affine)
    return _row(case, case.planes[0] if case.flat else plane, at, panel_pixels)


def case_pictures(
    image: np.ndarray | None, reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray | None
) -> CasePictures:
    """The pictures of one case for a report, the same bytes for the same input.

    Args:
        image: see :func:`comparison_row`.
        reference: label map of the same shape.
        prediction: label map of the same shape.
        affine: 4 x 4, or None.

    Returns:
        A row through the slice with most voxels in error, and rows of the three planes close to the structures, each
        through the slice of its plane with most error.
    """
    case = _Comparison.of(image, reference, prediction, affine)
    first = case.planes[0] if case.flat else "axial"
    row = encoded(_row(case, first, None, REPORT_PIXELS))
    if case.flat:
        return CasePictures(row, row, _described(case))
    near = case.zoom(MARGIN_MM)
    rows = [_row(near, plane, None, REPORT_PIXELS, named=True) for plane in PLANES]
    return CasePictures(row, encoded(stack(rows)), _described(case))


def encoded(picture: Image.Image) -> bytes:
    """A picture as lossy WebP, or as JPEG where Pillow was built without WebP."""
    buffer = io.BytesIO()
    if features.check("webp"):
        picture.save(buffer, format="WEBP", quality=QUALITY, method=2)
    else:
        picture.save(buffer, format="JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Comparison:
    """An image and two label maps in RAS+ order, with the planes that they can be cut in."""

    image: np.ndarray | None
    reference: np.ndarray
    prediction: np.ndarray
    spacing_mm: tuple[float, ...]
    oriented: bool
    window: tuple[float, float]

    @classmethod
    def of(
        cls, image: np.ndarray | None, reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray | None
    ) -> _Comparison:
        matrix = np.eye(4) if affine is None else np.asarray(affine, float)
        if affine is None and reference.ndim == 2:
            matrix = _PICTURE_TO_RAS
        turn = nib.io_orientation(matrix)
        sizes = np.empty(3)
        sizes[turn[:, 0].astype(int)] = nib.affines.voxel_sizes(matrix)

        def turned(array: np.ndarray) -> np.ndarray:
            return np.asarray(nib.apply_orientation(np.atleast_3d(array), turn))

        shown = None if image is None else turned(image)
        case = cls(
            shown, turned(reference), turned(prediction), tuple(sizes.tolist()), affine is not None, _window(shown)
        )
        return case if shown is not None else case.zoom(MARGIN_MM)

    @property
    def planes(self) -> tuple[Plane, ...]:
        """All three, or the one that a single slice lies in."""
        thin = [plane for plane in PLANES if self.reference.shape[AXIS[plane]] == 1]
        return (thin[0],) if thin else PLANES

    @property
    def flat(self) -> bool:
        """Whether there is one slice only."""
        return len(self.planes) == 1

    def zoom(self, margin_mm: float) -> _Comparison:
        """The same, cut to the box of the structures of both and a margin around it."""
        union = (self.reference > 0) | (self.prediction > 0)
        box = []
        for axis in range(3):
            where = np.flatnonzero(union.any(axis=tuple(n for n in range(3) if n != axis)))
            if not len(where):
                return self
            margin = int(np.ceil(margin_mm / self.spacing_mm[axis]))
            box.append(slice(max(where[0] - margin, 0), where[-1] + margin + 1))
        cut = tuple(box)
        image = None if self.image is None else self.image[cut]
        return _Comparison(
            image, self.reference[cut], self.prediction[cut], self.spacing_mm, self.oriented, self.window
        )

    def slice_to_show(self, plane: Plane) -> int:
        """The slice with most voxels in error; without error where the structures are largest; else the middle one."""
        others = tuple(n for n in range(3) if n != AXIS[plane])
        for counted in (self.reference != self.prediction, self.reference > 0):
            counts = np.count_nonzero(counted, axis=others)
            if counts.any():
                return int(counts.argmax())
        return self.reference.shape[AXIS[plane]] // 2


#: A picture's rows run down and its columns to the right; the display puts anterior up and the patient's right at the
#: left, so that (row, column) taken as running to posterior and to the left is shown as it is.
_PICTURE_TO_RAS = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _window(image: np.ndarray | None) -> tuple[float, float]:
    """What is shown as black and as white."""
    if image is None:
        return 0.0, 1.0
    step = max(1, round((image.size / WINDOW_VOXELS) ** (1 / 3)))
    voxels = image[tuple(slice(None, None, min(step, size)) for size in image.shape)]
    voxels = voxels[np.isfinite(voxels)]
    low, high = np.percentile(voxels, WINDOW_PERCENTILES) if voxels.size else (0.0, 1.0)
    return float(low), float(high)


def _row(case: _Comparison, plane: Plane, at: int | None, panel_pixels: int, named: bool = False) -> Image.Image:
    axis = AXIS[plane]
    index = case.slice_to_show(plane) if at is None else min(max(at, 0), case.reference.shape[axis] - 1)
    reference, prediction = (display(array, axis, index) for array in (case.reference, case.prediction))
    image = _grey(case, axis, index, panel_pixels)
    panels = [image.copy() for _ in range(3)]
    draw_outlines(panels[1], reference)
    draw_outlines(panels[2], prediction)
    panels.append(_error(image, reference, prediction))
    wide = [_centred(panel, panel_pixels) for panel in panels]
    if case.oriented:
        draw_letters(wide[0], LETTERS[plane], _TEXT_PIXELS)
    words: list[list[tuple[str, Colour]]] = [[(text, WHITE)] for text in ("image", "reference", "prediction")]
    if named:
        words[0] = [(f"{plane} slice", WHITE)]
    return _with_header(wide, [*words, [("missed", MISSED), ("false", FALSE), ("wrong label", WRONG_LABEL)]])


def _grey(case: _Comparison, axis: int, index: int, panel_pixels: int) -> Image.Image:
    """The slice of the image, its longer side as asked for."""
    across, up = (n for n in range(3) if n != axis)
    size_mm = [case.reference.shape[n] * case.spacing_mm[n] for n in (across, up)]
    width, height = (max(1, round(panel_pixels * mm / max(size_mm))) for mm in size_mm)
    if case.image is None:
        return Image.new("RGB", (width, height), (round(255 * NO_IMAGE),) * 3)
    low, high = case.window
    voxels = np.nan_to_num(display(case.image, axis, index).astype(np.float32))
    scaled = np.clip((voxels - low) / max(high - low, 1e-6), 0, 1) * 255
    return Image.fromarray(scaled.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")


def _error(image: Image.Image, reference: np.ndarray, prediction: np.ndarray) -> Image.Image:
    kinds = np.zeros(reference.shape, np.uint8)
    kinds[(reference > 0) & (prediction == 0)] = 1
    kinds[(reference == 0) & (prediction > 0)] = 2
    kinds[(reference > 0) & (prediction > 0) & (reference != prediction)] = 3
    shown = np.asarray(Image.fromarray(kinds).resize(image.size, Image.Resampling.NEAREST))
    pixels = (np.asarray(image) * DARKENED).astype(np.uint8)
    for kind, colour in enumerate((MISSED, FALSE, WRONG_LABEL), start=1):
        pixels[shown == kind] = colour
    return Image.fromarray(pixels)


def _centred(picture: Image.Image, width: int) -> Image.Image:
    canvas = Image.new("RGB", (width, picture.height))
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    return canvas


def _with_header(panels: Sequence[Image.Image], words: Sequence[Sequence[tuple[str, Colour]]]) -> Image.Image:
    """Panels side by side, with words in their colours above each."""
    step = panels[0].width + _GAP_PIXELS
    sheet = Image.new("RGB", (step * len(panels) - _GAP_PIXELS, panels[0].height + _HEADER_PIXELS))
    draw = ImageDraw.Draw(sheet)
    for n, (panel, line) in enumerate(zip(panels, words, strict=True)):
        sheet.paste(panel, (n * step, _HEADER_PIXELS))
        left = n * step + 6.0
        for word, colour in line:
            draw.text((left, 2), word, fill=colour, font_size=_TEXT_PIXELS)
            left += draw.textlength(word, font_size=_TEXT_PIXELS) + 12
    return sheet


def _described(case: _Comparison) -> str:
    reference, prediction = case.reference > 0, case.prediction > 0
    missed, false = np.count_nonzero(reference & ~prediction), np.count_nonzero(prediction & ~reference)
    wrong = np.count_nonzero(reference & prediction & (case.reference != case.prediction))
    shown = "the image and " if case.image is not None else ""
    return (
        f"Slices with {shown}the outlines of reference and prediction, and their differences: of "
        f"{np.count_nonzero(reference)} voxels in structures {missed} are missed and {wrong} have the wrong label; "
        f"{false} are false"
    )
