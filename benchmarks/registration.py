"""Rigid registration against SimpleITK's usual recipe, and the misalignment check's cost. Needs no data.

Two contrasts of a made-up head with thick slices, 5 mm and 5 degrees apart, on one thread. The recipe: Mattes mutual
information on a random tenth of the voxels, three levels (shrink 4, 2, 1; blur 2, 1, 0 mm), from the header's geometry.
Of the eight variants that were tried (gradient descent or regular steps, ITK's smoothed gradients or not, blur or not)
this is the only one that arrived; the most common one (gradient descent, smoothed gradients) left 8.7 mm in 3.9 s.
Equal means that both bring the corners of the head's box within 2 mm of the truth; with --small the recipe does not,
and 10 mm will do.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from harness import arguments, compare, cost, report
from neurobundle import geometry
from neurobundle.prepare.alignment import Scan, check_alignment, checked, moved_mm, reference_of, rigid_matrix
from neurobundle.prepare.itk_helpers import itk_image, matrix_of, one_thread
from neurobundle.prepare.study_registration import register_study

#: Voxels of 1 x 1 x 3 mm, and of 4 x 4 x 6 mm to see that it runs.
SHAPE, SPACING = (182, 218, 60), (1.0, 1.0, 3.0)
SMALL_SHAPE, SMALL_SPACING = (46, 55, 32), (4.0, 4.0, 6.0)
NEAR_MM, SMALL_NEAR_MM = 2.0, 10.0
#: Middles and radii, mm, and intensities in two contrasts.
PARTS = (
    ((0, 0, 0), (72, 90, 72), 60, 200),
    ((0, 0, 0), (66, 84, 66), 10, 20),
    ((0, 0, 0), (62, 80, 62), 100, 110),
    ((0, 5, 4), (46, 62, 46), 150, 70),
    ((-14, 6, 8), (7, 26, 10), 20, 230),
    ((14, 0, 8), (7, 20, 9), 20, 230),
    ((24, -10, -6), (9, 12, 8), 120, 95),
    ((0, -52, -34), (34, 20, 18), 130, 85),
)


def head(contrast: int, shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Scan:
    """A head of ellipsoids with noise, centred at 0."""
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
    places = geometry.apply(affine, np.moveaxis(np.indices(shape), 0, -1))
    array = np.zeros(shape)
    for middle, radii, *values in PARTS:
        array[(((places - np.array(middle)) / radii) ** 2).sum(axis=-1) <= 1] = values[contrast]
    return (array + 4 * np.random.default_rng(contrast).random(shape)).astype(np.float32), affine


def recipe(fixed: Scan, moving: Scan) -> np.ndarray:
    """The matrix that SimpleITK's usual recipe finds."""
    images = [itk_image(sitk, checked(scan, "a scan")) for scan in (fixed, moving)]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.MetricUseFixedImageGradientFilterOff()
    method.MetricUseMovingImageGradientFilterOff()
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    transform = sitk.Euler3DTransform()
    method.SetInitialTransform(transform, inPlace=True)
    with one_thread(sitk):
        method.Execute(*images)
    return matrix_of(transform)


def main() -> None:
    """One pair, mended both ways; the check beside it."""
    options = arguments(__doc__ or "")
    shape, spacing = (SMALL_SHAPE, SMALL_SPACING) if options.small else (SHAPE, SPACING)
    fixed, (array, affine) = head(0, shape, spacing), head(1, shape, spacing)
    truth = rigid_matrix(np.array([3.0, -2, 3.5]), np.array([3.0, 2, -3.4]), np.zeros(3))
    moving = array, truth @ affine
    box_mm = reference_of(checked(fixed, "it")).box_mm

    def both_near(*matrices: np.ndarray) -> bool:
        left = [moved_mm(np.linalg.inv(truth) @ matrix, box_mm) for matrix in matrices]
        print("left at the corners: ours, recipe:", *(f"{mm:.2f} mm" for mm in left))
        return max(left) < (SMALL_NEAR_MM if options.small else NEAR_MM)

    def ours() -> np.ndarray:
        return register_study(fixed, [moving])[0].matrix

    results = [
        compare("rigid", ours, "SimpleITK's recipe", lambda: recipe(fixed, moving), both_near, options.rounds),
        cost("check_alignment", lambda: check_alignment(fixed, moving), options.rounds),
    ]
    report("registration", results)


if __name__ == "__main__":
    main()
