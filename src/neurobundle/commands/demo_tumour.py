"""The demo's tumour: painted into the template head, so that there is something to find and no patient in it.

The T1 is the template's. T1c, T2 and FLAIR are *computed*: each voxel's grey matter, white matter and fluid, whose
shares the template's own maps give, times how bright these are in that sequence. A tumour is drawn and painted into all
four (:mod:`neurobundle.augment.grafting`); the same one each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt

from neurobundle.bundle.entries import CaseResult
from neurobundle.bundle.find import bundles
from neurobundle.commands.run import Run
from neurobundle.errors import InputError
from neurobundle.export.nifti import save_label_map, save_volume
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
from neurobundle.prepare.register import template_path

BUNDLE = "brain_tumor_segmentation"
CASE = "painted_tumour"
#: Files of a case in BraTS 2020's layout, by sequence.
SUFFIXES = {"T1": "t1", "T1c": "t1ce", "T2": "t2", "FLAIR": "flair"}
#: BraTS 2023: regions of the labels 1 necrotic core, 2 oedema, 3 enhancing tumour.
REGIONS = {"whole tumour": (1, 2, 3), "tumour core": (1, 3), "enhancing tumour": (3,)}
LABELS = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}

#: What the tumour is drawn from: a glioma with all of its parts, in the depth of the left hemisphere.
SEED = 14
KIND, RADIUS_MM = "high_grade", (15.0, 18.0)
#: White matter's brightness in the files, and the spread of the noise in those that are computed, of it.
WHITE_LEVEL, NOISE = 400.0, 0.03


@dataclass(frozen=True)
class PaintedHead:
    """The head that was made, and what was found in it.

    Attributes:
        folder: a study: one file a sequence.
        truth: the label map that was painted.
        result: of the bundle, or None where it has no weights here.
        output: where its label map is.
    """

    folder: Path
    truth: Path
    result: CaseResult | None
    output: Path

    def scan(self, sequence: str) -> Path:
        """The file of a sequence."""
        return self.folder / f"{CASE}_{SUFFIXES[sequence]}.nii.gz"

    @property
    def found(self) -> Path | None:
        """The label map that the bundle wrote."""
        return self.output / self.result.output if self.result else None


def painted_tumour(output: Path, debug: bool = False) -> PaintedHead:
    """Paint the head, and segment it if the bundle has weights here.

    Args:
        output: gets ``painted_tumour/``, the study, and ``painted_tumour_seg.nii.gz``.
        debug: let unexpected exceptions through.

    Raises:
        InputError: if the head could not be segmented.
    """
    folder = output / CASE
    head, truth, affine = paint_template()
    for sequence, data in head.items():
        save_volume(folder / f"{CASE}_{SUFFIXES[sequence]}.nii.gz", data, affine)
    painted = save_label_map(folder / f"{CASE}_seg.nii.gz", truth, affine)
    if not has_weights():
        return PaintedHead(folder, painted, None, output)
    result = Run(BUNDLE, output, debug=debug)([folder]).results[0]
    if not result.passed:
        raise InputError(f"the demo failed: {result.error}", "Run it again with --debug to see where.")
    return PaintedHead(folder, painted, result, output)


def has_weights() -> bool:
    """Whether the tumour bundle is here, with its weights."""
    folder = bundles().get(BUNDLE)
    return folder is not None and (folder / "models" / "model.pt").is_file()


def paint_template(
    seed: int = SEED,
) -> tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """The template's head in four sequences, with a tumour painted into it.

    Args:
        seed: what contrasts and tumour are drawn from.

    Returns:
        The images by sequence, the label map in BraTS 2023's numbers, and the affine of all.

    Raises:
        InputError: if no place was found for the tumour.
    """
    import torch

    from neurobundle.augment.grafting import paint_lesion
    from neurobundle.augment.lesions import draw_tumour
    from neurobundle.augment.tissues import INDEX, draw_contrasts

    t1, grey, white, affine = _template()
    rng = np.random.default_rng(seed)
    contrasts = draw_contrasts(rng, tuple(SUFFIXES))
    inside = t1 > 0
    fluid = np.where(inside, np.clip(1 - grey - white, 0, 1), 0)
    images = {"T1": torch.from_numpy(t1 / np.median(t1[white > 0.95]) * WHITE_LEVEL)}
    for contrast in contrasts[1:]:
        means = [contrast.means[INDEX[name]] for name in ("cortex", "white", "fluid")]
        noise = NOISE * rng.standard_normal(t1.shape, np.float32)
        image = sum(mean * part for mean, part in zip(means, (grey, white, fluid), strict=True)) + noise
        images[contrast.sequence] = torch.from_numpy((image * WHITE_LEVEL * inside).astype(np.float32)).clamp_min(0)
    tissue = np.select([~inside, white > 0.5, grey > 0.5], [0, INDEX["white"], INDEX["cortex"]], INDEX["fluid"])
    (lesion, *_) = draw_tumour(rng, KIND, RADIUS_MM)
    painted = paint_lesion(images, torch.from_numpy(tissue.astype(np.uint8)), lesion, contrasts, seed=seed)
    if painted.painted is None:
        raise InputError("there is no place for a tumour in the template", "Report this.")
    scans = {name: image.clamp_min(0).round().to(torch.int16).numpy() for name, image in painted.images.items()}
    return scans, painted.label.numpy(), affine


def _template() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray]:
    """T1, and the shares of grey and white matter, on one grid in RAS axes."""
    t1 = template_path()
    loaded = [nib.as_closest_canonical(nib.load(t1.with_name(t1.name.replace("_t1_", f"_{part}_")))) for part in _PARTS]
    t1_data, grey, white = (np.asarray(image.dataobj, np.float32) for image in loaded)
    return t1_data, grey / np.float32(255), white / np.float32(255), np.asarray(loaded[0].affine, float)


_PARTS = ("t1", "gm", "wm")


def region_rows(head: PaintedHead) -> list[dict[str, str]]:
    """What was painted and what was found, a region a row, in ml; and how far they overlap."""
    truth = read_scan(head.truth, LABEL)
    found = read_scan(head.found, LABEL).data if head.found else None
    ml = abs(float(np.linalg.det(truth.affine[:3, :3]))) / 1000
    return [_row(name, labels, truth.data, found, ml) for name, labels in REGIONS.items()]


def _row(
    name: str, labels: tuple[int, ...], truth: npt.NDArray, found: npt.NDArray | None, ml: float
) -> dict[str, str]:
    there = np.isin(truth, labels)
    row = {"region": name, "painted, ml": f"{there.sum() * ml:.1f}"}
    if found is None:
        return row
    here = np.isin(found, labels)
    total = int(there.sum() + here.sum())
    dice = 2 * int((there & here).sum()) / total if total else float("nan")
    return {**row, "found, ml": f"{here.sum() * ml:.1f}", "Dice": f"{dice:.2f}"}
