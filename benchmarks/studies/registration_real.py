"""How far registrations of real scans end from the truth, and what the misalignment check says of them.

Two tables, those of docs/concepts/registration.md:

1. ``ms_lesions_raw``, one patient as scanned, against the published transforms (ITK text: fixed to moving, LPS, a
   matrix about a centre). They are not exactly rigid, and ours is: so the distance to the published matrix stands
   beside that to the rigid matrix nearest to it over the box's corners (least squares), its *motion*. Distances are
   the largest over the corners of a box a little larger than the brain.
2. ``ms_lesions``, two patients whose scans others brought together: untouched, and with planted displacements in random
   directions, in the header or by resampling the head in its grid. What is *left* is the longest way of a corner of
   the head's box. What the check says of the raw scans stands in the first two rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation
from study import arguments, number, one_file, report, table

from neurobundle import geometry
from neurobundle.prepare.alignment import Scan, check_alignment, checked, moved_mm, reference_of
from neurobundle.prepare.study_registration import register_study

LPS = np.diag([-1.0, -1, 1, 1])
#: A box a little larger than the raw patient's brain in each visit's scanner space, RAS+ mm (low, high).
BRAINS_MM = {"study1": ((-68, -104, -60), (68, 66, 66)), "study2": ((-68, -104, -68), (68, 66, 55))}
#: Reference, moving; the first ones are those of ``--small``.
PAIRS = (
    ("study2_FLAIR", "study2_T1W"),
    ("study2_FLAIR", "study1_FLAIR"),
    ("study2_FLAIR", "study2_T2W"),
    ("study1_FLAIR", "study1_T1W"),
    ("study1_FLAIR", "study1_T2W"),
    ("study1_FLAIR", "study2_FLAIR"),
)
PATIENTS, SEQUENCES = ("patient07", "patient26"), ("FLAIR", "T1", "T1POST", "T2")
#: Where the brain's middle lies in the registered scans, mm; displacements turn about it.
MIDDLE_MM = (0.0, -18.0, 5.0)


def scan_of(path: Path) -> Scan:
    """A scan as its file has it."""
    image = nibabel.load(path)
    return np.asarray(image.dataobj, np.float32), np.asarray(image.affine, float)


def published(folder: Path, name: str) -> np.ndarray:
    """A transform's text as a matrix in RAS+ mm, fixed to moving."""
    lines = (folder / f"{name}.txt").read_text().splitlines()
    values, centre = (np.array(line.split(":")[1].split(), float) for line in lines[3:5])
    matrix = np.eye(4)
    matrix[:3, :3] = values[:9].reshape(3, 3)
    matrix[:3, 3] = values[9:] + centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS


def truth_of(folder: Path, fixed: str, moving: str) -> np.ndarray:
    """The published matrix of a pair; between visits through the space halfway."""
    if fixed[:6] == moving[:6]:
        return published(folder, f"{moving}_intrastudy_to_FLAIR")
    there, here = (published(folder, f"{scan}_to_common_space") for scan in (moving, fixed))
    return there @ np.linalg.inv(here)


def nearest_rigid(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The rigid matrix that takes points nearest to where a matrix takes them (Kabsch 1976)."""
    there = geometry.apply(matrix, points)
    left, _, right = np.linalg.svd((there - there.mean(axis=0)).T @ (points - points.mean(axis=0)))
    rigid = np.eye(4)
    rigid[:3, :3] = left @ np.diag([1, 1, np.linalg.det(left @ right)]) @ right
    rigid[:3, 3] = there.mean(axis=0) - rigid[:3, :3] @ points.mean(axis=0)
    return rigid


def apart_mm(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> float:
    """How far two matrices take the same point apart, at most."""
    return float(np.linalg.norm(geometry.apply(one, points) - geometry.apply(other, points), axis=1).max())


def of_published(data: Path, pairs: tuple[tuple[str, str], ...]) -> list[dict[str, Any]]:
    """Distances of each pair's registration."""
    folder, rows = data / "ms_lesions_raw" / "patient01", []
    for fixed, moving in pairs:
        scans = [scan_of(folder / f"{name}.nii.gz") for name in (fixed, moving)]
        truth = truth_of(folder, fixed, moving)
        points = np.array(list(itertools.product(*zip(*BRAINS_MM[fixed[:6]], strict=True))), float)
        motion = nearest_rigid(truth, points)
        (found,) = register_study(scans[0], scans[1:])
        rows.append(
            {
                "pair": f"{_said(fixed)} - {_said(moving, fixed)}",
                "header": apart_mm(np.eye(4), truth, points),
                "to_motion": apart_mm(found.matrix, motion, points),
                "to_matrix": apart_mm(found.matrix, truth, points),
                "not_rigid": apart_mm(truth, motion, points),
                "visits": len({fixed[:6], moving[:6]}),
                "check": _checked_pairs([(scans[0], scans[1])]),
            }
        )
    return sorted(rows, key=lambda row: str(row["pair"]))


def _said(name: str, beside: str = "") -> str:
    """A scan in words: ``visit 1 FLAIR``; without its visit beside one of the same."""
    scan = name[7:].removesuffix("W")
    return scan if name[:6] == beside[:6] else f"visit {name[5]} {scan}"


def planted(seed: int, shift_mm: float, degrees: float) -> np.ndarray:
    """A shift and a turn of given sizes in random directions."""
    shift, axis = (vector / np.linalg.norm(vector) for vector in np.random.default_rng(seed).normal(size=(2, 3)))
    matrix, middle = np.eye(4), np.array(MIDDLE_MM)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix()
    matrix[:3, 3] = middle + shift_mm * shift - matrix[:3, :3] @ middle
    return matrix


def in_header(scan: Scan, matrix: np.ndarray) -> Scan:
    """The scan with a header that places it elsewhere."""
    return scan[0], matrix @ scan[1]


def in_head(scan: Scan, matrix: np.ndarray) -> Scan:
    """The head moved within the scan's own grid, as if the person had moved."""
    array, affine = scan
    onto = np.linalg.inv(affine) @ np.linalg.inv(matrix) @ affine
    return ndimage.affine_transform(array, onto[:3, :3], onto[:3, 3], order=1), affine


def one_slice_less(scan: Scan, matrix: np.ndarray) -> Scan:
    """The same head on another grid, so that a registration need not leave it as it is."""
    return scan[0][:, :, :-1], matrix @ scan[1]


def of_planted(data: Path, way: Any, shift_mm: float, degrees: float, seeds: range) -> dict[str, Any]:
    """The check and the registration of scans to FLAIR that were moved; each seed takes the next patient and scan."""
    pairs, moved, left = [], 0, []
    for seed in seeds:
        folder = data / "ms_lesions" / PATIENTS[seed % 2]
        fixed, scan = (scan_of(one_file(folder, f"{name}_*")) for name in ("FLAIR", SEQUENCES[1 + seed % 3]))
        truth = planted(seed, shift_mm, degrees)
        moving = way(scan, truth)
        pairs.append((fixed, moving))
        (found,) = register_study(fixed, [moving])
        box_mm = reference_of(checked(fixed, "FLAIR")).box_mm
        moved += found.accepted
        left.append(moved_mm(np.linalg.inv(truth) @ found.matrix, box_mm))
    return {**_checked_pairs(pairs), "moved": moved, "left": left}


def _checked_pairs(pairs: Iterable[tuple[Scan, Scan]]) -> dict[str, Any]:
    """What the check says of pairs."""
    checks = [check_alignment(fixed, moving) for fixed, moving in pairs]
    return {
        "pairs": len(checks),
        "suspicious": sum(check.suspicious for check in checks),
        "shift": [check.best_shift_mm for check in checks],
        "gain": [(check.best.nmi - 1) / (check.agreement.nmi - 1) for check in checks],
    }


def of_untouched(data: Path, patients: tuple[str, ...]) -> dict[str, Any]:
    """The check of every ordered pair of a patient's scans as published."""
    pairs: list[tuple[Scan, Scan]] = []
    for patient in patients:
        scans = [scan_of(one_file(data / "ms_lesions" / patient, f"{name}_*")) for name in SEQUENCES]
        pairs += itertools.permutations(scans, 2)
    return _checked_pairs(pairs)


def joined(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of several pairs as one row."""
    return {name: sum((row[name] for row in rows[1:]), rows[0][name]) for name in rows[0]}


def displacements(data: Path, raw: list[dict[str, Any]], small: bool) -> dict[str, dict[str, Any]]:
    """What was done to scans -> what became of them; ``raw`` are the rows of the first table."""
    six, five, more = (range(1), range(1), range(5, 6)) if small else (range(6), range(5), range(5, 10))
    return {
        "raw, of one visit": joined([row["check"] for row in raw if row["visits"] == 1]),
        "raw, of two visits": joined([row["check"] for row in raw if row["visits"] == 2]),
        "untouched, all ordered pairs": of_untouched(data, PATIENTS[: 1 if small else 2]),
        "untouched, to FLAIR": of_planted(data, in_header, 0, 0, six),
        "the same, without their last slice": of_planted(data, one_slice_less, 0, 0, six),
        "2 mm and 2 degrees, in the header": of_planted(data, in_header, 2, 2, six),
        "5 mm and 5 degrees, in the header": of_planted(data, in_header, 5, 5, five),
        "5 mm and 5 degrees, in the head": of_planted(data, in_head, 5, 5, more),
    }


def write_tables(pairs: list[dict[str, Any]], moved: dict[str, dict[str, Any]]) -> None:
    """As the page has them."""
    table(
        [
            "reference - moving",
            "header",
            "ours to published motion",
            "ours to published matrix",
            "published matrix to its own motion",
        ],
        [
            [row["pair"], f"{row['header']:.1f} mm", f"**{row['to_motion']:.2f} mm**"]
            + [f"{row[name]:.2f} mm" for name in ("to_matrix", "not_rigid")]
            for row in pairs
        ],
    )

    def span(values: list[float], digits: int) -> str:
        low, high = (number(value, digits) for value in (min(values), max(values)))
        return low if low == high else f"{low} to {high}"

    table(
        [
            "displacement",
            "pairs",
            "suspicious",
            "the check moves the head by",
            "and agrees so many times as well",
            "moved by the registration",
            "left at the corners",
        ],
        [
            [what, str(row["pairs"]), str(row["suspicious"]), f"{span(row['shift'], 1)} mm", span(row["gain"], 2)]
            + ([str(row["moved"]), f"{span(row['left'], 2)} mm"] if "left" in row else ["", ""])
            for what, row in moved.items()
        ],
    )


def main() -> None:
    """Both tables; with ``--small``, two pairs and one displacement of each kind."""
    options = arguments(__doc__ or "")
    pairs = of_published(options.data, PAIRS[: 2 if options.small else None])
    moved = displacements(options.data, pairs, options.small)
    write_tables(pairs, moved)
    report("registration_real", {"pairs": pairs, "displacements": moved})


if __name__ == "__main__":
    main()
