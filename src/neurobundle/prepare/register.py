"""Finding how a template's head lies in somebody's scan: an affine registration, with its quality measured.

The *template* is the MNI ICBM 2009a symmetric T1 average that nilearn carries, brain only. A *head* is a T1 scan of a
whole head, with or without its skull. A *registration* is the matrix that takes the template's millimetres to the
head's. Its *similarity* is the correlation of the two images within the template's brain; its *coverage* is the share
of the template's brain that lies inside the head's field of view.

How: Mattes mutual information, measured only within the template's brain (a little widened), so that skull and neck
of the head do not matter; many starts are compared at 8 mm, the best few are fitted there, the winner is refined at
4 mm and at 2 mm with all 12 parameters. One thread, no random sampling: the same input gives the same matrix.

Sources: Mattes et al., *PET-CT image registration in the chest using free-form deformations*, IEEE TMI 22 (2003);
Fonov et al., *Unbiased average age-appropriate brain templates*, NeuroImage 47 (2009) S102, for the template.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from neurobundle import geometry
from neurobundle.errors import InputError, MissingPackageError, require
from neurobundle.prepare.itk_helpers import Grid, Volume, average_blocks, itk_image, matrix_of, one_thread

log = logging.getLogger(__name__)

TEMPLATE_FILE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"

#: Voxel edges of the three rounds, mm. The first decides between starts, the last sets the accuracy.
COARSE_MM, MIDDLE_MM, FINE_MM = 8.0, 4.0, 2.0
#: The metric's mask is the template's brain widened by this: the dark rim (fluid, inner skull) fixes the size.
RIM_MM = 2.0
#: Starting rotations about each axis, degrees, and starting sizes. A fit at 8 mm is drawn in from 15 degrees away, so
#: these reach rotations of about 35 degrees.
START_DEGREES = (-20.0, 0.0, 20.0)
START_SIZES = (0.8, 0.92, 1.08)
#: A standing adult's brain centre lies about this far below the top of the head (the template's: 75 mm below the
#: brain's top, and 8 mm of scalp, skull and fluid).
CENTRE_BELOW_TOP_MM = 80.0
#: Intensities are cut above this percentile of those within this distance of the bright part's centre, which is brain:
#: scalp fat is up to three times as bright, and the template would grow into it.
CORE_PERCENTILE, CORE_RADIUS_MM = 98.0, 40.0
#: Length of the descent's first and last step; about mm, by the scales from the Jacobian. 4 left the basin at 8 mm.
FIRST_STEP, LAST_STEP = 1.0, 0.01
#: Steps of the affine fit at each voxel edge, mm.
STEPS = {COARSE_MM: 40, MIDDLE_MM: 40, FINE_MM: 15}
#: Bins of the joint histogram (Mattes 2003 used 50 for 8 bits; fewer are steadier for the 4,000 voxels of 8 mm).
HISTOGRAM_BINS = 32


class Registration(NamedTuple):
    """Where the template lies in a head.

    Attributes:
        matrix: (4, 4), takes the template's millimetres to the head's, RAS+.
        similarity: Pearson's correlation of template and head within the template's brain, -1 to 1.
        coverage: share of the template's brain inside the head's field of view, 0 to 1.
    """

    matrix: geometry.Array
    similarity: float
    coverage: float

    @property
    def sizes(self) -> tuple[float, float, float]:
        """The head's size relative to the template's along the three main axes of stretch, smallest first."""
        small, middle, large = sorted(float(s) for s in np.linalg.svd(self.matrix[:3, :3], compute_uv=False))
        return small, middle, large


def template_path() -> Path:
    """Where nilearn keeps its template, without importing nilearn.

    Raises:
        MissingPackageError: if nilearn is not installed or does not carry the file.
    """
    spec = importlib.util.find_spec("nilearn")
    path = Path(spec.origin).parent / TEMPLATE_FILE if spec is not None and spec.origin else None
    if path is None or not path.is_file():
        raise MissingPackageError(
            "finding the hippocampi in a whole head needs the template of the package 'nilearn', which is not there",
            "Install it with: pip install 'neurobundle[head]'.",
        )
    return path


@lru_cache(maxsize=1)
def load_template() -> Grid:
    """The template at 1 mm, RAS; intensities 0 to 255, 0 outside the brain. Do not write into the array."""
    import nibabel

    image = nibabel.as_closest_canonical(nibabel.load(template_path()))
    array = np.asarray(image.dataobj, np.float32)
    array.flags.writeable = False
    return Grid(array, np.asarray(image.affine, float))


def to_isotropic(image: Grid, spacing_mm: float) -> Grid:
    """The image on an axis-aligned RAS grid of cubes that covers all of it; 0 outside.

    Voxels smaller than the cube are averaged first, so that nothing aliases. Any affine will do, sheared ones too.
    """
    small = average_blocks(image, spacing_mm)
    places = geometry.corners_mm(small.array.shape, small.affine)
    low, high = places.min(axis=0), places.max(axis=0)
    shape = np.maximum(np.ceil((high - low) / spacing_mm).astype(int) + 1, 2)
    affine = geometry.grid_about((low + high) / 2, np.eye(3), shape.tolist(), spacing_mm)
    return resample(small, shape.tolist(), affine)


def resample(image: Grid, shape: Sequence[int], affine: npt.ArrayLike, order: int = 1) -> Grid:
    """The image on another grid, by spline interpolation of an order; 0 outside the image."""
    onto = np.linalg.inv(image.affine) @ np.asarray(affine, float)
    array = ndimage.affine_transform(
        image.array, onto[:3, :3], onto[:3, 3], tuple(shape), np.float32, order=order, mode="constant"
    )
    return Grid(array, np.asarray(affine, float))


def register_head(array: npt.NDArray[Any], affine: npt.ArrayLike) -> Registration:
    """Where the template lies in a head.

    It always answers; whether the answer can be trusted is for :func:`neurobundle.prepare.locate.check_place` to say.

    Args:
        array: (i, j, k), a T1 scan; any orientation, any intensity scale; values that are not finite count as 0.
        affine: (4, 4), RAS+ mm.

    Raises:
        InputError: if the array is not three-dimensional or holds one value only.
        MissingPackageError: if nilearn is not installed.
    """
    sitk: Any = require("SimpleITK", extra="head", feature="Finding the hippocampi in a whole head")
    fine = to_isotropic(Grid(_flatten_ends(array, np.asarray(affine, float)), np.asarray(affine, float)), FINE_MM)
    template = load_template()
    with one_thread(sitk):
        matrix = _descend(sitk, template, fine)
    similarity, coverage = agreement(to_isotropic(template, FINE_MM), fine, matrix)
    log.debug("registered: similarity %.3f, coverage %.3f", similarity, coverage)
    return Registration(matrix, similarity, coverage)


def _descend(sitk: Any, template: Grid, fine: Grid) -> geometry.Array:
    """The matrix after all three rounds."""
    coarse = to_isotropic(template, COARSE_MM), to_isotropic(fine, COARSE_MM)
    best = _best_start(sitk, *coarse, _start_centres(fine))
    for spacing_mm in (MIDDLE_MM, FINE_MM):
        fixed = _Fixed.of(sitk, to_isotropic(template, spacing_mm))
        moving = itk_image(sitk, fine if spacing_mm == FINE_MM else to_isotropic(fine, spacing_mm))
        best = _fit(sitk, fixed, moving, best, STEPS[spacing_mm])
    return matrix_of(best)


def agreement(template: Grid, head: Grid, matrix: npt.ArrayLike) -> tuple[float, float]:
    """Similarity and coverage of a fit.

    Args:
        template: the template; its brain is where it is above 0.
        head: the head.
        matrix: (4, 4), template mm -> head mm.

    Returns:
        The correlation over the part of the template's brain that lies inside the head's grid (0 if either is flat
        there), and the share of the brain that does.
    """
    brain = np.argwhere(template.array > 0)
    onto = np.linalg.inv(head.affine) @ np.asarray(matrix, float) @ template.affine
    places = geometry.apply(onto, brain)
    inside = ((places >= -0.5) & (places <= np.asarray(head.array.shape) - 0.5)).all(axis=1)
    if inside.sum() < 2:
        return 0.0, 0.0
    there = ndimage.map_coordinates(head.array, places[inside].T, order=1, mode="nearest")
    here = template.array[tuple(brain[inside].T)]
    if there.std() < 1e-6 or here.std() < 1e-6:
        return 0.0, float(inside.mean())
    return float(np.corrcoef(here, there)[0, 1]), float(inside.mean())


def _flatten_ends(array: npt.NDArray[Any], affine: geometry.Array) -> Volume:
    """Float32 from 0 to 1, where 1 is the brightest brain and all above it; what is not finite becomes 0.

    Background that lies below 0 (spline interpolation leaves such) becomes 0, since no MRI magnitude is negative.
    """
    if array.ndim != 3:
        raise InputError(f"a head has three axes, got an array of shape {array.shape}", "Give one volume at a time.")
    values = np.nan_to_num(np.asarray(array, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    values = np.maximum(values, 0)
    core = _core(values, affine)
    high = float(np.percentile(core, CORE_PERCENTILE)) if core.size else 0.0
    if high <= 0 or float(values.min()) == float(values.max()):
        raise InputError(
            "the image holds a single value, or is 0 in its middle", "Check that the right file was given."
        )
    return np.clip(values / np.float32(high), 0, 1)


def _core(values: Volume, affine: geometry.Array) -> Volume:
    """The values above 0 in the ball about the bright part's centre: brain, and no scalp."""
    steps = [max(1, round(2 * FINE_MM / size)) for size in geometry.voxel_sizes_mm(affine)]
    few = values[:: steps[0], :: steps[1], :: steps[2]]
    places = np.argwhere(few > few.mean())
    if not len(places):
        return few[few > 0]
    away_mm = (np.argwhere(few > 0) - places.mean(axis=0)) * steps @ np.asarray(affine)[:3, :3].T
    return few[few > 0][(away_mm**2).sum(axis=1) <= CORE_RADIUS_MM**2]


def _start_centres(head: Grid) -> list[geometry.Array]:
    """Guesses at the brain's centre, mm: of mass, of the field of view, and a hand's breadth below the top."""
    bright = head.array > 0.15
    if not bright.any():
        bright = head.array > 0
    places = geometry.apply(head.affine, np.argwhere(bright))
    top_mm = np.percentile(places[:, 2], 99.9)
    upper = places[places[:, 2] > top_mm - 2 * CENTRE_BELOW_TOP_MM]
    below_top = np.array([*np.median(upper[:, :2], axis=0), top_mm - CENTRE_BELOW_TOP_MM])
    return [places.mean(axis=0), geometry.centre_mm(head.array.shape, head.affine), below_top]


class _Fixed(NamedTuple):
    """The template as the optimiser sees it: an image, the widened brain mask, and the brain's centre, mm."""

    image: Any
    mask: Any
    centre: tuple[float, ...]

    @classmethod
    def of(cls, sitk: Any, template: Grid) -> _Fixed:
        brain = template.array > 0.1 * template.array.max()
        spacing_mm = float(geometry.voxel_sizes_mm(template.affine)[0])
        wide = ndimage.distance_transform_edt(~brain) * spacing_mm <= RIM_MM
        mask = itk_image(sitk, Grid(wide.astype(np.float32), template.affine))
        middle = geometry.apply(template.affine, np.argwhere(brain).mean(axis=0))
        return cls(itk_image(sitk, template), sitk.Cast(mask, sitk.sitkUInt8), tuple(middle.tolist()))


def _method(sitk: Any, fixed: _Fixed, start: Any, steps: int) -> Any:
    """A registration method without sampling."""
    method = sitk.ImageRegistrationMethod()
    if max(fixed.image.GetSpacing()) >= COARSE_MM:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(fixed.mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        FIRST_STEP, LAST_STEP, steps, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-6
    )
    method.SetOptimizerScalesFromJacobian()
    method.SetInitialTransform(start, inPlace=True)
    return method


def _best_start(sitk: Any, template: Grid, head: Grid, centres: Sequence[geometry.Array]) -> Any:
    """The best affine fit of the few most promising starts of many.

    Starts and fits are compared by plain correlation within the brain: it costs a millisecond, and a template that has
    grown into the skull has more mutual information than the right fit, but less correlation (6 of 14 heads, see
    docs/concepts/whole-heads.md).
    """
    fixed, moving = _Fixed.of(sitk, template), itk_image(sitk, head)
    fits = []
    for size, centre in product(START_SIZES, centres):
        starts = [_start_matrix(fixed.centre, centre, turn, size) for turn in product(START_DEGREES, repeat=3)]
        best = max(starts, key=lambda start: np.prod(agreement(template, head, start)))
        similar = _fit(sitk, fixed, moving, _similarity(sitk, fixed, best), STEPS[COARSE_MM])
        fits.append(_fit(sitk, fixed, moving, _as_affine(sitk, similar), STEPS[COARSE_MM]))
    return max(fits, key=lambda fit: np.prod(agreement(template, head, matrix_of(fit))))


def _start_matrix(
    brain_mm: npt.ArrayLike, centre_mm: geometry.Array, degrees: Sequence[float], size: float
) -> geometry.Array:
    """The template turned about its brain's centre and grown, with that centre put at ``centre_mm``; (4, 4)."""
    matrix = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        a, b = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix[:3, :3] = matrix[:3, :3] @ turn
    matrix[:3, :3] *= size
    matrix[:3, 3] = centre_mm - matrix[:3, :3] @ np.asarray(brain_mm)
    return matrix


def _similarity(sitk: Any, fixed: _Fixed, matrix: geometry.Array) -> Any:
    """A (4, 4) matrix of rotation, one size and shift as an ITK transform about the brain's centre."""
    transform = sitk.Similarity3DTransform()
    transform.SetCenter(fixed.centre)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-6)
    transform.SetTranslation((geometry.apply(matrix, fixed.centre) - np.asarray(fixed.centre)).tolist())
    return transform


def _fit(sitk: Any, fixed: _Fixed, moving: Any, start: Any, steps: int) -> Any:
    """The transform after some steps of descent; the start itself if the descent left the image."""
    moved = type(start)(start)
    try:
        _method(sitk, fixed, moved, steps).Execute(fixed.image, moving)
    except RuntimeError:  # ITK's way to say that no sample point falls inside the moving image
        return start
    return moved


def _as_affine(sitk: Any, transform: Any) -> Any:
    """A transform with a matrix about a centre, with all 12 parameters free."""
    affine = sitk.AffineTransform(3)
    affine.SetCenter(transform.GetCenter())
    affine.SetMatrix(transform.GetMatrix())
    affine.SetTranslation(transform.GetTranslation())
    return affine
