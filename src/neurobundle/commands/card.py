"""What a cross-validation writes into a bundle's card: tables, the metadata's scores, and the worst cases' pictures.

A card has a pair of HTML comments, ``<!-- scores -->`` and ``<!-- /scores -->``; what stands between them is made here
from the files that the evaluation wrote, and from nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobundle.errors import SettingError
from neurobundle.export.pictures import View, save_png, stack, three_planes
from neurobundle.files import write_atomic, write_json
from neurobundle.load.gate import LABEL
from neurobundle.load.scan import read_scan
from neurobundle.measure.segmentation import Score

START, END = "<!-- scores -->", "<!-- /scores -->"

#: How many of the worst cases are shown.
WORST_CASES = 3


def score_tables(summary: Mapping[str, Any]) -> str:
    """The pooled table and the table by fold, as Markdown.

    Args:
        summary: what ``summary.json`` holds.
    """
    tolerance = f"NSD at {summary['nsd_tolerance_mm']:g} mm"
    lines = [
        f"{summary['n_cases']} cases, each predicted by the network that did not see its fold. "
        "Means, with the 95 % interval by bootstrap over subjects.",
        "",
        f"| structure | Dice | {tolerance} | HD95, mm | volume bias | volume ICC | missed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, scores in summary["structures"].items():
        volume = scores["volume"]
        bias = f"{_number(volume['bias_ml'], '+.3f')} ml ({_number(volume['bias_percent'], '+.1f')} %)"
        cells = [_mean(scores["dice"]), _mean(scores["nsd"]), _mean(scores["hd95_mm"], 2), bias]
        cells.append(_number(volume["icc"], ".3f"))
        lines.append(f"| {name} | {' | '.join(cells)} | {scores['n_missed'] + scores['n_failed']} |")
    folds = summary.get("folds", {})
    if folds:
        names = list(summary["structures"])
        lines += [
            "",
            f"| fold | cases | {' | '.join(f'Dice {name}' for name in names)} |",
            "|---|---|" + "---|" * len(names),
        ]
        for fold, part in folds.items():
            cells = [_mean(part["structures"][name]["dice"]) for name in names]
            lines.append(f"| {fold} | {part['n_cases']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _mean(metric: Mapping[str, Any], digits: int = 3) -> str:
    if metric["mean"] is None:
        return "-"
    low, high = metric["interval"]
    return f"{metric['mean']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def write_card(bundle_dir: Path, summary: Mapping[str, Any]) -> None:
    """Put the tables into ``docs/README.md`` and the means into ``configs/metadata.json``.

    Args:
        bundle_dir: the bundle.
        summary: what ``summary.json`` holds.

    Raises:
        SettingError: if the card has no place for them.
    """
    card = bundle_dir / "docs" / "README.md"
    text = card.read_text()
    if START not in text or END not in text:
        raise SettingError(f"the card has no {START} and {END}", "Put both where the tables belong.", file=card)
    before, after = text.split(START)[0], text.split(END)[1]
    write_atomic(card, f"{before}{START}\n{score_tables(summary)}\n{END}{after}".encode())
    path = bundle_dir / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["eval_metrics"] = {
        f"{name}_dice": round(scores["dice"]["mean"], 3) for name, scores in summary["structures"].items()
    }
    write_json(path, metadata)


def draw_worst(
    folder: Path, scores: Sequence[Score], items: Mapping[str, Mapping[str, Any]], predictions: Mapping[str, Path]
) -> list[Path]:
    """Draw the cases of lowest mean Dice: reference above, prediction below, the same slices.

    Args:
        folder: gets ``worst-1.png`` and so on.
        scores: of all cases.
        items: the datalist's entry of each case.
        predictions: the label map of each case.
    """
    by_case: dict[str, list[float]] = {}
    for score in scores:
        by_case.setdefault(score.case, []).append(score.dice)
    worst = sorted(by_case, key=lambda case: float(np.nanmean(by_case[case])))[:WORST_CASES]
    written = []
    for number, case in enumerate(worst, start=1):
        image, truth, found = (
            read_scan(Path(p), LABEL) for p in (items[case]["image"], items[case]["label"], predictions[case])
        )
        views = [View.of(image.data, labels.data, image.affine) for labels in (truth, found)]
        shown = ", ".join(f"{dice:.2f}" for dice in by_case[case])
        rows = [
            three_planes(view, title=f"{case}: {what}, Dice {shown}", at=views[0].centre())
            for view, what in zip(views, ("reference", "prediction"), strict=True)
        ]
        written.append(save_png(folder / f"worst-{number}.png", stack(rows)))
    return written
