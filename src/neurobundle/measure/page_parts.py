"""The parts of a report: a mean with its interval, calibration, confusion, and the cases of a segmentation.

A *summary* is what ``summary.json`` holds, and anything in it may be None: an undefined number is shown as a dash.
Cases are *ranked*: the lowest mean Dice over a case's structures comes first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from neurobundle.export.page import (
    DASH,
    Markup,
    anchors,
    count,
    grid,
    html,
    many,
    note,
    number,
    paragraph,
    picture,
    plain,
    said,
    section,
)
from neurobundle.measure import charts

if TYPE_CHECKING:
    from neurobundle.export.comparison import CasePictures
    from neurobundle.measure.segmentation import Score

WORST, BEST = 6, 3
#: Pictures of at most this many bytes are put into a page, the worst cases' first; a browser is slow with more.
MOST_PICTURE_BYTES = 24_000_000
#: A legend names at most so many outlines; their colours begin again after the fourth.
MOST_OUTLINES = 12
#: A caption names at most so many structures, the worst.
MOST_NAMED = 4

_COLOURS = (
    "Yellow is missed, blue is false, orange-red is inside another structure. Letters are the patient's directions."
)

#: What the table on a case's page begins with.
_CASE_COLUMNS = ("dice", "iou", "sensitivity", "precision", "nsd", "hd95_mm", "hd_mm", "assd_mm")

#: The parts of a calibration, their headings, and what one has to know to read them.
_CALIBRATION = (
    ("ece", "ECE", "ECE: mean gap between confidence and accuracy, in bins of equal width."),
    ("ace", "ACE", "ACE: the same in bins of equal mass."),
    ("mce", "MCE", "MCE: the largest gap."),
    ("brier", "Brier", "Brier: squared error of the probabilities."),
    ("nll", "NLL, nats", "NLL: negative log-probability of the true class."),
    ("error_auroc", "AUROC of errors", "AUROC of errors: how well uncertainty tells wrong from right; .5 is chance."),
    ("uncertainty", "mean uncertainty", ""),
    ("uncertainty_dice_spearman", "Spearman", "Spearman: of a case's uncertainty and its Dice; −1 is best."),
)
_RELIABILITY = "Reliability: below the diagonal the network is surer than it is right."


def mean(entry: object, digits: int = 3) -> Markup:
    """A mean with its interval below it.

    Args:
        entry: ``{"mean": ..., "interval": [low, high]}``, a number, or None.
        digits: decimals.
    """
    if not isinstance(entry, Mapping):
        return html(number(entry, digits))
    low, high = (number(end, digits) for end in (entry.get("interval") or (None, None)))
    below = f"<small>{low} to {high}</small>" if DASH not in (low, high) else ""
    return Markup(number(entry.get("mean"), digits) + below)


def alarm(value: object) -> Markup:
    """A count of what should not be there; any but 0 stands out."""
    return Markup(f'<span class="bad">{html(count(value))}</span>') if value else html(count(value))


def chart(svg: str, caption: str) -> str:
    """A chart below its caption."""
    return f"<figure><figcaption>{html(caption)}</figcaption>{svg}</figure>"


def chart_row(items: Iterable[str]) -> str:
    """Charts side by side, as many as there is room for."""
    inside = "".join(items)
    return f'<div class="charts">{inside}</div>' if inside else ""


def problem_part(problems: Sequence[str]) -> str:
    """What went wrong, where it must not be overlooked; nothing if nothing did."""
    if not problems:
        return ""
    lines = "".join(f"<li>{html(line)}</li>" for line in problems)
    return f'<div class="note"><p>{many(len(problems), "problem")}:</p><ul>{lines}</ul></div>'


def fact_section(facts: Sequence[tuple[str, str]]) -> str:
    """What was compared, and by what."""
    return section("facts", "What was compared", grid("what was compared", (), facts, kind="facts")) if facts else ""


def confusion_section(confusion: Mapping[str, Any] | None, unit: str) -> str:
    """Which label was taken for which.

    Args:
        confusion: ``{"labels": [...], "counts": [[...]]}``.
        unit: what is counted.
    """
    if not confusion or not confusion.get("labels"):
        return ""
    title = f"Confusion matrix, {unit}"
    matrix = charts.confusion_matrix(confusion["labels"], confusion["counts"], title)
    text = "Rows are the reference and add up to 100 %. A case without a prediction is not in it."
    return section("confusion", "Confusion", chart_row([chart(matrix, title)]), said(text))


def calibration_section(calibration: Mapping[str, Any] | None, unit: str = "structure") -> str:
    """How far a probability can be believed.

    Args:
        calibration: of each structure, or one of all classes together.
        unit: what the rows of the table are.
    """
    if not calibration:
        return ""
    parts = {"all": calibration} if "bins" in calibration or "ece" in calibration else calibration
    shown = [entry for entry in _CALIBRATION if any(part.get(entry[0]) is not None for part in parts.values())]
    rows = [[name, *(mean(part.get(key)) for key, _, _ in shown)] for name, part in parts.items()]
    pictures = [item for name, part in parts.items() for item in _calibration_charts(name, part)]
    table = grid("calibration", [unit, *(heading for _, heading, _ in shown)], rows)
    text = " ".join([*(words for _, _, words in shown if words), _RELIABILITY])
    return section("calibration", "Calibration and uncertainty", table, said(text), chart_row(pictures))


def _calibration_charts(name: str, part: Mapping[str, Any]) -> Iterable[str]:
    if part.get("bins"):
        title = f"Reliability: {name}"
        yield chart(charts.reliability_diagram(part["bins"], title), title)
    curve = part.get("risk_coverage")
    if curve and curve.get("coverage"):
        title = f"Risk and coverage: {name}"
        areas = curve.get("aurc"), curve.get("aurc_best")
        yield chart(charts.risk_coverage_curve(curve["coverage"], curve["risk"], *areas, title), title)


def score_table(summary: Mapping[str, Any], structures: Mapping[str, Mapping[str, Any]]) -> str:
    """Means with intervals, and what was missed, a row a structure."""
    tolerances = summary.get("nsd_tolerances_mm") or []
    first = f"NSD {plain(tolerances[0])} mm" if tolerances else "NSD"
    further = sorted({key for values in structures.values() for key in values if key.startswith("nsd_")})
    means = [("dice", "Dice", 3), ("nsd", first, 3), *((key, column_heading(key), 3) for key in further)]
    means += [("hd95_mm", "HD95, mm", 2), ("sensitivity", "sensitivity", 3), ("precision", "precision", 3)]
    columns = ["structure", "n", *(name for _, name, _ in means), "missed", "false", "failed", "empty"]
    columns += ["volume bias, ml", "ICC"]
    lesions = any(values.get("lesions") for values in structures.values())
    columns += ["lesions", "missed", "false", "lesion Dice", "lesion HD95, mm"] if lesions else []
    rows = []
    for name, values in structures.items():
        row: list[object] = [name, count(values.get("n_scored"))]
        row += [mean(values.get(key), digits) for key, _, digits in means]
        row += [alarm(values.get(f"n_{status}")) for status in ("missed", "false", "failed")]
        row += [count(values.get("n_empty")), _bias(values.get("volume") or {})]
        row += [number((values.get("volume") or {}).get("icc"))]
        rows.append(row + (_lesion_cells(values.get("lesions") or {}) if lesions else []))
    return grid("scores by structure", columns, rows)


def _bias(volume: Mapping[str, Any]) -> Markup:
    percent = number(volume.get("bias_percent"), 1)
    below = f"<small>{percent} %</small>" if percent != DASH else ""
    return Markup(number(volume.get("bias_ml")) + below)


def _lesion_cells(lesions: Mapping[str, Any]) -> list[object]:
    counts = [
        count(lesions.get("n_lesions")),
        *(alarm(lesions.get(f"n_{kind}_lesions")) for kind in ("missed", "false")),
    ]
    return [*counts, mean(lesions.get("lesion_dice")), mean(lesions.get("lesion_hd95_mm"), 2)]


def mean_table(structures: Mapping[str, Mapping[str, Any]]) -> str:
    """Every mean and median of the summary, folded away."""
    rows: list[Sequence[object]] = []
    for name, values in structures.items():
        for key, entry in values.items():
            if isinstance(entry, Mapping) and "mean" in entry:
                digits = digits_of(key)
                low, high = (number(end, digits) for end in (entry.get("interval") or (None, None)))
                found = [number(entry.get(what), digits) for what in ("mean", "median")]
                rows.append([name, column_heading(key), *found, f"{low} to {high}"])
    table = grid("all means and medians", ["structure", "score", "mean", "median", "95 % interval of the mean"], rows)
    return f"<details><summary>All means and medians</summary>{table}</details>" if rows else ""


@dataclass(frozen=True)
class RankedCase:
    """A case, its scores by structure, its id in the page, and its mean Dice over structures that are not empty."""

    name: str
    anchor: str
    subject: str
    scores: Mapping[str, Score]
    dice: float

    @property
    def link(self) -> Markup:
        """Leads to the case's own page."""
        return Markup(f'<a href="#{self.anchor}">{escape(self.name)}</a>')


def ranked(scores: Sequence[Score], subjects: Mapping[str, str]) -> list[RankedCase]:
    """Scores by case, the worst case first; cases with nothing but empty structures last."""
    by_case: dict[str, dict[str, Score]] = {}
    for score in scores:
        by_case.setdefault(score.case, {})[score.structure] = score
    ids = anchors(by_case)
    cases = []
    for name, own in by_case.items():
        values = [score.dice for score in own.values() if math.isfinite(score.dice)]
        dice = sum(values) / len(values) if values else math.nan
        cases.append(RankedCase(name, ids[name], subjects.get(name, name), own, dice))
    return sorted(cases, key=lambda case: (math.isnan(case.dice), case.dice, case.name))


def within_budget(cases: Sequence[RankedCase], pictures: Mapping[str, CasePictures]) -> dict[str, CasePictures]:
    """The pictures of as many cases as the page should hold, from the first one on."""
    kept, total = {}, 0
    for case in cases:
        if case.name in pictures:
            total += len(pictures[case.name].planes)
            if total > MOST_PICTURE_BYTES:
                break
            kept[case.name] = pictures[case.name]
    return kept


def outline_legend(summary: Mapping[str, Any]) -> str:
    """The colour of each label value's outline, and what the colours of an error mean.

    Args:
        summary: its ``labels`` name the values of each structure.
    """
    from neurobundle.export.pictures import colour_of

    labels: Mapping[str, Sequence[int]] = summary.get("labels") or {}
    values = sorted({value for own in labels.values() for value in own})
    names = {own[0]: name for name, own in labels.items() if len(own) == 1}
    marks = [
        f'<span class="mark" style="background:rgb{colour_of(value)}"></span> {html(names.get(value, str(value)))}'
        for value in values[:MOST_OUTLINES]
    ]
    outlines = f"Outlines: {', '.join(marks)}. " if marks else ""
    return f'<p class="said">{outlines}{html(_COLOURS)}</p>'


def extremes_section(cases: Sequence[RankedCase], pictures: Mapping[str, CasePictures], legend: str) -> str:
    """The worst and the best of the cases that have a picture, side by side."""
    seen = [case for case in cases if case.name in pictures]
    worst = seen[:WORST]
    best = [case for case in reversed(seen[WORST:]) if not math.isnan(case.dice)][:BEST]
    if not worst:
        return ""
    groups = [(heading, group) for heading, group in (("Worst", worst), ("Best", best)) if group]
    parts = []
    for heading, group in groups:
        rows = "".join(_extreme(case, pictures[case.name]) for case in group)
        parts.append(f'<h3>{heading}</h3><div class="rows">{rows}</div>')
    return section("extremes", "Worst and best cases", *parts, legend)


def _extreme(case: RankedCase, drawn: CasePictures) -> str:
    image = f'<a href="#{case.anchor}">{picture(drawn.row, f"{case.name}: {drawn.alt}")}</a>'
    return f"<figure>{image}<figcaption>{case.link} <span>{_in_words(case)}</span></figcaption></figure>"


def _in_words(case: RankedCase) -> str:
    """A case's Dice and HD95 by structure, the worst ones first."""
    own = sorted((s for s in case.scores.values() if s.status != "empty"), key=lambda score: score.dice)
    words = []
    for score in own[:MOST_NAMED]:
        status = "" if score.status == "ok" else f' <b class="bad">{html(score.status)}</b>'
        words.append(f"{html(score.structure)}{status}: Dice {number(score.dice)}, HD95 {number(score.hd95_mm, 2)} mm")
    more = f"; {len(own) - MOST_NAMED} more" if len(own) > MOST_NAMED else ""
    return ("; ".join(words) or "all structures empty") + more


def case_section(cases: Sequence[RankedCase], structures: Sequence[str]) -> str:
    """A table of all cases; what is not ``ok`` is said in a word."""
    by_subject = any(case.subject != case.name for case in cases)
    rows = []
    for case in cases:
        row: list[object] = [case.link, *([case.subject] if by_subject else []), number(case.dice)]
        for name in structures:
            row += _cells(case.scores.get(name))
        rows.append(row)
    first = ["case", *(["subject"] if by_subject else []), "mean Dice"]
    columns = [*first, *(["Dice", "HD95, mm"] * len(structures))]
    over = [("", len(first)), *((name, 2) for name in structures)]
    table = grid("all cases", columns, rows, over, [f"row-{case.anchor}" for case in cases], "cases")
    return section("cases", "All cases, worst first", table) if rows else ""


def _cells(score: Score | None) -> list[object]:
    if score is None:
        return [DASH, DASH]
    if score.status == "empty":
        return ["empty", DASH]
    word = "" if score.status == "ok" else f'<small class="bad">{html(score.status)}</small>'
    return [Markup(number(score.dice) + word), number(score.hd95_mm, 2)]


def case_page(
    cases: Sequence[RankedCase], n: int, drawn: CasePictures | None, legend: str | None, problem: str = ""
) -> str:
    """The page of one case, which hides all others when it is gone to.

    Args:
        cases: all of them, in the order that its links follow.
        n: which one.
        drawn: its pictures.
        legend: of the pictures; None if no case has one, so that nobody misses them.
        problem: why it failed, if it did.
    """
    case = cases[n]
    before = f'<a href="#{cases[n - 1].anchor}">‹ {html(cases[n - 1].name)}</a>' if n else ""
    after = f'<a href="#{cases[n + 1].anchor}">{html(cases[n + 1].name)} ›</a>' if n + 1 < len(cases) else ""
    links = f'<nav><a href="#row-{case.anchor}">All cases</a>{before}{after}</nav>'
    who = f"Subject {case.subject}. " if case.subject != case.name else ""
    rank = f"{who}Number {n + 1} of {len(cases)}, the worst first; mean Dice {number(case.dice)}."
    if drawn:
        image = picture(drawn.planes, f"{case.name}: {drawn.alt}", lazy=True)
        shown = f'<figure><div class="scroll">{image}</div></figure>{legend or ""}'
    else:
        shown = said("This case has no picture here.") if legend else ""
    why = note(problem) if problem else ""
    inside = f"{links}<h2>{html(case.name)}</h2>{paragraph(rank)}{why}{shown}{_case_table(case.scores.values())}"
    return f'<section class="case" id="{case.anchor}">{inside}</section>'


def _case_table(scores: Iterable[Score]) -> str:
    own = list(scores)
    further = list(dict.fromkeys(key for score in own for key in score.more))
    rows = []
    for score in own:
        status = html(score.status)
        status = status if score.status in ("ok", "empty") else Markup(f'<span class="bad">{status}</span>')
        values: list[object] = [number(getattr(score, key), digits_of(key)) for key in _CASE_COLUMNS]
        values += [number(score.more.get(key), digits_of(key)) for key in further]
        volumes = [score.volume_ml, score.reference_ml, score.volume_ml - score.reference_ml]
        rows.append([score.structure, status, *values, *(number(volume) for volume in volumes)])
    names = [column_heading(key) for key in (*_CASE_COLUMNS, *further)]
    columns = ["structure", "status", *names, "volume, ml", "reference, ml", "error, ml"]
    return grid("all scores of the case", columns, rows)


def column_heading(key: str) -> str:
    """A column's key as a heading.

    >>> [column_heading(key) for key in ("nsd_2mm", "hd95_mm", "n_missed_lesions", "reference_ml")]
    ['NSD 2 mm', 'HD95, mm', 'missed lesions', 'reference, ml']
    """
    if tolerance := re.fullmatch(r"nsd_([\d.]+)mm", key):
        return f"NSD {tolerance[1]} mm"
    words = key.removeprefix("n_").replace("_", " ")
    words = re.sub(r" (mm|ml|percent)$", r", \1", words)
    words = re.sub(r"\b(nsd|hd|hd95|assd|iou|icc)\b", lambda word: word[0].upper(), words)
    return {"IOU": "IoU", "dice": "Dice", "lesion dice": "lesion Dice"}.get(words, words)


def digits_of(key: str) -> int:
    """Decimals that a column is shown with."""
    return 0 if key.startswith("n_") else 2 if key.endswith("_mm") else 3
