"""Charts of an evaluation as *inline SVG*: a string that stands in an HTML page as it is.

Each is drawn by matplotlib without its global state, is as wide as the page lets it be, keeps its text as text, asks
nobody for anything, and carries a sentence for those who cannot see it (``role="img"``, ``aria-label``, ``<title>``).
The same input gives the same bytes. No two charts of a page may have the same ``title``: their ids come from it.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

#: A chart's width in its own units. Text of 12 units is readable when the chart is as narrow as a phone.
WIDTH = 360
HEIGHT = 270
#: Comes with matplotlib.
FONT = "DejaVu Sans"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "neurobundle",
    "text.parse_math": False,  # a structure may be called "$x"
    "font.size": 12,
    "font.family": FONT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 11,
}

#: Told apart without red and green (Okabe & Ito 2008).
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#767676"

#: More dots than this make a page slow: then only those beyond the whiskers are drawn.
MOST_DOTS = 4000
#: A confusion matrix of more labels shows colours only.
MOST_NUMBERED_LABELS = 12
#: A whisker ends at the last value within this many interquartile ranges of the box (Tukey 1977).
WHISKER_RANGES = 1.5
#: Limits of agreement: the mean difference and this many standard deviations on either side (Bland & Altman 1986).
AGREEMENT_DEVIATIONS = 1.96

_NAME_LETTERS = 15


def box_plots(
    values: Mapping[str, Sequence[float]], label: str, limits: tuple[float, float] | None = None, title: str = ""
) -> str:
    """A lying box a structure, with a dot for every case.

    Args:
        values: one a case, by structure; what is not finite is left out.
        label: of the axis, with its unit.
        limits: of the axis; values beyond them stand at its end as open triangles. The boxes count all values.
        title: says what is shown.
    """
    finite = {name: _finite(numbers) for name, numbers in values.items()}
    rows = max(len(finite), 1)
    dots = sum(map(len, finite.values())) <= MOST_DOTS
    low, high = limits or _limits(np.concatenate([*finite.values(), np.empty(0)]))
    alternative = "; ".join(
        f"{name}: median {np.median(numbers):.3g}, n = {len(numbers)}" if len(numbers) else f"{name}: no case"
        for name, numbers in finite.items()
    )

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for n, numbers in enumerate(finite.values()):
            _box(axes, n, numbers, low, high, dots)
        axes.set(ylim=(rows - 0.5, -0.5), xlim=(low, high), xlabel=label)
        names = [f"{_short(name)}\nn = {len(numbers)}" for name, numbers in finite.items()]
        axes.set_yticks(range(len(finite)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")

    return _svg(draw, title or label, alternative, 70 + 55 * rows)


def _box(axes: Any, n: int, numbers: np.ndarray, low: float, high: float, dots: bool) -> None:
    if not len(numbers):
        return
    lower, middle, upper = np.percentile(numbers, (25, 50, 75))
    reach = WHISKER_RANGES * (upper - lower)
    within = numbers[(numbers >= lower - reach) & (numbers <= upper + reach)]
    # Fractional parts of the golden ratio's multiples spread any number of dots evenly, without chance.
    heights = n + 0.5 * ((np.arange(len(numbers)) * 0.618034) % 1 - 0.5)
    shown = np.ones(len(numbers), bool) if dots else (numbers < within.min()) | (numbers > within.max())
    inside = shown & (numbers >= low) & (numbers <= high)
    axes.plot(numbers[inside], heights[inside], "o", color=BLUE, markersize=3, alpha=0.45, markeredgewidth=0)
    for beyond, edge, marker in ((shown & (numbers > high), high, ">"), (shown & (numbers < low), low, "<")):
        axes.plot(np.full(beyond.sum(), edge), heights[beyond], marker, color=ORANGE, markersize=6, fillstyle="none")
    ends = np.clip([within.min(), lower, middle, upper, within.max()], low, high)
    for start, stop in ((ends[0], ends[1]), (ends[3], ends[4])):
        axes.plot([start, stop], [n, n], color="#333333", linewidth=1)
    outline = [n - 0.3, n - 0.3, n + 0.3, n + 0.3, n - 0.3]
    axes.plot([ends[1], ends[3], ends[3], ends[1], ends[1]], outline, color="#333333", linewidth=1)
    axes.plot([ends[2], ends[2]], [n - 0.3, n + 0.3], color=ORANGE, linewidth=2.5)


def confusion_matrix(labels: Sequence[object], counts: Sequence[Sequence[float]], title: str = "") -> str:
    """Which label was taken for which: each row is the reference's label, shaded by its shares.

    Args:
        labels: of the rows and the columns.
        counts: cases or voxels, ``(reference, prediction)``.
        title: says what is shown.
    """
    table = np.asarray(counts, float).reshape(len(labels), len(labels))
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    names = [_short(str(label)) for label in labels]
    found = [
        f"{label}: {100 * shares[n, n]:.1f} %" if totals[n] else f"{label}: none" for n, label in enumerate(labels)
    ]

    def draw(figure: Any) -> None:
        from matplotlib.patches import Rectangle

        axes = figure.add_subplot()
        small, cell = (12, 11) if len(names) <= 6 else (9, 8)
        for (row, column), share in np.ndenumerate(shares):
            shade = tuple(1 - share * (1 - np.array([0.0, 0.31, 0.52])))
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, edgecolor="white"))
            if len(names) <= MOST_NUMBERED_LABELS:
                text = _in_cell(float(table[row, column]), float(share), len(names) <= 6)
                colour = "white" if share > 0.5 else "#222222"
                axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=cell)
        end = max(len(names), 1) - 0.5
        axes.set(xlim=(-0.5, end), ylim=(end, -0.5), aspect="equal")
        axes.set(xlabel="prediction", ylabel="reference")
        turned = (
            {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names), default=0) > 4 else {}
        )
        axes.set_xticks(range(len(names)), names, fontsize=small, **turned)
        axes.set_yticks(range(len(names)), names, fontsize=small)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    return _svg(draw, title or "Confusion matrix", "found of each label: " + "; ".join(found), WIDTH)


def _in_cell(number: float, share: float, roomy: bool) -> str:
    """What a confusion matrix says in a cell; a bare 0 where there is nothing."""
    if not number:
        return "0"
    return f"{100 * share:.1f} %\n{_count(number)}" if roomy else f"{100 * share:.0f} %"


def reliability_diagram(bins: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """How often a prediction is right that was made with a given confidence, above how many there are.

    Args:
        bins: each with ``low``, ``high``, ``count``, ``confidence`` and ``accuracy``; the last two may be None.
        title: says what is shown.
    """
    full = [b for b in bins if b["count"] and b["confidence"] is not None and b["accuracy"] is not None]
    said = "; ".join(f"confidence {b['confidence']:.2f}, right {b['accuracy']:.2f}" for b in full)

    def draw(figure: Any) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="as confident as right")
        axes.plot([b["confidence"] for b in full], [b["accuracy"] for b in full], "o-", color=BLUE, markersize=5)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share right")
        axes.legend(loc="upper left")
        axes.grid()
        for b in full:
            below.fill_between([b["low"], b["high"]], 0.5, b["count"], color=BLUE, alpha=0.6, linewidth=0)
        below.set(yscale="log", xlabel="confidence", ylabel="count")
        below.set_ylim(bottom=0.5)
        below.yaxis.set_major_formatter(lambda y, _: _count(y))
        below.tick_params(axis="y", labelsize=10)

    return _svg(draw, title or "Reliability", said or "no bin holds anything", 330)


def risk_coverage_curve(
    coverage: Sequence[float],
    risk: Sequence[float],
    aurc: float | None = None,
    aurc_best: float | None = None,
    title: str = "",
) -> str:
    """The risk of the share that is kept, if the most uncertain ones are sent to a person.

    Args:
        coverage: shares kept, 0 to 1.
        risk: of each share.
        aurc: the area under the curve.
        aurc_best: that of the best possible order.
        title: says what is shown.
    """
    known = [(name, area) for name, area in (("area", aurc), ("best possible", aurc_best)) if area is not None]
    words = ", ".join(f"{name} {area:.3f}" for name, area in known)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot(coverage, risk, "-", color=BLUE, linewidth=2)
        top = max([0.0, *_finite(risk)])
        axes.set(xlim=(0, 1), ylim=(0, 1.25 * top or 1), xlabel="share kept, most certain first", ylabel="risk")
        axes.text(0.02, 0.97, words, transform=axes.transAxes, va="top", color="#222222")
        axes.grid()

    return _svg(draw, title or "Risk and coverage", words)


def froc_curve(false_positives: Sequence[float], sensitivity: Sequence[float], title: str = "") -> str:
    """Sensitivity at numbers of false positives an image.

    Args:
        false_positives: an image, ascending.
        sensitivity: at each of them, 0 to 1.
        title: says what is shown.
    """
    points = [(x, y) for x, y in zip(false_positives, sensitivity, strict=True) if x is not None and y is not None]
    said = "; ".join(f"{y:.3f} at {x:g}" for x, y in points[:: max(1, len(points) // 12)])

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=BLUE, linewidth=2, markersize=4)
        # FROC is read at 1/8, 1/4 ... 8 false positives: halves and doubles are equal steps.
        if points and points[0][0] > 0 and points[-1][0] > points[0][0]:
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        axes.set(ylim=(0, 1.02), xlabel="false positives an image", ylabel="sensitivity")
        axes.grid()

    return _svg(draw, title or "FROC", said)


def volume_agreement(reference_ml: Sequence[float], prediction_ml: Sequence[float], title: str = "") -> str:
    """The difference of two volumes over their mean, with the limits of agreement (Bland & Altman 1986).

    Args:
        reference_ml: one a case; cases where either is not finite are left out.
        prediction_ml: of the same cases.
        title: says what is shown.
    """
    pairs = np.stack([np.asarray(reference_ml, float), np.asarray(prediction_ml, float)])
    there, found = pairs[:, np.isfinite(pairs).all(axis=0)]
    middle, difference = (there + found) / 2, found - there
    bias = float(difference.mean()) if len(difference) else math.nan
    spread = AGREEMENT_DEVIATIONS * float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    lines = [(bias, "-", "mean"), (bias + spread, "--", "+1.96 SD"), (bias - spread, "--", "−1.96 SD")]
    lines = [line for line in lines if math.isfinite(line[0])]

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.plot(middle, difference, "o", color=BLUE, markersize=4, alpha=0.5, markeredgewidth=0)
        for height, dashes, name in lines:
            axes.axhline(height, color=ORANGE, linestyle=dashes, linewidth=1.5)
            place = axes.get_yaxis_transform()
            text = f"{name} {height:+.2f}".replace("-", "−")
            axes.text(1, height, text, transform=place, ha="right", va="bottom", fontsize=10)
        axes.set(xlabel="mean of both, ml", ylabel="prediction − reference, ml")

    said = ", ".join(f"{name} {height:+.3f} ml" for height, _, name in lines)
    return _svg(draw, title or "Volume agreement", f"n = {len(difference)}; {said}")


def _svg(draw: Callable[[Any], None], title: str, alternative: str, height: float = HEIGHT) -> str:
    """Draw a figure and make its SVG fit to stand inside a page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    # The user's own matplotlib settings must not change a report.
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        # The page's reader has the letters, even where the font that measures them has not.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure = Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue(), _readable(f"{title}: {alternative}"))


#: What matplotlib writes that reaches out of an SVG, or that one inside a page does not need. Nothing here is drawn
#: beyond the axes, so nothing has to be clipped.
_DROPPED_TAGS = ("metadata", "style", "clipPath")
_DROPPED_ATTRIBUTES = ("clip-path", "version")


def _inline(svg: bytes, alternative: str) -> str:
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in _DROPPED_TAGS:
                parent.remove(child)
    targets = {value[1:] for element in root.iter() for name, value in element.items() if _local(name) == "href"}
    prefix = "chart-" + hashlib.sha256(alternative.encode() + svg).hexdigest()[:10]
    for element in root.iter():
        attributes = {_local(name): value for name, value in element.items()}
        element.tag = _local(element.tag)
        element.attrib.clear()
        for name, value in attributes.items():
            if name not in _DROPPED_ATTRIBUTES and (name != "id" or value in targets):
                element.set(name, _attribute(name, value, prefix))
    root.attrib = {
        "class": "chart",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": alternative,
        "stroke-linejoin": "round",
    }
    title = ElementTree.Element("title")
    title.text = alternative
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == "href":
        return f"#{prefix}-{value[1:]}"
    value = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", value)
    # Labels are measured in a font that is wider than most, and shown in the reader's own.
    return " ".join(value.replace(f"'{FONT}'", "system-ui, sans-serif").split())


def _local(name: str) -> str:
    """A name without the namespace that ElementTree puts before it."""
    return name.rpartition("}")[2]


def _readable(text: str) -> str:
    """The same with a mark for each letter that cannot be shown: a control character, half a code point."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _short(name: str) -> str:
    """A name that fits beside an axis.

    >>> _short("left anterior hippocampus"), _short("anterior")
    ('left an…ocampus', 'anterior')
    """
    name = _readable(name)
    half = _NAME_LETTERS // 2
    return name if len(name) <= _NAME_LETTERS else f"{name[:half]}…{name[-half:]}"


def _count(number: float) -> str:
    """A count in a few letters.

    >>> _count(999), _count(12_345), _count(2_500_000)
    ('999', '12k', '2.5M')
    """
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.{1 if number < 10 * size else 0}f}{letter}"
    return f"{number:.0f}"


def _finite(values: Sequence[float]) -> np.ndarray:
    """What is neither None nor NaN nor infinite."""
    numbers = np.array([math.nan if value is None else value for value in values], float)
    return numbers[np.isfinite(numbers)]


def _limits(values: np.ndarray) -> tuple[float, float]:
    """An axis that holds all values, with some room."""
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    room = 0.04 * (high - low) or 0.5
    return low - room, high + room
