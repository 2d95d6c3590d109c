"""What classical learning makes of a datalist of pictures with classes: HOG and GLCM features with an SVM.

The table of docs/concepts/leakage.md, and what networks are held against, on the same folds. Features of a slice, its
grey values between the 1st and the 99.5th percentile brought to 0..1 and the slice to 128 x 128:

- *HOG*, histograms of oriented gradients (Dalal & Triggs 2005): 9 directions, cells of 16 pixels, blocks of 2 x 2;
- *GLCM*, grey-level co-occurrence (Haralick 1973): 32 levels, distances 1, 2 and 4, mean and range over four directions
  of contrast, dissimilarity, homogeneity, energy, correlation and entropy;
- both.

Features are standardised and reduced to at most 200 principal components. The SVM has a radial kernel, and classes
weigh alike; its cost is chosen, and its scores become probabilities, by three parts of the training cases, whole
persons each. So nothing of a held-out fold is known to what answers for it. Answers of all folds are pooled, and
intervals are by bootstrap over persons. With ``--region tumour`` features are of the box around the published outline
and a quarter more on each side, which no program knows without a radiologist. With ``--region outline`` there is no
picture at all: the *outline* is its centre, box, area and second moments, in shares of the slice.

Without ``--datalist`` it splits ce_mri by person as `neurobundle split` does. Run it from the repository's root:

    python benchmarks/studies/classic_learning.py --data ../shared/data -o classic
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
from skimage.feature import graycomatrix, graycoprops, hog
from skimage.transform import resize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from study import cell, report, table

from neurobundle.commands.split_classes import split_classes
from neurobundle.errors import InputError
from neurobundle.load.datalist import Item, load_json, read_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.labels import read_volume
from neurobundle.measure import ClassificationEvaluation

CLASSES = "glioma,meningioma,pituitary=pituitary tumour"

#: Pixels along each side, and percentiles of the grey values that become 0 and 1.
SIZE, WINDOW = 128, (1.0, 99.5)
#: Of GLCM.
LEVELS, DISTANCES, ANGLES = 32, (1, 2, 4), (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation", "entropy")
#: The box of a tumour is larger than its outline by this share of its own size, on each side.
MARGIN = 0.25
COMPONENTS, COSTS, PARTS = 200, (1.0, 10.0, 100.0), 3
#: What ``--small`` takes: each so many-th person.
STRIDE = 5

FEATURES = ("HOG", "GLCM", "HOG and GLCM")
OUTLINE = "outline"


def options() -> argparse.Namespace:
    """``--data`` or ``--datalist``, ``--region``, ``--small`` and ``-o``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEUROBUNDLE_DATA", "../shared/data")))
    parser.add_argument("--datalist", type=Path, help="pictures with classes and folds (ce_mri of --data)")
    parser.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (its own folder)")
    parser.add_argument(
        "--region", choices=("slice", "tumour", OUTLINE), default="slice", help="what features are of (slice)"
    )
    parser.add_argument("--small", action="store_true", help="a fifth of the persons")
    parser.add_argument("-o", "--output", type=Path, help="gets a folder of scores for each kind of features")
    found = parser.parse_args()
    if found.datalist is None and not (found.data / "ce_mri").is_dir():
        parser.error(f"{found.data / 'ce_mri'} is no folder: give --datalist, or the folder with ce_mri by --data")
    return found


def cases_of(given: argparse.Namespace) -> tuple[list[Item], list[str]]:
    """The entries of the datalist, and its classes in the order of their numbers."""
    if given.datalist is not None:
        path, base = given.datalist, given.dataset_dir
    else:
        path, base = Path(tempfile.mkdtemp()) / "datalist.json", given.data / "ce_mri"
        split_classes(base, path, column="class", classes=CLASSES, relative_to_data=True)
    items = read_datalist(path, base_dir=base, need_fold=True, check_files=False)
    names = load_json(path)["labels"]
    persons = sorted({item["subject"] for item in items})[:: STRIDE if given.small else 1]
    return [item for item in items if item["subject"] in set(persons)], [names[str(n)] for n in range(len(names))]


def picture_of(item: Item, region: str) -> np.ndarray:
    """A slice, or the box around its tumour, (128, 128) in [0, 1]."""
    pixels = read_volume(Path(item["image"])).data.astype(float)
    if pixels.ndim != 2:
        raise InputError("it is a volume, and these features are of slices", "Give pictures.", file=item["image"])
    if region == "tumour":
        pixels = pixels[box_of(read_volume(Path(item["mask"]), LABEL).data > 0)]
    low, high = np.percentile(pixels, WINDOW)
    return resize(np.clip((pixels - low) / max(high - low, 1e-6), 0, 1), (SIZE, SIZE), anti_aliasing=True)


def box_of(mask: np.ndarray) -> tuple[slice, ...]:
    """The box around a mask and a margin; all of it if the mask is empty."""
    if not mask.any():
        return tuple(slice(None) for _ in mask.shape)
    where = np.argwhere(mask)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    margin = np.ceil(MARGIN * (high - low)).astype(int)
    return tuple(slice(max(a, 0), b) for a, b in zip(low - margin, high + margin, strict=True))


def features_of(picture: np.ndarray) -> dict[str, np.ndarray]:
    """HOG, GLCM, and both, of one slice."""
    gradients = hog(picture, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2))
    levels = np.minimum((picture * LEVELS).astype(np.uint8), LEVELS - 1)
    together = graycomatrix(levels, DISTANCES, ANGLES, levels=LEVELS, symmetric=True, normed=True)
    texture = np.stack([graycoprops(together, name) for name in PROPERTIES])  # (property, distance, angle)
    grain = np.concatenate([texture.mean(axis=2).ravel(), np.ptp(texture, axis=2).ravel()])
    return {"HOG": gradients, "GLCM": grain, "HOG and GLCM": np.concatenate([gradients, grain])}


def outline_of(item: Item) -> np.ndarray:
    """Where the published outline lies and how it is shaped: no grey value, ``(10,)``.

    Centre, corners of the box and root of the area, in shares of the slice's sides; then the standard deviations along
    and across its long axis, and the cosine of twice that axis's angle.
    """
    mask = read_volume(Path(item["mask"]), LABEL).data > 0
    if mask.ndim != 2 or not mask.any():
        raise InputError("it has no outline", "Leave the case out.", file=item["mask"])
    where = (np.argwhere(mask) + 0.5) / mask.shape
    spread, axes = np.linalg.eigh(np.cov(where.T) + 1e-8 * np.eye(2))
    along = axes[0, 1] ** 2 - axes[1, 1] ** 2
    corners = where.min(axis=0), where.max(axis=0)
    return np.array([*where.mean(axis=0), *corners[0], *corners[1], mask.mean() ** 0.5, *spread[::-1] ** 0.5, along])


def learn(features: np.ndarray, labels: np.ndarray, persons: np.ndarray) -> CalibratedClassifierCV:
    """An SVM whose cost and whose probabilities come from whole persons that each fit has not seen."""
    parts = list(GroupKFold(PARTS).split(features, labels, persons))
    components = min(COMPONENTS, features.shape[1], min(len(train) for train, _ in parts))
    search = GridSearchCV(_machine(components), {"svc__C": COSTS}, cv=parts, scoring="f1_macro", refit=False)
    cost = search.fit(features, labels).best_params_["svc__C"]
    machine = _machine(components).set_params(svc__C=cost)
    return CalibratedClassifierCV(machine, cv=parts, ensemble=False).fit(features, labels)


def _machine(components: int) -> Pipeline:
    return make_pipeline(
        StandardScaler(), PCA(components, random_state=0), SVC(kernel="rbf", gamma="scale", class_weight="balanced")
    )


def out_of_fold(
    items: list[Item], features: dict[str, np.ndarray], problems: dict[str, str], classes: list[str]
) -> ClassificationEvaluation:
    """Each case answered by what was learned on the other folds; one without features counts as wrong."""
    evaluation = ClassificationEvaluation(classes)
    for fold in sorted({item["fold"] for item in items}):
        train = [item for item in items if item["fold"] != fold and item["case"] in features]
        held_out = [item for item in items if item["fold"] == fold]
        known = [item for item in held_out if item["case"] in features]
        machine = learn(
            np.stack([features[item["case"]] for item in train]),
            np.array([item["label"] for item in train]),
            np.array([item["subject"] for item in train]),
        )
        answers = machine.predict_proba(np.stack([features[item["case"]] for item in known]))
        for item, answer in zip(known, answers, strict=True):
            probabilities = np.zeros(len(classes))
            probabilities[machine.classes_] = answer
            evaluation.add(item["case"], item["label"], probabilities, item["subject"])
        for item in held_out:
            if item["case"] not in features:
                evaluation.add_failed(item["case"], item["label"], item["subject"], problems[item["case"]])
    return evaluation


def main() -> None:
    """Compute features once, then learn and score each kind of them."""
    given = options()
    items, classes = cases_of(given)
    kinds = (OUTLINE,) if given.region == OUTLINE else FEATURES
    features: dict[str, dict[str, np.ndarray]] = {name: {} for name in kinds}
    problems: dict[str, str] = {}
    for item in items:
        try:
            found = (
                {OUTLINE: outline_of(item)} if given.region == OUTLINE else features_of(picture_of(item, given.region))
            )
            for name, values in found.items():
                features[name][item["case"]] = values
        except InputError as error:
            problems[item["case"]] = error.brief()
    rows, figures = [], {}
    persons = len({item["subject"] for item in items})
    for name in kinds:
        evaluation = out_of_fold(items, features[name], problems, classes)
        summary = evaluation.score()
        if given.output is not None:
            facts = {"features": name, "region": given.region, "persons": persons}
            evaluation.write(given.output / name.replace(" ", "_"), facts, f"{name} with an SVM, out of fold")
        figures[name] = {key: summary[key] for key in ("accuracy", "macro_f1")}
        rows.append([name, *(cell(summary[key]) for key in ("accuracy", "macro_f1", "macro_auroc"))])
    table(["features", "accuracy", "macro-F1", "AUROC"], rows)
    report(
        "classic_learning",
        {"cases": len(items), "persons": persons, "failed": len(problems), "region": given.region, "rows": figures},
    )


if __name__ == "__main__":
    main()
