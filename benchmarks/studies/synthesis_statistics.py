"""Whether synthesized heads are like real ones: statistics per tissue, and rows of heads beside real patients.

*Real*: T1, T1c, T2 and FLAIR of both patients of ``ms_lesions``. *Synthetic*: one head of each map of ``labelmaps``,
brain alone, 1 mm, with point spread and noise, without bias field and thick slices, since the real ones are corrected
and resampled. In both, the same function finds the tissues in the images: :func:`tissues_in`. Brightness is in units
of white matter's median in the same image.

The picture shows the first heads of each kind of tumour whose tumour lies at the height of the real slices (seeds are
tried from 0 on; nobody chose), all that chance may add to them included. Below are real patients: of ``ms_lesions``,
and of ``ms_lesions_raw`` with the skull.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from sklearn.mixture import GaussianMixture
from study import DOTS_PER_INCH, arguments, number, one_file, read, report, table

from neurobundle import geometry
from neurobundle.augment import Head, HeadSettings, draw_head, synthesize_head
from neurobundle.augment.tissues import SEQUENCES, WHITE

FILES = {"T1": "T1_*", "T1c": "T1POST_*", "T2": "T2_*", "FLAIR": "FLAIR_*"}
PATIENTS = ("patient07", "patient26")
#: The statistics' heads are seeded with this and their number.
FIRST_SEED = 100
#: Fluid: over this deep in the brain, mm; darker in T1 and brighter in T2 than so many times white matter.
FLUID_DEPTH_MM, FLUID_T1, FLUID_T2 = 20.0, 0.7, 1.8
LABELS = {1: "core", 2: "oedema", 3: "enhancing"}
#: Fewer voxels than this say nothing.
FEWEST = 100
COLOURS = {1: "deepskyblue", 2: "lime", 3: "red"}
#: Kinds in the picture; more than half of all tumours are of the first.
SHOWN = ("high_grade", "high_grade", "low_grade", "metastases", "meningioma")
#: What is white in the picture, of white matter's median.
BRIGHTEST = {"T1": 1.4, "T1c": 1.8, "T2": 3.0, "FLAIR": 2.0}
#: Millimetres of the picture's slices.
HIGH_MM, WIDE_MM = 200, 172
#: ... which lie from the middle of the white matter up to so far above it.
HIGH_LEVEL_MM = 30

#: Tissue -> sequence -> (median, half the distance from the 16th to the 84th percentile).
Statistics = dict[str, dict[str, tuple[float, float]]]


def tissues_in(images: dict[str, np.ndarray], lesion: np.ndarray) -> dict[str, np.ndarray]:
    """White matter, grey matter and fluid of a brain, found in its T1 (fluid in its T2, too).

    Args:
        images: by sequence, a brain without its skull, 1 mm.
        lesion: what is left out, with what is near.
    """
    t1, t2 = images["T1"], images["T2"]
    brain = ndimage.binary_fill_holes(t2 > 0.05 * np.percentile(t2, 99))
    brain = ndimage.binary_erosion(brain, iterations=2)
    low, high = np.percentile(t1[brain], [0.5, 99.5])
    values = np.clip(t1[brain], low, high)[:, None]
    starts = [[low + share * (high - low)] for share in (0.15, 0.6, 0.85)]
    mixture = GaussianMixture(3, random_state=0, means_init=starts).fit(values[::7])
    classes = np.zeros(t1.shape, int)
    classes[brain] = 1 + np.argsort(np.argsort(mixture.means_[:, 0]))[mixture.predict(values)]
    classes[ndimage.binary_dilation(lesion, iterations=2)] = 0
    white = ndimage.binary_erosion(classes == 3, np.ones((3, 3, 3)))
    deep = ndimage.distance_transform_edt(brain) > FLUID_DEPTH_MM
    fluid = deep & (t1 < FLUID_T1 * np.median(t1[white])) & (t2 > FLUID_T2 * np.median(t2[white]))
    return {
        "white matter": white,
        "grey matter": ndimage.binary_erosion(classes == 2),
        "fluid": ndimage.binary_erosion(fluid & ~lesion),
    }


def statistics(images: dict[str, np.ndarray], regions: dict[str, np.ndarray]) -> Statistics:
    """Median and half spread of each region in each sequence, over white matter's median."""
    unit = {name: np.median(image[regions["white matter"]]) for name, image in images.items()}
    found: Statistics = {}
    for region, where in regions.items():
        if where.sum() >= FEWEST:
            found[region] = {}
            for name, image in images.items():
                low, middle, high = np.percentile(image[where] / unit[name], [16, 50, 84])
                found[region][name] = (float(middle), float(high - low) / 2)
    return found


def real_patient(data: Path, patient: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images by sequence, and where the lesions are."""
    folder = data / "ms_lesions" / patient
    images = {name: read(one_file(folder, pattern))[0] for name, pattern in FILES.items()}
    return images, read(one_file(folder, "GOLD_*"))[0] > 0


def label_map(path: Path) -> torch.Tensor:
    """A label map, axes R, A and S."""
    return torch.from_numpy(read(path)[0].astype(np.int16))


def of_real(data: Path) -> list[Statistics]:
    """Of both patients."""
    found = []
    for patient in PATIENTS:
        images, lesion = real_patient(data, patient)
        found.append(statistics(images, tissues_in(images, lesion) | {"white-matter lesion": lesion}))
    return found


def of_synthetic(paths: list[Path]) -> list[Statistics]:
    """Of one head of each label map."""
    found = []
    settings = HeadSettings(tumour=1, skull=False, bias=0, thick=0, white_matter_lesions=20)
    for place, path in enumerate(paths):
        head = synthesize_head(label_map(path), draw_head(np.random.default_rng(FIRST_SEED + place), settings))
        images = dict(zip(SEQUENCES, head.images.numpy(), strict=True))
        tumour, spots = head.label.numpy(), head.spots.numpy()
        regions = tissues_in(images, (tumour > 0) | spots) | {"white-matter lesion": spots}
        regions |= {f"tumour: {name}": tumour == label for label, name in LABELS.items()}
        found.append(statistics(images, regions))
    return found


class Row(NamedTuple):
    """One tissue in one sequence.

    Attributes:
        real: mean of the patients' medians; NaN where there are none.
        real_spread: mean of their spreads.
        synthetic: mean of the heads' medians.
        spread: mean of their spreads.
        low: the lowest of the heads' medians.
        high: the highest.
        distance: how far the real mean lies from the synthetic.
    """

    real: float
    real_spread: float
    synthetic: float
    spread: float
    low: float
    high: float
    distance: float


def compared(real: list[Statistics], synthetic: list[Statistics]) -> dict[str, dict[str, Row]]:
    """Tissue -> sequence -> figures."""
    rows: dict[str, dict[str, Row]] = {}
    tissues = dict.fromkeys(tissue for one in (*real, *synthetic) for tissue in one)
    for tissue in tissues:
        rows[tissue] = {}
        for name in SEQUENCES:
            there = np.array([one[tissue][name] for one in real if tissue in one]).reshape(-1, 2)
            here = np.array([one[tissue][name] for one in synthetic if tissue in one]).reshape(-1, 2)
            a = there.mean(axis=0) if len(there) else np.full(2, np.nan)
            b = here.mean(axis=0) if len(here) else np.full(2, np.nan)
            ends = (here[:, 0].min(), here[:, 0].max()) if len(here) else (np.nan, np.nan)
            rows[tissue][name] = Row(*map(float, (*a, *b, *ends, abs(a[0] - b[0]))))
    return rows


def write_table(rows: dict[str, dict[str, Row]]) -> None:
    """As the page has it."""
    lines = []
    for tissue, columns in rows.items():
        each = [columns[name] for name in SEQUENCES]
        if not np.isnan(each[0].real):
            lines.append([tissue, "real", *(f"{number(r.real, 2)} ± {number(r.real_spread, 2)}" for r in each)])
        first = tissue if np.isnan(each[0].real) else ""
        lines.append([first, "synthetic", *(f"{number(r.synthetic, 2)} ± {number(r.spread, 2)}" for r in each)])
        if tissue != "white matter":
            lines.append(["", "between heads", *(f"{number(r.low, 2)} to {number(r.high, 2)}" for r in each)])
        if tissue != "white matter" and not np.isnan(each[0].real):
            lines.append(["", "distance", *(number(r.distance, 2) for r in each)])
    table(["tissue", "", *SEQUENCES], lines)


def first_of_each_kind(paths: list[Path]) -> list[tuple[str, Head]]:
    """The first heads of the kinds that the picture shows, every second one with its skull."""
    wanted, heads, seeds = list(SHOWN), [], itertools.count()
    while wanted:
        seed = next(seeds)
        settings = HeadSettings(shape=(WIDE_MM, HIGH_MM, 160), skull=seed % 2 == 0)
        plan = draw_head(np.random.default_rng(seed), settings)
        kind = plan.tumours[0].kind
        if kind not in wanted:
            continue
        head = synthesize_head(label_map(paths[seed % len(paths)]), plan)
        middle = float(torch.isin(head.tissue, torch.tensor(WHITE)).nonzero()[:, 2].float().mean())
        if middle <= level_of(head.label.numpy()) < middle + HIGH_LEVEL_MM:
            wanted.remove(kind)
            heads.append((kind, head))
    return heads


def level_of(label: np.ndarray) -> int:
    """The axial slice that shows most of a tumour; enhancing tumour and core count more than oedema."""
    return int(np.argmax(((label > 0) * (1 + 3 * (label != 2))).sum(axis=(0, 1))))


def draw(data: Path, path: Path) -> None:
    """Rows of four sequences: synthesized heads, then real ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heads = first_of_each_kind(sorted((data / "labelmaps").glob("*.nii.gz")))
    figure, axes = pyplot.subplots(len(heads) + 3, 4, figsize=(7.2, (len(heads) + 3) * 1.8 * HIGH_MM / WIDE_MM))
    figure.patch.set_facecolor("black")
    for row, (kind, head) in zip(axes, heads, strict=False):
        label = head.label.numpy()
        unit = dict.fromkeys(SEQUENCES, 1.0)
        images = dict(zip(SEQUENCES, head.images.numpy(), strict=True))
        _row(row, f"synthesized: {kind.replace('_', ' ')}", images, unit, label, level_of(label), (1.0, 1.0))
    for row, patient in zip(axes[len(heads) :], PATIENTS, strict=False):
        images, lesion = real_patient(data, patient)
        white = tissues_in(images, lesion)["white matter"]
        unit = {name: float(np.median(image[white])) for name, image in images.items()}
        level = int(np.argmax(lesion.sum(axis=(0, 1))))
        _row(row, f"real: {patient} (Lesjak 2017)", images, unit, 2 * lesion.astype(np.uint8), level, (1.0, 1.0))
    _raw_row(axes[-1], data)
    for axis, name in zip(axes[0], SEQUENCES, strict=True):
        axis.set_title(name, color="white", fontsize=9, pad=3)
    figure.subplots_adjust(0, 0, 1, 0.98, 0.01, 0.01)
    figure.savefig(path, dpi=DOTS_PER_INCH)
    # 32 greys are enough to look at, in half of the bytes.
    with Image.open(path) as picture:
        ImageOps.posterize(picture.convert("RGB"), 5).save(path, optimize=True)


def _raw_row(axes: Any, data: Path) -> None:
    """A real head with its skull; there is no T1c, and every scan has its own grid."""
    folder = data / "ms_lesions_raw" / "patient01"
    for axis, name in zip(axes, ("T1W", "", "T2W", "FLAIR"), strict=True):
        if not name:
            _show(axis, np.zeros((2, 2)), 1.0, (1.0, 1.0))
            continue
        image, affine = read(folder / f"study1_{name}.nii.gz")
        sizes = geometry.voxel_sizes_mm(affine)
        level = round(image.shape[2] * 0.6)
        middle = image[tuple(slice(int(n * 0.35), int(n * 0.65)) for n in image.shape)]
        # Without an outline of white matter: what most of the middle of a head is made of.
        _show(axis, image[:, :, level] / np.median(middle), BRIGHTEST[name.removesuffix("W")], sizes)
    axes[0].text(0.02, 0.97, "real: as scanned (Lesjak 2016)", **_LEGEND, transform=axes[0].transAxes)


_LEGEND: dict[str, Any] = {
    "color": "white",
    "fontsize": 7,
    "va": "top",
    "bbox": {"facecolor": "black", "pad": 1, "linewidth": 0},
}


def _row(
    axes: Any,
    title: str,
    images: dict[str, np.ndarray],
    unit: dict[str, float],
    label: np.ndarray,
    level: int,
    sizes: Any,
) -> None:
    """One head; its labels are outlined in T1c and FLAIR, so that two sequences are as they are."""
    for axis, (name, image) in zip(axes, images.items(), strict=True):
        shown = _show(axis, image[:, :, level] / unit[name], BRIGHTEST[name], sizes)
        for value, colour in COLOURS.items():
            part = _fitted(label[:, :, level] == value, sizes)
            if name in ("T1c", "FLAIR") and part.any():
                shown.contour(part, [0.5], colors=colour, linewidths=0.7)
    axes[0].text(0.02, 0.97, title, **_LEGEND, transform=axes[0].transAxes)


def _show(axis: Any, part: np.ndarray, brightest: float, sizes: Any) -> Any:
    """A slice, seen from the feet."""
    shown = _fitted(part, sizes)
    axis.imshow(shown, cmap="gray", vmin=0, vmax=brightest, interpolation="bilinear")
    axis.axis("off")
    return axis


def _fitted(part: np.ndarray, sizes: Any) -> np.ndarray:
    """A slice at 1 mm in a frame of one size, its rows from front to back."""
    scaled = ndimage.zoom(part.astype(np.float32), tuple(sizes[:2]), order=1)
    frame = np.zeros((WIDE_MM, HIGH_MM), np.float32)
    here = [
        slice(max(0, (n - m) // 2), max(0, (n - m) // 2) + min(n, m))
        for n, m in zip(frame.shape, scaled.shape, strict=True)
    ]
    there = [
        slice(max(0, (m - n) // 2), max(0, (m - n) // 2) + min(n, m))
        for n, m in zip(frame.shape, scaled.shape, strict=True)
    ]
    frame[tuple(here)] = scaled[tuple(there)]
    return frame.T[::-1, ::-1]


def main() -> None:
    """The table; with ``--small`` of four label maps."""
    options = arguments(__doc__ or "", picture=True)
    torch.set_num_threads(1)
    paths = sorted((options.data / "labelmaps").glob("*.nii.gz"))[: 4 if options.small else None]
    rows = compared(of_real(options.data), of_synthetic(paths))
    write_table(rows)
    if options.output:
        draw(options.data, options.output)
    plain = {tissue: {name: row._asdict() for name, row in columns.items()} for tissue, columns in rows.items()}
    report("synthesis_statistics", {"heads": len(paths), "rows": plain})


if __name__ == "__main__":
    main()
