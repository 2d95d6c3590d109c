"""N4 against SimpleITK's, on a head of 240 x 240 x 155 voxels with a known bias field. Needs no data; one thread.

Both get the image, a mask and the same settings, and give the log field on the image's own grid; neither divides by it.
At full resolution, and on a GPU, ours is measured whole, with the corrected image.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage

from harness import Result, arguments, compare, cost, report
from neurobundle.prepare import N4Settings, find_bias_field, n4

SHAPE = (240, 240, 155)
#: To see that it runs; ours shrinks smaller images less than it is told. And where both must find the same field.
SMALL_SHAPE, SAME_SHAPE = (64, 72, 64), (48, 48, 40)
#: Iterations at most, of each level.
LEVELS = (50, 50, 50, 50)


def head(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three tissues in a ball that is a fifth of the box: image, mask, log field."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in shape], indexing="ij")
    mask = sum((axis / size) ** 2 for axis, size in zip(axes, (0.6, 0.72, 0.85), strict=True)) < 1
    texture = ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), 3)
    texture /= texture.std()
    tissue = np.select([texture > 0.5, texture > -0.5], [300.0, 200.0], 100.0)
    field = 0.25 * axes[0] + 0.2 * axes[1] * axes[2] - 0.15 * axes[2] ** 2 + 0.1 * np.cos(3 * axes[1])
    image = np.where(mask, (tissue + rng.normal(0, 5, shape)).clip(1), 0) * np.exp(field)
    return image.astype(np.float32), mask, field


def ours(image: np.ndarray, mask: np.ndarray, shrink: int, levels: tuple[int, ...], tolerance: float) -> np.ndarray:
    """Our log field."""
    rule = N4Settings(shrink=shrink, iterations=levels, tolerance=tolerance)
    return find_bias_field(torch.from_numpy(image), mask, rule).log_field().numpy()


def of_itk(image: np.ndarray, mask: np.ndarray, shrink: int, levels: tuple[int, ...], tolerance: float) -> np.ndarray:
    """SimpleITK's log field."""
    volume, inside = (sitk.GetImageFromArray(array) for array in (image, mask.astype(np.uint8)))
    filter_ = sitk.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations(list(levels))
    filter_.SetConvergenceThreshold(tolerance)
    filter_.SetNumberOfThreads(1)
    filter_.Execute(sitk.Shrink(volume, [shrink] * 3), sitk.Shrink(inside, [shrink] * 3))
    return sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(volume))


def rms(values: np.ndarray) -> float:
    """Of what is left after the mean: a constant factor is no bias."""
    return float((values - values.mean()).std())


def no_worse(field: np.ndarray, mask: np.ndarray) -> Callable[[np.ndarray, np.ndarray], bool]:
    """Whether ours is at least as near to the known field as ITK's, and says how near both are."""

    def check(own: np.ndarray, theirs: np.ndarray) -> bool:
        mine, other = (rms((found - field)[mask]) for found in (own, theirs))
        print(
            f"  RMSE of the log field: ours {mine:.5f}, SimpleITK {other:.5f} (the field itself {rms(field[mask]):.3f})"
        )
        return mine <= other

    return check


def main() -> None:
    """Shrink 4 with fixed and with converged iterations; one level, where both must agree; full resolution."""
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    image, mask, field = head(SMALL_SHAPE if options.small else SHAPE)
    rounds = min(options.rounds, 3)
    results: list[Result] = []
    for name, tolerance in (("50 iterations a level", 0.0), ("until it converges", 1e-3)):
        results.append(
            compare(
                f"shrink 4, four levels, {name}",
                lambda t=tolerance: ours(image, mask, 4, LEVELS, t),
                "SimpleITK N4",
                lambda t=tolerance: of_itk(image, mask, 4, LEVELS, t),
                no_worse(field, mask),
                rounds,
                40,
            )
        )

    small, small_mask, _ = head(SAME_SHAPE)

    def agree(own: np.ndarray, theirs: np.ndarray) -> bool:
        difference = float(np.sqrt(((own - theirs)[small_mask] ** 2).mean()))
        print(f"  rms of the difference: {difference:.1e}")
        return difference < 1e-5

    results.append(
        compare(
            "no shrinking, one level, 20 iterations: the same field (48 x 48 x 40)",
            lambda: ours(small, small_mask, 1, (20,), 0),
            "SimpleITK N4",
            lambda: of_itk(small, small_mask, 1, (20,), 0),
            agree,
            rounds,
        )
    )
    full = cost("full resolution, four levels, until it converges", lambda: n4(image, mask, shrink=1), 1)
    full.goal = 10_000
    results.append(full)
    if torch.cuda.is_available():
        on_gpu, mask_on_gpu = torch.from_numpy(image).cuda(), torch.from_numpy(mask).cuda()
        results.append(
            compare(
                "shrink 4 on the GPU",
                lambda: n4(on_gpu, mask_on_gpu).log_field.cpu().numpy(),
                "ours on the CPU",
                lambda: n4(image, mask).log_field,
                lambda a, b: bool(np.allclose(a, b, atol=1e-4)),
                rounds,
                clock=time.perf_counter,
            )
        )
    report("bias_field", results)


if __name__ == "__main__":
    main()
