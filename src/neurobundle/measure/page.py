"""``report.html`` of an evaluation: what is how good, how sure that is, and which cases are bad.

One file without a script. Each case of a segmentation has a page of its own inside it, which is shown when the address
ends in its id and hides the rest; with no such address, and on paper, the main part is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurobundle.export.page import (
    DASH,
    REPORT_STYLE,
    Markup,
    contents,
    count,
    grid,
    html,
    many,
    number,
    paragraph,
    plain,
    said,
    section,
    write_page,
)
from neurobundle.measure import charts
from neurobundle.measure.outputs import CURVES
from neurobundle.measure.page_answers import answer_fold_section, curve_section, subject_section, temperature_section
from neurobundle.measure.page_parts import (
    RankedCase,
    calibration_section,
    case_page,
    case_section,
    chart,
    chart_row,
    confusion_section,
    extremes_section,
    fact_section,
    mean,
    mean_table,
    outline_legend,
    problem_part,
    ranked,
    score_table,
    within_budget,
)

if TYPE_CHECKING:
    from neurobundle.export.comparison import CasePictures
    from neurobundle.measure.segmentation import Score

#: Charts show at most so many structures, those with the lowest mean Dice.
MOST_BOXES, MOST_AGREEMENTS = 24, 9
#: Box plots of at most so many structures are about as high as other charts.
SIDE_BY_SIDE = 4
NOT_FOR_DIAGNOSIS = "The numbers speak of these cases only. Not for diagnosis."

_INTERVAL = "Below a number is its 95 % interval, of a bootstrap over subjects."
_POLICY = (
    "A missed structure (in the reference only), a false one (in the prediction only) and a failed case (no "
    "prediction) count as Dice 0 and as the image's diagonal; an empty one (in neither) is in no mean. " + _INTERVAL
)

#: Scores of a summary in the order of the columns: over all classes, and of each.
_CLASSIFICATION = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "macro_auroc", "macro_auprc")
_OF_CLASS = ("n", "n_failed", "precision", "sensitivity", "specificity", "f1", "auroc", "auprc")
_DETECTION = ("map50", "map50_95", "precision", "recall", "f1", "n_failed")
_BOXES_OF_CLASS = ("n_boxes", "ap50", "ap50_95", "precision", "recall", "f1")
#: Their headings, where these are not their keys.
_HEADINGS = {
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "macro_auroc": "macro-AUROC",
    "macro_auprc": "macro-AUPRC",
    "n_failed": "failed",
    "n_boxes": "boxes",
    "f1": "F1",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "map50": "mAP at IoU .5",
    "map50_95": "mAP at .5 to .95",
    "ap50": "AP at IoU .5",
    "ap50_95": "AP at .5 to .95",
}
#: Those that are counted, and have no decimals.
_COUNTS = ("n", "n_failed", "n_boxes")


def write_segmentation_page(
    path: Path,
    title: str,
    summary: Mapping[str, Any],
    scores: Sequence[Score],
    pictures: Mapping[str, CasePictures],
    problems: Mapping[str, str],
    facts: Sequence[tuple[str, str]],
    subjects: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of a segmentation.

    Args:
        path: ends in ``.html``.
        title: of the page.
        summary: what ``summary.json`` holds.
        scores: of every case and structure.
        pictures: by case; a case may lack them.
        problems: why each case that failed did so, by case.
        facts: what was compared and by what, as names and values.
        subjects: the subject of each case; a case that is not in it is its own subject.
    """
    structures = summary.get("structures") or {}
    cases = ranked(scores, subjects or {})
    shown = within_budget(cases, pictures)
    legend = outline_legend(summary)
    tables = score_table(summary, structures), said(_POLICY), mean_table(structures)
    sections = [
        section("scores", "Scores", *tables),
        _distribution_section(cases, list(structures)),
        extremes_section(cases, pictures, legend),
        confusion_section(summary.get("confusion"), "voxels"),
        calibration_section(summary.get("calibration")),
        _fold_section(summary.get("folds"), list(structures)),
        case_section(cases, list(structures)),
        fact_section(facts),
    ]
    size = f"{many(summary.get('n_cases'), 'case')}, {many(len(structures), 'structure')}"
    opening = f"{size}: predicted label maps against their references. {NOT_FOR_DIAGNOSIS}"
    pages = [
        case_page(cases, n, shown.get(case.name), legend if shown else None, problems.get(case.name, ""))
        for n, case in enumerate(cases)
    ]
    return _write(path, title, opening, problems, sections, pages)


def write_classification_page(
    path: Path,
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    problems: Mapping[str, str],
    facts: Sequence[tuple[str, str]],
) -> Path:
    """Write the report of a classification; wrong cases come first, the surest ones of them at the top.

    Args:
        path: ends in ``.html``; the curves of trainings are shown if they lie beside it (``curves.png``).
        title: of the page.
        summary: what ``summary.json`` holds.
        rows: one a case: ``case``, ``subject``, ``truth``, ``prediction``, ``correct``, ``status``, and ``p_<class>``.
        problems: why each case that failed did so, by case.
        facts: what was compared and by what, as names and values.
    """
    threshold = summary.get("threshold")
    chosen = f"The threshold is {plain(threshold)}. " if threshold is not None else ""
    text = f"{chosen}A failed case counts as wrong. {_INTERVAL}"
    sections = [
        section("scores", "Scores", _overall(summary, _CLASSIFICATION), _by_class(summary, _OF_CLASS), said(text)),
        confusion_section(summary.get("confusion"), "cases"),
        calibration_section(summary.get("calibration"), "classes"),
        temperature_section(summary.get("temperature")),
        subject_section(summary.get("subjects")),
        answer_fold_section(summary.get("folds")),
        curve_section(path.parent / CURVES),
        _answer_section(rows),
        fact_section(facts),
    ]
    opening = (
        f"{many(summary.get('n_cases'), 'case')}, {many(len(summary.get('classes') or []), 'class', 'classes')}: "
        f"predicted classes against their references. {NOT_FOR_DIAGNOSIS}"
    )
    return _write(path, title, opening, problems, sections)


def write_detection_page(
    path: Path,
    title: str,
    summary: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    problems: Mapping[str, str],
    facts: Sequence[tuple[str, str]],
) -> Path:
    """Write the report of a detection; the images with most missed and false boxes come first.

    Args:
        path: ends in ``.html``.
        title: of the page.
        summary: what ``summary.json`` holds.
        rows: one an image: ``case``, ``n_boxes``, ``n_found``, ``n_missed``, ``n_false`` and ``status``.
        problems: why each image that failed did so, by image.
        facts: what was compared and by what, as names and values.
    """
    at = f"IoU {plain(summary.get('iou_threshold'))} and score {plain(summary.get('score_threshold'))}"
    text = f"Precision, recall and F1 at {at}. A failed image counts as missed. {_INTERVAL}"
    sections = [
        section("scores", "Scores", _overall(summary, _DETECTION), _by_class(summary, _BOXES_OF_CLASS), said(text)),
        _froc_section(summary.get("froc")),
        _image_section(rows),
        fact_section(facts),
    ]
    opening = (
        f"{many(summary.get('n_images'), 'image')}, {many(summary.get('n_boxes'), 'box', 'boxes')} in the references: "
        f"predicted boxes against them. {NOT_FOR_DIAGNOSIS}"
    )
    return _write(path, title, opening, problems, sections)


def _write(
    path: Path,
    title: str,
    opening: str,
    problems: Mapping[str, str],
    sections: Sequence[str],
    pages: Sequence[str] = (),
) -> Path:
    there = [text for text in sections if text]
    parts = [paragraph(opening), problem_part(list(problems.values())), contents(there), *there]
    return write_page(path, title, [part for part in parts if part], REPORT_STYLE, pages)


def _values(cases: Sequence[RankedCase], structure: str, column: str, status: str = "") -> list[float]:
    """A column of one structure over cases, of a status if one is given, without blanks."""
    own = [case.scores[structure] for case in cases if structure in case.scores]
    values = [float(getattr(score, column)) for score in own if status in ("", score.status)]
    return [value for value in values if math.isfinite(value)]


def _distribution_section(cases: Sequence[RankedCase], structures: Sequence[str]) -> str:
    mean_dice = {name: float(np.mean(_values(cases, name, "dice") or [math.inf])) for name in structures}
    worst = sorted(structures, key=mean_dice.__getitem__)
    boxes = [name for name in structures if name in worst[:MOST_BOXES]]
    if not boxes:
        return ""
    dice, hd95 = ({name: _values(cases, name, column) for name in boxes} for column in ("dice", "hd95_mm"))
    low = min((value for values in dice.values() for value in values), default=0.0)
    # Misses stand at the image's diagonal, which would leave no room to tell the others apart.
    found = [value for name in boxes for value in _values(cases, name, "hd95_mm", "ok")]
    end = (1.04 * max(found) or 1.0) if found else None
    items = [
        chart(charts.box_plots(dice, "Dice", (math.floor(10 * low) / 10 - 0.02, 1.01), "Dice by case"), "Dice by case"),
        chart(charts.box_plots(hd95, "HD95, mm", (0.0, end) if end else None, "HD95 by case"), "HD95 by case"),
    ]
    agreements = [name for name in structures if name in worst[:MOST_AGREEMENTS]]
    for name in agreements:
        title = f"Volume agreement: {name}"
        own = [case.scores[name] for case in cases if name in case.scores and case.scores[name].status != "failed"]
        volumes = [score.reference_ml for score in own], [score.volume_ml for score in own]
        items.append(chart(charts.volume_agreement(*volumes, title), title))
    text = (
        "A dot is a case; a box holds the middle half, its line is the median, its whiskers end within 1.5 times the "
        "box. Triangles lie beyond the axis: where the structure was missed or is not there. "
        "Volume agreement: difference of the volumes over their mean, with mean ± 1.96 standard deviations."
    )
    drawn = f" Drawn are the {len(boxes)} structures with the lowest mean Dice, and the volumes of {len(agreements)}."
    more = drawn if len(agreements) < len(structures) else ""
    # Charts of unlike heights do not stand side by side.
    lines = [items] if len(boxes) <= SIDE_BY_SIDE else [items[:2], items[2:]]
    return section("spread", "Spread over cases", *map(chart_row, lines), said(text + more))


def _fold_section(folds: Mapping[str, Mapping[str, Any]] | None, structures: Sequence[str]) -> str:
    if not folds:
        return ""
    rows = []
    for fold, part in folds.items():
        row: list[object] = [fold, count(part.get("n_cases"))]
        for name in structures:
            values = (part.get("structures") or {}).get(name) or {}
            row += [mean(values.get("dice")), mean(values.get("nsd")), mean(values.get("hd95_mm"), 2)]
        rows.append(row)
    columns = ["fold", "cases", *(["Dice", "NSD", "HD95, mm"] * len(structures))]
    return section("folds", "By fold", grid("scores by fold", columns, rows, [("", 2), *((n, 3) for n in structures)]))


def _overall(summary: Mapping[str, Any], keys: Sequence[str]) -> str:
    return grid("overall scores", ["", *_headings(keys)], [["all classes", *_cells(summary, keys)]])


def _by_class(summary: Mapping[str, Any], keys: Sequence[str]) -> str:
    classes = summary.get("per_class") or {}
    rows = [[name, *_cells(own or {}, keys)] for name, own in classes.items()]
    return grid("scores by class", ["class", *_headings(keys)], rows) if rows else ""


def _headings(keys: Sequence[str]) -> list[str]:
    return [_HEADINGS.get(key, key) for key in keys]


def _cells(scores: Mapping[str, Any], keys: Sequence[str]) -> list[Markup]:
    return [mean(scores.get(key), 0 if key in _COUNTS else 3) for key in keys]


def _answer_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases of a classification; those at the top gave the true class the least."""
    if not rows:
        return ""
    classes = list(dict.fromkeys(key for row in rows for key in row if key.startswith("p_")))

    def order(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        of_truth = _as_number(row.get(f"p_{row.get('truth')}"))
        return _is_right(row), -1.0 if math.isnan(of_truth) else of_truth, str(row.get("case"))

    lines: list[list[object]] = []
    for row in sorted(rows, key=order):
        word = "failed" if row.get("status") == "failed" else "right" if _is_right(row) else "wrong"
        answer = [row.get("subject") or "", row.get("truth"), row.get("prediction") or DASH, _marked(word, "right")]
        lines.append([row.get("case"), *answer, *(number(_as_number(row.get(key))) for key in classes)])
    columns = ["case", "subject", "reference", "prediction", "answer", *(key.removeprefix("p_") for key in classes)]
    over = [("", 5), ("probability", len(classes))] if classes else []
    return section("cases", "All cases, wrong ones first", grid("all cases", columns, lines, over, kind="cases"))


def _image_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """All images of a detection."""
    if not rows:
        return ""

    def order(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        errors = np.nansum([_as_number(row.get("n_missed")), _as_number(row.get("n_false"))])
        return row.get("status") != "failed", -float(errors), str(row.get("case"))

    lines = []
    for row in sorted(rows, key=order):
        boxes, found, missed, false = (
            _as_number(row.get(f"n_{what}")) for what in ("boxes", "found", "missed", "false")
        )
        counts = [count(n) for n in (boxes, found, missed, false)]
        lines.append([row.get("case"), *counts, _marked(str(row.get("status") or DASH), "ok")])
    columns = ["image", "boxes", "found", "missed", "false", "status"]
    return section("cases", "All images, most errors first", grid("all images", columns, lines, kind="cases"))


def _froc_section(froc: Mapping[str, Any] | None) -> str:
    if not froc or not froc.get("sensitivity"):
        return ""
    falses, sensitivity = froc["false_positives_per_image"], froc["sensitivity"]
    title = "Sensitivity over false positives"
    rows: list[list[object]] = [[plain(x), number(y)] for x, y in zip(falses, sensitivity, strict=True)]
    rows.append(["mean", number(froc.get("score"))])
    table = grid(title, ["false positives an image", "sensitivity"], rows)
    return section("froc", "FROC", chart_row([chart(charts.froc_curve(falses, sensitivity, title), title)]), table)


def _marked(word: str, good: str) -> Markup:
    return html(word) if word == good else Markup(f'<span class="bad">{html(word)}</span>')


def _is_right(row: Mapping[str, Any]) -> bool:
    """What a table says as 1, ``1`` or True."""
    return row.get("correct") in (1, "1", "True", "true")


def _as_number(value: object) -> float:
    """A cell of a table, where a number may be text, and nothing is blank."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
