"""Whether a network tells tumours apart by the tumour: the same pictures without it, and with nothing else.

A *control* is a copy of every picture in which one part of it is taken away, with the same cases, persons, folds and
masks. The *region* is the tumour's outline and all that is within 3 pixels of it:

- *blanked*: the region has the mean grey of a ring of 4 pixels around it, so that there is no hole;
- *only*: everything but the region is 0.

A network is cross-validated on the unchanged pictures and on each control, all with one budget. Its mask head is off
in all three, and the datalists that train name no mask: on a control it would be taught where the tumour was, which
is what the control takes away, and on the unchanged pictures alone it would be a help that the others lack. Accuracy
stands beside the share of the most frequent class, which a network gets that sees nothing. The paired test takes one
difference a person (Wilcoxon), and Holm's correction both controls.

What it cannot show: a blanked region is even, so its place and size can still be seen, and a tumour that the outline
leaves out stays. An accuracy of *blanked* above the majority's share may come from these, from what a tumour does
around it (swelling, displacement), or from a confound: the plane of the slice, the scanner.

It goes on where it was stopped. Run it from the repository's root:

    python benchmarks/studies/controls.py --data ../shared/data -o controls --config amp
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt
from study import cell, number, report, table

from neurobundle.bundle.find import find_bundle
from neurobundle.bundle.workflow import device_setting, make_plan
from neurobundle.commands.crossval import CrossValidation
from neurobundle.errors import InputError, SettingError
from neurobundle.files import write_atomic, write_json
from neurobundle.load.datalist import Item, load_json, read_datalist, write_datalist
from neurobundle.load.gate import LABEL
from neurobundle.load.pictures import read_picture
from neurobundle.measure import compare_pairs, holm
from neurobundle.measure.classification_evaluation import read_answers
from neurobundle.measure.outputs import SUMMARY, TABLE

BUNDLE = "tumor_type_classification"
ROOT = Path(__file__).resolve().parents[2]

#: Pixels that the region is wider than the outline, and that the ring is wide.
MARGIN, RING = 3, 4
UNCHANGED, CONTROLS = "unchanged", ("blanked", "only")

#: Of ``--small``: a network that learns nothing, to see that all runs.
TINY = {"network_size": "tiny", "width": 1.0, "batch_size": 8}


def options() -> argparse.Namespace:
    """What data, which budget, and where to."""
    parser = study_options(__doc__ or "", epochs=12, size=96)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (1)")
    return parsed(parser)


def study_options(description: str, epochs: int, size: int) -> argparse.ArgumentParser:
    """The options of a study that trains the bundle."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NEUROBUNDLE_DATA", "../shared/data")))
    parser.add_argument("--datalist", type=Path, help="pictures with classes, masks and folds (the bundle's own)")
    parser.add_argument("--dataset-dir", type=Path, help="what its paths are relative to (its own folder)")
    parser.add_argument("--epochs", type=int, default=epochs, help=f"of each training ({epochs})")
    parser.add_argument("--size", type=int, default=size, help=f"pixels of a slice's side, of the same field ({size})")
    parser.add_argument("--config", nargs="+", default=[], metavar="OVERLAY", help="overlays of every run, such as amp")
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]")
    parser.add_argument("--small", action="store_true", help="a tiny network, to see that it runs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="gets everything; outside of the repository")
    return parser


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with a datalist and its folder; what cannot be is refused."""
    given = parser.parse_args()
    if given.datalist is None:
        given.datalist = find_bundle(BUNDLE) / "configs" / "datalist.json"
        given.dataset_dir = given.dataset_dir or given.data / "ce_mri"
    given.dataset_dir = given.dataset_dir or given.datalist.parent
    if not given.dataset_dir.is_dir():
        parser.error(f"{given.dataset_dir} is no folder: give the one with ce_mri by --data, or --datalist")
    if given.epochs < 1 or given.size < 1:
        parser.error("--epochs and --size are 1 or more")
    if ROOT in given.output.resolve().parents:
        parser.error(f"{given.output} is in the repository, which keeps no copies of data: give a folder elsewhere")
    return given


def budget_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of every run: the field of view is the bundle's own, however many pixels it has."""
    own = make_plan(find_bundle(BUNDLE), "train")
    pixel_mm = float(own.value("pixel_mm")) * int(own.value("size")) / given.size
    budget = {"epochs": given.epochs, "size": given.size, "pixel_mm": round(pixel_mm, 4)}
    return {**budget, **device_setting(given.device), **(TINY if given.small else {})}


@dataclass(frozen=True)
class Scored:
    """An evaluation of one run.

    Attributes:
        summary: its ``summary.json``.
        right: of each case, whether its answer is right; a failed one is wrong.
        persons: of each case.
        truth: of each case, the class's number.
    """

    summary: dict[str, Any]
    right: dict[str, bool]
    persons: dict[str, str]
    truth: dict[str, int]

    @property
    def majority(self) -> float:
        """The share of the most frequent class."""
        return max(Counter(self.truth.values()).values()) / len(self.truth)

    def figures(self) -> dict[str, Any]:
        """Accuracy and macro-F1, each with its interval by person."""
        return {name: self.summary[name] for name in ("accuracy", "macro_f1")}


def scored(folder: Path) -> Scored:
    """What an evaluation or a cross-validation wrote."""
    answers = read_answers(folder / TABLE).answers
    return Scored(
        load_json(folder / SUMMARY),
        {case: answer.prediction == answer.truth for case, answer in answers.items()},
        {case: answer.subject for case, answer in answers.items()},
        {case: answer.truth for case, answer in answers.items()},
    )


def paired(pairs: dict[str, tuple[Scored, Scored]]) -> dict[str, dict[str, Any]]:
    """Of each pair A and B the accuracy of A less that of B, and a test with one difference a person.

    Raises:
        InputError: if two runs have not the same cases.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (a, b) in pairs.items():
        if a.right.keys() != b.right.keys():
            raise InputError(f"{name}: {len(a.right)} and {len(b.right)} cases", "Run both on one datalist.")
        result = compare_pairs(
            [float(right) for right in a.right.values()],
            [float(b.right[case]) for case in a.right],
            list(a.persons.values()),
        )
        found[name] = {
            "difference": result.mean_difference,
            "interval": list(result.interval),
            "p": result.p_wilcoxon,
            "persons": result.n_subjects,
        }
    for row, p in zip(found.values(), holm([row["p"] for row in found.values()]), strict=True):
        row["p_holm"] = float(p)
    return found


def difference_cells(row: dict[str, Any]) -> list[str]:
    """A difference with its interval, and both p."""
    chances = ["< .001" if row[name] < 0.001 else number(row[name]) for name in ("p", "p_holm")]
    return [cell({"mean": row["difference"], "interval": row["interval"]}), *chances]


def region_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tumour with its margin, and the ring around that, both bool like the mask ``(row, column)``.

    >>> mask = np.zeros((1, 20), bool)
    >>> mask[0, 10] = True
    >>> [int(part.sum()) for part in region_of(mask)]
    [7, 8]
    """
    away = distance_transform_edt(~mask)
    region = away <= MARGIN
    return region, (away <= MARGIN + RING) & ~region


def controlled(pixels: np.ndarray, mask: np.ndarray, control: str) -> np.ndarray:
    """A picture with a part of it taken away.

    Args:
        pixels: ``(row, column)``, whole numbers.
        mask: above 0 where the tumour is.
        control: ``blanked`` or ``only``.

    Raises:
        InputError: if the mask is empty, leaves no ring, or has another shape.
    """
    if mask.shape != pixels.shape:
        raise InputError(f"its mask has the shape {mask.shape}, for {pixels.shape}", "Draw it on this picture.")
    region, ring = region_of(mask > 0)
    if not (mask > 0).any() or not ring.any():
        raise InputError("its mask is empty, or has no pixel around it", "Give pictures with an outlined tumour.")
    changed = np.where(region, pixels, 0) if control == "only" else pixels.copy()
    if control == "blanked":
        changed[region] = np.rint(pixels[ring].mean())
    return changed.astype(pixels.dtype)


def write_control(items: list[Item], metadata: dict[str, Any], folder: Path, control: str) -> Path:
    """The pictures of a control that are not there yet, and its datalist."""
    copies = []
    for item in items:
        path = folder / "images" / f"{item['case']}.png"
        if not path.exists():
            try:
                pixels = read_picture(Path(item["image"]))
                mask = read_picture(Path(item["mask"]), LABEL)
                changed = controlled(pixels, mask, control)
            except InputError as error:
                raise InputError(error.cause, error.way_out, case=item["case"], file=item["image"]) from error
            stream = io.BytesIO()
            Image.fromarray(changed).save(stream, "PNG")
            write_atomic(path, stream.getvalue())
        copies.append({**item, "image": str(path)})
    return write_datalist(folder / "datalist.json", copies, metadata=metadata)


def write_lists(given: argparse.Namespace) -> dict[str, Path]:
    """The datalist that each run trains on, without masks; those of the controls with masks lie beside their pictures.

    Raises:
        SettingError: if a case has no mask, or the folder holds controls of other pictures.
    """
    items = read_datalist(given.datalist, base_dir=given.dataset_dir, need_fold=True)
    # A mask that is a number is of a case without a tumour.
    lacking = [str(item["case"]) for item in items if not isinstance(item.get("mask"), str)]
    if lacking:
        raise SettingError(
            f"{len(lacking)} cases have no mask of a tumour",
            "Give a datalist of tumours, with the path of a mask for each.",
            case=lacking[0],
            file=given.datalist,
        )
    content = load_json(given.datalist)
    known = {key: content[key] for key in ("labels", "split") if key in content}
    facts = {"margin_px": MARGIN, "ring_px": RING, "images": [item["image"] for item in items]}
    path = given.output / "controls.json"
    if path.exists() and load_json(path) != facts:
        raise SettingError("this folder holds controls of other pictures", "Give another output folder.", file=path)
    write_json(path, facts)
    lists = {UNCHANGED: items}
    for control in CONTROLS:
        folder = given.output / "pictures" / control
        lists[control] = read_datalist(write_control(items, {"name": control, **known}, folder, control))
    return {
        name: write_datalist(
            given.output / f"{name}.json",
            [{key: value for key, value in item.items() if key != "mask"} for item in own],
            metadata={"name": name, **known},
        )
        for name, own in lists.items()
    }


def main() -> None:
    """Write the pictures, cross-validate all three, and put them side by side."""
    given = options()
    budget = budget_of(given)
    settings = {**budget, "val_interval": given.epochs, "mask_head": False}
    runs: dict[str, Scored] = {}
    for name, datalist in write_lists(given).items():
        print(f"{name}: {given.output / name}", file=sys.stderr)
        run = CrossValidation(BUNDLE, datalist, given.output / name, overlays=given.config, settings=settings)
        run(jobs=given.jobs)
        runs[name] = scored(given.output / name)
    tests = paired({name: (runs[name], runs[UNCHANGED]) for name in CONTROLS})
    figures = {
        "cases": len(runs[UNCHANGED].truth),
        "persons": len(set(runs[UNCHANGED].persons.values())),
        "majority": runs[UNCHANGED].majority,
        "settings": {**settings, "config": given.config},
        "region": {"margin_px": MARGIN, "ring_px": RING},
        "rows": {name: {**run.figures(), "against_unchanged": tests.get(name)} for name, run in runs.items()},
    }
    write_json(given.output / SUMMARY, figures)
    rows = [
        [
            name,
            *(cell(score) for score in run.figures().values()),
            number(run.majority),
            *(difference_cells(tests[name]) if name in tests else ["", "", ""]),
        ]
        for name, run in runs.items()
    ]
    head = ["pictures", "accuracy", "macro-F1", "share of the largest class", "accuracy less unchanged", "p", "p Holm"]
    table(head, rows)
    report("controls", figures)


if __name__ == "__main__":
    main()
