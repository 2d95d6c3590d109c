"""What the tumour bundle finds in real heads: of patients, none of whom it has seen.

The tables of the bundle's card:

1. ``lgg``, lower-grade gliomas whose masks are of the whole tumour: Dice per patient, from FLAIR alone and from T1, T1c
   and FLAIR, with the 95 % interval over patients; and how much it hangs on the spacing, which is not published;
2. heads without a tumour, in ml of what it finds: ``ms_lesions``, two brains whose lesions are no tumour (the first is
   in the training of the shipped weights), ``ms_lesions_raw``, a head at two visits, and nilearn's template;
3. the first again, FLAIR alone, after something was done to each head: turned, mirrored, stored in another order of
   axes, cut into slices twice as thick, given a bias field or noise.

Every fifth patient was looked at while the weights were made, to see where they fail; the rest chose nothing, and have
rows of their own. Weights are the bundle's own, or those of ``--models FOLDER``. Run it from the
repository's root; the summary goes to ``-o``:

    python benchmarks/studies/tumour_real.py --data ../shared/data -o real.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from anatomy_real import PATIENTS, as_scan, flipped
from scipy import ndimage
from scipy.spatial.transform import Rotation
from study import number, one_file, report, table

from neurobundle.bundle.find import find_bundle
from neurobundle.commands.run import Run
from neurobundle.commands.stack import CASES, stack
from neurobundle.export.nifti import save_label_map, save_volume
from neurobundle.files import write_json
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import Scan, read_scan
from neurobundle.measure.resampling import bootstrap_interval
from neurobundle.measure.segmentation import score_case
from neurobundle.networks.manifest import sha256_of
from neurobundle.prepare.register import template_path

BUNDLE = "brain_tumor_segmentation"
WHOLE = {"WT": [1, 2, 3]}
#: What the pictures' colours are, and which of them a study has.
CHANNELS = ("T1", "FLAIR", "T1c")
STUDIES = {"FLAIR": ("FLAIR",), "T1, T1c and FLAIR": CHANNELS}
#: In the plane and between slices, of the estimate; the first is the estimate itself.
SCALES = ((1.0, 1.0), (0.9, 1.0), (1.1, 1.0), (1.0, 0.8), (1.0, 1.25))
#: What is measured; a run on two cores takes about a quarter of an hour for the first, and an hour and a half for all.
PARTS = ("patients", "empty", "spacing", "damaged")
#: Every so many patients, by name, one was looked at before the weights were final.
LOOKED_AT = 5
OTHERS = "those that were never looked at"
IN_MS = {"T1": "T1_*", "T1c": "T1POST_*", "T2": "T2_*", "FLAIR": "FLAIR_*"}


def options() -> argparse.Namespace:
    """``--data``, ``--models``, ``--parts``, ``--small`` and ``-o``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEUROBUNDLE_DATA", "../shared/data")))
    parser.add_argument("--models", type=Path, help="a folder with model.pt and MANIFEST.sha256 (the bundle's own)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure (all)")
    parser.add_argument("--small", action="store_true", help="three patients")
    parser.add_argument("-o", "--output", type=Path, help="the summary, JSON")
    found = parser.parse_args()
    if not found.data.is_dir():
        parser.error(f"{found.data} is no folder: give the one with the real data by --data")
    return found


class Segmenter:
    """``neurobundle run`` on studies, into folders of its own."""

    def __init__(self, models: Path | None) -> None:
        self.settings = {"device": "cpu"} | ({"ckpt_dir": str(models)} if models else {})

    def __call__(self, studies: Path, output: Path) -> dict[str, Any]:
        """Case -> its entry in the report."""
        results = Run(BUNDLE, output, pictures=False, settings=self.settings)([studies]).results
        return {result.case: result for result in results}

    def dice(self, studies: Path, references: Mapping[str, Path], output: Path) -> dict[str, float]:
        """Dice of the whole tumour of each case; a case that failed has 0."""
        self(studies, output)
        scores = {}
        for case, file in references.items():
            reference, found = read_scan(file, LABEL), output / f"{case}_seg.nii.gz"
            labels = read_scan(found, LABEL).data if found.exists() else np.zeros_like(reference.data)
            (score,) = score_case(labels, reference.data > 0, WHOLE, (1, 1, 1))
            scores[case] = float(score.dice)
        return scores


def stacked(data: Path, output: Path, scale: tuple[float, float], small: bool) -> dict[str, Path]:
    """The patients as NIfTI; case -> reference."""
    source = data / "lgg"
    if small:
        source = output / "few"
        source.mkdir(parents=True)
        for folder in sorted(path for path in (data / "lgg").iterdir() if path.is_dir())[::25]:
            (source / folder.name).symlink_to(folder.resolve())
    report = stack(source, output / "nifti", CHANNELS, reference="FLAIR", scale=scale)
    return {case: output / "nifti" / CASES / case / f"{case}_seg.nii.gz" for case in report.cases}


def only(references: Mapping[str, Path], channels: Sequence[str], output: Path) -> Path:
    """A folder of the same studies with these channels alone."""
    for case, reference in references.items():
        folder = output / case
        folder.mkdir(parents=True)
        for channel in channels:
            name = f"{case}_{channel}.nii.gz"
            if (reference.parent / name).exists():
                (folder / name).symlink_to(reference.parent / name)
    return output


def of_patients(
    segment: Segmenter, data: Path, small: bool, spacing: bool, work: Path
) -> Iterator[tuple[str, dict[str, float]]]:
    """Dice per patient for each set of channels, and from FLAIR alone for each spacing."""
    for number_, scale in enumerate(SCALES if spacing and not small else SCALES[:1]):
        place = work / f"scale{number_}"
        references = stacked(data, place, scale, small)
        for name, channels in STUDIES.items() if number_ == 0 else [("FLAIR", STUDIES["FLAIR"])]:
            studies = only(references, channels, place / name)
            words = name if number_ == 0 else f"{name}, spacing x {scale[0]:g} in the plane, x {scale[1]:g} between"
            yield words, segment.dice(studies, references, place / f"{name}_out")


def damaged(scan: Scan) -> Iterator[tuple[str, Scan, np.ndarray]]:
    """A head after something was done to it, with the voxel-to-voxel matrix onto the head before."""
    array, affine = scan.data, scan.affine
    same, turn = np.eye(4), np.eye(4)
    middle = (affine @ [*(np.array(array.shape) - 1) / 2, 1])[:3]
    # In the plane of thick slices; a turned affine alone is nothing to a bundle that works along the scanner's axes.
    turn[:3, :3] = Rotation.from_rotvec(np.radians(20) * affine[:3, 2] / np.linalg.norm(affine[:3, 2])).as_matrix()
    turn[:3, 3] = middle - turn[:3, :3] @ middle
    onto = np.linalg.inv(affine) @ turn @ affine
    yield "turned by 20 degrees in the plane", Scan(ndimage.affine_transform(array, onto, order=1), affine), onto
    yield "left and right exchanged", Scan(array, np.diag([-1.0, 1, 1, 1]) @ affine), same
    other, stored = flipped(scan)
    yield "axes flipped and permuted", Scan(other, stored), np.linalg.inv(affine) @ stored
    thick = array[:, :, : array.shape[2] // 2 * 2].reshape(*array.shape[:2], -1, 2).mean(axis=-1)
    coarse = np.diag([1.0, 1, 2, 1])
    coarse[2, 3] = 0.5
    yield "slices twice as thick", Scan(thick, affine @ coarse), coarse
    place = np.indices(array.shape, np.float32) / np.array(array.shape)[:, None, None, None]
    field = np.exp(0.6 * np.sin(2 * place[0] + 1) * np.cos(3 * place[1]) + 0.3 * place[2]).astype(np.float32)
    yield "a bias field of .6 to 2.5", Scan(array * field, affine), same
    level = float(np.percentile(array, 99)) * 0.1
    noise = np.random.default_rng(0).normal(scale=level, size=(2, *array.shape)).astype(np.float32)
    yield "Rician noise, a tenth of the brightest", Scan(np.hypot(array + noise[0], noise[1]), affine), same


def of_damaged(
    segment: Segmenter, references: Mapping[str, Path], work: Path
) -> Iterator[tuple[str, dict[str, float]]]:
    """Dice per patient, FLAIR alone, after something was done to the head."""
    kinds: dict[str, dict[str, Path]] = {}
    for case, file in references.items():
        scan = as_scan(file.with_name(f"{case}_FLAIR.nii.gz"))
        truth = read_scan(file, LABEL).data
        for name, changed, onto in damaged(scan):
            folder = work / name.replace(" ", "_") / "in" / case
            folder.mkdir(parents=True)
            save_volume(folder / f"{case}_FLAIR.nii.gz", changed.data.astype(np.float32), changed.affine)
            moved = ndimage.affine_transform(truth, onto[:3, :3], onto[:3, 3], changed.data.shape, order=0)
            reference = work / name.replace(" ", "_") / f"{case}_ref.nii.gz"
            kinds.setdefault(name, {})[case] = save_label_map(reference, moved, changed.affine)
    for name, files in kinds.items():
        place = work / name.replace(" ", "_")
        yield name, segment.dice(place / "in", files, place / "out")


def without_tumour(segment: Segmenter, data: Path, work: Path) -> Iterator[tuple[str, float]]:
    """How many ml of tumour are found where there is none."""
    heads: dict[str, dict[str, Path]] = {"template": {"T1": template_path()}}
    for visit in ("study1", "study2"):
        heads[f"raw-{visit}-one"] = {"FLAIR": data / "ms_lesions_raw" / "patient01" / f"{visit}_FLAIR.nii.gz"}
    for patient in PATIENTS:
        files = {name: one_file(data / "ms_lesions" / patient, pattern) for name, pattern in IN_MS.items()}
        heads |= {f"{patient}-four": files, f"{patient}-one": {"FLAIR": files["FLAIR"]}}
        heads |= {f"{patient}-three": {name: files[name] for name in CHANNELS}}
    for head, files in heads.items():
        (work / "in" / head).mkdir(parents=True)
        for channel, file in files.items():
            ending = "".join(file.suffixes[-2:]) if file.name.endswith(".gz") else file.suffix
            (work / "in" / head / f"{head}_{channel}{ending}").symlink_to(file.resolve())
    for case, result in segment(work / "in", work / "out").items():
        yield case, result.volumes_ml.get("WT", sum(result.volumes_ml.values()))


def unseen(scores: Mapping[str, float]) -> dict[str, float]:
    """Of all patients those that were never looked at."""
    return {case: scores[case] for number_, case in enumerate(sorted(scores)) if number_ % LOOKED_AT}


def row_of(name: str, scores: Mapping[str, float], plain: Mapping[str, float] | None = None) -> list[str]:
    """A row of the tables."""
    facts = facts_of(scores)
    low, high = facts["interval"]
    row = [name, str(len(scores)), f"{number(facts['dice'])} ({number(low)} to {number(high)})"]
    row += [number(facts["median"]), str(facts["missed"])]
    return row if plain is None else [*row, number(facts["dice"] - facts_of(plain)["dice"])]


def facts_of(scores: Mapping[str, float]) -> dict[str, Any]:
    """Mean, interval, median, and how many tumours were missed."""
    values = list(scores.values())
    low, high = bootstrap_interval(values, list(scores))
    return {
        "patients": len(values),
        "dice": float(np.mean(values)),
        "interval": [low, high],
        "median": float(np.median(values)),
        "missed": int(sum(value == 0 for value in values)),
        "per_patient": dict(scores),
    }


def main() -> None:
    """Print the tables, and write the summary."""
    given = options()
    segment = Segmenter(given.models)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        patients = dict(of_patients(segment, given.data, given.small, "spacing" in given.parts, work / "lgg"))
        cases = sorted((work / "lgg/scale0/nifti" / CASES).iterdir())
        references = {path.name: path / f"{path.name}_seg.nii.gz" for path in cases}
        empty = dict(without_tumour(segment, given.data, work / "empty")) if "empty" in given.parts else {}
        ruined = dict(of_damaged(segment, references, work / "damaged")) if "damaged" in given.parts else {}
    head = ["studies", "patients", "Dice of the whole tumour", "median", "missed"]
    if not given.small:
        patients |= {f"{name}: {OTHERS}": unseen(patients[name]) for name in STUDIES}
    table(head, [row_of(name, scores) for name, scores in patients.items()])
    table(
        ["head without a tumour (one: FLAIR; three: T1, T1c, FLAIR)", "found, ml"],
        [[name, f"{ml:.1f}"] for name, ml in empty.items()],
    )
    table(
        ["FLAIR alone, what was done", *head[1:], "change"],
        [row_of(name, scores, patients["FLAIR"]) for name, scores in ruined.items()],
    )
    figures = {
        "weights": sha256_of((given.models or find_bundle(BUNDLE) / "models") / "model.pt"),
        "patients": {name: facts_of(scores) for name, scores in patients.items()},
        "without_tumour_ml": empty,
        "damaged": {name: facts_of(scores) for name, scores in ruined.items()},
    }
    if given.output:
        write_json(given.output, figures)
    report("tumour_real", figures)


if __name__ == "__main__":
    main()
