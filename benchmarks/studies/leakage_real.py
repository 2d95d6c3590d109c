"""What the audit finds in the published sets, and how sure its near-duplicates are.

The tables of docs/concepts/leakage.md, and its picture:

1. slices of ``ce_mri`` that were altered, each against itself, and all pairs of slices of different persons;
2. the authors' own folds of ``ce_mri``, on the ids that were published with the slice (``pid_source`` is ``read``): ids
   that differ by a suffix alone, their most similar slices, and how many other pairs of ids have slices as similar;
3. ``ce_mri`` and ``no_tumour_2d`` as four classes: what tells the fourth without a look at the brain, as published and
   after all slices became grey PNG pictures of one size.

With ``-o`` it draws similar slices of ``ce_mri`` side by side. Run it from the repository's root:

    python benchmarks/studies/leakage_real.py --data ../shared/data -o docs/images/leakage.png
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from study import arguments, number, report, table

from neurobundle.commands.audit import AuditReport, audit
from neurobundle.load.likeness import NEARLY_SAME, most_alike, nearly_same, view_of
from neurobundle.train.leaks import KIN, NEAR, base_of, families

Row = dict[str, str]

CLASSES = ("meningioma", "glioma", "pituitary tumour", "no tumour")
#: Every so many slices are altered; ``--small`` takes every so many of all.
STRIDE, SMALL = 20, 5
#: Of other pairs of ids those are counted whose slices are at least so similar.
SIMILAR = 0.9
#: Traits in the third table.
MOST_TRAITS = 6
#: Pixels of a side to which all slices are brought, and of one in the picture; what is white there.
ONE_SIZE, SHOWN, WHITE_PERCENTILE = 200, 208, 99.5


def as_jpeg(picture: np.ndarray) -> np.ndarray:
    """Encoded with quality 50 and decoded."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))


def as_grey(values: np.ndarray) -> np.ndarray:
    """Numbers as a picture has them."""
    return np.clip(values, 0, 255).astype(np.uint8)


def turned(degrees: float) -> Callable[[np.ndarray], np.ndarray]:
    """A rotation."""
    return lambda p: ndimage.rotate(p, degrees, reshape=False, order=1)


def cropped(pixels: int) -> Callable[[np.ndarray], np.ndarray]:
    """Without its border, and enlarged to what it was."""
    return lambda p: np.asarray(Image.fromarray(p[pixels:-pixels, pixels:-pixels]).resize(p.shape[::-1]))


ALTERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "JPEG, quality 50": as_jpeg,
    "brighter by a third": lambda p: as_grey(p * 1.33 + 10.0),
    "gamma 0.7": lambda p: as_grey(255 * (p / 255) ** 0.7),
    "noise of 10 levels": lambda p: as_grey(p + np.random.default_rng(0).normal(0, 10, p.shape)),
    "resized to 224": lambda p: np.asarray(Image.fromarray(p).resize((224, 224))),
    "shifted by 12 and 7 pixels": lambda p: np.roll(p, (12, -7), (0, 1)),
    "mirrored": lambda p: p[:, ::-1],
    "turned by 90 degrees": lambda p: np.rot90(p),
    "turned by 2 degrees": turned(2),
    "turned by 5 degrees": turned(5),
    "cropped by 8 pixels on each side": cropped(8),
}


def rows_of(data: Path) -> list[Row]:
    """The table of ce_mri."""
    with (data / "ce_mri" / "index.csv").open() as file:
        return list(csv.DictReader(file))


def case_of(row: Row) -> str:
    """A slice's name."""
    return f"{int(row['id']):04d}"


def entry_of(row: Row, subject: str, fold: int) -> dict[str, Any]:
    """A slice as a datalist has it."""
    image, label = f"ce_mri/images/{case_of(row)}.png", int(row["label"]) - 1
    return {"case": case_of(row), "subject": subject, "fold": fold, "image": image, "label": label}


def picture_of(data: Path, case: str) -> np.ndarray:
    """A slice's pixels."""
    return np.asarray(Image.open(data / "ce_mri" / "images" / f"{case}.png"))


def of_altered(data: Path, rows: Sequence[Row], stride: int) -> dict[str, Any]:
    """Shift correlation of slices with altered copies, and the largest of different persons."""
    pixels = [picture_of(data, case_of(row)) for row in rows]
    views = [view_of(picture) for picture in pixels]
    some = range(0, len(rows), stride)
    figures: dict[str, Any] = {}
    lines = []
    for name, alter in ALTERED.items():
        pairs = [views[n] for n in some] + [view_of(alter(pixels[n])) for n in some]
        sides = [f"{side} {n}" for side in "ab" for n in some]
        found = {(pair.first, pair.second) for pair in nearly_same(pairs, sides)}
        share = float(np.mean([(n, n + len(some)) in found for n in range(len(some))]))
        figures[name] = share
        lines.append([name, f"{100 * share:.0f} %"])
    table([f"{len(some)} slices", f"found again at {number(NEARLY_SAME, 2)}"], lines)
    strangers = nearly_same(views, [row["person"] for row in rows], least=SIMILAR)
    figures["strangers"] = {
        "pairs": int(pairs_of([row["person"] for row in rows])),
        "most": strangers[0].correlation if strangers else None,
        "most_unturned": max((pair.correlation for pair in strangers if not pair.turn), default=None),
        "found": sum(pair.correlation >= NEARLY_SAME for pair in strangers),
    }
    return figures


def pairs_of(names: Sequence[str]) -> int:
    """How many pairs have different names."""
    counts = np.unique(np.asarray(names), return_counts=True)[1]
    return (len(names) ** 2 - int((counts**2).sum())) // 2


def of_authors(data: Path, rows: Sequence[Row], folder: Path) -> tuple[dict[str, Any], list[tuple[str, str, float]]]:
    """The audit of the authors' folds, kin by kin; and pairs of slices for the picture."""
    items = [entry_of(row, row["pid"], int(row["fold"])) for row in rows]
    found = audited(items, folder, data)
    views = {item["case"]: view_of(picture_of(data, item["case"])) for item in items}
    cases: dict[str, list[str]] = {}
    for item in items:
        cases.setdefault(item["subject"], []).append(item["case"])
    fold = {item["subject"]: item["fold"] for item in items}
    lines, kin = [], []
    ids = sorted(cases)
    for n, one in enumerate(ids):
        for other in ids[n + 1 :]:
            if base_of(one) != base_of(other):
                continue
            first, second, height = most_alike([views[c] for c in cases[one]], [views[c] for c in cases[other]])
            kin.append((cases[one][first], cases[other][second], height))
            where = f"{fold[one]} and {fold[other]}"
            lines.append([f"{one}, {other}", where, f"{kin[-1][0]}, {kin[-1][1]}", number(height)])
    table(["ids", "folds", "most similar slices", "correlation"], lines)
    names = [item["subject"] for item in items]
    similar = nearly_same([views[item["case"]] for item in items], names, least=SIMILAR, turns=False)
    pairs = {(names[pair.first], names[pair.second]): pair for pair in reversed(similar)}
    others = [pair for key, pair in pairs.items() if base_of(key[0]) != base_of(key[1])]
    closest = max(others, key=lambda pair: pair.correlation, default=None)
    n_kin = len(lines)
    figures = {
        "slices": len(items),
        "bases": sum(leak.kind == KIN for leak in found.leaks),
        "near": [list(leak.cases) for leak in found.leaks if leak.kind == NEAR],
        "kin_pairs": n_kin,
        "kin_pairs_similar": sum(height >= SIMILAR for _, _, height in kin),
        "other_pairs": len(ids) * (len(ids) - 1) // 2 - n_kin,
        "other_pairs_similar": len({tuple(sorted(key)) for key in pairs if base_of(key[0]) != base_of(key[1])}),
        "most_of_others": closest.correlation if closest else None,
    }
    stranger = (items[closest.first]["case"], items[closest.second]["case"], closest.correlation) if closest else None
    return figures, [*sorted(kin, key=lambda pair: -pair[2])[:2], *([stranger] if stranger else [])]


def of_sources(data: Path, rows: Sequence[Row], folder: Path, step: int) -> dict[str, Any]:
    """What tells slices without tumour, as published and as grey pictures of one size."""
    items = [entry_of(row, row["person"], n % 5) for n, row in enumerate(rows)]
    files = sorted((data / "no_tumour_2d").iterdir())[::step]
    items += [
        {"case": path.stem, "image": f"no_tumour_2d/{path.name}", "label": 3, "fold": n % 5}
        for n, path in enumerate(files)
    ]
    published = audited(items, folder, data)
    alike = []
    for item in items:
        grey = Image.open(data / item["image"]).convert("L").resize((ONE_SIZE, ONE_SIZE))
        grey.save(folder / f"{item['case']}.png")
        alike.append({**item, "image": f"{item['case']}.png"})
    made = audited(alike, folder, folder)
    tables = {"as published": traits_of(published), f"as grey PNG of {ONE_SIZE} x {ONE_SIZE}": traits_of(made)}
    lines = [
        [what, trait, f"{number(row.accuracy)} ({number(row.low)} to {number(row.high)})"]
        for what, found in tables.items()
        for trait, row in list(found.items())[:MOST_TRAITS]
    ]
    table(["slices", "trait", "balanced accuracy of *no tumour*"], lines)
    near = [leak for leak in published.leaks if leak.kind == NEAR]
    inside = [leak for leak in near if not any(case.isdigit() for case in leak.cases)]
    linked = families(inside)
    return {
        "without": len(files),
        "coloured": len(published.failed),
        "told": {what: [trait for trait, row in found.items() if row.found] for what, found in tables.items()},
        "near_of_both_sets": len(near) - len(inside) - sum(all(c.isdigit() for c in leak.cases) for leak in near),
        "near_without": len(inside),
        "turned_without": sum(bool(leak.facts["turn"]) for leak in inside),
        "families": len(linked),
        "in_families": sum(map(len, linked)),
    }


def traits_of(found: AuditReport) -> dict[str, Any]:
    """What each trait says of the slices without tumour, the most telling first."""
    return {row.trait: row for row in found.confounds if row.label == CLASSES.index("no tumour")}


def audited(items: Sequence[dict[str, Any]], folder: Path, base: Path) -> AuditReport:
    """The audit of a datalist."""
    path = folder / "datalist.json"
    path.write_text(json.dumps({"training": list(items), "labels": dict(enumerate(CLASSES))}))
    return audit(path, base)


def draw(path: Path, data: Path, pairs: Sequence[tuple[str, str, float]], rows: Sequence[Row]) -> None:
    """Pairs of slices, one above the other, with ids and authors' folds."""
    by_case = {case_of(row): row for row in rows}
    sheet = Image.new("L", (len(pairs) * (SHOWN + 8) - 8, 2 * (SHOWN + 20) + 20), 255)
    pen = ImageDraw.Draw(sheet)
    for n, (one, other, height) in enumerate(pairs):
        left = n * (SHOWN + 8)
        for row, case in enumerate((one, other)):
            top = row * (SHOWN + 20)
            said = f"{by_case[case]['pid']}, fold {by_case[case]['fold']}"
            pen.text((left, top + 3), f"{case}: {said}", fill=0)
            pixels = picture_of(data, case)
            bright = as_grey(pixels * (255 / np.percentile(pixels, WHITE_PERCENTILE)))
            sheet.paste(Image.fromarray(bright).resize((SHOWN, SHOWN)), (left, top + 20))
        pen.text((left, 2 * (SHOWN + 20) + 3), f"correlation {number(height)}", fill=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def main() -> None:
    """Print the tables, draw the picture, and report the figures."""
    given = arguments(__doc__ or "", picture=True)
    step = SMALL if given.small else 1
    rows = rows_of(given.data)
    read = [row for row in rows if row["pid_source"] == "read"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        altered = of_altered(given.data, rows[::step], STRIDE)
        authors, pairs = of_authors(given.data, read, folder)
        sources = of_sources(given.data, rows[::step], folder, step)
    if given.output is not None:
        draw(given.output, given.data, pairs, rows)
    report("leakage_real", {"altered": altered, "authors": authors, "sources": sources})


if __name__ == "__main__":
    main()
