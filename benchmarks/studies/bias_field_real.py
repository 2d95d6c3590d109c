"""What N4 does to real heads: white matter becomes more even, and lesions stay as bright as they were.

Three tables, those of docs/concepts/bias-field.md, and its picture:

1. nilearn's MNI template (an average of real heads) with fields of ours of three strengths;
2. ``ms_lesions_raw`` as scanned: two visits, T1, T2 and FLAIR, skull on, beside SimpleITK's N4;
3. ``ms_lesions``: the contrast of lesions to white matter, as published (N4 was done before) and with a field put on.

*Coefficient of variation*: standard deviation over mean, in white matter. Noise and anatomy are part of it; so the
second table gives it of the voxels, and of means over 15 mm (a Gaussian within white matter), which is what a field
makes of it. *White matter* of the raw scans is found without N4, so that no correction chose it: see
:func:`white_matter`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from scipy import ndimage
from skimage.filters import threshold_multiotsu
from study import DOTS_PER_INCH, arguments, number, one_file, read, report, table

from neurobundle import geometry
from neurobundle.prepare import n4
from neurobundle.prepare.itk_helpers import Grid, one_thread
from neurobundle.prepare.register import load_template, resample, template_path

#: Strengths of the field that is put on the template: factors from the darkest to the brightest place of the brain
#: are printed in the table.
STRENGTHS = (0.0, 0.5, 1.0, 2.0)
VISITS, SCANS = ("study1", "study2"), ("T1W", "T2W", "FLAIR")
PATIENTS, SEQUENCES = ("patient07", "patient26"), {"T1": "T1_*", "T1c": "T1POST_*", "T2": "T2_*", "FLAIR": "FLAIR_*"}
#: A field is smooth over this many mm; noise and gyri are not.
SMOOTH_MM = 15.0
#: Voxels around a head in the picture.
MARGIN = 4

#: Of :func:`white_matter`, mm: scalp and skull are no deeper than this, sure brain begins there, a brain is no higher
#: than this, and its local mean is taken over this.
SCALP_MM, SURE_MM, HEIGHT_MM, LOCAL_MM = 14.0, 30.0, 105.0, 20.0


def variation(image: np.ndarray, where: np.ndarray) -> float:
    """Coefficient of variation."""
    return float(image[where].std() / image[where].mean())


def smooth_variation(image: np.ndarray, where: np.ndarray, sizes_mm: np.ndarray) -> float:
    """The same of local means over the region."""
    means = local_mean(image, where, SMOOTH_MM / sizes_mm)
    return variation(means, where)


def local_mean(image: np.ndarray, where: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Gaussian means over what lies in a region."""
    weight = ndimage.gaussian_filter(where.astype(np.float32), sigma)
    return ndimage.gaussian_filter(image * where, sigma) / np.maximum(weight, 1e-6)


def field_on(shape: tuple[int, ...], strength: float) -> np.ndarray:
    """A smooth log field: brighter to one side, darker above and below."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return strength * (0.3 * x + 0.25 * y * z - 0.2 * z**2)


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece."""
    labels, _ = ndimage.label(mask)
    return labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])


def white_matter(t1: np.ndarray, sizes_mm: np.ndarray) -> np.ndarray:
    """White matter of a T1 with its skull, without a bias correction.

    Brain is what lies well under the head's surface and is neither dark nor as bright as fat. Its voxels are
    divided by their mean over 20 mm, and the brightest of three Otsu classes, without its edge, is white matter.
    """
    head = ndimage.binary_closing(t1 > 0.1 * np.percentile(t1, 99), iterations=3)
    head = np.stack([ndimage.binary_fill_holes(part) for part in np.moveaxis(head, 2, 0)], axis=2)
    head = ndimage.binary_opening(head, iterations=3)
    # The field of view ends in the neck, and that is no surface.
    below = 1 + int(SCALP_MM / sizes_mm[2])
    longer = np.concatenate([np.repeat(head[:, :, :1], below, axis=2), head, np.zeros_like(head[:, :, :1])], axis=2)
    depth = ndimage.distance_transform_edt(longer, sampling=sizes_mm)[:, :, below:-1]
    depth[:, :, : max(0, int(np.argwhere(head)[:, 2].max() - HEIGHT_MM / sizes_mm[2]))] = 0
    middle = np.median(t1[depth > SURE_MM])
    flat = np.ones((5, 5, 1))
    brain = largest(ndimage.binary_opening((depth > SCALP_MM) & (t1 > 0.55 * middle) & (t1 < 1.5 * middle), flat))
    even = t1 / np.maximum(local_mean(t1, brain, LOCAL_MM / sizes_mm), 1e-6)
    white = brain & (even > threshold_multiotsu(even[brain], classes=3)[1])
    return largest(ndimage.binary_erosion(ndimage.binary_opening(white, flat[:3, :3]), flat[:3, :3]))


def of_itk(image: np.ndarray) -> np.ndarray:
    """SimpleITK's correction with its own Otsu mask, shrunk as ours is."""
    volume = sitk.GetImageFromArray(np.ascontiguousarray(image))
    mask = sitk.OtsuThreshold(volume, 0, 1, 200)
    shrink = [max(1, min(4, size // 16)) for size in volume.GetSize()]
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    with one_thread(sitk):
        correction.Execute(sitk.Shrink(volume, shrink), sitk.Shrink(mask, shrink))
        field = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(volume))
    return image / np.exp(field)


def of_template() -> list[dict[str, Any]]:
    """White matter's variation in the template: without a field, with it, corrected."""
    template = load_template()
    image, inside = np.asarray(template.array), np.asarray(template.array) > 0
    # nilearn keeps its map of white matter beside the template, on the same grid.
    tissue, _ = read(Path(str(template_path()).replace("_t1_", "_wm_")))
    white = tissue > 0.9 * tissue.max()
    rows = []
    for strength in STRENGTHS:
        log_field = field_on(image.shape, strength)
        spoiled = (image * np.exp(log_field)).astype(np.float32)
        found = n4(spoiled, inside)
        error = (found.log_field - log_field)[inside]
        rows.append(
            {
                "range": float(np.exp(np.ptp(log_field[inside]))),
                "without": variation(image, white),
                "with": variation(spoiled, white),
                "corrected": variation(found.corrected, white),
                "rmse": float(error.std()),
                "spread": float(log_field[inside].std()),
            }
        )
    return rows


def as_scanned(data: Path, visits: tuple[str, ...]) -> list[dict[str, Any]]:
    """White matter's variation in each raw scan: as scanned, ours, SimpleITK's."""
    folder, rows = data / "ms_lesions_raw" / "patient01", []
    for visit in visits:
        t1, t1_affine = read(folder / f"{visit}_T1W.nii.gz")
        white = Grid(white_matter(t1, geometry.voxel_sizes_mm(t1_affine)).astype(np.float32), t1_affine)
        for scan in SCANS:
            image, affine = read(folder / f"{visit}_{scan}.nii.gz")
            sizes_mm = geometry.voxel_sizes_mm(affine)
            # Headers of a visit agree to 1 or 2 mm; what is wholly white matter stays.
            where = resample(white, image.shape, affine).array > 0.99
            ways = {"raw": image, "ours": n4(image).corrected, "itk": of_itk(image)}
            row: dict[str, Any] = {"visit": visit, "scan": scan, "voxels": int(where.sum())}
            for way, corrected in ways.items():
                row[way] = variation(corrected, where)
                row[f"{way}_smooth"] = smooth_variation(corrected, where, sizes_mm)
            rows.append(row)
    return rows


def contrast(data: Path, patients: tuple[str, ...]) -> list[dict[str, Any]]:
    """Mean of the lesions over the mean of white matter, in each published scan."""
    rows = []
    for patient in patients:
        folder = data / "ms_lesions" / patient
        lesion = read(one_file(folder, "GOLD_*"))[0] > 0
        t1 = read(one_file(folder, "T1_*"))[0]
        brain = t1 > 0
        bright = t1 > threshold_multiotsu(t1[brain], classes=3)[1]
        white = ndimage.binary_erosion(bright & brain) & ~ndimage.binary_dilation(lesion, iterations=3)
        for name, pattern in SEQUENCES.items():
            image = read(one_file(folder, pattern))[0]
            spoiled = (image * np.exp(field_on(image.shape, 1.0))).astype(np.float32)
            ways = {
                "published": image,
                "corrected": n4(image, image > 0).corrected,
                "spoiled": spoiled,
                "mended": n4(spoiled, image > 0).corrected,
            }
            row = {way: float(array[lesion].mean() / array[white].mean()) for way, array in ways.items()}
            rows.append({"patient": patient, "sequence": name, **row})
    return rows


def write_tables(template: list[dict[str, Any]], scans: list[dict[str, Any]], lesions: list[dict[str, Any]]) -> None:
    """As the page has them."""
    table(
        ["brightest over darkest place", "without the field", "with it", "corrected", "RMSE of the log field"],
        [
            [
                f"{row['range']:.2f}",
                *(number(row[way]) for way in ("without", "with", "corrected")),
                f"{number(row['rmse'])} of {number(row['spread'])}",
            ]
            for row in template
        ],
    )
    table(
        ["scan", "voxels: as scanned", "SimpleITK", "ours", "15 mm means: as scanned", "SimpleITK", "ours"],
        [
            [f"visit {row['visit'][-1]}, {row['scan'].removesuffix('W')}"]
            + [number(row[f"{way}{kind}"]) for kind in ("", "_smooth") for way in ("raw", "itk", "ours")]
            for row in scans
        ],
    )
    table(
        ["patient, sequence", "as published", "corrected again", "with a field of ours", "and corrected"],
        [
            [f"{row['patient'].removeprefix('patient')}, {row['sequence']}"]
            + [number(row[way]) for way in ("published", "corrected", "spoiled", "mended")]
            for row in lesions
        ],
    )


def draw(data: Path, path: Path) -> None:
    """Before, field and after: the template with a strong field, and a scan as it came."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    template = load_template()
    array = np.asarray(template.array)
    log_field = field_on(array.shape, STRENGTHS[-1])
    spoiled = (array * np.exp(log_field)).astype(np.float32)
    found = n4(spoiled, array > 0)
    folder = data / "ms_lesions_raw" / "patient01"
    (t1, t1_affine), (scan, affine) = (read(folder / f"study2_{name}.nii.gz") for name in ("T1W", "FLAIR"))
    white = white_matter(t1, geometry.voxel_sizes_mm(t1_affine)).astype(np.float32)
    white = resample(Grid(white, t1_affine), scan.shape, affine).array > 0.99
    mended = n4(scan)
    figure, axes = pyplot.subplots(2, 4, figsize=(9.6, 6.2), facecolor="black")
    _row(
        axes[0],
        geometry.voxel_sizes_mm(template.affine),
        array.shape[2] // 2 + 4,
        [spoiled, log_field, found.log_field, found.corrected],
        array > 0,
        array > 0.8 * np.percentile(array, 99),
        ["template, with a field", "the field that was put on", "the field that was found", "corrected"],
    )
    _row(
        axes[1],
        geometry.voxel_sizes_mm(affine),
        round(scan.shape[2] * 0.58),
        [scan, None, mended.log_field, mended.corrected],
        ndimage.binary_closing(scan > 0.2 * np.percentile(scan, 99), iterations=4),
        white,
        ["FLAIR, as scanned", "where white matter is measured", "the field that was found", "corrected"],
    )
    figure.subplots_adjust(0, 0, 1, 0.955, 0.01, 0.07)
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _row(
    axes: Any,
    sizes_mm: np.ndarray,
    level: int,
    volumes: list[np.ndarray | None],
    head: np.ndarray,
    white: np.ndarray,
    titles: list[str],
) -> None:
    """One axial slice of an image, two log fields (their mean over white matter put to 0), and the image after.

    The images are shown from .4 to 1.5 of white matter's median, fields from a factor of .6 to one of 1.67.
    """
    inside = ndimage.binary_fill_holes(head[:, :, level])
    rows, columns = np.nonzero(inside)
    box = slice(rows.min() - MARGIN, rows.max() + MARGIN), slice(columns.min() - MARGIN, columns.max() + MARGIN)

    def slice_of(volume: np.ndarray) -> np.ndarray:
        return (volume if volume.ndim == 2 else volume[:, :, level])[box].T[::-1, ::-1]

    for number_, (axis, volume, title) in enumerate(zip(axes, volumes, titles, strict=True)):
        axis.set_title(title, color="white", fontsize=9, pad=3)
        axis.axis("off")
        aspect = sizes_mm[1] / sizes_mm[0]
        if number_ in (0, 3) or volume is None:
            image = volumes[0] if volume is None else volume
            scaled = slice_of(image / np.median(image[white]))
            axis.imshow(scaled, cmap="gray", vmin=0.4, vmax=1.5, aspect=aspect, interpolation="bilinear")
            if volume is None:
                axis.contour(slice_of(white), [0.5], colors="red", linewidths=0.6)
        else:
            shown = np.where(slice_of(inside), slice_of(volume - volume[white].mean()), np.nan)
            colours = axis.imshow(shown, cmap="RdBu_r", vmin=-0.51, vmax=0.51, aspect=aspect)
            colours.cmap.set_bad("black")


def main() -> None:
    """All three tables; with ``--small``, the first visit and the first patient."""
    options = arguments(__doc__ or "", picture=True)
    torch.set_num_threads(1)
    few = 1 if options.small else None
    figures = {
        "template": of_template(),
        "scans": as_scanned(options.data, VISITS[:few]),
        "lesions": contrast(options.data, PATIENTS[:few]),
    }
    write_tables(*figures.values())
    if options.output:
        draw(options.data, options.output)
    report("bias_field_real", figures)


if __name__ == "__main__":
    main()
