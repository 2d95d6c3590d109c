"""What the anatomy bundle says of real heads, of which nobody has labelled the structures.

The tables of docs/concepts/anatomy.md. There is no reference; so its labels are held against what is known otherwise:

1. the template that nilearn carries, against its own maps of grey and white matter (above a half), and its brain;
2. ``ms_lesions``, two patients, four sequences on one grid without a skull, and ``ms_lesions_raw``, one patient, two
   visits, three sequences as scanned: labels of one person's sequences against each other, pair by pair. The raw ones
   lie on grids of their own and are brought together by the published transforms;
3. millilitres of the hippocampi against those of the hippocampus bundle, and which way found their place;
4. one head after another was done to it: turned, flipped, cut into thick slices, given a bias field or noise, against
   its labels before.

Weights are the bundle's own, or those of ``--models FOLDER`` (with model.pt and its manifest). With ``-o FOLDER`` it
draws every case. Run it from the repository's root:

    python benchmarks/studies/anatomy_real.py --data ../shared/data -o pictures
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from registration_real import scan_of, truth_of
from scipy import ndimage
from scipy.spatial.transform import Rotation
from study import number, one_file, report, table

from neurobundle.bundle.anatomy import Anatomy
from neurobundle.bundle.heads import find_places
from neurobundle.commands.run import Run
from neurobundle.export.pictures import View, save_png, three_planes
from neurobundle.load.scan import Scan
from neurobundle.postprocess.brain import CORTEX, HIPPOCAMPI, WHITE_MATTER, VolumeCheck, brain_mask
from neurobundle.prepare import TemplateLocator
from neurobundle.prepare.locate import PlaceError
from neurobundle.prepare.register import template_path

PATIENTS, SEQUENCES = ("patient07", "patient26"), ("FLAIR", "T1", "T1POST", "T2")
RAW = tuple(f"study{visit}_{name}" for visit in (1, 2) for name in ("FLAIR", "T1W", "T2W"))

#: The template's maps count the cerebellum, and call what is between white and grey by its larger part: the brain stem,
#: the ventral diencephalon and the pallidum are white there, the rest of the deep structures grey.
WHITE_OF_TEMPLATE = (1, 5, 10, 13, 18, 19, 23, 28, 32)
GREY_OF_TEMPLATE = (2, 6, 7, 8, 9, 14, 15, 17, 20, 24, 25, 26, 27, 29, 30, 31)

#: Groups that sequences are compared by.
COMPARED = {"white matter": WHITE_MATTER, "cortex": CORTEX, "hippocampi": tuple(HIPPOCAMPI.values())}


def options() -> argparse.Namespace:
    """``--data``, ``--models``, ``--small`` and ``-o``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEUROBUNDLE_DATA", "../shared/data")))
    parser.add_argument("--models", type=Path, help="a folder with model.pt and MANIFEST.sha256 (the bundle's own)")
    parser.add_argument("--small", action="store_true", help="the template, and one patient's T1 and FLAIR")
    parser.add_argument("-o", "--output", type=Path, help="a folder for the pictures")
    found = parser.parse_args()
    if not found.data.is_dir():
        parser.error(f"{found.data} is no folder: give the one with the real data by --data")
    return found


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks; NaN if both are empty."""
    return float(2 * (one & other).sum() / total) if (total := one.sum() + other.sum()) else float("nan")


class Labeller:
    """Labels heads, keeps what it found, and draws each."""

    def __init__(self, models: Path | None, pictures: Path | None) -> None:
        where = {"ckpt_dir": str(models)} if models else {}
        self.anatomy = Anatomy(settings={"device": "cpu", **where})
        self.pictures = pictures
        self.odd: dict[str, list[str]] = {}

    def __call__(self, name: str, scan: Scan) -> np.ndarray:
        """The labels of a head."""
        labels = self.anatomy.labels(scan)
        self.odd[name] = VolumeCheck().warnings(labels, scan.affine, self.anatomy.structures)
        if self.pictures is not None:
            self.pictures.mkdir(parents=True, exist_ok=True)
            view = View.of(scan.data, labels, scan.affine)
            save_png(self.pictures / f"{name}.png", three_planes(view, name))
        return labels


def as_scan(path: Path) -> Scan:
    """A head as its file has it."""
    return Scan(*scan_of(path))


def of_template(label: Labeller) -> dict[str, float]:
    """Dice of grey and white matter with the template's own maps, and of the brain."""
    head = as_scan(template_path())
    labels = label("template", head)
    figures = {"brain": dice(brain_mask(labels, head.affine), head.data > 0)}
    for name, values in (("gm", GREY_OF_TEMPLATE), ("wm", WHITE_OF_TEMPLATE)):
        share = scan_of(template_path().with_name(template_path().name.replace("_t1_", f"_{name}_")))[0]
        figures[name] = dice(np.isin(labels, values), share > share.max() / 2)
    return figures


def masks_of(labels: np.ndarray, affine: np.ndarray) -> dict[str, np.ndarray]:
    """What is compared between sequences."""
    return {"brain": brain_mask(labels, affine)} | {name: np.isin(labels, of) for name, of in COMPARED.items()}


def of_registered(label: Labeller, data: Path, small: bool) -> Iterator[dict[str, Any]]:
    """Pairs of sequences on one grid."""
    for patient in PATIENTS[: 1 if small else 2]:
        masks = {}
        for sequence in ("FLAIR", "T1") if small else SEQUENCES:
            scan = as_scan(one_file(data / "ms_lesions" / patient, f"{sequence}_*"))
            masks[sequence] = masks_of(label(f"{patient}_{sequence}", scan), scan.affine)
        for one, other in itertools.combinations(masks, 2):
            yield {"pair": f"{patient}, {one} - {other}"} | {
                name: dice(masks[one][name], masks[other][name]) for name in masks[one]
            }


def of_raw(label: Labeller, data: Path) -> Iterator[dict[str, Any]]:
    """Pairs of scans on grids of their own, the second brought onto the first by the published transform."""
    folder = data / "ms_lesions_raw" / "patient01"
    scans = {name: as_scan(folder / f"{name}.nii.gz") for name in RAW}
    labels = {name: label(f"raw_{name}", scan) for name, scan in scans.items()}
    for fixed, moving in itertools.combinations(RAW, 2):
        to_reference = {name: published_to_reference(folder, name) for name in (fixed, moving)}
        matrix = to_reference[moving] @ np.linalg.inv(to_reference[fixed])
        onto = np.linalg.inv(scans[moving].affine) @ matrix @ scans[fixed].affine
        moved = ndimage.affine_transform(
            labels[moving], onto[:3, :3], onto[:3, 3], output_shape=labels[fixed].shape, order=0
        )
        # What the other scan does not show counts for neither.
        seen = ndimage.affine_transform(
            np.ones(labels[moving].shape, np.uint8), onto[:3, :3], onto[:3, 3], labels[fixed].shape, order=0
        )
        pair = (masks_of(one, scans[fixed].affine) for one in (labels[fixed], moved))
        here, there = ({name: mask & (seen > 0) for name, mask in masks.items()} for masks in pair)
        yield {"pair": f"raw, {fixed} - {moving}"} | {name: dice(here[name], there[name]) for name in here}


def published_to_reference(folder: Path, name: str) -> np.ndarray:
    """The matrix from the second visit's FLAIR, mm, to a scan's."""
    reference = "study2_FLAIR"
    if name == reference:
        return np.eye(4)
    if name[:6] == reference[:6]:
        return truth_of(folder, reference, name)
    first = truth_of(folder, reference, f"{name[:6]}_FLAIR")
    return first if name.endswith("FLAIR") else truth_of(folder, f"{name[:6]}_FLAIR", name) @ first


def of_hippocampi(label: Labeller, data: Path, small: bool) -> Iterator[dict[str, Any]]:
    """Millilitres by both bundles, and the way by which the place was found."""
    heads = {"template": template_path()}
    for patient in PATIENTS[: 1 if small else 2]:
        heads[f"{patient} T1"] = one_file(data / "ms_lesions" / patient, "T1_*")
    if not small:
        heads |= {
            f"raw {name}": data / "ms_lesions_raw" / "patient01" / f"{name}.nii.gz" for name in RAW if "T1W" in name
        }
    for name, path in heads.items():
        scan = as_scan(path)
        labels = label.anatomy.labels(scan)
        ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
        row: dict[str, Any] = {"head": name, "by": "refused", "why": ""}
        row |= {side: float((labels == value).sum() * ml) for side, value in HIPPOCAMPI.items()}
        try:
            found = find_places(scan, TemplateLocator(mirror="right"), lambda: label.anatomy)
            row |= {"by": found.by, "why": found.why}
        except PlaceError as error:
            row["why"] = error.cause
        with tempfile.TemporaryDirectory() as work:
            run = Run(
                "hippocampus_segmentation", Path(work), input_kind="head", pictures=False, settings={"device": "cpu"}
            )
            run._asked = label.anatomy
            volumes = run([path]).results[0].volumes_ml
        for side in HIPPOCAMPI:
            parts = [volume for what, volume in volumes.items() if what.startswith(side)]
            row[f"{side}_bundle"] = sum(parts) if parts else float("nan")
        yield row


def damaged(scan: Scan) -> Iterator[tuple[str, Scan, np.ndarray]]:
    """A head after something was done to it, with the voxel-to-voxel matrix onto the head before."""
    array, affine = scan.data, scan.affine
    turn, middle = np.eye(4), (np.array(array.shape) - 1) / 2
    turn[:3, :3] = Rotation.from_euler("xyz", [20, -20, 20], degrees=True).as_matrix()
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    yield "turned by 20 degrees about each axis", Scan(ndimage.affine_transform(array, turn, order=1), affine), turn
    yield "axes flipped and permuted", Scan(*flipped(scan)), np.linalg.inv(affine) @ flipped(scan)[1]
    thick = ndimage.uniform_filter1d(array, 5, axis=2)[:, :, 2::5]
    coarse = np.diag([1.0, 1, 5, 1])
    coarse[2, 3] = 2
    yield "slices of 5 mm", Scan(thick, affine @ coarse), coarse
    place = np.indices(array.shape, np.float32) / np.array(array.shape)[:, None, None, None]
    field = np.exp(0.6 * np.sin(2 * place[0] + 1) * np.cos(3 * place[1]) + 0.3 * place[2]).astype(np.float32)
    yield "a bias field of .4 to 2", Scan(array * field, affine), np.eye(4)
    level = float(np.percentile(array, 99)) * 0.1
    noise = np.random.default_rng(0).normal(scale=level, size=(2, *array.shape)).astype(np.float32)
    yield "Rician noise, a tenth of the brightest", Scan(np.hypot(array + noise[0], noise[1]), affine), np.eye(4)


def flipped(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """The voxels in another order, and the affine that says so."""
    image = nibabel.Nifti1Image(scan.data, scan.affine)
    codes = nibabel.orientations.axcodes2ornt("PSL")
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(scan.affine), codes)
    )
    return np.asarray(turned.dataobj), turned.affine


def of_damaged(label: Labeller, data: Path, small: bool) -> Iterator[dict[str, Any]]:
    """Dice with the labels before, on the grid of what was done."""
    heads = {"template": as_scan(template_path())}
    if not small:
        heads["patient07 T1"] = as_scan(one_file(data / "ms_lesions" / PATIENTS[0], "T1_*"))
    for name, scan in heads.items():
        before = label.anatomy.labels(scan)
        for what, after, onto in damaged(scan):
            there = label(f"{name} {what}".replace(" ", "_"), after)
            here = ndimage.affine_transform(before, onto[:3, :3], onto[:3, 3], output_shape=there.shape, order=0)
            values = [value for value in range(1, 33) if (here == value).any()]
            yield {
                "head": name,
                "what": what,
                "brain": dice(brain_mask(here, after.affine), brain_mask(there, after.affine)),
                "structures": float(np.mean([dice(here == value, there == value) for value in values])),
            }


def main() -> None:
    """All four tables."""
    chosen = options()
    label = Labeller(chosen.models, chosen.output)
    template = of_template(label)
    table(["template", "Dice"], [[name, number(value)] for name, value in template.items()])
    pairs = list(of_registered(label, chosen.data, chosen.small))
    pairs += [] if chosen.small else list(of_raw(label, chosen.data))
    compared = ["brain", *COMPARED]
    table(["pair", *compared], [[row["pair"], *(number(row[name]) for name in compared)] for row in pairs])
    hippocampi = list(of_hippocampi(label, chosen.data, chosen.small))
    sides = [f"{side}{by}" for side in HIPPOCAMPI for by in ("", "_bundle")]
    table(
        ["head", *(f"{side}, ml, by {by}" for side in HIPPOCAMPI for by in ("anatomy", "hippocampus")), "place by"],
        [[row["head"], *(f"{row[side]:.2f}" for side in sides), row["by"]] for row in hippocampi],
    )
    robust = list(of_damaged(label, chosen.data, chosen.small))
    table(
        ["head", "what was done", "Dice of the brain", "mean Dice of the structures"],
        [[row["head"], row["what"], number(row["brain"]), number(row["structures"])] for row in robust],
    )
    table(["case", "warnings"], [[name, "; ".join(texts) or "none"] for name, texts in label.odd.items()])
    figures = {"template": template, "pairs": pairs, "hippocampi": hippocampi, "robust": robust, "warnings": label.odd}
    report("anatomy_real", figures)


if __name__ == "__main__":
    main()
